"""The scripted methods, registered; a model; a study in one call."""

import pytest
import zoo
from study import fakes

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
        monkeypatch.setattr("editguard.measurements.fluency.CONTINUATION_TOKENS", 6)
        monkeypatch.setattr("editguard.measurements.decoding.ANSWER_TOKENS", 3)
        monkeypatch.setattr("editguard.measurements.scores.answer_limit", lambda _: 3)


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
