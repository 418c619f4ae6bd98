"""`editguard trace`: at which tokens and layers a model keeps facts, as a table, a picture and plain data."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from editguard.device_map import add_device_options, chosen_devices
from editguard.errors import ConfigurationError
from editguard.storage import refuse_unwritable, write_atomically

if TYPE_CHECKING:
    from editguard.edits import EditRequest
    from editguard.models.indirect_effects import CausalTrace, Suggestion

FACTS = "20"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "trace",
        help="find the layers that keep facts, by causal tracing",
        description="Causal tracing (Meng et al. 2022): noise on the subject of known facts, one clean state put back, "
        "and how much of the answer's probability comes back with it, by token and layer.",
    )
    parser.add_argument("--model", default="pocket", help="pocket (default), a directory, or a name on the hub")
    parser.add_argument(
        "--facts",
        default=FACTS,
        metavar="N|FILE",
        help=f"how many facts of the pocket world (default {FACTS}), or a JSON-lines file of edit cases, whose "
        "'previous' (else 'target') is the answer",
    )
    parser.add_argument("--restore", default="block,mlp,attention", help="kinds of states (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=10, help="noise draws per fact (default %(default)s)")
    parser.add_argument(
        "--noise", type=float, default=3.0, help="in standard deviations of subjects' embeddings (default %(default)s)"
    )
    parser.add_argument("--window", type=int, help="layers whose MLPs are restored together (default: 10 of 48)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise, and of the pocket world's facts")
    add_device_options(parser)
    parser.add_argument("--dtype", default="auto", help="a torch type (default: as stored)")
    parser.add_argument("--batch-size", type=int, default=128, help="prompts of one pass (default %(default)s)")
    parser.add_argument(
        "--png", metavar="FILE", help="write heat maps: by role of the token, or of a single fact's tokens"
    )
    parser.add_argument("--html", metavar="FILE", help="write a page with the suggestion, heat maps and tables")
    parser.add_argument(
        "--json",
        metavar="FILE",
        help='write all figures; a method\'s setting layer = "traced:FILE", or layers, takes the suggestion from there',
    )


def run(options: argparse.Namespace) -> str:
    """Trace, write the files that were asked for, and return what to print.

    Raises: EditguardError: a wrong option, model or file; nothing is traced when a file could not be written.
    """
    for name in (options.png, options.html, options.json):
        if name is not None:
            if Path(name).is_dir():
                raise ConfigurationError(f"{name} is a directory; name a file to write.")
            refuse_unwritable(Path(name).parent, error=ConfigurationError)
    devices = chosen_devices(options)
    from editguard.models import load_model
    from editguard.models.causal_tracing import causal_trace
    from editguard.models.indirect_effects import TraceSettings, suggest_layers

    settings = TraceSettings(
        kinds=tuple(kind.strip() for kind in options.restore.split(",") if kind.strip()),  # checked there
        draws=options.draws,
        noise=options.noise,
        window=options.window,
        seed=options.seed,
    )
    facts = read_facts(options.facts, options.seed)
    model = load_model(options.model, dtype=options.dtype, batch_size=options.batch_size, **devices)
    trace = causal_trace(model, facts, settings, on_progress=lambda line: print(line, file=sys.stderr))
    suggestion = suggest_layers(trace)
    written = []
    if options.png is not None or options.html is not None:
        from editguard.report.plots import average_effects_png, fact_png

        [*more, fact] = trace.facts
        picture = average_effects_png(trace, suggestion) if more else fact_png(fact, trace.model, trace.window)
    if options.png is not None:
        write_atomically(options.png, picture, error=ConfigurationError)
        written.append(f"wrote {options.png}")
    if options.html is not None:
        from editguard.report.trace_page import trace_page

        page = trace_page(trace, suggestion, _suggested(suggestion), picture)
        write_atomically(options.html, page, error=ConfigurationError)
        written.append(f"wrote {options.html}")
    if options.json is not None:
        record = {**trace.as_dict(), "suggestion": suggestion.as_dict()}
        write_atomically(options.json, json.dumps(record, indent=1, ensure_ascii=False), error=ConfigurationError)
        written.append(f"wrote {options.json}")
    return "\n".join([*report(trace, suggestion), *written])


def read_facts(given: str, seed: int) -> list[EditRequest]:
    """Return facts of the pocket world where a number is given, and otherwise those of a file.

    Raises: ConfigurationError: a number below one. InvalidEdit, MalformedRecord: no such file, none or a wrong case in
        it, or the world has not so many facts.
    """
    try:
        count = int(given)
    except ValueError:
        from editguard.datasets.jsonl import load_cases

        return [case.request for case in load_cases(given)]
    if count < 1:
        raise ConfigurationError(f"--facts is a number from 1 on, or a file; got {given}.")
    from editguard.probes.pocket import pocket_cases

    return [case.request for case in pocket_cases(count, seed)]


def report(trace: CausalTrace, suggestion: Suggestion) -> Sequence[str]:
    """Lines for the terminal: what was traced, one table for each kind of state, and the suggestion."""
    from tabulate import tabulate

    known, unknown = len(trace.facts), len(trace.unknown)
    lines = [
        f"{trace.model}: {known} of {known + unknown} facts traced, {unknown} left out because the model answers "
        f"otherwise; {trace.settings.draws} noise draws each, {trace.seconds:.1f} s",
        f"probability of the answer: the noise on the subject takes {trace.total_effect:.3f} of it away; one restored "
        "state brings back (average over facts):",
    ]
    for kind in trace.settings.kinds:
        around = "" if kind == "block" or trace.window == 1 else f" (window of {trace.window} layers)"
        rows = [
            [role, *(f"{value:.3f}" for value in effect.tolist())]
            for role, effect in trace.average_effects(kind).items()
        ]
        headers = [f"{kind}{around}, layer", *map(str, range(trace.layers))]
        lines += ["", tabulate(rows, headers=headers, disable_numparse=True, stralign="right", colalign=("left",))]
    return [*lines, "", *_suggested(suggestion)]


def _suggested(suggestion: Suggestion) -> list[str]:
    error = f" +- {suggestion.standard_errors[suggestion.layer]:.3f}" if suggestion.standard_errors else ""
    first, last = suggestion.layers[0], suggestion.layers[-1]
    lines = [
        f"layer to edit, by {suggestion.kind} at the last subject token over {suggestion.facts} facts: "
        f"{suggestion.layer} (effect {suggestion.effects[suggestion.layer]:.3f}{error}); "
        f"for methods that edit several: {first}" + (f" to {last}" if last > first else "")
    ]
    return [*lines, f"warning: {suggestion.warning}"] if suggestion.warning else lines
