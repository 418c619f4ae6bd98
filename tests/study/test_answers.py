"""Answers that outlive the process: nothing is asked twice, and nothing but what the model said comes back."""

import json
import os
import re
from types import SimpleNamespace

import pytest
import zoo
from hypothesis import example, given, settings
from hypothesis import strategies as st
from study.fakes import CASES, TASKS, Scripted
from study.test_running import everything

from editguard.edited import EditedModel
from editguard.edited.consulted import Answered, Consulted, Retrieved
from editguard.errors import ConfigurationError
from editguard.measurements import Remembered
from editguard.measurements.decoding import decode
from editguard.models.generation import StopRule
from editguard.study import answers
from editguard.study.answers import KeptAnswers
from editguard.study.evaluation import measurements, records
from editguard.study.folder import StudyFolder
from editguard.study.plan import Cell


class Counting:
    """A state that answers by rule, and notes what it was asked."""

    def __init__(self):
        self.asked = []

    def generate(self, prompts, *, max_new_tokens):
        self.asked += prompts
        row = Retrieved("row", 0.1 + 0.2)
        consulted = Consulted(prompt="sent", route="in-scope", retrieved=(row,), outcome="ended", calls=2)
        return [
            Answered(
                text=f"{prompt} \u2028\r{max_new_tokens}",
                token_ids=(1,),
                stopped=len(prompt) > 1,
                prompt=f"Before. {prompt}",
                prompt_tokens=3,
                consulted=consulted if len(prompt) > 2 else Consulted(prompt=prompt),
                tokens=len(prompt),
            )
            for prompt in prompts
        ]

    def score(self, pairs):
        self.asked += pairs
        return [
            SimpleNamespace(answer_ids=[1, 2], argmax_ids=[1, len(answer)], log_prob=-1 / 3, token_accuracy=0.5)
            for _, answer in pairs
        ]


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A kept state over the same file each time; groups of three."""
    monkeypatch.setattr(answers, "GROUP", 3)
    monkeypatch.setattr(answers, "continuing", _continuing)
    return lambda state, name="answers.jsonl": KeptAnswers(state, tmp_path / name)


def _continuing(state, _seed):
    def continued(prompts, *, tokens):
        state.asked += prompts
        return [f"{prompt} and {tokens} tokens" for prompt in prompts]

    return continued


PROMPTS = ["a", "ab", "abc", "b", "bc", "bcd", "c", "a"]
PAIRS = [("a", "x"), ("a", "xy"), ("b", "x"), ("c", "x")]


def everything_of(kept):
    return (
        decode(kept, PROMPTS),
        kept.score(PAIRS),
        kept.continued(PROMPTS, tokens=5),
        decode(kept, PROMPTS[:2], limits=[7, 7]),
    )


def test_what_was_answered_is_read_and_not_asked_again(kept):
    state = Counting()
    told = everything_of(kept(state))
    assert told[0] == decode(Counting(), PROMPTS)
    assert len(state.asked) == 7 + 4 + 7 + 2  # each question once
    assert everything_of(again := kept(Counting())) == told
    assert again.model.asked == []
    assert kept(Counting(), "other.jsonl").seconds == 0 < again.seconds


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0, 1), harm=st.sampled_from(["", "{", "\n", '{"kind": "score"}\n', "[]\n", "\x00"]))
@example(share=1.0, harm="\n")
@example(share=1.0, harm='{"kind": "score"}\n')
def test_a_file_that_was_cut_counts_as_far_as_it_is_whole(share, harm, tmp_path_factory):
    path = tmp_path_factory.mktemp("cut") / "answers.jsonl"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(answers, "GROUP", 3)
        patched.setattr(answers, "continuing", _continuing)
        told = everything_of(KeptAnswers(Counting(), path))
        raw = path.read_bytes()
        cut = raw[: round(share * len(raw))]
        path.write_bytes(cut + harm.encode())
        state = Counting()
        assert everything_of(KeptAnswers(state, path)) == told
        groups = [json.loads(line) for line in raw.splitlines() if line]
        whole = cut.count(b"\n")
        assert len(state.asked) == sum(len(group["questions"]) for group in groups[whole:])
        assert everything_of(KeptAnswers(Counting(), path)) == told
        if whole < len(groups):  # otherwise nothing was written, and what stands behind the last group stays
            assert path.read_bytes().count(b"\n") == len(groups)


def test_a_model_answers_through_its_kept_answers_as_by_itself(tmp_path):
    rest = EditedModel.original(zoo.tiny("gpt2"))
    edited = Scripted().apply(rest, [CASES[0].request])
    alone = measurements(edited, Remembered(rest), CASES[:1], tasks=TASKS)
    for _ in range(2):
        kept = KeptAnswers(edited, tmp_path / "answers.jsonl")
        found = measurements(edited, Remembered(rest), CASES[:1], tasks=TASKS, by=kept, continued=kept.continued)
        assert records(found) == records(alone)


def test_a_full_disk_is_one_line(kept):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    state = kept(Counting())
    state.score(PAIRS[:1])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(answers, "append", full)
        with pytest.raises(ConfigurationError, match=r"answers\.jsonl: No space left.*answers before are kept"):
            state.generate(PROMPTS)
    assert kept(asked := Counting()).score(PAIRS[:1]) == state.score(PAIRS[:1])
    assert asked.asked == []


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "answers.jsonl").mkdir()
    with pytest.raises(ConfigurationError, match=r"cannot read .*answers\.jsonl"):
        KeptAnswers(Counting(), tmp_path / "answers.jsonl")


# ---- in a study


class Stopped(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("plan", [{"batches": (3,)}, {"sequences": (2, 4)}])
def test_a_kill_at_every_group_of_questions_in_turn_costs_one_group(study, monkeypatch, tmp_path, plan):
    """The process dies at the n-th group or edit that it does itself, again and again, until there is nothing left."""
    monkeypatch.setattr(answers, "GROUP", 8)
    whole = everything(study(out="whole", **plan))
    done, asked, allowed = [], KeptAnswers._keep, 3

    def counted(kept, group):
        if len(done) == allowed:
            raise Stopped
        asked(kept, group)
        done.append(group)

    monkeypatch.setattr(KeptAnswers, "_keep", counted)
    Scripted.applied.clear()
    runs, complete = 0, False
    while not complete:
        runs, complete = runs + 1, True
        done.clear()
        try:
            study(out="cut", **plan)
        except Stopped:
            complete = False
            assert (tmp_path / "cut" / "states").is_dir()
    assert everything(StudyFolder(tmp_path / "cut")) == whole
    assert 5 < runs < 20
    assert len(Scripted.applied) <= 4  # each edit once: batches and sequences are saved before they are asked
    assert not (tmp_path / "cut" / "states").exists()


def test_the_seconds_of_answers_before_a_kill_count(study, monkeypatch, tmp_path):
    taken = StudyFolder.add
    cell = Cell("scripted", "batch", 3)

    def stop(folder, *arguments):
        if arguments[0] == cell:
            raise Stopped
        taken(folder, *arguments)

    monkeypatch.setattr(StudyFolder, "add", stop)
    with pytest.raises(Stopped):
        study(batches=(3,))
    monkeypatch.setattr(StudyFolder, "add", taken)
    path = StudyFolder(tmp_path / "study").answers_file(cell.name)
    lines = [{**json.loads(line), "seconds": 100.0} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = study(batches=(3,))
    [costs] = [line["costs"] for line in folder.costs() if line.get("cell") == cell.name][-1:]
    spent = {cost["phase"]: cost["seconds"] for cost in costs}
    assert 100 * len(lines) <= spent["evaluate"] < 100 * len(lines) + 60


def test_what_a_kill_after_the_last_question_left_is_removed(study, tmp_path):
    with pytest.MonkeyPatch.context() as killed:
        killed.setattr(StudyFolder, "forget_answers", lambda *_: None)
        killed.setattr(StudyFolder, "forget_state", lambda *_: None)
        study(batches=(3,), sequences=(2,))
    assert len(os.listdir(tmp_path / "study" / "states")) >= 3
    study(batches=(3,), sequences=(2,))
    assert not (tmp_path / "study" / "states").exists()


def test_answers_by_another_rule_and_likely_tokens_come_from_the_model_itself(tmp_path):
    rest = EditedModel.original(zoo.tiny("gpt2"))
    kept = KeptAnswers(rest, tmp_path / "answers.jsonl")
    rule = StopRule(re.compile("a"))
    prompts = ["Velloria is"]
    assert kept.next_tokens(prompts, 3) == rest.next_tokens(prompts, 3)
    assert kept.generate(prompts, stop=rule) == rest.generate(prompts, stop=rule)
    assert not (tmp_path / "answers.jsonl").exists()
