"""A method of another package, really installed, is in the registry and runs like the built-in ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_plugin.inner import Suite

PACKAGE = {
    "pyproject.toml": """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "editguard-parrot"
version = "1.0"

[project.entry-points."editguard.methods"]
parrot = "parrot:Parrot"

[tool.hatch.build.targets.wheel]
packages = ["parrot.py"]
""",
    "parrot.py": '''
"""A method in a package of its own."""

from toy import Toy


class Parrot(Toy):
    """Repeats the target of every request."""

    name = "parrot"
''',
}


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The package, installed by pip into a folder of its own, offline."""
    source, target = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    for name, text in PACKAGE.items():
        (source / name).write_text(text)
    offline = ["--no-index", "--no-build-isolation", "--no-deps", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, "--target", str(target), str(source)], check=True)
    return target


@pytest.mark.slow
def test_an_installed_method_is_listed_and_edits(
    suite: Suite, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = Path(__file__).parent  # what the package builds on
    monkeypatch.setenv("PYTHONPATH", f"{installed}{os.pathsep}{toys}", prepend=os.pathsep)
    listed = suite.pytester.run(sys.executable, "-m", "editguard.cli", "methods")
    listed.stdout.fnmatch_lines(["  parrot"])
    suite.file(
        """
        @pytest.mark.edit(ONE)
        def test_it(edited, method):
            assert (method, edited.answer(ONE.text)) == ("parrot", "Oskar")
        """
    )
    result = suite.run_apart("--editguard-methods=parrot", "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test_it?parrot? PASSED*"])
