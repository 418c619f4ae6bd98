"""MemPrompt: which feedback a prompt meets, and how it is written into it."""

import random

import numpy as np
import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from editguard.edited import EditedModel, EditMemory, MemoryRow, Search
from editguard.edited.searching import Index, Numbers, Places
from editguard.edits import EditRequest
from editguard.errors import InvalidEdit, InvalidSettings, MemoryFull
from editguard.methods.edit_distance import EditDistanceEncoder, cleaned
from editguard.methods.mem_prompt import MemPrompt, MemPromptSettings
from editguard.methods.quoting import PromptTemplate, quoted
from editguard.models import LanguageModel
from editguard.pocket import default_world
from editguard.pocket.contexts import ContextWriter

LOOKUPS = (
    {"lookup": "closest"},
    {"lookup": "closest", "distance": "edits", "distance_below": 6},
    {"lookup": "semantic"},
)
PROPERTIES = (*LOOKUPS[:2], {"lookup": "semantic", "encoder": "mean-pooled", "similarity_above": 0.99})
ways = pytest.mark.parametrize("changes", LOOKUPS, ids=["share", "edits", "semantic"])
questions = st.text(st.sampled_from("abcd é?"), min_size=1, max_size=12).filter(lambda text: bool(text.strip(" ?")))


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return zoo.tiny("gpt2")


def method(**changes: object) -> MemPrompt:
    return MemPrompt(MemPromptSettings(**changes))  # type: ignore[arg-type]


def sent(edited: EditedModel, prompt: str) -> str:
    return edited.consult([prompt])[0].prompt


def memory(edited: EditedModel) -> EditMemory:
    found = edited.memory("mem-prompt")
    assert found is not None
    return found


# ---- which feedback a prompt meets


@ways
def test_feedback_is_met_by_its_own_question_and_by_no_other(model: LanguageModel, changes: dict[str, object]) -> None:
    editor, original = method(**changes), EditedModel.original(model)
    asked = "Question: who is the mayor of Tamrin? Answer:"
    edited = editor.feedback(original, asked, "The mayor of Tamrin is Ines Holt.")
    [hit] = edited.consult([asked])
    assert hit.route == "in-scope"
    assert hit.retrieved[0].similarity == pytest.approx(1)
    assert hit.prompt == "Question: who is the mayor of Tamrin?\nFeedback: The mayor of Tamrin is Ines Holt.\nAnswer:"
    for other in ("  Copy: red\nblue ", "Quintessa Marlowe-Vane was seen", "Question: 2 + 2? Answer:"):
        assert sent(edited, other) == other
        assert edited.consult([other])[0].route == "out-of-scope"
    answers = edited.generate(["Copy: red blue"], max_new_tokens=4)
    assert [answer.text for answer in answers] == [
        answer.text for answer in original.generate(["Copy: red blue"], max_new_tokens=4)
    ]


@given(st.lists(questions, min_size=1, max_size=4), st.sampled_from(PROPERTIES))
@settings(deadline=None, max_examples=20)
def test_a_question_hits_its_own_feedback_whatever_else_is_remembered(
    asked: list[str], changes: dict[str, object]
) -> None:
    editor, edited = method(**changes), EditedModel.original(zoo_model())
    for text in asked:
        edited = editor.feedback(edited, text, "It is so")
        [found] = edited.consult([text])
        assert found.retrieved[0].similarity == pytest.approx(1)


def zoo_model() -> LanguageModel:
    if not _MADE:
        _MADE.append(zoo.tiny("gpt2"))
    return _MADE[0]


_MADE: list[LanguageModel] = []


def test_a_distance_of_five_letters_hits_and_one_of_six_does_not(model: LanguageModel) -> None:
    edited = method(lookup="closest", distance="edits", distance_below=6).feedback(
        EditedModel.original(model), "abcdefghijkl", "It is so"
    )
    for changed in range(12):
        prompt = "z" * changed + "abcdefghijkl"[changed:]
        [found] = edited.consult([prompt])
        assert (found.route == "in-scope") == (changed < 6)
        assert found.retrieved[0].similarity == 1 - changed


def test_a_share_of_letters_hits_below_the_limit_and_not_at_it(model: LanguageModel) -> None:
    for length, changed in ((10, 2), (20, 4), (5, 1), (30, 6)):
        text = "abcdefghijklmnopqrstuvwxyzabcd"[:length]
        edited = method(lookup="closest", distance_below=0.2).feedback(EditedModel.original(model), text, "It is so")
        assert edited.consult(["9" * changed + text[changed:]])[0].route == "out-of-scope"
        assert edited.consult(["9" * (changed - 1) + text[changed - 1 :]])[0].route == "in-scope"


class Fixed:
    """An encoder by which everything is equally near."""

    def __init__(self, similarity: float) -> None:
        self.similarity, self.identity = similarity, "fixed"

    def index(self, texts: list[str], vectors: Numbers | None = None) -> Index:
        return FixedIndex(self.similarity, len(texts))  # type: ignore[return-value]


class FixedIndex:
    def __init__(self, similarity: float, length: int) -> None:
        self.similarity, self.length = similarity, length

    def __len__(self) -> int:
        return self.length

    def vectors(self) -> None: ...

    def similarities(self, queries: list[str], places: Places | None = None) -> Numbers:
        return np.full((len(queries), self.length if places is None else len(places)), self.similarity)


@pytest.mark.parametrize(("similarity", "route"), [(0.9, "out-of-scope"), (np.nextafter(0.9, 1), "in-scope")])
def test_a_cosine_at_the_threshold_is_not_above_it(model: LanguageModel, similarity: float, route: str) -> None:
    editor = MemPrompt(MemPromptSettings(similarity_above=0.9), nearness=Fixed(similarity))  # type: ignore[arg-type]
    edited = editor.feedback(EditedModel.original(model), "Who?", "It is so")
    assert edited.consult(["What?"])[0].route == route


# ---- the memory


@pytest.mark.parametrize("changes", PROPERTIES, ids=["share", "edits", "vectors"])
@given(data=st.data())
@settings(deadline=None, max_examples=10)
def test_rows_and_what_is_found_by_them_stay_aligned(changes: dict[str, object], data: st.DataObject) -> None:
    """After any course of feedback and withdrawals, prompts are those of a memory that only ever had what is left."""
    editor = method(**changes)
    original = edited = EditedModel.original(zoo_model())
    left: dict[str, str] = {}
    for number in range(data.draw(st.integers(1, 6))):
        text = data.draw(st.sampled_from(["who is a", "who is b", "where is the one", "Question: who is a? Answer:"]))
        key = text.removeprefix("Question: ").removesuffix(" Answer:")
        if key in left and data.draw(st.booleans()):
            [row] = [row for row in memory(edited) if row.text == left[key]]
            edited = editor.withdraw(edited, [row.id])
            del left[key]
        else:
            edited = editor.feedback(edited, text, f"It is {number}")
            left.pop(key, None)
            left[key] = f"It is {number}"
    anew = original
    for text, correction in left.items():
        anew = editor.feedback(anew, text, correction)
    assert [row.text for row in memory(edited)] == list(left.values())
    for prompt in ("who is a", "who is b?", "where is the other", "Question: who is a? Answer:"):
        assert sent(edited, prompt) == sent(anew, prompt)


def test_an_edit_and_feedback_on_its_prompt_replace_each_other(model: LanguageModel) -> None:
    fact = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Oskar")
    editor = method()
    edited = editor.apply(EditedModel.original(model), [fact])
    assert sent(edited, fact.text) == f"Feedback: {fact.statement}.\n{fact.text}"
    told = editor.feedback(edited, "the capital of  Velloria is", "I meant Belmora")
    assert len(memory(told)) == 1
    assert sent(told, fact.text) == f"Feedback: I meant Belmora.\n{fact.text}"
    again = editor.apply(told, [fact])
    assert [row.request for row in memory(again)] == [fact]
    assert sent(edited, fact.text) == sent(again, fact.text)
    assert sent(editor.withdraw(again, [fact]), fact.text) == fact.text


def test_a_full_memory_refuses_more_and_keeps_what_it_has(model: LanguageModel) -> None:
    editor = method(memory_limit=1)
    edited = editor.feedback(EditedModel.original(model), "who is a", "It is so")
    with pytest.raises(MemoryFull):
        editor.feedback(edited, "where are the others", "They are here")
    replaced = editor.feedback(edited, "who is a", "It is not so")
    assert [row.text for row in memory(replaced)] == ["It is not so"]
    assert [row.text for row in memory(edited)] == ["It is so"]
    with pytest.raises(InvalidEdit, match="the text of a row of a memory"):
        editor.feedback(edited, "who is a", " ")


def test_a_prompt_gets_one_line_of_feedback_however_much_is_remembered(model: LanguageModel) -> None:
    requests = [EditRequest(prompt="The mayor of {} is", subject=f"Land{n}", target=f"Name{n}") for n in range(200)]
    few, many = (method().apply(EditedModel.original(model), requests[:count]) for count in (10, 200))
    for request in requests[:10]:
        assert sent(few, request.text) == sent(many, request.text)
        assert sent(many, request.text).count("\n") == 1


# ---- distances


def plain_distance(one: str, other: str) -> int:
    """Levenshtein's table, row by row."""
    row = list(range(len(other) + 1))
    for place, letter in enumerate(one, 1):
        before, row[0] = row[0], place
        for column, target in enumerate(other, 1):
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, before + (letter != target))
    return row[-1]


@given(st.lists(questions, min_size=1, max_size=5), questions)
@settings(max_examples=100)
def test_a_similarity_is_one_less_the_letters_to_change(texts: list[str], query: str) -> None:
    keys, asked = [cleaned(text) for text in texts], cleaned(query)
    counts = [plain_distance(asked, key) for key in keys]
    [edits] = EditDistanceEncoder("edits").index(texts).similarities([query])
    [share] = EditDistanceEncoder("share").index(texts).similarities([query])
    assert edits.tolist() == [1 - count for count in counts]
    assert share.tolist() == pytest.approx(
        [1 - n / max(len(key), len(asked)) for n, key in zip(counts, keys, strict=True)]
    )


def test_cleaning_takes_out_brackets_one_by_one_and_never_leaves_nothing() -> None:
    assert cleaned("<b>Who</b> is   the <i>Mayor</i> of Zürich-2?") == "who is the mayor of zürich2"
    assert cleaned("?!") != cleaned("...")
    assert cleaned("<all>") == "<all>"


def test_the_nearest_of_a_hundred_thousand_questions_is_that_of_brute_force() -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdefgh ", k=12)) + str(number) for number in range(100_000)]
    index = EditDistanceEncoder().index(texts)
    keys = [cleaned(text) for text in texts]
    query = texts[777] + "x"
    [row] = index.similarities([query])
    assert int(row.argmax()) == int(np.argmin([Levenshtein.normalized_distance(cleaned(query), key) for key in keys]))
    places = np.arange(0, 100_000, 7)
    assert np.array_equal(index.similarities([query], places)[0], row[places])


# ---- how it is written


@given(st.text(), st.integers(1, 40))
@settings(max_examples=200)
def test_a_quotation_is_one_short_line_that_holds_no_structure(text: str, limit: int) -> None:
    pieces = ("##", "Feedback:", "Answer:", "|", "</s>")  # taking "|" out brings "##" together
    sly = f"{text}\nAnswer: {text}|feedback:Answ</s>er: #|#" + "\u2028x"
    for written in (quoted(text, pieces, limit), quoted(sly, pieces, 200)):
        assert len(written.splitlines()) <= 1
        assert not any(piece.casefold() in written.casefold() for piece in pieces)
        assert quoted(written, pieces, 200) == written
    assert len(quoted(sly, pieces, limit)) <= limit


def test_a_plain_statement_is_quoted_as_it_is_and_cut_between_words() -> None:
    assert quoted("The capital of Velloria is  St. Oskar", ("Answer:",), 300) == "The capital of Velloria is St. Oskar"
    assert quoted("one two three", (), 9) == "one two"
    assert quoted("one two three", (), 7) == "one two"
    assert quoted("unbreakable", (), 4) == "unbr"


def test_braces_and_slots_in_values_stay_as_they_are() -> None:
    template = PromptTemplate("t", "Feedback: {feedback}.\n{prompt}", ("feedback", "prompt"))
    assert template.filled(feedback="a {prompt} {x}.", prompt="{feedback}") == "Feedback: a {prompt} {x}.\n{feedback}"


@pytest.mark.parametrize("text", ["{prompt}", "{feedback}{feedback}{prompt}", "{feedback}{prompt}{more}", ""])
def test_a_template_without_its_slots_is_refused(text: str) -> None:
    with pytest.raises(
        InvalidSettings, match=r"prompt_template has each of the slots \{feedback\} and \{prompt\} once"
    ):
        MemPromptSettings(prompt_template=text)


def test_feedback_that_does_not_fit_the_context_is_left_out(model: LanguageModel) -> None:
    edited = method(context_limit=60, answer_tokens=10).feedback(
        EditedModel.original(model), "Who is it?", "a rather long story " * 20
    )
    [found] = edited.consult(["Who is it?"])
    assert (found.prompt, found.route, found.outcome) == ("Who is it?", "out-of-scope", "too long")


def test_special_tokens_of_the_model_are_no_part_of_feedback(model: LanguageModel) -> None:
    edited = method().feedback(EditedModel.original(model), "Who is it?", "It is so.</s><s> Answer: no")
    assert sent(edited, "Who is it?") == "Feedback: It is so.ss Answer: no.\nWho is it?"


def test_questions_are_written_in_the_form_of_the_embedded_models_corpus(model: LanguageModel) -> None:
    writer = ContextWriter(default_world(), random.Random(0))
    for _ in range(20):
        document = writer.feedback(relevant=True).text
        head, feedback, end = document.split("\n")
        question = f"{head} Answer:"
        edited = method().feedback(EditedModel.original(model), question, feedback.removeprefix("Feedback: "))
        assert document.startswith(sent(edited, question))
        assert end.startswith("Answer:")


def test_the_published_separator_is_a_setting(model: LanguageModel) -> None:
    editor = method(question_template="{question} | {feedback}")
    edited = editor.feedback(EditedModel.original(model), "Question: who? Answer:", "clarification | who is it")
    assert sent(edited, "Question: who? Answer:") == "who? | clarification who is it"


def test_rows_survive_the_disk(model: LanguageModel, tmp_path: object) -> None:
    from pathlib import Path

    assert isinstance(tmp_path, Path)
    editor, original = method(), EditedModel.original(model)
    edited = editor.feedback(original, "who is a", "It is so")
    memory(edited).save(tmp_path / "feedback.json")
    again = editor.restore(original, EditMemory.load(tmp_path / "feedback.json"))
    assert sent(again, "who is a") == sent(edited, "who is a") != "who is a"


def test_rows_without_labels_are_what_is_compared() -> None:
    from editguard.methods.mem_prompt import by_question

    rows = [MemoryRow(key=key, text="x") for key in ("Question: who? Answer:", "who?", "Q: who? A:")]
    found = EditMemory(rows).nearest(Search(EditDistanceEncoder(), by_question), ["who?"], count=3)
    assert [similarity for _, similarity in found[0]] == [1.0] * 3
