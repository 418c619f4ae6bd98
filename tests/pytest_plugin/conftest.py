"""Inner pytest runs on a toy model."""

from pathlib import Path

# Loaded here once: an inner run in this process forgets, at its end, the modules that it loaded itself.
import deepdiff  # noqa: F401
import hypothesis  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import tabulate  # noqa: F401
from pytest_plugin.inner import Suite


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Suite:
    """A fresh suite directory with the toy model; no environment of the outer run leaks in."""
    for name in ("CI", "PYTEST_ADDOPTS", "TOY_ANSWER", "TOY_LOST", "TOY_FINGERPRINT", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EDITGUARD_ACCEPTED_BY", "Ada")
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "toy-log.jsonl"))
    return Suite(pytester, tmp_path / "toy-log.jsonl")
