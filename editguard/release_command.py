"""`editguard release`: apply edits, and write the edited model, or the edits alone, with a manifest."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from editguard.device_map import add_device_options, chosen_devices
from editguard.errors import ConfigurationError, ReleaseError, UnknownMethod
from editguard.pocket import MODEL_NAME, MODEL_NAMES
from editguard.storage import refuse_filled, refuse_unwritable

if TYPE_CHECKING:
    from editguard.edits import EditCase
    from editguard.release.manifest import Manifest

FORMS: Final = ("model", "factors")
INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as shells have it."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "release",
        help="write an edited model, or its edits, with a manifest",
        description="Apply edit cases with a method and write the edited model (safetensors, configuration, "
        "tokenizer), or the edits alone, into a new folder. Its manifest holds requests, settings, answers of the "
        "edited model and the digest of every file; 'editguard verify' compares all that later, and suites ask it with "
        "--editguard-candidate.",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet, or is empty")
    parser.add_argument(
        "--model", default=MODEL_NAME, help=f"{', '.join(MODEL_NAMES)}, a directory, or a hub name (default: pocket)"
    )
    parser.add_argument("--revision", help="revision of a model from the hub")
    parser.add_argument("--method", required=True, metavar="NAME", help="'editguard methods' lists them")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="NAME=VALUE", help="a setting of the method"
    )
    parser.add_argument(
        "--cases", type=Path, required=True, metavar="FILE", help="edit cases, one JSON object per line, in order"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="apply the first N of them")
    parser.add_argument("--sequence", action="store_true", help="one after another; otherwise all in one batch")
    parser.add_argument(
        "--as", dest="form", choices=FORMS, default="model", help="the whole model (default), or the edits alone"
    )
    parser.add_argument("--baselines", type=Path, metavar="DIR", help="note the digests of these accepted baselines")
    parser.add_argument("--verdicts", type=Path, metavar="FILE", help="note the verdicts of a run, any JSON")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default %(default)s)")
    add_device_options(parser)
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16; the model is written in it")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="prompts answered at once")
    parser.add_argument("--corpus", type=Path, metavar="FILE", help="running text, one document per line")
    parser.add_argument("--demonstrations", type=Path, metavar="FILE", help="records for methods that edit by example")
    parser.add_argument("--training", type=Path, metavar="FILE", help="edit cases for methods that train an editor")
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="where prepared data is kept")
    parser.add_argument("--offline", action="store_true", help="never ask the network for a model")


def run(options: argparse.Namespace) -> int:
    """Release as the options say; prints what was written, and returns the exit status.

    Raises: ConfigurationError: an option is wrong. UnknownMethod. InvalidEdit, MalformedRecord: the cases cannot be
        used. ReleaseError: see `write_release`. MethodRefused: the method cannot do it on this model.
    """
    try:
        print(_released(options))
    except KeyboardInterrupt:
        print("editguard: stopped; nothing was written.", file=sys.stderr)
        return INTERRUPTED
    return 0


def _released(options: argparse.Namespace) -> str:
    from editguard.methods.registry import create, methods

    known = methods()
    if options.method not in known:
        raise UnknownMethod(options.method, known)
    settings, devices, cases = _settings(options.settings), chosen_devices(options), _cases(options)
    for name in ("corpus", "demonstrations", "training"):
        path: Path | None = getattr(options, name)
        if path is not None and not path.is_file():
            raise ConfigurationError(f"--{name} is not a file; it is {str(path)!r}.")
    refuse_filled(options.out, error=ReleaseError)
    refuse_unwritable(options.out.parent, error=ReleaseError)
    verdicts = None if options.verdicts is None else _verdicts(options.verdicts)

    from editguard.models.loading import load_model
    from editguard.probes.materials import preparation_for
    from editguard.release.writing import Release, applied, baseline_digests, write_release

    baselines = {} if options.baselines is None else baseline_digests(options.baselines)
    _told(f"loading {options.model}")
    model = load_model(
        options.model,
        revision=options.revision,
        dtype=options.dtype,
        batch_size=options.batch_size,
        offline=options.offline,
        **devices,
    )
    method = create(options.method, settings, model)
    data = preparation_for(
        options.model,
        [case.request for case in cases],
        corpus=options.corpus,
        demonstrations=options.demonstrations,
        training=options.training,
        cache_dir=options.cache_dir,
        seed=options.seed,
        on_progress=_told,
    )
    if (prepare := getattr(method, "prepare", None)) is not None:
        _told(f"{options.method}: preparing")
        prepare(model, data)
    _told(f"{options.method}: applying {_count(len(cases), 'edit')}")
    release = Release(
        edited=applied(method, model, cases, sequence=options.sequence),
        method=method,
        cases=cases,
        mode="sequence" if options.sequence else "batch",
        form=options.form,
        seed=options.seed,
        baselines=baselines,
        verdicts=verdicts,
    )
    manifest, digest = write_release(options.out, release)
    return "\n".join(_summary(options, manifest, digest))


def _summary(options: argparse.Namespace, manifest: Manifest, digest: str) -> list[str]:
    own = [answer for answer in manifest.answers if answer.kind == "request"]
    rephrased = [answer for answer in manifest.answers if answer.kind != "request"]
    size = sum(record["bytes"] for record in manifest.files.values())
    lines = [
        f"{_count(len(manifest.requests), 'edit')} by {manifest.method} ({manifest.mode}) over {manifest.base.name}, "
        f"{manifest.base.fingerprint}",
        f"prompts answered with the target: {sum(each.given for each in own)} of {len(own)}, "
        f"rephrases {sum(each.given for each in rephrased)} of {len(rephrased)}",
        *(f"not in the model: {each.prompt!r} is answered with {each.answer!r}" for each in own if not each.given),
        f"wrote {options.out}: {manifest.form}, {_count(len(manifest.files) + 2, 'file')}, {size / 1e6:.1f} MB",
        f"sha256 of its manifest: {digest}",
        f"verify it with: editguard verify {options.out}",
    ]
    if options.baselines is None and options.verdicts is None:
        lines.append(
            f"ask it with: pytest suites/ --editguard-model {options.model} --editguard-candidate {options.out}"
        )
    return lines


def _settings(given: list[str]) -> dict[str, str]:
    """From "layer=3" to {"layer": "3"}.

    Raises: ConfigurationError: the form is another.
    """
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (equals and name.strip()):
            raise ConfigurationError(f"--set takes NAME=VALUE, for example layer=3, not {text!r}.")
        found[name.strip()] = value
    return found


def _cases(options: argparse.Namespace) -> tuple[EditCase, ...]:
    """The cases to apply.

    Raises: ConfigurationError: a limit below 1. InvalidEdit, MalformedRecord: see `load_cases`.
    """
    from editguard.datasets.jsonl import load_cases

    if options.limit is not None and options.limit < 1:
        raise ConfigurationError(f"--limit is {options.limit}; it must be at least 1.")
    return load_cases(options.cases)[: options.limit]


def _verdicts(path: Path) -> Any:
    """The verdicts of a run.

    Raises: ConfigurationError: the file cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError) as failure:
        raise ConfigurationError(f"--verdicts names no JSON file: {path}: {failure}.") from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _told(line: str) -> None:
    print(f"editguard release: {line}", file=sys.stderr, flush=True)
