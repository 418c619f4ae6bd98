"""Workers as processes: one is killed and replaced, Ctrl-C ends them all, and nobody outlives the one they work for."""

import multiprocessing
import os
import signal
import time
from functools import partial

import pytest
from study import crews
from study.crews import SMALL
from study.fakes import CASES

from editguard.study.folder import StudyFolder
from editguard.study.local_crew import LocalCrew
from editguard.study.plan import UNEDITED, Plan
from editguard.study.sharing import run_shared
from editguard.study.worker import Lost


def everything(folder):
    return {path.name: path.read_bytes() for path in (folder.path / "records").iterdir()}


def shared(path, told, *, workers=2):
    crew = LocalCrew(partial(crews.setup_elsewhere, SMALL), path, workers=workers, threads=1)
    return run_shared(crew, Plan(**SMALL), CASES, StudyFolder(path), workers=workers, told=told)


def killed_at(part, process):
    """Kill a process when a part of that name is told of."""

    def told(line):
        if line.startswith(part) and not process:
            worker = multiprocessing.active_children()[-1]
            process.append(worker)
            os.kill(worker.pid, signal.SIGINT)  # Ctrl-C reaches every process of a terminal, and these do not mind
            os.kill(worker.pid, signal.SIGKILL)

    return told


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_records_are_those_of_one_process(study, tmp_path):
    process, lines = [], []
    kill = killed_at(f"{UNEDITED}-", process)

    def told(line):
        lines.append(line)
        kill(line)

    folder = shared(tmp_path / "shared", told)
    assert process
    assert not process[0].is_alive()
    assert [line for line in lines if "was lost" in line and "SIGKILL" in line]
    assert everything(folder) == everything(study(out="alone", **SMALL))
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_soon_and_keeps_what_is_complete(tmp_path):
    stopped = []

    def told(line):
        if " parts, about " in line:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGINT)
            stopped.append(time.monotonic())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared(tmp_path, told)
    assert time.monotonic() - stopped[0] < 30
    assert not multiprocessing.active_children()
    assert any(StudyFolder(tmp_path).parts(cell) for cell in StudyFolder(tmp_path).cells())


@pytest.mark.slow
def test_a_process_that_ends_by_itself_is_lost_with_its_status(tmp_path):
    crew = LocalCrew(partial(crews.dies, 7), tmp_path, workers=1)
    crew.start(0)
    [worker] = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGINT)  # while it still begins
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    crew.give(0, None)
    assert list(crew.receive()) == [(0, Lost("it ended with status 7"))]
    assert list(crew.receive(wait=False)) == []
    crew.give(0, None)
    crew.stop()
