"""`editguard verify`: whether a release is still what was written, and still answers as it did."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from editguard.device_map import add_device_options, chosen_devices
from editguard.errors import ModelNotLoaded, ReleaseError

DIFFERENT: Final = 1
"""Exit status where something is not as it was released."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "verify",
        help="compare a release with its manifest",
        description="Compare every file of a release with its manifest, load the release, and ask the same prompts. "
        "Exit status: 0 all is as it was released, 1 with a line for each difference, 2 a mistake in the command.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="what 'editguard release' wrote")
    parser.add_argument(
        "--model", help="the base, where it has another name here than when it was edited; it must be the same model"
    )
    parser.add_argument("--revision", help="revision of a base from the hub (default: the released one)")
    add_device_options(parser)
    parser.add_argument("--files", action="store_true", help="compare the files alone; nothing is loaded")
    parser.add_argument("--offline", action="store_true", help="never ask the network for the base")


def run(options: argparse.Namespace) -> int:
    """Verify as the options say; prints what differs, and returns the exit status.

    Raises: ReleaseError: the folder is no release, or the base is another model. ConfigurationError: wrong devices.
    """
    from editguard.release.manifest import file_differences, read_manifest

    devices = chosen_devices(options)
    folder: Path = options.folder
    damaged = file_differences(folder)
    if damaged:
        return _differs(folder, damaged)
    manifest = read_manifest(folder)
    files = f"{len(manifest.files) + 2} files"
    if options.files:
        print(f"{folder}: {files} as they were released")
        return 0

    from editguard.models.loading import load_model
    from editguard.release.factors import refuse_other_base
    from editguard.release.verifying import answer_differences, edited_from, loading_options

    same = {**loading_options(manifest), **devices}
    model = None
    if manifest.form == "factors" or options.model is not None:
        name = options.model or manifest.base.name
        revision = options.revision or (manifest.base.revision if name == manifest.base.name else None)
        _told(f"loading {name}")
        try:
            model = load_model(name, revision=revision, offline=options.offline, **same)
        except ModelNotLoaded as failure:
            raise ReleaseError(f"the base cannot be loaded: {failure} Name it with --model.") from failure
        refuse_other_base(folder, manifest, model)
    if manifest.form == "model":
        del model
        _told(f"loading {folder}")
        model = load_model(folder, offline=True, **same)
    assert model is not None
    _told(f"asking {len(manifest.answers)} prompts")
    lines = answer_differences(manifest, edited_from(folder, manifest, model))
    if lines:
        return _differs(folder, lines)
    print(f"{folder}: {files} and {len(manifest.answers)} answers as they were released")
    return 0


def _differs(folder: Path, lines: list[str]) -> int:
    for line in lines:
        print(f"{folder}: {line}")
    return DIFFERENT


def _told(line: str) -> None:
    print(f"editguard verify: {line}", file=sys.stderr, flush=True)
