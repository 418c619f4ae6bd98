"""Inner pytest runs on a toy model."""

from importlib import import_module
from pathlib import Path

import pytest
from pytest_plugin.inner import Suite

from editguard.methods import registry
from editguard.models import loading

for name in ("deepdiff", "hypothesis", "scipy.stats", "tabulate", "editguard.edited", "editguard.report.terminal"):
    import_module(name)  # once, here: an inner run in this process forgets at its end what it loaded itself


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Suite:
    """A fresh suite directory with the toy model; nothing leaks in from the outer run, or out to it."""
    monkeypatch.setattr(registry, "BUILT_IN", registry.BUILT_IN)
    monkeypatch.setattr(loading, "load_model", loading.load_model)
    for name in (
        "CI",
        "PYTEST_ADDOPTS",
        "TOY_ANSWER",
        "TOY_LOST",
        "TOY_FINGERPRINT",
        "TOY_LEAK",
        "TOY_TOGETHER",
        "TOY_WORN",
        "TOY_AGED",
        "PYTEST_XDIST_WORKER",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EDITGUARD_ACCEPTED_BY", "Ada")
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "toy-log.jsonl"))
    return Suite(pytester, tmp_path / "toy-log.jsonl")


@pytest.fixture
def toy(suite: Suite) -> Suite:
    """A suite whose model is a folder, as its journal needs it."""
    folder = suite.path / "toy-model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return suite
