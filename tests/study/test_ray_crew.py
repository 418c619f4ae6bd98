"""A study on a Ray cluster; needs Ray, and starts a cluster on this machine."""

import os
import signal
import sys
from functools import partial

import pytest
from study import crews
from study.crews import SMALL
from study.fakes import CASES

from editguard.errors import ConfigurationError
from editguard.study.folder import StudyFolder
from editguard.study.plan import UNEDITED, Plan
from editguard.study.sharing import run_shared

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


def everything(folder):
    return {path.name: path.read_bytes() for path in (folder.path / "records").iterdir()}


@pytest.fixture(scope="module")
def cluster():
    paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env=paths)
    yield
    ray.shutdown()


def test_two_workers_of_which_one_is_killed_leave_the_records_of_one_process(cluster, study, monkeypatch, tmp_path):
    from editguard.study.ray_crew import RayCrew

    crews.shorten(monkeypatch)
    lines = []

    def told(line):
        lines.append(line)
        if line.startswith(f"{UNEDITED}-") and not any("was lost" in each for each in lines):
            for path in tmp_path.glob("[01]"):
                os.kill(int(path.read_text()), signal.SIGKILL)
                path.unlink()
                break

    crew = RayCrew(partial(crews.noted_setup, SMALL, tmp_path), tmp_path / "shared")
    assert crew.connect(None) == 2
    folder = run_shared(crew, Plan(**SMALL), CASES, StudyFolder(tmp_path / "shared"), workers=2, told=told)
    assert [line for line in lines if "was lost" in line]
    assert everything(folder) == everything(study(out="alone", **SMALL))


def test_a_cluster_that_does_not_begin_is_one_line(monkeypatch, tmp_path):
    from editguard.study.ray_crew import RayCrew

    def slow(**_):
        raise Exception("The current node timed out during startup.\nMore of it.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", slow)
    with pytest.raises(ConfigurationError, match=r"timed out during startup\.$"):
        RayCrew(partial(crews.setup_elsewhere, SMALL), tmp_path).connect("auto")


def test_a_cluster_without_room_is_one_line(cluster, tmp_path):
    from editguard.study.ray_crew import RayCrew

    for options, said in (({"threads": 3}, "3 CPUs"), ({"gpus": 1.0}, "1 GPUs")):
        with pytest.raises(ConfigurationError, match=said):
            RayCrew(partial(crews.setup_elsewhere, SMALL), tmp_path, **options).connect(None)
    with pytest.raises(ConfigurationError, match="--ray-address auto"):
        RayCrew(partial(crews.setup_elsewhere, SMALL), tmp_path).connect("ray://head:10001")
