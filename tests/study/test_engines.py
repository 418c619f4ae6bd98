"""The options about processes: what does not go together is one line, and each worker has threads and a GPU."""

import argparse
import builtins
import pickle
from functools import partial
from pathlib import Path

import pytest
import torch

from editguard.study.command import set_up
from editguard.study.engines import _wherever
from editguard.study.grid import studies
from editguard.study.options import add_arguments
from editguard.study.worker import Place

BASIS = ("--methods", "scripted", "--single", "1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--workers", "0"), "--workers takes a number from 1 on, not 0"),
        (("--threads", "-1"), "--threads takes a number from 1 on, not -1"),
        (("--ray-address", "auto"), "--ray-address is of --engine ray"),
        (("--gpus-per-worker", "0.5"), "--gpus-per-worker is of --engine ray"),
        (("--engine", "ray", "--gpus-per-worker", "1.5"), "a fraction of 1 or a whole number, not 1.5"),
        (("--engine", "ray", "--gpus-per-worker", "-1"), "a fraction of 1 or a whole number, not -1"),
        (("--engine", "ray", "--gpus-per-worker", "nan"), "a fraction of 1 or a whole number, not nan"),
        (("--engine", "ray"), "pip install 'editguard[ray]'"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_loaded(command, capsys, monkeypatch, arguments, said):
    given = builtins.__import__

    def without_ray(name, *rest, **more):
        if name == "ray":
            raise ImportError(name)
        return given(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    monkeypatch.setattr("editguard.models.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    assert command(*BASIS, *arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
    assert line.startswith("editguard: ")


def options(*arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    [found] = studies(parser.parse_args(["--out", "o", *arguments]))
    return found


def test_one_worker_is_the_commands_own_process_with_the_threads_that_are_given(command, monkeypatch, capsys):
    monkeypatch.setattr("editguard.study.engines.run_engine", lambda *_: pytest.fail("another process"))
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    assert command(*BASIS, "--workers", "1", "--threads", "3") == 0
    assert threads == [3]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("place", "environment", "threads"),
    [
        (Place(workers=3), None, 2),
        (Place(workers=9), None, 1),
        (Place(workers=3, threads=5), "4", 5),
        (Place(workers=3), "4", None),
        (Place(), None, None),
    ],
)
def test_the_cores_are_shared_out_unless_somebody_says_how_many(monkeypatch, place, environment, threads):
    found = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    place.use_threads()
    assert found == ([] if threads is None else [threads])


def test_each_worker_takes_its_own_of_several_gpus_in_turns(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    places = [Place(number=number, workers=3) for number in range(3)]
    for wanted in ("auto", "cuda"):
        assert [place.device(wanted) for place in places] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [place.device("cuda:1") for place in places] == ["cuda:1"] * 3
    assert places[1].device("cpu") == "cpu"
    assert Place().device("auto") == "auto"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert places[1].device("auto") == "auto"


def test_what_a_process_is_given_can_be_sent_to_it_and_means_the_same_in_another_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    given = options("--model", "model", "--cases", "cases.jsonl", "--cache-dir", "cache", *BASIS)
    sent = pickle.loads(pickle.dumps(partial(set_up, _wherever(given)))).args[0]
    assert sent.cases == tmp_path / "cases.jsonl"
    assert sent.cache_dir == tmp_path / "cache"
    assert sent.model == str(tmp_path / "model")
    assert sent.corpus is None
    (tmp_path / "pocket").mkdir()
    world = _wherever(options("--cases", "pocket", *BASIS))
    assert (world.model, world.cases) == ("pocket", Path("pocket"))
