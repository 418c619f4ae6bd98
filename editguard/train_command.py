"""`editguard train`: train the editor of a method for a model, once, in a run that can be interrupted."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from editguard.device_map import add_device_options, chosen_devices
from editguard.errors import ConfigurationError, UnknownMethod
from editguard.pocket import MODEL_NAME, MODEL_NAMES

if TYPE_CHECKING:
    from editguard.edits import EditCase

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as shells have it."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "train",
        help="train the editor of a method that needs one",
        description="Train an editor for a model from edit cases with rephrases and locality probes. An interrupted "
        "run goes on with the same command. Suites and studies find the result in the cache; in another folder, name "
        "it by the method's setting 'editor'.",
    )
    parser.add_argument("method", help="a method that trains; 'editguard methods' says which do")
    parser.add_argument(
        "--model", default=MODEL_NAME, help=f"{', '.join(MODEL_NAMES)}, a directory, or a hub name (default: pocket)"
    )
    parser.add_argument("--revision", help="revision of a model from the hub")
    parser.add_argument("--data", type=Path, metavar="FILE", help="edit cases, one JSON object per line")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the editor (default: the cache)")
    parser.add_argument("--steps", type=int, metavar="N", help="steps at most (the setting 'steps')")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="NAME=VALUE", help="a setting of the method"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default %(default)s)")
    add_device_options(parser)
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="where editors are kept without --out")
    parser.add_argument("--offline", action="store_true", help="never ask the network for a model")


def run(options: argparse.Namespace, *, command: Sequence[str] | None = None) -> int:
    """Train as the options say; returns the exit status.

    Raises: ConfigurationError: the method does not train, or an option is wrong. EditguardError: see
        `TrainedMethod.train`.
    """
    try:
        print(_trained(options))
    except KeyboardInterrupt:
        typed = shlex.join(command or ["editguard", *sys.argv[1:]])
        print(f"editguard: stopped; the last checkpoint is kept. Go on with: {typed}", file=sys.stderr)
        return INTERRUPTED
    return 0


def _trained(options: argparse.Namespace) -> str:
    from editguard.methods.protocol import Preparation, TrainedMethod
    from editguard.methods.registry import create, methods

    known = methods()
    if options.method not in known:
        raise UnknownMethod(options.method, known)
    if not known[options.method].trains:
        training = ", ".join(name for name, info in known.items() if info.trains)
        raise ConfigurationError(f"the method {options.method!r} has nothing to train; those that train: {training}.")
    settings, devices = _settings(options), chosen_devices(options)
    cases = _cases(options)
    if options.cache_dir is None:
        from platformdirs import user_cache_path

        options.cache_dir = user_cache_path("editguard")

    from editguard.models.loading import load_model

    _told(f"loading {options.model}")
    model = load_model(
        options.model, revision=options.revision, dtype=options.dtype, offline=options.offline, **devices
    )
    method = create(options.method, settings, model)
    assert isinstance(method, TrainedMethod)
    data = Preparation(training=cases, cache_dir=options.cache_dir, seed=options.seed, on_progress=_told)
    path = method.train(model, data, options.out)
    if options.out is None:
        return f"trained {path}\nsuites and studies with the same cases, settings and seed find it there"
    return f"trained {path}\nuse it with: [tool.editguard.methods.{options.method}] editor = {str(path)!r}"


def _settings(options: argparse.Namespace) -> dict[str, object]:
    """The settings of --set and --steps.

    Raises: ConfigurationError: the form is another.
    """
    found: dict[str, object] = {}
    for text in options.settings:
        name, equals, value = text.partition("=")
        if not (equals and name.strip()):
            raise ConfigurationError(f"--set takes NAME=VALUE, for example rank=64, not {text!r}.")
        found[name.strip()] = value
    return found if options.steps is None else {**found, "steps": options.steps}


def _cases(options: argparse.Namespace) -> Sequence[EditCase]:
    """The training cases of the file, or of the embedded model's world.

    Raises: ConfigurationError: another model, and no file. InvalidEdit, MalformedRecord: see `load_cases`.
    """
    if options.data is not None:
        from editguard.datasets.jsonl import load_cases

        return load_cases(options.data)
    if options.model not in MODEL_NAMES:
        raise ConfigurationError(
            f"give edit cases to train the editor of {options.model} on with --data FILE, one JSON object per line."
        )
    from editguard.probes.pocket import pocket_training_cases

    return pocket_training_cases()


def _told(line: str) -> None:
    print(f"editguard train: {line}", file=sys.stderr, flush=True)
