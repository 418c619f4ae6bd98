"""A run that is killed at any moment leaves baselines and caches whole: the old ones, or the new ones."""

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
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


def at_a_random_moment(seconds: float) -> Callable[[], None]:
    return lambda: time.sleep(seconds)


def while_writing(folder: Path, process: subprocess.Popen[bytes]) -> Callable[[], None]:
    """Wait until something new appears in the folder, usually a file that is not whole yet."""
    before = set(folder.rglob("*"))

    def wait() -> None:
        while process.poll() is None and set(folder.rglob("*")) <= before:
            pass

    return wait


@pytest.mark.slow
def test_runs_killed_at_random_moments_and_while_writing_leave_baselines_and_caches_whole(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    started = time.monotonic()
    assert run(tmp_path, "--editguard-baseline=create", "--editguard-reason=accepted").wait() == 0
    whole = time.monotonic() - started
    baselines, cache = tmp_path / "baselines", tmp_path / "cache"
    [path] = baselines.glob("*.json")
    accepted = path.read_bytes()
    lost = accepted.replace(b'[1, "exact"', b'[0, "other"')
    assert lost != accepted
    moments = random.Random(0)
    for number in range(14):
        if number % 2:  # every other run also has to make its cache anew
            shutil.rmtree(cache)
            cache.mkdir()
        path.write_bytes(lost)
        process = run(tmp_path, "--editguard-baseline=update", "--editguard-reason=accepted")
        if number < 10:
            wait = at_a_random_moment(moments.uniform(0.2, 1.05) * whole)
        else:
            wait = while_writing(cache if number % 2 else baselines, process)
        wait()
        process.kill()
        process.wait()
        assert path.read_bytes() in (lost, accepted), f"kill {number} left a file that nobody has written"
    assert run(tmp_path, "--editguard-baseline=update", "--editguard-reason=accepted").wait() == 0
    assert path.read_bytes() == accepted
    assert [one.name for one in baselines.iterdir() if one.suffix == ".json"] == [path.name]
    assert run(tmp_path).wait() == 0
