"""A run that is killed at any moment leaves baselines and caches whole: the old ones, or the new ones."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SUITE = """
import pytest
from editguard.probes.pocket import pocket_cases

pytestmark = pytest.mark.edit(pocket_cases(3, seed=11))

def test_reliability(edited, baseline):
    baseline.check(edited.reliability())
"""


def run(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--editguard-methods=rome"]
    command += [f"--editguard-cache-dir={folder / 'cache'}", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_ten_runs_killed_at_random_moments_leave_baselines_and_caches_whole(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    started = time.monotonic()
    assert run(tmp_path, "--editguard-baseline=create", "--editguard-reason=accepted").wait() == 0
    whole = time.monotonic() - started
    [path] = (tmp_path / "baselines").glob("*.json")
    accepted = path.read_bytes()
    moments = random.Random(0)
    for number in range(10):
        if number % 2:  # every other run also has to make its cache anew
            for old in (tmp_path / "cache").rglob("*.safetensors"):
                old.unlink()
        lost = accepted.replace(b'[1, "exact"', b'[0, "other"')
        path.write_bytes(lost)
        process = run(tmp_path, "--editguard-baseline=update", "--editguard-reason=accepted")
        time.sleep(moments.uniform(0.2, 1.05) * whole)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        now = path.read_bytes()
        assert now == lost or json.loads(now)["format"] == json.loads(accepted)["format"]
        assert [one.name for one in path.parent.iterdir()] == [path.name] or now == lost
    for leftover in path.parent.iterdir():
        if leftover != path:
            leftover.unlink()
    assert run(tmp_path, "--editguard-baseline=update", "--editguard-reason=accepted").wait() == 0
    assert run(tmp_path).wait() == 0
