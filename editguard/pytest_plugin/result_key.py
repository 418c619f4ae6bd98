"""What the results of a group of tests depend on, in named parts, known without loading the model.

Two runs in which all parts are equal would report the same of the group. A part that changes too often costs time; one
that changes too seldom would pass off an old result as a new one: where it cannot be told whether something is the
same, the group has no key.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from editguard.pytest_plugin import collection, options
from editguard.pytest_plugin.baselines import suite_name
from editguard.pytest_plugin.content import (
    Unknown,
    digest_of_file,
    digest_of_folder,
    digest_of_texts,
    files_of,
    model_identity,
    shown,
)
from editguard.pytest_plugin.run_parts import parts_of_the_run, plainly

if TYPE_CHECKING:
    from editguard.pytest_plugin.declarations import Cell
    from editguard.pytest_plugin.state import State

TESTS: Final = "the tests of the group (their names, parameters and marks)"


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
        self._texts: dict[int, tuple[object, str]] = {}
        self._imports: dict[Path, frozenset[str]] = {}
        self._codes: dict[str, str] = {}
        self._modules = {item.path for item in items}
        self._common, self._unknown = parts_of_the_run(present, config, self._modules)
        asked = present.configuration
        read = (Path(asked.model).expanduser(), asked.candidate, asked.corpus, asked.training, asked.demonstrations)
        self._read_later = {
            str(path): _looked_at(path) for given in read if given is not None for path in files_of(given)
        }

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
        try:
            if cell.method not in self._codes:
                self._codes[cell.method] = _code_of(cell.method)
            parts[f"the code of {cell.method}"] = self._codes[cell.method]
            parts[f"the settings of {cell.method}"] = self._settings(cell)
        except Unknown as reason:
            unknown = unknown or str(reason)
        parts["the cases"] = self._declared(tests)
        parts[TESTS] = self._tests(tests)
        looked_at = self._read_later | {str(path): _looked_at(path) for path in files.values()}
        late = [path for path, (_, changed) in looked_at.items() if changed >= self._state.began]
        if late and not unknown:
            unknown = f"{self._name(Path(late[0]))} was changed while the run began"
        return ResultKey(parts, looked_at, unknown)

    def _suites(self, tests: Sequence[pytest.Item]) -> list[Path]:
        """The modules of the tests, those of other tests that they import, and the conftests above them."""
        found: dict[Path, None] = {}
        waiting = [item.path for item in tests]
        while waiting:
            path = waiting.pop()
            if path in found or not path.is_file():
                continue
            found[path] = None
            if path not in self._imports:
                self._imports[path] = _imported(path)
            waiting += [other for other in self._modules if other.stem in self._imports[path]]
            waiting += [folder / "conftest.py" for folder in path.parents]
        return list(found)

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
        return digest_of_texts(told, *contents) if contents or len(told) > 40 else told

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
        return digest_of_texts(*sorted(self._told(item) for item in tests))

    def _told(self, item: pytest.Item) -> str:
        parameters = getattr(getattr(item, "callspec", None), "params", None) or {}
        told = [item.nodeid]
        told += [f"{name}={self._text(value)}" for name, value in sorted(parameters.items())]
        told += [self._text(mark) for mark in item.iter_markers()]
        return "\n".join(told)

    def _declared(self, tests: Sequence[pytest.Item]) -> str:
        """What is asked of the edits; a group's id knows the edits alone."""
        declared = {id(cell.declaration): cell.declaration for item in tests if (cell := collection.cell_of(item))}
        return digest_of_texts(*sorted(f"{self._text(each.cases)} {each.checkpoints}" for each in declared.values()))

    def _text(self, value: object) -> str:
        """What stands in it, without the places of objects in memory; each object is read once."""
        if id(value) not in self._texts:
            self._texts[id(value)] = (value, digest_of_texts(plainly(value)))
        return self._texts[id(value)][1]

    def _name(self, path: Path) -> str:
        return shown(path, self._config.rootpath)


def _single(value: Any) -> Iterator[Any]:
    """The values in mappings and sequences, however deep."""
    if isinstance(value, (Mapping, list, tuple)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _single(each)
    else:
        yield value


def _looked_at(path: Path) -> tuple[int, int]:
    """Size and time of the last change; (-1, 0) where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return -1, 0
    return found.st_size, found.st_mtime_ns


def _code_of(method: str) -> str:
    """The files of a method of another package; those of editguard have their part.

    Raises: Unknown: it cannot be told where they are.
    """
    from editguard.methods.registry import methods

    information = methods().get(method)
    module = "editguard" if information is None else information.target.partition(":")[0]
    top = module.partition(".")[0]
    if top == "editguard":
        return "editguard's"
    try:
        found = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None:
        raise Unknown(f"the code of {method} is not in files")
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
