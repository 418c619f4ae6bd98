"""After a failure: which of the test's edits are to blame. The test itself is asked again, with parts of its edits."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from editguard.errors import EditguardError
from editguard.pytest_plugin import collection, locations
from editguard.pytest_plugin.declarations import Cell
from editguard.pytest_plugin.options import CANDIDATE
from editguard.pytest_plugin.state import Notes, State
from editguard.storage import working_folder, write_atomically

if TYPE_CHECKING:
    from editguard.blame import Finding
    from editguard.measurements import ModelUnderTest

TITLE: Final = "editguard blame"
FORMAT: Final = 1


def explain(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport, present: State) -> None:
    """Add to the report of a failed test which edits make it fail, within what is left of the run's time for that."""
    cell = _blamable(item, call, report)
    left = present.configuration.blame - present.blame_spent
    if cell is None or left <= 0:
        return
    assert call.excinfo is not None
    started = time.monotonic()
    seconds = left if present.edit_tests == 1 else left / 2  # so that there is some for the next failure
    finding = _find(item, cell, str(call.excinfo.value), present, seconds)
    present.blame_spent += time.monotonic() - started
    present.notes.findings.append(finding.to_json())
    locations.add_section(report, TITLE, str(finding))


def _blamable(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> Cell | None:
    """The state of the model of a test whose assertion failed, where several edits are in force that can be told apart.

    A candidate's cannot: it holds all of them.
    """
    if call.when != "call" or not report.failed or call.excinfo is None:
        return None
    cell = collection.cell_of(item)
    if not isinstance(call.excinfo.value, AssertionError) or cell is None or cell.edits < 2:
        return None
    if cell.method == CANDIDATE:
        return None
    if not collection.uses(item, "edited") or collection.uses(item, "editor"):
        return None
    return cell


def _find(item: pytest.Item, cell: Cell, message: str, present: State, seconds: float) -> Finding:
    """What was found before for the same failure, or what a search finds now."""
    from editguard.blame import Finding

    path = _kept_at(item, cell, message, present)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["format"] == FORMAT:
            return Finding.from_json(kept["finding"])
    runtime, outer = present.runtime, present.notes
    nothing = Finding(test=item.nodeid, method=cell.method, edits=cell.edits)
    if "edited" not in _arguments(item):
        return _unable(nothing, "the test gets the edited model through another fixture, and cannot be asked again")
    present.notes = Notes()
    try:
        with runtime.progress.phase(f"{item.name}: looking for the edits to blame"):
            finding = runtime.trial(cell, lambda model: _fails(item, model)).find(item.nodeid, seconds=seconds)
    except EditguardError as error:
        return _unable(nothing, f"with a part of the edits: {error}")
    except Exception as error:
        return _unable(nothing, f"asked with a part of the edits, the test raised {type(error).__name__}: {error}")
    finally:
        present.notes = outer
    if finding.minimal and finding.confirmed != "not tried":
        with contextlib.suppress(EditguardError):  # what was found is shown all the same
            working_folder(item.config.rootpath)
            write_atomically(path, json.dumps({"format": FORMAT, "finding": finding.to_json()}, indent=1))
    return finding


def _unable(finding: Finding, reason: str) -> Finding:
    from dataclasses import replace

    return replace(finding, reason=reason)


def _fails(item: pytest.Item, model: ModelUnderTest) -> bool:
    """Ask the test's own statements about another model; what it prints is dropped."""
    function: Any = getattr(item, "obj")  # noqa: B009  # of items of functions alone
    arguments = {**_arguments(item), "edited": model}
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            function(**arguments)
    except AssertionError:
        return True
    except pytest.skip.Exception:
        return False
    except (pytest.fail.Exception, pytest.xfail.Exception) as outcome:
        raise RuntimeError(str(outcome)) from outcome
    return False


def _arguments(item: pytest.Item) -> dict[str, Any]:
    """What the test's function was called with."""
    information: Any = getattr(item, "_fixtureinfo", None)
    values: dict[str, Any] = getattr(item, "funcargs", {})
    names = information.argnames if information is not None else ()
    return {name: values[name] for name in names if name in values}


def _kept_at(item: pytest.Item, cell: Cell, message: str, present: State) -> Path:
    """Where what was found for a failure is kept: by the test, the edits, the model, and how it failed."""
    model = present.runtime.model()
    key = json.dumps([FORMAT, item.nodeid, cell.group, cell.edits, model.fingerprint(), str(model.dtype), message])
    name = hashlib.sha256(key.encode()).hexdigest()[:24]
    return item.config.rootpath / ".editguard" / "blame" / f"{name}.json"
