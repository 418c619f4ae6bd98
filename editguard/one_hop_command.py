"""`editguard one-hop`: make one-hop questions for edits, have them judged by a person, and add them to the cases."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from editguard.device_map import add_device_options, chosen_devices
from editguard.errors import ConfigurationError
from editguard.pocket import MODEL_NAME, MODEL_NAMES
from editguard.storage import refuse_unwritable

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel
    from editguard.one_hop.generators import Generator
    from editguard.one_hop.proposing import Proposed

INTERRUPTED: Final = 130
SHOWN: Final = 10
"""Edits left out that are listed on the terminal; the file beside the review file lists all."""
PLAIN_FORM: Final = "Question: {} Answer:"
CHAT_FORM: Final = "{}"
"""How a question is asked by default: with labels, or, of a model with a chat template, as it stands."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command, its two steps and their options."""
    parser = commands.add_parser(
        "one-hop",
        help="make one-hop questions for edit cases, to be judged by a person",
        description="One-hop questions need an edit and one fact about its new object that the unedited model knows. "
        "'propose' writes a review file; a person fills in its verdicts; 'accept' adds the accepted questions to the "
        "cases.",
    )
    steps = parser.add_subparsers(dest="step", metavar="step", required=True)
    propose = steps.add_parser(
        "propose",
        help="generate questions, check the model's knowledge, write a review file",
        description="Goes on where it was stopped, and keeps verdicts that were given.",
    )
    propose.add_argument("cases", type=Path, metavar="CASES", help="edit cases, one JSON object per line")
    propose.add_argument("--review", type=Path, metavar="FILE", help="default: CASES with the ending .review.jsonl")
    propose.add_argument("--limit", type=int, metavar="N", help="the first N cases")
    edited = propose.add_argument_group("the model that will be edited, whose knowledge is checked")
    edited.add_argument("--model", default=MODEL_NAME, help="pocket (default), a directory, or a name on the hub")
    edited.add_argument("--form", metavar="TEXT", help=f"how a question is asked (default: {PLAIN_FORM!r}, and "
                        f"{CHAT_FORM!r} of a model with a chat template)")  # fmt: skip
    add_device_options(edited)
    edited.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    edited.add_argument("--offline", action="store_true", help="never ask the network for a model")
    by = propose.add_argument_group("who proposes (default for the embedded models: their world)")
    by.add_argument("--generator", metavar="MODEL", help="a causal or instruction-tuned model: a directory, or a name")
    by.add_argument("--endpoint", metavar="URL", help="an OpenAI-compatible endpoint, as http://localhost:8000/v1")
    by.add_argument("--endpoint-model", metavar="NAME", help="the endpoint's model")
    by.add_argument("--endpoint-key", metavar="VARIABLE", help="environment variable that holds the endpoint's key")
    by.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="of a request (default %(default)s)")
    by.add_argument("--retries", type=int, default=4, metavar="N", help="of a request (default %(default)s)")
    by.add_argument("--prompt", type=Path, metavar="FILE", help="the prompt, with {statement}, {subject}, {target}")
    by.add_argument("--max-tokens", type=int, default=256, metavar="N", help="of a proposal (default %(default)s)")
    taken = steps.add_parser("accept", help="write the cases with the questions accepted in a review file")
    taken.add_argument("cases", type=Path, metavar="CASES", help="the file that the questions were proposed for")
    taken.add_argument("--review", type=Path, metavar="FILE", help="default: CASES with the ending .review.jsonl")
    taken.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to write the cases")
    taken.add_argument("--force", action="store_true", help="replace a file that exists")


def run(options: argparse.Namespace, *, command: Sequence[str] | None = None) -> int:
    """Carry out one step; returns the exit status.

    Raises: EditguardError: a wrong option, file, model or endpoint.
    """
    options.review = options.review or options.cases.with_suffix(".review.jsonl")
    try:
        print(_proposed(options) if options.step == "propose" else _accepted(options))
    except KeyboardInterrupt:
        typed = shlex.join(command or ["editguard", *sys.argv[1:]])
        print(f"editguard: stopped; what was written is kept. Go on with: {typed}", file=sys.stderr)
        return INTERRUPTED
    return 0


def _proposed(options: argparse.Namespace) -> str:
    if options.limit is not None and options.limit < 1:
        raise ConfigurationError(f"--limit is a number from 1 on, not {options.limit}.")
    if options.max_tokens < 1:
        raise ConfigurationError(f"--max-tokens is a number from 1 on, not {options.max_tokens}.")
    if options.review.is_dir():
        raise ConfigurationError(f"{options.review} is a directory; name a file with --review.")
    refuse_unwritable(options.review.parent, error=ConfigurationError)
    devices = chosen_devices(options)
    from editguard.datasets.jsonl import load_cases, read_cases
    from editguard.models.loading import load_model
    from editguard.one_hop.proposing import Propose

    asks_url = _checked(options)
    cases = load_cases(options.cases) if options.limit is None else tuple(
        islice(read_cases(options.cases), options.limit)
    )  # fmt: skip
    generator = _endpoint(options) if asks_url else None
    model = load_model(options.model, dtype=options.dtype, offline=options.offline, **devices)
    run = Propose(
        model=model,
        model_name=options.model,
        generator=generator or _local(options, model),
        form=options.form or (CHAT_FORM if model.chat else PLAIN_FORM),
        on_progress=lambda line: print(f"editguard one-hop: {line}", file=sys.stderr, flush=True),
    )
    return "\n".join(report(run.run(cases, options.review), options.review))


def report(found: Proposed, review: Path) -> list[str]:
    """Lines for the terminal: what there is to judge, and what was left out and why."""
    from editguard.one_hop.proposal import REASONS
    from editguard.one_hop.proposing import left_out_path

    verdicts = Counter(row.verdict or "to judge" for row in found.rows)
    judged = ", ".join(f"{count} {name}" for name, count in sorted(verdicts.items())) or "none"
    lines = [f"{found.new} edits handled now; questions in {review}: {judged}"]
    for reason, count in sorted(found.reasons.items(), key=lambda each: -each[1]):
        lines.append(f"left out, {reason}: {count} ({REASONS.get(reason, 'as noted there')})")
    lines += [f"  {each.edit}: {each.problem}" for each in found.left_out[:SHOWN]]
    if found.left_out:
        lines.append(f"edits left out are listed in {left_out_path(review)}; a line taken out is tried again")
    lines.append('fill in each "verdict" with accept or reject, then run: editguard one-hop accept')
    return lines


def _accepted(options: argparse.Namespace) -> str:
    from editguard.datasets.jsonl import write_cases
    from editguard.one_hop.review import Judged, accept

    if options.out.exists() and not options.force:
        raise ConfigurationError(f"{options.out} exists already; nothing was written. Replace it with --force.")
    judged = Judged()
    write_cases(options.out, accept(options.review, options.cases, judged=judged))
    lines = [f"wrote {options.out}: {judged.count} one-hop questions accepted, {judged.rejected} rejected"]
    if judged.present:
        lines.append(f"{judged.present} accepted questions were there already")
    if judged.open:
        lines.append(f"{judged.open} questions have no verdict yet, and were left out")
    return "\n".join(lines)


def _checked(options: argparse.Namespace) -> bool:
    """Whether an endpoint proposes.

    Raises: ConfigurationError: options that exclude or need each other.
    """
    if options.endpoint is not None and options.generator is not None:
        raise ConfigurationError("give --generator or --endpoint, not both: one of them proposes.")
    if options.endpoint is None:
        for name in ("endpoint_model", "endpoint_key"):
            if getattr(options, name) is not None:
                raise ConfigurationError(f"--{name.replace('_', '-')} needs --endpoint URL.")
        if options.generator is None and options.model not in MODEL_NAMES:
            raise ConfigurationError(
                f"say who proposes facts for {options.model}: --generator MODEL, or --endpoint URL --endpoint-model "
                "NAME. Only the embedded models have a world that does."
            )
    elif not options.endpoint_model:
        raise ConfigurationError("give the name of the endpoint's model with --endpoint-model NAME.")
    return options.endpoint is not None


def _endpoint(options: argparse.Namespace) -> Generator:
    from editguard.one_hop.endpoint import Endpoint
    from editguard.one_hop.generators import EndpointGenerator, read_prompt

    variable = options.endpoint_key
    key = "" if variable is None else os.environ.get(variable, "")
    if variable is not None and not key.strip():
        raise ConfigurationError(f"the environment variable {variable!r} of --endpoint-key is not set, or is empty.")
    endpoint = Endpoint(
        url=options.endpoint,
        model=options.endpoint_model,
        key=key.strip(),
        timeout=options.timeout,
        retries=options.retries,
    )
    return EndpointGenerator(endpoint, read_prompt(options.prompt), options.max_tokens)


def _local(options: argparse.Namespace, model: LanguageModel) -> Generator:
    """The world of an embedded model, or a model of one's own, which may be the edited one."""
    from editguard.models.loading import load_model
    from editguard.one_hop.generators import ModelGenerator, WorldGenerator, read_prompt

    if options.generator is None:
        from editguard.pocket import default_world

        return WorldGenerator(default_world())
    prompt = read_prompt(options.prompt)
    if options.generator != options.model:
        devices = chosen_devices(options)
        if isinstance(devices.get("device_map"), dict):
            devices = {"device_map": "auto"}  # the map names parts of the other model
        model = load_model(options.generator, dtype=options.dtype, offline=options.offline, **devices)
    return ModelGenerator(model, prompt, options.max_tokens)
