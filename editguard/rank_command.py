"""`editguard rank`: choosing a method from the results of a study, as tables, pictures and plain data."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Final

from editguard.errors import ConfigurationError
from editguard.storage import refuse_unwritable, write_atomically

if TYPE_CHECKING:
    from editguard.report.trade_off import TradeOff
    from editguard.study.criteria import Group

NONE_LEFT: Final = 1
"""Exit status where no method holds the limits."""
PLOT: Final = "quality,time"
DRAWS: Final = 100_000
_ENDLESS: Final = 10_000


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "rank",
        help="choose a method from a study's results",
        description="Ranks the methods of a study by weighted criteria, says how the first place depends on the "
        "weights, and which methods are dominated. Exit status: 0, or 1 where no method holds the limits.",
    )
    parser.add_argument("study", type=Path, metavar="STUDY", help="folder of a study, with its summary.json")
    parser.add_argument(
        "--mode", choices=("single", "batch", "sequence"), help="default: single edits, where there are"
    )
    parser.add_argument("--size", type=int, metavar="N", help="edits in force, of a batch or a sequence")
    parser.add_argument(
        "--weights",
        required=True,
        metavar="CRITERION=NUMBER,...",
        help="properties, their kinds (portability/one_hop), other_tasks, fluency, quality (mean of the four "
        "properties), time, preparation, answer, tokens, bytes",
    )
    parser.add_argument(
        "--require", action="append", default=[], metavar="LIMIT", help='a hard limit, such as "locality>=0.9"'
    )
    parser.add_argument(
        "--plot", metavar="UP,ACROSS", help=f"criteria of the picture's two axes (default: {PLOT}, where known)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write ranking.json, trade-off.png and trade-off.svg")
    parser.add_argument("--draws", type=int, default=DRAWS, metavar="N", help="of weights (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")


def run(options: argparse.Namespace) -> int:
    """Rank, print, and write the files that were asked for; returns the exit status.

    Raises: EditguardError: a wrong option or file.
    """
    if options.draws < 1 or options.seed < 0:
        raise ConfigurationError("--draws is a number from 1 on, and --seed one from 0 on.")
    if options.out is not None:
        if options.out.exists() and not options.out.is_dir():
            raise ConfigurationError(f"{options.out} is a file; name a folder to write to with --out.")
        refuse_unwritable(options.out, error=ConfigurationError)
    from editguard.report.choice import choice_text
    from editguard.study.choice import choose
    from editguard.study.criteria import choose_group
    from editguard.study.preferences import read_limit, read_weights
    from editguard.study.results import read_results

    group = choose_group(read_results(options.study), options.mode, options.size)
    weights = read_weights(options.weights, group)
    limits = [read_limit(text, group) for text in options.require]
    shown = _trade_off(group, options.plot)
    choice = choose(group, weights, limits, draws=options.draws, seed=options.seed)
    print(choice_text(choice, shown, get_terminal_size((_ENDLESS, 24)).columns))
    if options.out is not None:
        record = {**choice.to_json(), "trade_off": None if shown is None else shown.to_json()}
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        _write(options.out / "ranking.json", text)
        if shown is not None:
            from editguard.report.trade_off import trade_off_pictures

            for ending, picture in trade_off_pictures(shown).items():
                _write(options.out / f"trade-off.{ending}", picture)
    return 0 if choice.methods else NONE_LEFT


def _trade_off(group: Group, asked: str | None) -> TradeOff | None:
    """Two criteria against each other; None where none were named and the usual ones are not known.

    Raises: ConfigurationError: another number of criteria, the same twice, an unknown one, or no method with both.
    """
    from editguard.report.trade_off import trade_off
    from editguard.study.preferences import known_criterion

    names = [name.strip() for name in (asked or PLOT).split(",")]
    if asked is None and not set(names) <= set(group.criteria()):
        print(f"editguard rank: no picture: {group.title} has not both {' and '.join(names)}.", file=sys.stderr)
        return None
    if len(set(names)) != 2 or len(names) != 2:
        raise ConfigurationError(f"--plot takes two different criteria, for example {PLOT}, not {asked!r}.")
    up, across = (known_criterion(group, name, "--plot") for name in names)
    found = trade_off(group, across, up)
    if not found.methods:
        raise ConfigurationError(f"--plot: no method of {group.title} has a value of both {up} and {across}.")
    return found


def _write(path: Path, data: bytes | str) -> None:
    write_atomically(path, data, error=ConfigurationError)
    print(f"wrote {path}", file=sys.stderr)
