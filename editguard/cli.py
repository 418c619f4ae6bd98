"""The few commands beside pytest."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from editguard import (
    __version__,
    blame_command,
    history_command,
    import_command,
    one_hop_command,
    rank_command,
    release_command,
    trace_command,
    train_command,
    verify_command,
)
from editguard.errors import ConfigurationError, EditguardError
from editguard.study.options import add_arguments as add_study_arguments

if TYPE_CHECKING:
    from editguard.methods.registry import MethodInfo

NARROWEST: Final = 60
WIDEST: Final = 110
"""Columns of a listing for people; a terminal between the two is filled."""

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
    """Run a command; return its exit status: 0, or 2 after one line on stderr about a mistake; `verify` has 1 too."""
    parser = _parser()
    options, others = parser.parse_known_args(arguments)
    if others and options.command != "blame":  # whose other options are pytest's
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    try:
        if options.command == "methods":
            print(_methods(as_json=options.json))
        elif options.command == "init":
            print(_init(Path(options.directory)))
        elif options.command == "import":
            print(import_command.run(options))
        elif options.command == "one-hop":
            return one_hop_command.run(options)
        elif options.command == "trace":
            print(trace_command.run(options))
        elif options.command == "train":
            return train_command.run(options)
        elif options.command == "history":
            print(history_command.run(options))
        elif options.command == "rank":
            return rank_command.run(options)
        elif options.command == "blame":
            return blame_command.run(options, others)
        elif options.command == "release":
            return release_command.run(options)
        elif options.command == "verify":
            return verify_command.run(options)
        elif options.command == "study":
            from editguard.report.side_by_side import write_side_by_side
            from editguard.report.study_files import write_study_files
            from editguard.study.command import execute

            return execute(options, also=write_study_files, beside=write_side_by_side)
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
    import_command.add_parser(commands)
    one_hop_command.add_parser(commands)
    trace_command.add_parser(commands)
    train_command.add_parser(commands)
    study = commands.add_parser("study", help="compare methods on one model and data set")
    add_study_arguments(study)
    rank_command.add_parser(commands)
    blame_command.add_parser(commands)
    history_command.add_parser(commands)
    release_command.add_parser(commands)
    verify_command.add_parser(commands)
    return parser


def _methods(*, as_json: bool) -> str:
    from editguard.methods.registry import methods

    known = methods().values()
    if as_json:
        return json.dumps([info.as_dict() for info in known], indent=2, ensure_ascii=False)
    width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)
    families: dict[str, list[MethodInfo]] = {}
    for info in known:
        families.setdefault(info.family, []).append(info)
    sections = [
        "\n\n".join([family, *(_described(info, width) for info in members)]) for family, members in families.items()
    ]
    return "\n\n".join([*sections, "(* belongs to the default set)"])


def _described(info: MethodInfo, width: int) -> str:
    """One method in lines of at most `width` columns."""
    lines = {
        "changes": info.changes,
        "batches": "yes, several requests are one computation" if info.batches else "no, one request after another",
        "models": "decoders, and encoders with a decoder" if info.encoder_decoder else "decoders alone",
        "prepares": info.prepares,
        "source": info.source,
        **({"trains": f"yes: editguard train {info.name}"} if info.trains else {}),
    }
    return "\n".join(
        [
            f"  {info.name}{' *' if info.default else ''}",
            *(
                textwrap.fill(
                    text,
                    width,
                    initial_indent=f"    {label:<10}",
                    subsequent_indent=" " * 14,
                    break_on_hyphens=False,
                )
                for label, text in lines.items()
            ),
        ]
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
