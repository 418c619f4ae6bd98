"""How often a clean run alarms: one suite, accepted with one seed of the methods and run again with others.

Nothing is wrong in any of the runs: the contexts that a method draws are others, and the edits come out a little
different. Whole runs of pytest, each in a process of its own; what the gate calls regressed is counted.

    python benchmarks/clean_reruns.py
    python benchmarks/clean_reruns.py --methods rome --edits 5 --runs 3
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

from tabulate import tabulate
from tqdm import tqdm

SUITE: Final = """
import json
import os

import pytest

from editguard.probes.pocket import pocket_cases

METHODS = os.environ["RERUN_METHODS"].split(",")
SETTINGS = {name: {"seed": int(os.environ["RERUN_SEED"])} for name in METHODS}
CASES = pocket_cases(int(os.environ["RERUN_EDITS"]), seed=3)


def check(baseline, measurement):
    try:
        baseline.check(measurement)
    finally:
        with open(os.environ["RERUN_TOLD"], "a") as file:
            told = [measurement.method, measurement.mode, measurement.edits, measurement.title, measurement.mean]
            file.write(json.dumps(told) + "\\n")


class Asked:
    @pytest.mark.parametrize("name", ["reliability", "generalization", "locality"])
    def test_of_all_kinds(self, edited, baseline, name):
        check(baseline, getattr(edited, name)())

    @pytest.mark.parametrize("kind", ["subject_replace", "one_hop"])
    def test_portability(self, edited, baseline, kind):
        check(baseline, edited.portability(kind=kind))


@pytest.mark.edit(*CASES, methods=METHODS, settings=SETTINGS)
class TestBatch(Asked):
    pass


@pytest.mark.edit_sequence(CASES, checkpoints=(len(CASES) // 2, len(CASES)), methods=METHODS, settings=SETTINGS)
class TestSequence(Asked):
    pass
"""


def run(folder: Path, seed: int, baseline: str, arguments: argparse.Namespace) -> tuple[int, list[list[object]], str]:
    """Exit status, what was measured, and what the run printed of regressions."""
    told = folder / f"told-{seed}.jsonl"
    environment = os.environ | {
        "RERUN_METHODS": ",".join(arguments.methods),
        "RERUN_SEED": str(seed),
        "RERUN_EDITS": str(arguments.edits),
        "RERUN_TOLD": str(told),
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--tb=line",
        str(folder / "test_suite.py"),
    ]
    command += [f"--editguard-baseline={baseline}", f"--editguard-baseline-dir={folder / 'baselines'}"]
    command += ["--editguard-history=off", "--editguard-blame=0", "--editguard-signals=off"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        sys.exit(done.stdout + done.stderr)
    return done.returncode, [json.loads(line) for line in told.read_text().splitlines()], done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["rome", "memit"])
    parser.add_argument("--edits", type=int, default=10)
    parser.add_argument("--runs", type=int, default=20)
    arguments = parser.parse_args()
    alarms, moved, means = 0, 0, Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_suite.py").write_text(SUITE)
        _, accepted, _ = run(folder, 0, "create", arguments)
        before = {json.dumps(row[:-1]): row[-1] for row in accepted}
        for seed in tqdm(range(1, arguments.runs + 1), unit="run"):
            status, rows, shown = run(folder, seed, "check", arguments)
            alarms += status != 0
            changed = [row for row in rows if before[json.dumps(row[:-1])] != row[-1]]
            moved += bool(changed)
            means.update(" ".join(map(str, row[:-1])) for row in changed)
            if status:
                tqdm.write(f"seed {seed}:\n" + "\n".join(line for line in shown.splitlines() if "regressed" in line))
    print(f"{len(before)} checks a run; {moved} of {arguments.runs} runs measured anything else than was accepted")
    print(f"{alarms} of {arguments.runs} clean runs raised an alarm")
    print(tabulate(means.most_common(8), headers=["check that moved most often", "runs"]))


if __name__ == "__main__":
    main()
