"""Edits that come and go: what is in force, and the state machine that looks for a broken invariant."""

from __future__ import annotations

import pytest
from pytest_plugin.inner import Suite

from editguard.edits import EditCase, EditRequest, Probe
from editguard.pytest_plugin.exploring import as_test, source_of

MACHINE = """
    CASES = [
        EditCase(
            request=request(f"S{n}"),
            probes=(Probe(property="locality", kind="neighbour", prompt=f"fragile {n}?"),),
        )
        for n in range(8)
    ]

    def test_machine(editor):
        def nothing_else_moves(edited):
            assert edited.locality().mean == 1.0

        editor.explore(CASES, nothing_else_moves, steps=5, examples=40)
"""


def test_steps_can_be_taken_out_in_any_order(suite: Suite) -> None:
    suite.file(
        """
        def test_steps(editor, original):
            steps = editor.steps()
            assert steps.edited.digest() == original.digest()
            alone = editor.steps()
            alone.add(request("B", "Ona"))
            edited = steps.add(ONE, request("A"))
            assert edited.answer(ONE.text) == "Oskar"
            edited = steps.add(request("B", "Ona"))
            assert (edited.answer(ONE.text), edited.answer(request("B").text), edited.edits) == ("Oskar", "Ona", 3)
            edited = steps.withdraw(1)
            assert (edited.answer(ONE.text), edited.answer(request("B").text), edited.edits) == ("old", "Ona", 1)
            with pytest.raises(ValueError, match="no step 1 is in force; in force: 2"):
                steps.withdraw(1)
            assert steps.add(ONE).edits == 2
            assert [case.request.subject for step in steps.in_force for case in step.cases] == ["B", "Velloria"]
            steps.withdraw(3)
            assert steps.withdraw(2).digest() == original.digest()
        """
    )
    suite.run("--editguard-methods=toy").assert_outcomes(passed=1)


def test_the_machine_finds_a_pair_and_shrinks_to_it(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_TOGETHER", "S3+S6")
    suite.file(MACHINE)
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(failed=1)
    printed = result.stdout.str().partition("A test that repeats it:")[2].partition("You can reproduce")[0]
    lines = [line.removeprefix("E").removeprefix("   ") for line in printed.splitlines()]
    start = next(place for place, line in enumerate(lines) if "def test_counterexample" in line)
    end = next(place for place, line in enumerate(lines) if "nothing_else_moves(steps.edited)" in line)
    margin = len(lines[start]) - len(lines[start].lstrip())
    source = "\n".join(line[margin:] for line in lines[start : end + 1])
    subjects = [name for name in (f"S{n}" for n in range(8)) if f"subject='{name}'" in source]
    assert subjects == ["S3", "S6"]
    assert "withdraw" not in source
    suite.file("", "test_suite")
    (suite.path / "test_pasted.py").write_text(
        f"from editguard import EditCase, EditRequest, Probe\n\n\n{source}\n", encoding="utf-8"
    )
    suite.run("--editguard-methods=toy", "test_pasted.py").assert_outcomes(failed=1)
    monkeypatch.delenv("TOY_TOGETHER")
    suite.run("--editguard-methods=toy", "test_pasted.py").assert_outcomes(passed=1)


def test_a_machine_without_a_fault_passes_and_leaves_the_model_as_it_was(suite: Suite) -> None:
    suite.file(
        MACHINE
        + """
    def test_after(original, editor):
        assert original.answer(CASES[0].request.text) == "old"
        with pytest.raises(ValueError, match="at least 1 of its examples"):
            editor.explore(CASES, print, examples=0)
"""
    )
    suite.run("--editguard-methods=toy").assert_outcomes(passed=2)


def test_a_source_makes_an_equal_value() -> None:
    case = EditCase(
        request=EditRequest(prompt="The {} is", subject="x'y\n", target="z", relation="r"),
        probes=(
            Probe(property="locality", kind="a", prompt="p"),
            Probe(property="portability", kind="b", prompt="q", answers=("one", "two"), knows=(("k", "v"),)),
        ),
    )
    names = {"EditCase": EditCase, "EditRequest": EditRequest, "Probe": Probe}
    assert eval(source_of(case), names) == case
    assert "choices" not in source_of(case)


def test_an_invariant_without_a_source_is_named_in_the_test() -> None:
    case = EditCase(request=EditRequest(prompt="The {} is", subject="x", target="z"))
    source = as_test([case], [("add", (0,)), ("withdraw", (1,))], len)  # type: ignore[arg-type]
    compile(source.partition("\n")[2], "pasted", "exec")
    assert "steps.withdraw(1)\n    invariant(steps.edited)" in source
