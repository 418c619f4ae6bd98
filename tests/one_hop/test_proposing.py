"""From cases to a review file: what is checked, what is left out, and how a stopped run goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from measurements.scripted import Scripted
from zoo import tiny

from editguard.edits import EditCase, EditRequest
from editguard.errors import ConfigurationError, EndpointFailed
from editguard.one_hop.generators import ModelGenerator, Prompt, read_prompt
from editguard.one_hop.proposing import Propose, Proposed, left_out_path
from editguard.one_hop.review import read_review, write_review

CASES = [
    EditCase(request=EditRequest(prompt="The capital of {} is", subject=f"S{number}", target=f"T{number}"))
    for number in range(6)
]


def proposal(request: EditRequest) -> str:
    return json.dumps(
        {
            "object": request.target,
            "relation": "mayor",
            "answer": "Ines",
            "recall": f"Who is the mayor of {request.target}?",
            "question": f"Who is the mayor of the capital of {request.subject}?",
        }
    )


@dataclass
class Written:
    """Proposes for every edit but those of `failing`; stops like a lost endpoint after `most` batches."""

    failing: dict[str, str | None] = field(default_factory=dict)
    most: int = 100
    asked: list[str] = field(default_factory=list)
    name: str = "script"

    def write(self, requests: Sequence[EditRequest]) -> list[str | None]:
        if self.most == 0:
            raise EndpointFailed("gone")
        self.most -= 1
        self.asked += [request.subject for request in requests]
        return [self.failing.get(request.subject, proposal(request)) for request in requests]


def run(review: Path, generator: Written, known: Sequence[int] = range(6), **more: object) -> Proposed:
    model = Scripted({f"Q: Who is the mayor of T{number}? A:": "Ines." for number in known})
    names = {"model_name": "m", "form": "Q: {} A:", "batch": 2, **more}
    return Propose(model=model, generator=generator, **names).run([*CASES, CASES[0]], review)  # type: ignore[arg-type]


def test_a_question_counts_where_the_unedited_model_knows_its_second_fact(tmp_path: Path) -> None:
    review = tmp_path / "review.jsonl"
    found = run(review, Written({"S1": None, "S2": "nonsense"}), known=[0, 1, 2, 4])
    assert [row.case for row in found.rows] == [CASES[0].id, CASES[4].id]
    assert found.rows == tuple(read_review(review))
    assert found.rows[0].recall == "Q: Who is the mayor of T0? A:"
    assert found.rows[0].question == "Q: Who is the mayor of the capital of S0? A:"
    assert (found.rows[0].unedited, found.rows[0].verdict) == ("unknown", "")
    assert found.reasons == {"nothing_proposed": 1, "not_parsed": 1, "unknown": 2}
    listed = [json.loads(line) for line in left_out_path(review).read_text().splitlines()]
    assert {line["case"] for line in listed} == {CASES[place].id for place in (1, 2, 3, 5)}
    assert found.new == 6


def test_a_stopped_run_goes_on_and_keeps_verdicts(tmp_path: Path) -> None:
    review = tmp_path / "review.jsonl"
    with pytest.raises(EndpointFailed):
        run(review, Written(most=2), known=[0, 2, 3, 5])
    assert len(read_review(review)) == 3
    judged = [replace(row, verdict="reject", note="no") for row in read_review(review)]
    write_review(review, judged)
    again = Written()
    found = run(review, again, known=[0, 2, 3, 5])
    assert again.asked == ["S4", "S5"]
    assert found.rows[:3] == tuple(judged)
    assert found.new == 2
    idle = Written()
    assert run(review, idle, known=[0, 2, 3, 5]).rows == found.rows
    assert idle.asked == []


def test_a_verdict_given_while_the_run_goes_on_is_kept(tmp_path: Path) -> None:
    review = tmp_path / "review.jsonl"

    def judge(_line: str) -> None:
        write_review(review, [replace(row, verdict=row.verdict or "accept") for row in read_review(review)])

    run(review, Written(), on_progress=judge)
    assert [row.verdict for row in read_review(review)] == ["accept"] * 6


def test_a_line_taken_out_of_those_left_out_is_tried_again(tmp_path: Path) -> None:
    review = tmp_path / "review.jsonl"
    run(review, Written({"S3": "nonsense"}))
    left_out_path(review).write_text("")
    assert len(run(review, Written()).rows) == 6


def test_a_review_of_another_model_is_not_gone_on_with(tmp_path: Path) -> None:
    run(tmp_path / "review.jsonl", Written())
    with pytest.raises(ConfigurationError, match="'m', not with 'other'"):
        run(tmp_path / "review.jsonl", Written(), model_name="other")


@pytest.mark.parametrize("form", ["Question:", "{} {}"])
def test_a_form_has_one_place_for_the_question(tmp_path: Path, form: str) -> None:
    with pytest.raises(ConfigurationError, match=r"one \{\}"):
        run(tmp_path / "review.jsonl", Written(), form=form)


def test_the_prompt_shows_the_edit_and_only_the_edit() -> None:
    request = EditRequest(prompt="{} of {statement} is".replace("{statement}", "x"), subject="{target}", target="T")
    assert Prompt("<{statement}|{subject}|{target}>").filled(request) == "<{target} of x is T|{target}|T>"
    filled = read_prompt().filled(CASES[0].request)
    assert filled.endswith("Statement: The capital of S0 is T0\nSubject: S0\nNew object: T0\nJSON:")


@pytest.mark.parametrize(
    ("text", "told"),
    [("{statment}", "Did you mean 'statement'"), ("{subject}", "does not show the edit"), (None, "cannot read")],
)
def test_a_prompt_that_cannot_be_used_is_one_error(tmp_path: Path, text: str | None, told: str) -> None:
    path = tmp_path / "prompt.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match=told):
        read_prompt(path)


def test_any_causal_model_proposes_as_it_decodes() -> None:
    """A random model writes nonsense, which is what must come through unchanged, also past line ends."""
    model = tiny("llama")
    texts = ModelGenerator(model, Prompt("{statement}"), tokens=8).write([case.request for case in CASES[:2]])
    assert len(texts) == 2
    assert all(isinstance(text, str) for text in texts)
    with pytest.raises(ConfigurationError, match="shorter --prompt"):
        ModelGenerator(model, Prompt("{statement} " * 2_000)).write([CASES[0].request])
