"""The baseline files: one per suite module and model name, reviewed in git, never lost and never half written.

{"environments": {"cpu-float32-<fingerprint>": {"checks": {"<check id>": {...}}, "environment": {...}}},
 "format": 1, "model": "...", "suite": "..."}
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from editguard.comparison.check import CheckRecord
from editguard.comparison.environment import Environment
from editguard.comparison.format import baseline_text
from editguard.errors import BaselineUnreadable
from editguard.storage import write_atomically

FORMAT: Final = 1
LOCK_SECONDS: Final = 60


@dataclass
class Recorded:
    """What a file holds for one environment class."""

    environment: Environment
    checks: dict[str, CheckRecord] = field(default_factory=dict)


@dataclass
class BaselineFile:
    """The content of one file."""

    suite: str
    model: str
    environments: dict[str, Recorded] = field(default_factory=dict)

    def text(self) -> str:
        """The file's only text."""
        return baseline_text(
            {
                "format": FORMAT,
                "suite": self.suite,
                "model": self.model,
                "environments": {
                    name: {
                        "environment": recorded.environment.to_json(),
                        "checks": {id: check.to_json() for id, check in recorded.checks.items()},
                    }
                    for name, recorded in self.environments.items()
                },
            }
        )


class BaselineStore:
    """Accepted measurements in a folder of baseline files.

    Reading is cached per file and never writes. `accept` and `prune` take a lock, read the file anew, merge and
    replace it in one step; they do not touch a file whose content stays the same. Processes that run at once, and
    one that is killed at any moment, leave whole files.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self._read: dict[Path, BaselineFile] = {}

    def path(self, suite: str, model: str) -> Path:
        """The file of a suite module (its name, or its path from the root) and a model name.

        Names that hold characters unfit for a file's name get a short digest, so that no two share a file.
        """
        return self.directory / f"{_file_name(suite.removesuffix('.py'))}.{_file_name(model)}.json"

    def file(self, suite: str, model: str) -> BaselineFile:
        """The content of a file; an empty one where there is no file yet.

        Raises: BaselineUnreadable: it cannot be read, is no baseline file, or is of another version.
        """
        path = self.path(suite, model)
        if path not in self._read:
            self._read[path] = self._load(path, suite, model)
        return self._read[path]

    def find(self, suite: str, model: str, environment: Environment, check: str) -> CheckRecord | None:
        """The accepted check of this environment class, if there is one."""
        recorded = self.file(suite, model).environments.get(environment.class_id)
        return recorded.checks.get(check) if recorded is not None else None

    def recorded(self, suite: str, model: str, environment: Environment) -> Environment | None:
        """The environment in which this class was recorded."""
        recorded = self.file(suite, model).environments.get(environment.class_id)
        return recorded.environment if recorded is not None else None

    def elsewhere(self, suite: str, model: str, environment: Environment, check: str) -> list[Environment]:
        """The environments of other classes that have the check: present values cannot be compared with theirs."""
        return [
            recorded.environment
            for name, recorded in sorted(self.file(suite, model).environments.items())
            if name != environment.class_id and check in recorded.checks
        ]

    def of_label(self, suite: str, model: str, environment: Environment, label: str) -> list[CheckRecord]:
        """Accepted checks of a test's name: what a changed test was before."""
        recorded = self.file(suite, model).environments.get(environment.class_id)
        checks = recorded.checks.values() if recorded is not None else ()
        return [check for check in checks if check.label == label]

    def orphans(self, suite: str, model: str, environment: Environment, seen: Collection[str]) -> list[CheckRecord]:
        """Accepted checks of this class that a run did not ask for; only a complete run can tell."""
        recorded = self.file(suite, model).environments.get(environment.class_id)
        checks = recorded.checks.values() if recorded is not None else ()
        return sorted((check for check in checks if check.id not in seen), key=lambda check: (check.label, check.id))

    def accept(
        self,
        suite: str,
        model: str,
        environment: Environment,
        checks: Iterable[CheckRecord],
        *,
        only_new: bool = False,
    ) -> list[str]:
        """Record checks of one environment class; the others in the file stay.

        A check whose values are the recorded ones keeps its line of acceptance, and its file, when nothing else
        changes, every byte.

        Args:
            suite, model: which file.
            environment: the present one.
            checks: what is accepted.
            only_new: leave checks that are recorded already as they are, whatever their values.

        Returns: ids of the checks that were added or changed.
        Raises: BaselineUnreadable: the file is not fit to be changed, or cannot be written; it is intact.
        """
        with self._changing(suite, model) as file:
            recorded = file.environments.get(environment.class_id) or Recorded(environment)
            changed = []
            for check in checks:
                before = recorded.checks.get(check.id)
                if before is not None and (only_new or before.same_values(check)):
                    continue
                recorded.checks[check.id] = check
                changed.append(check.id)
            if changed:
                recorded.environment = environment
                file.environments[environment.class_id] = recorded
        return changed

    def prune(self, suite: str, model: str, environment: Environment, seen: Collection[str]) -> list[CheckRecord]:
        """Remove the orphans of a complete run; a file without any check left is removed.

        Raises: BaselineUnreadable: as `accept`.
        """
        with self._changing(suite, model) as file:
            recorded = file.environments.get(environment.class_id)
            if recorded is None:
                return []
            gone = sorted(
                (check for id, check in recorded.checks.items() if id not in seen), key=lambda check: check.label
            )
            for check in gone:
                del recorded.checks[check.id]
            if not recorded.checks:
                del file.environments[environment.class_id]
        return gone

    @contextmanager
    def _changing(self, suite: str, model: str) -> Iterator[BaselineFile]:
        """The file's content as it is now, under the lock; what the block makes of it is written."""
        path = self.path(suite, model)
        with _locked(path):
            self._read.pop(path, None)
            file = self._load(path, suite, model)
            yield file
            self._replace(path, file)
            self._read[path] = file

    def _replace(self, path: Path, file: BaselineFile) -> None:
        if not file.environments:
            try:
                path.unlink(missing_ok=True)
            except OSError as failure:
                raise BaselineUnreadable(f"cannot remove {path}: {failure.strerror or failure}.") from failure
            return
        text = file.text()
        if not path.exists() or path.read_bytes() != text.encode():
            write_atomically(path, text, error=BaselineUnreadable)

    def _load(self, path: Path, suite: str, model: str) -> BaselineFile:
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return BaselineFile(suite, model)
        except OSError as failure:
            raise BaselineUnreadable(
                f"the baseline file {path} cannot be read: {failure.strerror or failure}."
            ) from failure
        try:
            content = json.loads(raw)
            found = content["format"]
        except (ValueError, KeyError, TypeError) as mistake:
            raise BaselineUnreadable(_corrupt(path, mistake)) from mistake
        if found != FORMAT:
            raise BaselineUnreadable(
                f"the baseline file {path} has format {found!r}; this version of editguard reads format {FORMAT}. "
                "Use the version that wrote it, or remove the file and record it anew."
            )
        try:
            return _parsed(content)
        except (ValueError, KeyError, TypeError, AttributeError) as mistake:
            raise BaselineUnreadable(_corrupt(path, mistake)) from mistake


def _parsed(content: Mapping[str, Any]) -> BaselineFile:
    environments = {}
    for name, part in content["environments"].items():
        environment = Environment.from_json(part["environment"])
        if environment.class_id != name:
            raise ValueError(f"the environment {name!r} describes {environment.class_id!r}")
        checks = {id: CheckRecord.from_json(id, record) for id, record in part["checks"].items()}
        environments[name] = Recorded(environment, checks)
    return BaselineFile(content["suite"], content["model"], environments)


def _corrupt(path: Path, mistake: Exception) -> str:
    return (
        f"the baseline file {path} is damaged ({type(mistake).__name__}: {mistake}). It was left as it is: restore it "
        f"with `git checkout -- {path.name}`, solve its merge conflict, or remove it and record it anew."
    )


def _file_name(name: str) -> str:
    """The name with only letters, digits, "_" and "-", and a digest where that lost something."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "unnamed"
    if plain == name and len(plain) <= 80:
        return plain
    return f"{plain[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file's lock, which lies outside the reviewed folder and dies with the process.

    Raises: BaselineUnreadable: another process holds it for longer than LOCK_SECONDS, or there is no place for it.
    """
    from filelock import FileLock, Timeout

    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"editguard-locks-{user}"
    lock = FileLock(str(folder / f"{digest}.lock"), timeout=LOCK_SECONDS)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as timeout:
        raise BaselineUnreadable(
            f"another process has been writing {path} for {LOCK_SECONDS} s; run again when it has ended."
        ) from timeout
    except OSError as failure:
        raise BaselineUnreadable(
            f"cannot lock {path} in {folder}: {failure.strerror or failure}. Set TMPDIR to a writable folder."
        ) from failure
    try:
        yield
    finally:
        lock.release()
