"""Under pytest-xdist: groups stay on one worker, nothing is lost, files are written once by the controller."""

from collections import defaultdict

import pytest
from pytest_plugin.inner import Suite

pytest.importorskip("xdist")

SUITE = """
    import os
    CASES = [request(f"City{n}") for n in range(8)]

    @pytest.mark.edit_sequence(CASES, checkpoints=(2, 5, 8))
    class TestSequence:
        def test_retention(self, edited, baseline):
            baseline.check(edited.reliability())
        def test_more(self, edited):
            assert edited.edits in (2, 5, 8)

    @pytest.mark.edit(CASES)
    def test_batch(edited, baseline):
        baseline.check(edited.reliability())

    @pytest.mark.parametrize("number", range(4))
    def test_plain(number): pass

    @pytest.mark.edit(ONE)
    def test_one(edited, request):
        if os.environ.get("TOY_KILL") and not os.path.exists("killed"):
            open("killed", "w").close()
            os._exit(9)

    @pytest.mark.edit(ONE)
    def test_two(edited): pass
"""


def applications(suite: Suite) -> dict[tuple[str, ...], set[str]]:
    """The workers that applied each list of requests, by method and position in its sequence."""
    found = defaultdict(set)
    for event in suite.events("apply"):
        found[(event["method"], str(event["on"]), *event["requests"])].add(event["worker"])
    return found


def test_two_workers_apply_each_group_once_and_record_what_one_process_checks(suite: Suite) -> None:
    suite.file(SUITE)
    result = suite.run_apart("-n2", "--editguard-baseline=create")
    result.assert_outcomes(passed=22)
    result.stdout.fnmatch_lines(["baselines: *test_suite.toy-model.json: 8 of 8 checks written"])
    applied = suite.events("apply")
    assert len(applied) == 2 * (8 + 1 + 1)
    assert all(len(workers) == 1 for workers in applications(suite).values())
    sequences = [
        {
            event["worker"]
            for event in applied
            if event["method"] == method and len(event["requests"]) == 1 and event["requests"] != ["Velloria"]
        }
        for method in ("toy", "forgetful")
    ]
    assert all(len(workers) == 1 for workers in sequences)
    [path] = (suite.path / "baselines").iterdir()
    text = path.read_bytes()
    alone = suite.run("--editguard-baseline=update")
    alone.assert_outcomes(passed=22)
    assert path.read_bytes() == text


@pytest.mark.slow
def test_a_killed_worker_loses_its_test_alone(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.file(SUITE)
    monkeypatch.setenv("TOY_KILL", "1")
    result = suite.run_apart("-n1", "--editguard-baseline=create", "--editguard-methods=toy")
    result.assert_outcomes(passed=12, failed=1)
    result.stdout.fnmatch_lines(["*worker 'gw0' crashed while running *test_one*", "baselines: *4 of 4 checks written"])


@pytest.mark.slow
def test_a_run_without_edits_keeps_its_scheduler(suite: Suite) -> None:
    (suite.path / "conftest.py").write_text("")
    suite.file("@pytest.mark.parametrize('number', range(4))\ndef test_plain(number): pass")
    result = suite.run_apart("-n2", "-v", "--dist=worksteal")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["scheduling tests via *"])
