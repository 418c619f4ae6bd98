"""`editguard one-hop`, from its arguments to its files, on the embedded model."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from one_hop.scripted_server import Reply, completion, serving

from editguard.cli import main
from editguard.datasets import load_cases, write_cases
from editguard.edits import EditCase
from editguard.one_hop.review import read_review
from editguard.probes.pocket import pocket_cases


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Edits of birthplaces, each of which has a question of two hops; without their own probes."""
    found = pocket_cases(6, seed=1, relations=["born_in"])
    write_cases(tmp_path / "cases.jsonl", [EditCase(request=case.request) for case in found])
    return tmp_path / "cases.jsonl"


def judge(review: Path, verdict: str) -> None:
    lines = [{**json.loads(line), "verdict": verdict} for line in review.read_text().splitlines()]
    review.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_world_proposes_what_the_embedded_model_knows_and_accepted_probes_are_the_worlds_own(
    cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["one-hop", "propose", str(cases)]) == 0
    review = cases.with_suffix(".review.jsonl")
    rows = read_review(review)
    assert f"6 edits handled now; questions in {review}: {len(rows)} to judge" in capsys.readouterr().out
    assert rows
    judge(review, "accept")
    out = cases.with_name("out.jsonl")
    assert main(["one-hop", "accept", str(cases), "--out", str(out)]) == 0
    assert f"{len(rows)} one-hop questions accepted, 0 rejected" in capsys.readouterr().out
    full = {case.id: case for case in pocket_cases(6, seed=1, relations=["born_in"])}
    added = [(case.id, probe) for case in load_cases(out) for probe in case.probes]
    assert len(added) == len(rows)
    for name, probe in added:
        assert probe.id in {own.id for own in full[name].probes if own.kind == "one_hop"}
    assert main(["one-hop", "accept", str(cases), "--out", str(out)]) == 2
    assert "--force" in capsys.readouterr().err


def from_the_world(cases: Path) -> list[Reply]:
    """What a faithful endpoint would write for each case."""
    from editguard.one_hop.generators import WorldGenerator
    from editguard.pocket import default_world

    return [completion(text) for text in WorldGenerator(default_world()).write([c.request for c in load_cases(cases)])]


def test_an_endpoint_proposes_what_the_world_would(
    cases: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", "abc\n")
    assert main(["one-hop", "propose", str(cases), "--review", str(cases.with_name("world.jsonl"))]) == 0
    with serving(*from_the_world(cases)) as server:
        asked = ["--endpoint", server.url, "--endpoint-model", "big", "--endpoint-key", "MY_KEY"]
        assert main(["one-hop", "propose", str(cases), *asked]) == 0
    rows = read_review(cases.with_suffix(".review.jsonl"))
    world = read_review(cases.with_name("world.jsonl"))
    assert [row.as_record() | {"generator": ""} for row in rows] == [
        row.as_record() | {"generator": ""} for row in world
    ]
    assert {row.generator for row in rows} == {"big"}
    assert {each["Authorization"] for each in server.headers} == {"Bearer abc"}


def test_nonsense_is_counted_and_listed(cases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(completion("I am sorry.")) as server:
        assert main(["one-hop", "propose", str(cases), "--endpoint", server.url, "--endpoint-model", "big"]) == 0
    said = capsys.readouterr().out
    assert "left out, not_parsed: 6" in said
    assert "I am sorry." in said


def test_the_edited_model_itself_may_propose(cases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = cases.with_name("prompt.txt")
    prompt.write_text("{statement}.")
    asked = ["--generator", "pocket", "--prompt", str(prompt), "--max-tokens", "4", "--limit", "2"]
    assert main(["one-hop", "propose", str(cases), *asked]) == 0
    assert "left out, not_parsed: 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--generator", "a", "--endpoint", "http://b"], "not both"),
        (["--endpoint", "http://b"], "--endpoint-model NAME"),
        (["--endpoint-model", "b"], "needs --endpoint"),
        (["--endpoint", "b", "--endpoint-model", "b"], "no URL"),
        (["--endpoint", "http://b", "--endpoint-model", "b", "--endpoint-key", "NOT_THERE"], "NOT_THERE"),
        (["--model", "some/model"], "say who proposes"),
        (["--limit", "0"], "--limit"),
        (["--form", "Why"], "one {}"),
    ],
)
def test_wrong_options_are_one_error_and_write_nothing(
    cases: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["one-hop", "propose", str(cases), *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert [path.name for path in cases.parent.iterdir()] == ["cases.jsonl"]


def test_an_unreachable_endpoint_and_a_wrong_verdict_are_one_error_each(
    cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    asked = ["--endpoint", url, "--endpoint-model", "big", "--retries", "0"]
    assert main(["one-hop", "propose", str(cases), *asked]) == 2
    assert "Connection refused" in capsys.readouterr().err
    assert main(["one-hop", "propose", str(cases), "--limit", "2"]) == 0
    review = cases.with_suffix(".review.jsonl")
    judge(review, "rejct")
    capsys.readouterr()
    out = cases.with_name("out.jsonl")
    assert main(["one-hop", "accept", str(cases), "--out", str(out)]) == 2
    assert "Did you mean 'reject'" in capsys.readouterr().err
    assert not out.exists()
