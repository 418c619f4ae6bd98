"""What the pytest plugin costs: collecting edit tests, and memory per test.

    python benchmarks/plugin_overhead.py [--tests 1000]

Collection is timed in fresh processes, `pytest --collect-only` over one file of edit tests against a file of as many
plain tests, best of three. Memory is the growth of the resident size from the first hundred tests of a run to its
end, over tests that ask the edited embedded model.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

EDITED = """
import pytest
from editguard import EditRequest

REQUESTS = [EditRequest(prompt="The capital of {{}} is", subject=f"City{{n}}", target="Oskar") for n in range({tests})]

@pytest.mark.edit(REQUESTS[0], methods=["ft-l"])
@pytest.mark.parametrize("number", range({tests}))
def test_edited(edited, number): pass
"""
MARKED = """
import pytest
from editguard import EditRequest

def make(n):
    request = EditRequest(prompt="The capital of {{}} is", subject=f"City{{n}}", target="Oskar")
    @pytest.mark.edit(request, methods=["ft-l"])
    def test(edited): pass
    return test

globals().update({{f"test_{{n}}": make(n) for n in range({tests})}})
"""
PLAIN = """
import pytest

@pytest.mark.parametrize("number", range({tests}))
def test_plain(number): pass
"""
MEMORY = """
import pytest, resource, sys
from editguard import EditRequest

ONE = EditRequest(prompt="The capital of {{}} is", subject="Velloria", target="Oskar")

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

@pytest.mark.edit(ONE, methods=["ft-l"])
@pytest.mark.parametrize("number", range({tests}))
def test_edited(edited, original, number):
    edited.answer(f"What is {{number % 10}}?")
    if number in (100, {tests} - 1):
        print("RESIDENT", resident(), file=sys.__stderr__)
"""


def collection_seconds(source: str, folder: Path) -> float:
    """Best of three collections, in seconds of pytest's own clock."""
    (folder / "test_suite.py").write_text(source)
    best = float("inf")
    for _ in range(3):
        run = pytest_run(folder, "--collect-only", "-q", "--disable-warnings")
        best = min(best, float(re.findall(r"collected in ([\d.]+)s", run.stdout)[-1]))
    return best


def pytest_run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a fresh process in a folder of its own."""
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def memory_growth(tests: int, folder: Path) -> float:
    """Bytes per test between the hundredth and the last one."""
    (folder / "test_suite.py").write_text(MEMORY.format(tests=tests))
    run = pytest_run(folder, "-q", "-s", "--editguard-baseline=off")
    found = [int(number) for number in re.findall(r"RESIDENT (\d+)", run.stderr)]
    if len(found) != 2:
        raise SystemExit(f"the run for memory failed:\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}")
    return (found[1] - found[0]) / (tests - 101)


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tests", type=int, default=1000)
    tests = parser.parse_args().tests
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = {
            "tests": tests,
            "collect_edited_seconds": collection_seconds(EDITED.format(tests=tests), folder),
            "collect_differently_edited_seconds": collection_seconds(MARKED.format(tests=tests), folder),
            "collect_plain_seconds": collection_seconds(PLAIN.format(tests=tests), folder),
            "bytes_per_test": round(memory_growth(tests, folder)),
        }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
