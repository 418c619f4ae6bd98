"""What the results of a group of tests depend on, in named parts, known without loading the model.

Two runs in which all parts are equal would report the same of the group. A part that changes too often costs time; one
that changes too seldom would pass off an old result as a new one: where it cannot be told whether something is the
same, the group has no key.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from editguard import __version__
from editguard.pytest_plugin import collection, options
from editguard.pytest_plugin.baselines import suite_name
from editguard.pytest_plugin.content import Unknown, digest_of_file, digest_of_folder, model_identity

if TYPE_CHECKING:
    from editguard.pytest_plugin.declarations import Cell
    from editguard.pytest_plugin.options import Configuration
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
TESTS: Final = "the tests of the group (their names, parameters and marks)"
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
    "model revision methods candidate device device_map threads offline baseline_dir reason history github journal "
    "resume cache_dir corpus training demonstrations gate settings given"
)
ELSEWHERE: Final = frozenset(_ELSEWHERE.split())
"""Fields of the configuration that change no result, or have a part of another form."""


@dataclass(frozen=True)
class ResultKey:
    """What the results of a group depend on.

    Attributes:
        parts: part, in words -> its value, a digest of it, or what is known of it.
        files: those that a run reads after they were looked at -> (bytes, time of the last change in ns).
        unknown: why it cannot be told whether the results would be the same; empty where it can.
    """

    parts: Mapping[str, str]
    files: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    unknown: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        return {"parts": dict(self.parts), "files": dict(self.files), "unknown": self.unknown}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> ResultKey:
        """Read what `to_json` wrote."""
        files = {path: (int(size), int(time)) for path, (size, time) in record["files"].items()}
        return cls(record["parts"], files, record["unknown"])

    def difference(self, found: Mapping[str, str]) -> str:
        """The first part, in words, in which an earlier key `found` differs; empty without one."""
        for name in [*self.parts, *(name for name in found if name not in self.parts)]:
            before, now = found.get(name), self.parts.get(name)
            if before == now:
                continue
            if before is None or now is None or "sha256:" in before + now or len(before + now) > 80:
                return f"{name} changed"
            return f"{name}: {before or 'none'} then, {now or 'none'} now"
        return ""

    def settled(self) -> bool:
        """Whether all files are still as they were when the key was made."""
        return all(_looked_at(Path(path)) == seen for path, seen in self.files.items())


def result_keys(items: Iterable[pytest.Item], present: State, config: pytest.Config) -> dict[str, ResultKey]:
    """The key of every group of the collected tests.

    Raises: EditguardError: the threads cannot be set.
    """
    members: dict[str, list[pytest.Item]] = {}
    everything = list(items)
    for item in everything:
        if (cell := collection.cell_of(item)) is not None:
            members.setdefault(cell.group, []).append(item)
    if not members:
        return {}
    maker = _Maker(present, config, everything)
    return {group: maker.key(tests) for group, tests in members.items()}


class _Maker:
    """Makes the keys of one run; what groups share is looked at once."""

    def __init__(self, present: State, config: pytest.Config, items: Sequence[pytest.Item]) -> None:
        self._state, self._config = present, config
        self._unknown = ""
        self._texts: dict[int, tuple[object, str]] = {}
        self._imports: dict[Path, frozenset[str]] = {}
        self._codes: dict[str, str] = {}
        self._modules = {item.path for item in items}
        self._common = self._of_the_run()

    def key(self, tests: Sequence[pytest.Item]) -> ResultKey:
        parts, unknown = dict(self._common), self._unknown
        cell = collection.cell_of(tests[0])
        assert cell is not None
        suites = self._suites(tests)
        files = {self._name(path): path for path in suites}
        if self._state.configuration.baseline in ("check", "create", "prune"):
            files |= {self._name(path): path for path in self._baselines(tests)}
        for name, path in sorted(files.items()):
            parts[name] = digest_of_file(path)
        if cell.method not in self._codes:
            self._codes[cell.method] = _code_of(cell.method)
        parts[f"the code of {cell.method}"] = self._codes[cell.method]
        try:
            parts[f"the settings of {cell.method}"] = self._settings(cell)
        except Unknown as reason:
            unknown = unknown or str(reason)
        parts["the cases"] = self._declared(tests)
        parts[TESTS] = self._tests(tests)
        looked_at = {str(path): _looked_at(path) for path in files.values()}
        late = [name for name, path in files.items() if looked_at[str(path)][1] >= self._state.began]
        if late and not unknown:
            unknown = f"{late[0]} was changed while the run began"
        return ResultKey(parts, looked_at, unknown)

    def _of_the_run(self) -> dict[str, str]:
        asked = self._state.configuration
        parts = {"editguard": f"{__version__} {_own_code()}", "python": platform.python_version()}
        for package in PACKAGES:
            try:
                parts[package] = version(package)
            except PackageNotFoundError:
                parts[package] = "none"
        parts |= self._of_the_machine()
        parts["the model"] = self._model(asked)
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
        parts["the gate's policy"] = "none" if self._state.policy is None else _sha256(repr(self._state.policy))
        parts["the number of baseline checks"] = str(self._state.planned_checks)
        parts["the variable CI"] = str(bool(os.environ.get("CI")))
        return parts | self._of_pytest()

    def _of_the_machine(self) -> dict[str, str]:
        import torch

        asked = self._state.configuration
        capability = torch.backends.cpu.get_cpu_capability()
        cards = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        device = asked.device if asked.device_map is None else json.dumps(asked.device_map, sort_keys=True)
        return {
            "the machine": f"{platform.system()} {platform.machine()} {capability}",
            "the device": f"{device} of {', '.join(sorted(set(cards))) or 'cpu'}",
            THREADS: str(self._state.runtime.threads()),
        }

    def _model(self, asked: Configuration) -> str:
        """Its files; where they are not known the keys are of no use."""
        try:
            return f"{asked.model} {model_identity(asked.model, asked.revision, offline=asked.offline)}"
        except Unknown as reason:
            self._unknown = str(reason)
            return asked.model

    def _of_pytest(self) -> dict[str, str]:
        """Options, plugins, ini file, and the modules that suites import."""
        parts = {}
        for name, value in sorted(vars(self._config.option).items()):
            if name not in HARMLESS and not name.startswith("editguard_"):
                parts[f"pytest's option {name}"] = _plainly(value)
        named = [name for name in getattr(self._config.option, "plugins", None) or () if _counts(name)]
        loaded = {
            f"{found.project_name} {found.version}" for _, found in self._config.pluginmanager.list_plugin_distinfo()
        }
        loaded = {name for name in loaded if name.partition(" ")[0] not in ("pytest-xdist", "editguard")}
        parts["pytest's plugins"] = ", ".join([*sorted(set(named)), *sorted(loaded)])
        if self._state.configuration.junit_properties:
            parts["whether there is a JUnit report"] = str(bool(self._config.getoption("xmlpath", None)))
        ini = self._config.inipath
        parts["the ini file"] = "none" if ini is None else digest_of_file(ini)
        parts["a module that the suites import"] = self._helpers()
        return parts

    def _helpers(self) -> str:
        """The modules below the root directory that are imported by now; suites and conftests have their own parts."""
        root, apart = self._config.rootpath, (Path(sys.prefix), OURS)
        found = set()
        for module in list(sys.modules.values()):
            name = getattr(module, "__file__", None)
            if not isinstance(name, str) or "site-packages" in name or not name.endswith(".py"):
                continue
            path = Path(name)
            if not path.is_relative_to(root) or any(path.is_relative_to(folder) for folder in apart):
                continue
            if path not in self._modules and path.name != "conftest.py":
                found.add(path)
        return _sha256(*(f"{self._name(path)} {digest_of_file(path)}" for path in sorted(found)))

    def _suites(self, tests: Sequence[pytest.Item]) -> list[Path]:
        """The modules of the tests, those of other tests that they import, and the conftests above them."""
        found: dict[Path, None] = {}
        waiting = [item.path for item in tests]
        while waiting:
            path = waiting.pop()
            if path in found:
                continue
            found[path] = None
            if path not in self._imports:
                self._imports[path] = _imported(path)
            waiting += [other for other in self._modules if other.stem in self._imports[path]]
        above = {folder / "conftest.py" for path in found for folder in path.parents}
        return [*found, *sorted(path for path in above if path.is_file())]

    def _baselines(self, tests: Sequence[pytest.Item]) -> set[Path]:
        from editguard.comparison import BaselineStore

        asked = self._state.configuration
        store = BaselineStore(asked.baseline_dir)
        return {store.path(suite_name(item), options.model_name(asked)) for item in tests}

    def _settings(self, cell: Cell) -> str:
        """The settings, with what stands in the files and folders that they name.

        Raises: Unknown: they name a model of the hub that may have moved.
        """
        told = json.dumps(cell.settings, sort_keys=True, default=repr)
        contents = [content for value in _single(cell.settings) if (content := self._named(value))]
        return _sha256(told, *contents) if contents or len(told) > 40 else told

    def _named(self, value: Any) -> str:
        if not isinstance(value, (str, Path)) or not str(value):
            return ""
        text = str(value).removeprefix("traced:").strip()
        for path in (
            Path(text).expanduser(),
            self._config.rootpath / text,
            Path(self._state.configuration.model, text),
        ):
            try:
                if path.is_dir():
                    return digest_of_folder(path)
                if path.is_file():
                    return digest_of_file(path)
            except OSError:
                continue
        if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
            return model_identity(text, None, offline=self._state.configuration.offline)
        return ""

    def _tests(self, tests: Sequence[pytest.Item]) -> str:
        return _sha256(*sorted(self._told(item) for item in tests))

    def _told(self, item: pytest.Item) -> str:
        parameters = getattr(getattr(item, "callspec", None), "params", None) or {}
        told = [item.nodeid]
        told += [f"{name}={self._text(value)}" for name, value in sorted(parameters.items())]
        told += [self._text(mark) for mark in item.iter_markers()]
        return "\n".join(told)

    def _declared(self, tests: Sequence[pytest.Item]) -> str:
        """What is asked of the edits; a group's id knows the edits alone."""
        declared = {id(cell.declaration): cell.declaration for item in tests if (cell := collection.cell_of(item))}
        return _sha256(*sorted(f"{self._text(each.cases)} {each.checkpoints}" for each in declared.values()))

    def _text(self, value: object) -> str:
        """What stands in it, without the places of objects in memory; each object is read once."""
        if id(value) not in self._texts:
            self._texts[id(value)] = (value, _sha256(_plainly(value)))
        return self._texts[id(value)][1]

    def _name(self, path: Path) -> str:
        root = self._config.rootpath
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _single(value: Any) -> Iterator[Any]:
    """The values in mappings and sequences, however deep."""
    if isinstance(value, (Mapping, list, tuple)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _single(each)
    else:
        yield value


def _counts(plugin: str) -> bool:
    """Whether a plugin that was named, or left out as "no:NAME", may change results.

    Of those of other packages it shows among the loaded ones.
    """
    left_out = plugin.startswith("no:")
    name = plugin.removeprefix("no:")
    if name.startswith("editguard") or name in ("terminal", "cacheprovider"):
        return False
    return not left_out or importlib.util.find_spec(f"_pytest.{name}") is not None


def _plainly(value: object) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _sha256(*texts: str) -> str:
    digest = hashlib.sha256("\0".join(texts).encode(errors="surrogatepass")).hexdigest()
    return f"sha256:{digest[:32]}"


def _looked_at(path: Path) -> tuple[int, int]:
    """Size and time of the last change; (-1, 0) where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return -1, 0
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=1)
def _own_code() -> str:
    """editguard's own files; the embedded models are among them."""
    return digest_of_folder(OURS)


def _code_of(method: str) -> str:
    """The files of a method of another package; those of editguard have their part."""
    from editguard.methods.registry import methods

    information = methods().get(method)
    module = "editguard" if information is None else information.target.partition(":")[0]
    top = module.partition(".")[0]
    if top == "editguard":
        return "editguard's"
    found = importlib.util.find_spec(top)
    if found is None or found.origin is None:
        return "none"
    origin = Path(found.origin)
    return digest_of_folder(origin.parent) if origin.name == "__init__.py" else digest_of_file(origin)


def _imported(path: Path) -> frozenset[str]:
    """All names in the import statements of a module."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {part for alias in node.names for part in alias.name.split(".")}
    return frozenset(names)
