"""The page of a run is written by the controlling process, whatever becomes of the tests, where it is wanted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pytest_plugin.inner import Suite

from editguard.pytest_plugin.page import complete
from editguard.report import cases
from editguard.report.cases import COLUMNS

SUITE = """
    CASES = [
        EditCase(
            request=request(f"City{n}"),
            probes=(Probe(property="locality", kind="neighbour", prompt=f"What is {n}?"),),
        )
        for n in range(10)
    ]

    @pytest.mark.edit_sequence(CASES, checkpoints=(2, 10))
    class TestSequence:
        def test_reliability(self, edited, baseline):
            baseline.check(edited.reliability())

        def test_locality(self, edited):
            assert edited.locality().mean == 1.0
"""
TOY = "--editguard-methods=toy"
HTML = "--editguard-html=out/report.html"


def page(suite: Suite) -> str:
    return (suite.path / "out" / "report.html").read_text(encoding="utf-8")


def baseline(suite: Suite) -> str:
    [file] = (suite.path / "baselines").glob("*.json")
    return file.read_text(encoding="utf-8")


def rows(page: str) -> list[dict[str, Any]]:
    """The cases on a page, with their texts in place."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    texts = ("prompt", "before", "after", "accepted", "outcome", "property", "kind", "method", "mode", "test", "edit")

    def read(name: str, value: Any) -> Any:
        if name in texts:
            return None if value < 0 else data["texts"][value]
        if name == "expected":
            return [data["texts"][place] for place in value]
        return [(data["texts"][place], chance) for place, chance in value] if name.startswith("tokens") else value

    return [{name: read(name, value) for name, value in zip(COLUMNS, row, strict=True)} for row in data["rows"]]


def test_a_run_that_failed_has_a_page_with_its_cases(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.file(SUITE)
    suite.run(TOY, HTML, "--editguard-baseline=create").assert_outcomes(passed=4)
    assert "✓</span> Passed" in page(suite)
    assert "All 4 tests passed; 2 baseline checks" not in page(suite)  # nothing was compared
    assert len(rows(page(suite))) == 24
    assert not any(row["failing"] for row in rows(page(suite)))

    monkeypatch.setenv("TOY_LOST", ",".join(f"City{n}" for n in range(8)))
    run = suite.run(TOY, HTML)
    run.assert_outcomes(passed=3, failed=1)
    run.stdout.fnmatch_lines([f"page: {suite.path / 'out' / 'report.html'}"])
    told = page(suite)
    assert "✗</span> Failed" in told
    assert "1 of 4 tests failed (3 passed); 2 baseline checks: 1 regressed, 1 undecided; exit status 1." in told
    assert "toy-model" in told
    found = rows(told)
    lost = [row for row in found if row["lost"]]
    assert [(row["edits"], row["prompt"]) for row in lost] == [
        (edits, f"The capital of City{n} is") for edits, count in ((2, 2), (10, 8)) for n in range(count)
    ]
    assert lost[0] == {
        "prompt": "The capital of City0 is",
        "expected": ["Oskar"],
        "before": "old",
        "after": "old",
        "accepted": "Oskar",
        "outcome": "other",
        "value": 0.0,
        "property": "reliability",
        "kind": lost[0]["kind"],
        "method": "toy",
        "mode": "sequence",
        "edits": 2,
        "test": "test_suite.py::TestSequence::test_reliability[toy-2]",
        "edit": "“The capital of City0 is” → “Oskar”",
        "failing": 1,
        "lost": 1,
        "must_hold": 0,
        "tokens": [("Oskar", 0.75)],
        "tokens_before": [],
    }
    assert "2 of 10 hold after 10" in told
    assert "Read after every edit of 10" in told
    assert "test_reliability[toy-10]" in told
    near = next(row for row in found if row["property"] == "locality")
    assert (near["before"], near["tokens_before"]) == ("old", [("old", 0.75)])


def test_the_unedited_model_is_asked_for_failing_cases_and_only_for_a_page(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured does not change by it."""
    monkeypatch.setenv("TOY_LOST", "City1")
    suite.file(SUITE)
    suite.run(TOY, HTML, "--editguard-baseline=update").assert_outcomes(passed=4)
    with_page = baseline(suite)
    before = {row["prompt"]: row["before"] for row in rows(page(suite)) if row["property"] == "reliability"}
    assert before == {f"The capital of City{n} is": "old" if n == 1 else None for n in range(10)}
    for file in (suite.path / "baselines").glob("*.json"):
        file.unlink()
    suite.run(TOY, "--editguard-baseline=update").assert_outcomes(passed=4)
    assert baseline(suite) == with_page


def test_edits_are_named_in_words_whatever_is_measured_of_them(suite: Suite) -> None:
    suite.file(
        """
        NEAR = Probe(property="locality", kind="neighbour", prompt="The capital of Tamrin is")

        @pytest.mark.edit(EditCase(request=ONE, probes=(NEAR,)))
        def test_locality(edited):
            edited.locality()
        """
    )
    suite.run(TOY, HTML).assert_outcomes(passed=1)
    assert [row["edit"] for row in rows(page(suite))] == ["“The capital of Velloria is” → “Oskar”"]


def test_messages_carry_the_tokens_of_passing_cases_for_a_page_alone() -> None:
    def noted() -> dict[str, Any]:
        values = [
            {"value": value, "original": "old", "prompt": "p", "tokens": (("a", 0.5),), "tokens_before": ()}
            for value in (1.0, 0.0)
        ]
        return {"measurements": [{"name": "locality", "edit_ids": ["e"], "values": values}]}

    for html, kept in ((None, [0, 1]), (Path("report.html"), [1, 1])):
        notes = noted()
        complete(
            notes,
            cast(Any, SimpleNamespace(configuration=SimpleNamespace(html=html), runtime=SimpleNamespace(requests=[]))),
        )
        assert [len(value["tokens"]) for value in notes["measurements"][0]["values"]] == kept


def test_passing_cases_are_bounded_and_failing_ones_are_not(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "MOST_PASSING", 3)
    monkeypatch.setattr(cases.Cases.__init__, "__defaults__", (3,))
    monkeypatch.setenv("TOY_LOST", "City1,City2,City3,City4,City5")
    suite.file(SUITE)
    suite.run(TOY, HTML).assert_outcomes(passed=4)
    found = rows(page(suite))
    assert sum(row["failing"] for row in found) == 6
    assert len(found) == 9
    assert "15 further cases that did not fail are left out of this page" in page(suite)


@pytest.mark.parametrize("arguments", [(), ("--collect-only", HTML)])
def test_no_page_is_written_where_none_is_wanted_or_nothing_runs(suite: Suite, arguments: tuple[str, ...]) -> None:
    suite.file(SUITE)
    suite.run(TOY, *arguments)
    assert not (suite.path / "out").exists()


def test_a_run_without_tests_of_edits_has_a_page_that_says_so(suite: Suite) -> None:
    suite.file("def test_other(): pass")
    suite.run(HTML).assert_outcomes(passed=1)
    assert "The only test passed; exit status 0." in page(suite)
    assert suite.events("load") == []


@pytest.mark.slow
def test_a_stopped_run_says_that_its_page_is_of_a_part(suite: Suite) -> None:
    suite.file(
        """
        @pytest.mark.edit(ONE)
        def test_one(edited):
            assert edited.reliability().mean == 1.0

        @pytest.mark.edit(ONE)
        def test_two(edited):
            raise KeyboardInterrupt
        """
    )
    result = suite.run_apart(TOY, HTML, "-p", "no:xdist")
    assert result.ret == 2
    assert "Stopped" in page(suite)
    assert "of a part of it; exit status 2." in page(suite)


def test_a_broken_policy_is_told(suite: Suite) -> None:
    suite.file(SUITE)
    (suite.path / "policy.toml").write_text('limits = ["reliability>=1.1"]\nrequired = ["toy"]\n')
    run = suite.run(TOY, HTML, f"--editguard-gate={suite.path / 'policy.toml'}")
    assert run.ret == 10
    assert "the gate&#39;s policy is broken in 2 points" in page(suite)
    assert "the limit is reliability&gt;=1.1." in page(suite)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (".", "--editguard-html is a file; * is a folder."),
        ("test_suite.py/report.html", "cannot write to *test_suite.py: Not a directory."),
        ("", "must name a file"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_tests(suite: Suite, value: str, message: str) -> None:
    suite.file(SUITE)
    run = suite.run(TOY, f"--editguard-html={value}")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines([f"ERROR: *{message}*"])
    assert suite.events() == []


def test_a_page_that_cannot_be_written_at_the_end_changes_no_verdict(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.file(SUITE.replace("CASES, checkpoints", "[*CASES], checkpoints"))
    target = suite.path / "out" / "report.html"
    suite.file(
        f"""
        from pathlib import Path

        @pytest.mark.edit(ONE)
        def test_in_the_way(edited):
            Path({str(target)!r}).mkdir(parents=True)
            assert edited.reliability().mean == 1.0
        """,
        "test_way",
    )
    run = suite.run(TOY, HTML)
    run.assert_outcomes(passed=5)
    assert run.ret == 0
    run.stdout.fnmatch_lines(["cannot write *report.html: *This run's verdict stands; it has no page."])
    assert list((suite.path / "out").iterdir()) == [target]


@pytest.mark.slow
def test_two_workers_write_the_page_of_one_process(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_LOST", "City3")
    suite.file(SUITE)
    suite.file(SUITE.replace("City", "Town"), "test_towns")

    def told(*arguments: str) -> tuple[list[str], str]:
        suite.run_apart(TOY, HTML, *arguments).assert_outcomes(passed=8)
        return sorted(json.dumps(row, sort_keys=True) for row in rows(page(suite))), page(suite)

    alone, _ = told("-p", "no:xdist")
    spread, text = told("-n", "2")
    assert spread == alone
    assert len(alone) == 48
    assert "2 processes" in text
    assert "All 8 tests passed" in text
    assert not [name for name in Path(suite.path / "out").iterdir() if name.name != "report.html"]
