"""What every result of a run depends on: versions, machine, model, configuration, pytest's options, helper modules."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import re
import sys
from collections.abc import Collection
from dataclasses import fields
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from editguard import __version__
from editguard.pytest_plugin.content import (
    Unknown,
    digest_of_file,
    digest_of_folder,
    digest_of_texts,
    model_identity,
    shown,
)

if TYPE_CHECKING:
    from editguard.pytest_plugin.state import State

OURS: Final = Path(__file__).parents[1]
PACKAGES: Final = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
    "scikit-learn",
    "sentence-transformers",
    "peft",
    "accelerate",
    "hypothesis",
    "pytest",
)
THREADS: Final = "the threads of each process"
_HARMLESS: Final = (
    "keyword markexpr markers maxfail max_warnings collectonly ignore ignore_glob deselect keepduplicates "
    "continue_on_collection_errors basetemp durations durations_min showfixtures show_fixtures_per_test version help "
    "traceconfig debug verbose quiet no_header no_summary fold_skipped force_short_summary reportchars "
    "disable_warnings xfail_tb showcapture color code_highlight pastebin xmlpath junitprefix lf failedfirst newfirst "
    "cacheshow cacheclear last_failed_no_failures stepwise stepwise_skip stepwise_reset log_file log_file_mode "
    "numprocesses maxprocesses maxworkerrestart dist loadscopereorder tx px distload loadgroup rsyncdir rsyncignore "
    "testrunuid maxschedchunk looponfail file_or_dir hypothesis_verbosity hypothesis_show_statistics plugins"
)
HARMLESS: Final = frozenset(_HARMLESS.split())
"""Options of pytest and its plugins that say what is run, where and how it is shown, but not how it ends."""
_ELSEWHERE: Final = (
    "model revision methods candidate device device_map threads offline baseline_dir reason history github html "
    "journal resume cache_dir corpus training demonstrations gate settings given"
)
ELSEWHERE: Final = frozenset(_ELSEWHERE.split())
"""Fields of the configuration that change no result, or have a part of another form."""


def parts_of_the_run(present: State, config: pytest.Config, suites: Collection[Path]) -> tuple[dict[str, str], str]:
    """The parts that all groups share, and why it cannot be told whether they are the same; empty where it can.

    Args:
        suites: the collected modules, which have parts of their own.
    """
    asked, unknown = present.configuration, ""
    parts = {"editguard": f"{__version__} {_own_code()}", "python": platform.python_version()}
    for package in PACKAGES:
        try:
            parts[package] = version(package)
        except PackageNotFoundError:
            parts[package] = "none"
    parts["another installed package"] = digest_of_texts(*_installed())
    parts |= _of_the_machine(present)
    try:
        parts["the model"] = f"{asked.model} {model_identity(asked.model, asked.revision, offline=asked.offline)}"
    except Unknown as reason:
        parts["the model"], unknown = asked.model, str(reason)
    for name, path in (
        ("the candidate", asked.candidate),
        ("--editguard-corpus", asked.corpus),
        ("--editguard-training", asked.training),
        ("the demonstrations", asked.demonstrations),
    ):
        parts[name] = "none" if path is None else digest_of_folder(path) if path.is_dir() else digest_of_file(path)
    for each in fields(asked):
        if each.name not in ELSEWHERE:
            parts[f"--editguard-{each.name.replace('_', '-')}"] = str(getattr(asked, each.name))
    parts["the gate's policy"] = "none" if present.policy is None else digest_of_texts(repr(present.policy))
    parts["the number of baseline checks"] = str(present.planned_checks)
    parts["the variable CI"] = str(bool(os.environ.get("CI")))
    parts |= _of_pytest(config)
    parts["whether there is a page of the run"] = str(asked.html is not None)  # which asks the unedited model more
    if asked.junit_properties:
        parts["whether there is a JUnit report"] = str(bool(config.getoption("xmlpath", None)))
    parts["a module that the suites import"] = _helpers(config.rootpath, suites)
    return parts, unknown


def _of_the_machine(present: State) -> dict[str, str]:
    import torch

    asked = present.configuration
    capability = torch.backends.cpu.get_cpu_capability()
    cards = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    device = asked.device if asked.device_map is None else json.dumps(asked.device_map, sort_keys=True)
    return {
        "the machine": f"{platform.system()} {platform.machine()} {capability}",
        "the device": f"{device} of {', '.join(sorted(set(cards))) or 'cpu'}",
        THREADS: str(present.runtime.threads()),
    }


def _of_pytest(config: pytest.Config) -> dict[str, str]:
    """Options, plugins, ini file."""
    parts = {}
    for name, value in sorted(vars(config.option).items()):
        if name not in HARMLESS and not name.startswith("editguard_"):
            parts[f"pytest's option {name}"] = plainly(value)
    named = [name for name in getattr(config.option, "plugins", None) or () if _counts(name)]
    loaded = {f"{found.project_name} {found.version}" for _, found in config.pluginmanager.list_plugin_distinfo()}
    loaded = {name for name in loaded if name.partition(" ")[0] not in ("pytest-xdist", "editguard")}
    parts["pytest's plugins"] = ", ".join([*sorted(set(named)), *sorted(loaded)])
    ini = config.inipath
    parts["the ini file"] = "none" if ini is None else digest_of_file(ini)
    return parts


def _helpers(root: Path, suites: Collection[Path]) -> str:
    """The modules below the root directory that are imported by now; suites and conftests have their own parts."""
    apart = (Path(sys.prefix), OURS)
    found = set()
    for module in list(sys.modules.values()):
        name = getattr(module, "__file__", None)
        if not isinstance(name, str) or "site-packages" in name or not name.endswith(".py"):
            continue
        path = Path(name)
        if not path.is_relative_to(root) or any(path.is_relative_to(folder) for folder in apart):
            continue
        if path not in suites and path.name != "conftest.py":
            found.add(path)
    return digest_of_texts(*(f"{shown(path, root)} {digest_of_file(path)}" for path in sorted(found)))


def _counts(plugin: str) -> bool:
    """Whether a plugin that was named, or left out as "no:NAME", may change results.

    Of those of other packages it shows among the loaded ones.
    """
    left_out = plugin.startswith("no:")
    name = plugin.removeprefix("no:")
    if name.startswith("editguard") or name in ("terminal", "cacheprovider"):
        return False
    return not left_out or "." in name or importlib.util.find_spec(f"_pytest.{name}") is not None


def plainly(value: object) -> str:
    """What stands in a value, without the places of objects in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


@lru_cache(maxsize=1)
def _own_code() -> str:
    """editguard's own files; the embedded models are among them."""
    return digest_of_folder(OURS)


def _installed() -> list[str]:
    """All packages that can be imported, with their versions; editguard has a part of its own."""
    found: set[str] = set()
    for folder in sys.path:
        with contextlib.suppress(OSError):
            found |= {name for name in os.listdir(folder or ".") if name.endswith((".dist-info", ".egg-info"))}
    return sorted(name for name in found if not name.startswith("editguard-"))
