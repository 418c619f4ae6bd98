"""The pytest plugin's hooks. They only connect: each does its work in the module of its subject.

Nothing here, nor what it imports, loads torch or another heavy library; an unrelated run pays for reading options and
looking at fixture names.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from editguard.errors import ConfigurationError, EditguardError
from editguard.pytest_plugin import (
    assertions,
    blaming,
    collection,
    locations,
    marks,
    options,
    page,
    properties,
    resuming,
    state,
)
from editguard.pytest_plugin.baselines import WRITING, suite_name
from editguard.pytest_plugin.fixtures import baseline, edited, editor, method, original
from editguard.pytest_plugin.progress import Progress
from editguard.pytest_plugin.reporting import Reporter
from editguard.pytest_plugin.runtime import Runtime
from editguard.storage import refuse_unwritable

__all__ = ["baseline", "edited", "editor", "method", "original"]


CANDIDATE_HEADER = (
    "editguard: the candidate holds all edits: no method is applied, a sequence is looked at after its last checkpoint "
    "alone, and tests that use 'editor' are skipped"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the flags and ini keys."""
    options.register(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Check the configuration; declare the marks; set up the state of the run."""
    for line in marks.LINES:
        config.addinivalue_line("markers", line)
    try:
        configuration = options.read(config)
        selection = collection.Selection(configuration)
        if "methods" in configuration.given:
            selection.methods()
        for name in configuration.settings:
            selection.checked(name)
        policy = options.policy(configuration)
        if policy is not None:
            for name in (*policy.required, *policy.report_only):
                if name != options.CANDIDATE:
                    selection.checked(name)
            selection.report_only = policy.report_only
            options.check_fates(policy.survival.fates)
    except EditguardError as error:
        raise pytest.UsageError(f"editguard: {error}") from None
    worker = _worker_number(config)
    present = state.State(configuration, selection, Runtime(configuration, Progress(config), worker), policy)
    present.runtime.on_measurement = lambda measurement: present.notes.note(measurement)
    if configuration.aa:
        present.runtime.on_repeatable = lambda check, measure: present.notes.floors.update({check: measure})
    config.stash[state.KEY] = present
    if worker is None:
        config.pluginmanager.register(Reporter(config, present), "editguard-reporter")
        if config.getoption("dist", "no") != "no" and config.pluginmanager.hasplugin("xdist"):
            from editguard.pytest_plugin.distribution import Distribution

            config.pluginmanager.register(Distribution(), "editguard-distribution")
    try:
        resuming.begin(config, present)
    except EditguardError as error:
        raise pytest.UsageError(f"editguard: {error}") from None


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let go of the model, also when the run ended early."""
    if (present := config.stash.get(state.KEY, None)) is not None:
        present.runtime.discard()
        del config.stash[state.KEY]


def pytest_report_header(config: pytest.Config) -> list[str]:
    """The configuration, when the run was configured for editguard; nothing in any other run."""
    configuration = state.of(config).configuration
    if not configuration.given:
        return []
    return [configuration.header, *([] if configuration.candidate is None else [CANDIDATE_HEADER])]


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests of edited models once per method and checkpoint."""
    collection.parametrise(metafunc, state.of(metafunc.config).selection)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Say in one line, with file and line, what is wrong with a declared edit."""
    report = yield
    collection.shorten_report(report, collector)
    return report


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of each group together."""
    items[:] = collection.grouped(items)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Fix the number of checks; tell an xdist controller of the groups; load the model where it will be used."""
    present = state.of(session.config)
    present.planned_checks = collection.planned_checks(session.items)
    present.edit_tests = sum(map(collection.concerns, session.items))
    resumed = present.resuming
    if resumed is not None and present.edit_tests and not session.config.option.collectonly:
        resumed.collected(session)
    folder = getattr(session.config, "workerinput", {}).get("editguard_exchange")
    if folder is not None and (groups := collection.groups(session.items)):
        from editguard.pytest_plugin.distribution import tell_groups, tell_keys

        tell_groups(Path(folder), groups)
        tell_keys(Path(folder), resumed.keys if resumed is not None else {})
    run = [item for item in session.items if resumed is None or not resumed.takes(item)]
    needed = any(collection.needs_model(item) for item in run)
    if needed and present.runtime.worker is None and not session.config.option.collectonly:
        try:
            if present.planned_checks and present.configuration.baseline in WRITING:
                refuse_unwritable(present.configuration.baseline_dir, error=ConfigurationError)
            present.runtime.model()
            present.runtime.candidate()
        except EditguardError as error:
            raise pytest.UsageError(f"editguard: {error}") from None


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """After collection: which model it is, once there are tests of it."""
    present = state.of(config)
    if not present.edit_tests or config.get_verbosity() < 0:
        return []
    lines = [] if present.configuration.given else [present.configuration.header]
    if (model := present.runtime.loaded) is not None:
        dtype = str(model.dtype).removeprefix("torch.")
        lines.append(
            f"editguard: model {model.name}, fingerprint {model.fingerprint()}, device {'+'.join(model.devices)}, "
            f"dtype {dtype}"
        )
        if (candidate := present.runtime.candidate()) is not None:
            lines.append(f"editguard: candidate {candidate.folder}, {candidate.settings.content}: {candidate.tells}")
    return lines


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Note what asking an edited model takes; a test that edits while it runs is not asking alone."""
    cell = collection.cell_of(item)
    if cell is None or not collection.uses(item, "edited") or collection.uses(item, "editor"):
        return (yield)
    with state.of(item.config).runtime.asking(cell):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """After a test: its state of the model again; after a group: the model's own bytes."""
    try:
        yield
    finally:
        _leave(item, nextitem)


def _leave(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    __tracebackhide__ = True
    runtime = state.of(item.config).runtime
    cell, following = collection.cell_of(item), collection.cell_of(nextitem)
    wrong = None
    try:
        runtime.after_test()
        if cell is not None and (following is None or following.group != cell.group):
            runtime.leave_group()
    except EditguardError as error:
        wrong = f"{type(error).__name__}: {error}"
    if wrong is not None:
        pytest.fail(wrong, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach what the test measured; after a failure let go of what its frames hold.

    A mistake that editguard found in the test's own request is one line at the suite's statement; --full-trace shows
    the way there.
    """
    report = yield
    if collection.concerns(item):
        blaming.explain(item, call, report, state.of(item.config))
        if report.failed and call.when == "call" and (known := collection.expired_failure(item)) is not None:
            told = f"this failure was known until {known.until}: {known.reason}"
            locations.add_section(report, "editguard: an expired known failure", told)
        notes = state.of(item.config).take_notes()
        if notes:
            page.complete(notes, state.of(item.config))
            report.__dict__[state.ATTACHED] = {"suite": suite_name(item), **notes}
            if state.of(item.config).configuration.junit_properties and item.config.getoption("xmlpath", None):
                item.user_properties += properties.of_notes(notes)
        mistaken = call.excinfo is not None and isinstance(call.excinfo.value, EditguardError)
        if mistaken and report.failed and not item.config.getoption("fulltrace", False):
            assert call.excinfo is not None
            told = f"{type(call.excinfo.value).__name__}: {call.excinfo.value}"
            report.longrepr = f"{locations.of_error(item, call.excinfo)}: {told}"
        if call.excinfo is not None and not item.config.getoption("usepdb", False):
            _let_go(call.excinfo.value)
    return report


def _let_go(error: BaseException) -> None:
    """Clear the finished frames of an error, and of those that led to it: they may hold tensors.

    pytest keeps the last error until the next test is called, thus while that test's edit is applied.
    """
    seen: set[int] = set()
    present: BaseException | None = error
    while present is not None and id(present) not in seen:
        seen.add(id(present))
        step = present.__traceback__
        while step is not None:
            with contextlib.suppress(RuntimeError):  # of a frame that still runs
                step.tb_frame.clear()
                _ = step.tb_frame.f_locals  # brings the dict that was made of the locals up to date: empty
            step = step.tb_next
        present = present.__cause__ or present.__context__


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Take the last edits off, on every process that ran tests."""
    runtime = state.of(session.config).runtime
    try:
        runtime.close()
    except EditguardError as error:
        state.of(session.config).last_error = str(error)
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_assertrepr_compare(config: pytest.Config, op: str, left: object, right: object) -> list[str] | None:
    """Explain a model's answer that is not the expected one."""
    room = config.get_verbosity(pytest.Config.VERBOSITY_ASSERTIONS) > 1
    return assertions.explain(op, left, right, room=room)


def _worker_number(config: pytest.Config) -> int | None:
    """Number of this xdist worker, None in any other process."""
    if not hasattr(config, "workerinput"):
        return None
    name: Any = os.environ.get("PYTEST_XDIST_WORKER", "")
    number = re.search(r"\d+$", name)
    return int(number.group()) if number else 0
