"""The scripted methods, registered; a model; a study in one call."""

import pytest
import zoo
from study import crews, fakes

from editguard.cli import main
from editguard.datasets.jsonl import write_cases
from editguard.methods import registry
from editguard.study.plan import Plan
from editguard.study.running import Materials, run


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, *fakes.REGISTERED))
    monkeypatch.setattr(fakes.Scripted, "before", None)
    fakes.Scripted.applied.clear()
    fakes.Scripted.prepared.clear()
    fakes.Scripted.held.clear()
    return fakes.Scripted


@pytest.fixture(autouse=True)
def short_answers(monkeypatch, request):
    """Random models never end an answer; a few tokens tell their states apart as well."""
    if request.node.get_closest_marker("slow") is None:
        crews.shorten(monkeypatch)


@pytest.fixture
def study(tmp_path):
    """Run a plan over the fake cases; the folder is the same unless another is named."""

    def started(*, model=None, cases=fakes.CASES, out="study", materials=None, told=None, **plan):
        return run(
            Plan(**{"methods": ("scripted",), **plan}),
            model or zoo.tiny("gpt2"),
            cases,
            tmp_path / out,
            materials=materials or Materials(tasks=fakes.TASKS),
            **({"told": told} if told else {}),
        )

    return started


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run the command on a tiny model and a file of the fake cases."""
    monkeypatch.setattr("editguard.models.loading.load_model", lambda *_, **__: zoo.tiny("gpt2"))
    write_cases(tmp_path / "cases.jsonl", fakes.CASES)

    def given(*arguments):
        basis = ["study", "--out", str(tmp_path / "out")]
        model = ["--model", "tiny", "--cases", str(tmp_path / "cases.jsonl"), "--cache-dir", str(tmp_path / "cache")]
        return main([*basis, *([] if "--table" in arguments else model), *arguments])

    return given
