"""The few commands beside pytest."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from editguard import __version__
from editguard.errors import ConfigurationError, EditguardError

FIRST_SUITE = '''"""A first suite: one edit, and what should and should not follow from it."""

import pytest
from editguard import EditCase, EditRequest

MOVED = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Oskar")
# With rephrases, consequences and neighbours an edit becomes a case: EditCase(request=MOVED, probes=(...)).

pytestmark = pytest.mark.edit(EditCase(request=MOVED))  # every test below runs once per editing method


def test_reliability(edited):
    assert edited.answer(MOVED.text) == "Oskar"


def test_locality(edited, original):
    prompt = "The capital of another country is"
    assert edited.answer(prompt) == original.answer(prompt)


def test_reliability_is_as_accepted(edited, baseline):
    baseline.check(edited.reliability())  # record it with: pytest --editguard-baseline=create
'''
CONFIGURATION = """
[tool.editguard]
model = "pocket"            # or a directory, or a name on the hub with a revision
baseline-dir = "baselines"

# [tool.editguard.methods.rome]
# layer = 3
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0, or 2 after one line on stderr about a mistake."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.command == "methods":
            print(_methods(as_json=options.json))
        elif options.command == "init":
            print(_init(Path(options.directory)))
        else:
            parser.print_help()
    except EditguardError as error:
        print(f"editguard: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="editguard",
        description="Regression tests for knowledge edits of language models. The tests run with pytest.",
    )
    parser.add_argument("--version", action="version", version=f"editguard {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    methods = commands.add_parser("methods", help="list the registered editing methods")
    methods.add_argument("--json", action="store_true", help="as JSON, with all that is known of each")
    init = commands.add_parser("init", help="write a first suite and its configuration into a directory")
    init.add_argument("directory")
    return parser


def _methods(*, as_json: bool) -> str:
    from editguard.methods.registry import methods

    known = methods()
    if as_json:
        return json.dumps([info.as_dict() for info in known.values()], indent=2, ensure_ascii=False)
    width = max(len(name) for name in known)
    return (
        "\n".join(
            f"{info.name:<{width}}  {'*' if info.default else ' '} {info.family}: changes {info.changes}"
            for info in known.values()
        )
        + "\n(* belongs to the default set)"
    )


def _init(directory: Path) -> str:
    """Write the first files; never over existing ones.

    Raises: ConfigurationError: a file is there already, or cannot be written.
    """
    from editguard.storage import write_atomically

    files = {
        directory / "suites" / "test_first_edit.py": FIRST_SUITE,
        directory / "pyproject.toml": CONFIGURATION.lstrip(),
    }
    for path in files:
        if path.exists():
            raise ConfigurationError(f"{path} exists already; nothing was written.")
    for path, text in files.items():
        write_atomically(path, text, error=ConfigurationError)
    written = "\n".join(f"wrote {path}" for path in files)
    return f"{written}\nrun it with: pytest {directory / 'suites'}"


if __name__ == "__main__":
    sys.exit(main())
