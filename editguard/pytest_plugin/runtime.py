"""The one model of a process, and which edits are in force on it: entered per test, left and verified per group."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from editguard.errors import EditguardError, ModelChanged
from editguard.pytest_plugin import guard
from editguard.pytest_plugin.ageing import AgedModels
from editguard.pytest_plugin.declarations import Cell
from editguard.pytest_plugin.growth import Group, Growth
from editguard.pytest_plugin.materials import other_tasks, preparation, training_texts
from editguard.pytest_plugin.options import Configuration
from editguard.pytest_plugin.progress import Progress

if TYPE_CHECKING:
    from editguard.blame import Trial
    from editguard.comparison import Environment
    from editguard.edited import EditedModel
    from editguard.edits import EditCase, EditRequest, Probe
    from editguard.measurements import AnsweringCost, Measurement, ModelUnderTest, NoiseFloor, PhaseCost
    from editguard.methods.protocol import EditMethod
    from editguard.models.language_model import LanguageModel
    from editguard.pytest_plugin.editor import Editor
    from editguard.pytest_plugin.watched import WatchedModel
    from editguard.release.candidate import Candidate


@dataclass
class Runtime:
    """State of the session: the loaded model, the group in force, and what was spent.

    Nothing of it hangs on items or reports, so that memory does not grow with the number of tests.

    Attributes:
        worker: number of the xdist worker, None without xdist.
        on_measurement: called with every measurement that a test takes.
        on_repeatable: called with the id of each and what measures its noise floor; None where nobody asks for it.
        costs: of the phases since they were last taken.
        answering: method -> what a pass takes with its edits, as far as it was timed since then.
        signals: of sequences, as far as they were read since then, as plain data.
        threads_before: those of the run that this one resumes.
    """

    configuration: Configuration
    progress: Progress
    worker: int | None = None
    on_measurement: Callable[[Measurement], None] | None = None
    on_repeatable: Callable[[str, Callable[[], NoiseFloor]], None] | None = None
    costs: list[PhaseCost] = field(default_factory=list)
    answering: dict[str, AnsweringCost] = field(default_factory=dict)
    signals: list[dict[str, Any]] = field(default_factory=list)
    threads_before: int | None = None
    _threads: int | None = None
    _timed: set[str] = field(default_factory=set)
    _model: LanguageModel | None = None
    _failure: EditguardError | None = None
    _unedited: ModelUnderTest | None = None
    _environment: Environment | None = None
    _tasks: Sequence[Probe] | None = None
    _group: Group | None = None
    _prepared: dict[str, EditMethod] = field(default_factory=dict)
    _candidate: Candidate | None = None
    _aged: AgedModels = field(default_factory=AgedModels)
    _before: guard.Reading | None = None
    _expected: EditedModel | None = None

    @property
    def loaded(self) -> LanguageModel | None:
        """The model, if it was needed by now."""
        return self._model

    @property
    def requests(self) -> list[EditRequest]:
        """The edits of the group whose tests run, as far as they are declared."""
        return [] if self._group is None else [case.request for case in self._group.cell.declaration.cases]

    def model(self) -> LanguageModel:
        """The configured model, loaded at the first call.

        Raises: EditguardError: it cannot be loaded; the same error at every later call.
        """
        if self._failure is not None:
            raise self._failure
        if self._model is None:
            try:
                self._model = self._load()
            except EditguardError as failure:
                self._failure = failure
                raise
        return self._model

    def candidate(self) -> Candidate | None:
        """The model that was edited elsewhere, as changes of the configured one; None where none is configured.

        Raises: EditguardError: one of the two cannot be loaded, or they do not fit each other; the same error at every
            later call.
        """
        folder = self.configuration.candidate
        if folder is None:
            return None
        model = self.model()
        if self._candidate is None:
            from editguard.release.candidate import read_candidate

            try:
                with self.progress.phase(f"reading {folder}"):
                    self._candidate = read_candidate(folder, model)
            except EditguardError as failure:
                self._failure = failure
                raise
        return self._candidate

    def original(self, cell: Cell | None = None) -> ModelUnderTest:
        """The unedited model, asked the probes of a cell's cases; its answers are kept for the session.

        Raises: EditguardError: the model cannot be loaded.
        """
        from editguard.pytest_plugin.watched import WatchedModel

        base = self._base()
        self._watch()
        original = WatchedModel(
            self._at_rest(),
            cases=cell.cases if cell is not None else (),
            mode=_mode(cell) if cell is not None else "single",
            tasks=self._own_tasks(),
        )
        original = original.sharing(base).ageing(self._aged, self._unrelated(cell)).reporting(self.on_measurement)
        return original.repeatable(self.on_repeatable)

    def enter(self, cell: Cell) -> ModelUnderTest:
        """Bring the model to a cell's state, applying what is not applied yet.

        Raises: MethodRefused: the method cannot do it. EditguardError: a setting, file or model cannot be used.
        """
        self._base()
        if self._group is None or self._group.cell.group != cell.group:
            self.leave_group()
            self._group = self._begin(cell)
        edited = self._growth().grown(self._group, cell)
        self._time_a_pass(cell, edited)
        edited.activate()
        self._expected, self._before = edited, None
        self._watch()
        return self._handed_out(self._group, cell, edited).growing(lambda: self._earlier(cell))

    def _handed_out(self, group: Group, cell: Cell, edited: EditedModel) -> WatchedModel:
        """What tests get for a state of a group, with what it was asked so far."""
        from editguard.pytest_plugin.watched import WatchedModel

        model = WatchedModel(
            edited,
            original=self._base(),
            cases=cell.cases,
            method=cell.method,
            mode=_mode(cell),
            tasks=self._own_tasks(),
        )
        model = model.remembering(group.answers).ageing(self._aged, self._unrelated(cell))
        model = model.reporting(self.on_measurement)
        return model.repeatable(self.on_repeatable)

    def _earlier(self, cell: Cell) -> list[WatchedModel]:
        """The states of a sequence at the checkpoints before a cell's."""
        group = self._group
        assert group is not None
        earlier = [replace(cell, edits=edits) for edits in cell.declaration.checkpoints if edits < cell.edits]
        return [self._handed_out(group, one, state) for one in earlier if (state := group.chain[one.edits]) is not None]

    def editor(self, cell: Cell) -> Editor:
        """What applies edits on top of a cell's state while a test runs.

        Raises: MethodRefused, EditguardError: as for `enter`.
        """
        from editguard.pytest_plugin.editor import Editor
        from editguard.pytest_plugin.watched import WatchedModel

        self.enter(cell)
        group, base, expected = self._group, self._base(), self._expected
        assert group is not None
        assert expected is not None

        def under_test(edited: EditedModel, cases: tuple[EditCase, ...]) -> ModelUnderTest:
            mode = "single" if len(cases) == 1 else "batch"
            tasks = self._own_tasks()
            model = WatchedModel(edited, original=base, cases=cases, method=cell.method, mode=mode, tasks=tasks)
            return model.ageing(self._aged, self._unrelated(cell)).repeatable(self.on_repeatable)

        return Editor(expected, group.method.apply, under_test)

    def trial(self, cell: Cell, ask: Callable[[ModelUnderTest], bool]) -> Trial:
        """A check of a cell's state, which is in force, to be put to the model with parts of its edits.

        Args:
            ask: puts the check to a model; whether it fails.
        """
        from editguard.blame import Replay, Trial

        edited, group = self.enter(cell), self._group
        assert group is not None
        chain = group.chain[cell.edits]
        assert chain is not None
        requests = [case.request for case in cell.cases]
        replay = Replay(chain, requests, group.method.apply, together=not cell.declaration.sequence)
        return Trial(ask, replay, edited=edited, original=self._base(), cases=cell.cases, tasks=self._own_tasks())

    @contextmanager
    def asking(self, cell: Cell) -> Iterator[None]:
        """Note what a test takes that asks the edited model."""
        from editguard.measurements.efficiency import phase

        try:
            with phase(cell.method, "evaluate") as cost:
                yield
        finally:
            self.costs.append(cost)

    def after_test(self) -> None:
        """Put back the state from before the test, and look whether it is that state.

        Raises: ModelChanged: the test left something behind; names it. The model is loaded anew for the next one.
        """
        if self._model is None or self._before is None:
            return
        before, self._before = self._before, None
        try:
            self._activate_expected()
            after = guard.read(self._model.module)
            wrong = guard.changed(before, after)
            if wrong:
                shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
                raise ModelChanged(
                    f"the test left the model changed: {shown}. Change a model through an editing method, or undo "
                    "the change before the test ends; the next test gets a freshly loaded model."
                )
            if guard.written(before, after, besides=self._edited_names()):
                self._model.weights.verify()
        except EditguardError:
            self.discard()
            raise

    def leave_group(self) -> None:
        """Take the group's edits off and compare the model's bytes with the original ones.

        Raises: ModelChanged: they differ; names the tensors. The model is loaded anew for the next group.
        """
        if self._group is None or self._model is None:
            self._group = None
            return
        left, self._group, self._expected, self._before = self._group.cell, None, None, None
        self._aged.forget_edited()
        try:
            self._at_rest().activate()
            self._model.weights.verify()
        except ModelChanged as error:
            self.discard()
            raise ModelChanged(
                f"the edits of {left.method} are taken off, and {error} It was the method itself, or a test of its "
                "edits; the next group of tests gets a model that is loaded anew."
            ) from None
        except EditguardError:
            self.discard()
            raise

    def discard(self) -> None:
        """Forget the model and all that hangs on it; the next use loads it again."""
        self._model, self._unedited, self._group = None, None, None
        self._expected, self._before = None, None
        self._prepared.clear()
        self._candidate = None
        self._aged.clear()

    def close(self) -> None:
        """Leave the last group and let the model go.

        Raises: ModelChanged, as `leave_group`.
        """
        try:
            self.leave_group()
        finally:
            self.discard()

    def threads(self) -> int:
        """The threads of this process, which are set at the first call.

        They are the configured ones, or those of the run that is resumed; else the user's or torch's own number, of
        which each of several workers takes its share.
        """
        if self._threads is None:
            import torch

            workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) if self.worker is not None else 1
            number = self.configuration.threads or self.threads_before
            if number is None and workers > 1 and "OMP_NUM_THREADS" not in os.environ:
                number = max(1, torch.get_num_threads() // workers)
            if number is not None:
                torch.set_num_threads(number)
            self._threads = torch.get_num_threads()
        return self._threads

    def environment(self) -> Environment:
        """The environment class of this process, and its record.

        Raises: EditguardError: the model cannot be loaded.
        """
        if self._environment is None:
            from editguard.comparison import present_environment

            model, asked = self.model(), self.configuration
            self._environment = present_environment(
                device=model.device.type,
                dtype=str(model.dtype),
                fingerprint=model.fingerprint(),
                settings={
                    "batch_size": asked.batch_size,
                    "chat_template": asked.chat_template,
                    "revision": asked.revision,
                    "seed": asked.seed,
                },
            )
        return self._environment

    @property
    def known_environment(self) -> Environment | None:
        """The environment, if the model was needed by now."""
        return None if self._environment is None and self._model is None else self.environment()

    def settings_in_force(self, cell: Cell | None) -> dict[str, Any]:
        """The settings of a cell's method as plain data; empty for the unedited model."""
        if cell is None or self._group is None or self._group.cell.group != cell.group:
            return {}
        from editguard.methods.settings import in_force

        settings = in_force(self._group.method)
        return dict(cell.settings) if settings is None else settings

    def take_costs(self) -> list[dict[str, Any]]:
        """What was spent since the last call, as plain data."""
        costs = [cost.to_json() for cost in self.costs]
        self.costs.clear()
        return costs

    def take_signals(self) -> list[dict[str, Any]]:
        """What was read of sequences since the last call, as plain data."""
        signals = list(self.signals)
        self.signals.clear()
        return signals

    def take_answering(self) -> dict[str, dict[str, Any]]:
        """Which passes were timed since the last call, as plain data."""
        answering = {method: cost.to_json() for method, cost in self.answering.items()}
        self.answering.clear()
        return answering

    # ---- inner working

    def _load(self) -> LanguageModel:
        from editguard.models.loading import load_model

        asked = self.configuration
        self.threads()
        with self.progress.phase(f"loading {asked.model}"):
            return load_model(
                asked.model,
                revision=asked.revision,
                device=self._device(),
                device_map=asked.device_map,
                dtype=asked.dtype,
                offline=asked.offline,
                trust_remote_code=asked.trust_remote_code,
                batch_size=asked.batch_size,
                chat=asked.chat_template,
            )

    def _device(self) -> str:
        """The device; of several GPUs, each xdist worker takes its own among those that the caller made visible."""
        device = self.configuration.device
        if self.worker is not None and device in ("auto", "cuda") and self.configuration.device_map is None:
            import torch

            if (count := torch.cuda.device_count()) > 1:
                return f"cuda:{self.worker % count}"
        return device

    def _at_rest(self) -> EditedModel:
        """The model without any edit."""
        from editguard.edited import EditedModel

        return EditedModel.original(self.model())

    def _base(self) -> ModelUnderTest:
        """The unedited model whose answers the whole session shares."""
        if self._unedited is None:
            from editguard.measurements import ModelUnderTest

            self._unedited = ModelUnderTest(self._at_rest())
        return self._unedited

    def _unrelated(self, cell: Cell | None) -> Callable[[], Sequence[str]]:
        """What makes texts that name no subject of a cell's edits."""
        requests = [] if cell is None else [case.request for case in cell.declaration.cases]
        return lambda: training_texts(self.configuration, requests)

    def _own_tasks(self) -> Sequence[Probe]:
        if self._tasks is None:
            self._tasks = other_tasks(self.configuration)
        return self._tasks

    def _begin(self, cell: Cell) -> Group:
        unedited = self._at_rest()
        unedited.activate()
        candidate = self.candidate()
        return Group(cell, self._method(cell) if candidate is None else candidate, [unedited])

    def _method(self, cell: Cell) -> EditMethod:
        """The method with the cell's settings, prepared on the unedited model."""
        from editguard.measurements.efficiency import phase
        from editguard.methods.registry import create

        model = self.model()
        key = f"{cell.method} {sorted(cell.settings.items())!r}"
        method = self._prepared.get(key)
        if method is None:
            method = create(cell.method, cell.settings, model)
        prepare = getattr(method, "prepare", None)
        if prepare is not None:
            requests = [case.request for case in cell.declaration.cases]
            with self.progress.phase(f"{cell.method}: preparing") as step, phase(cell.method, "prepare") as cost:
                prepare(model, preparation(self.configuration, requests, step))
            self.costs.append(cost)
        self._prepared[key] = method
        return method

    def _growth(self) -> Growth:
        return Growth(self.configuration, self.progress, self.costs, self.signals)

    def _time_a_pass(self, cell: Cell, edited: EditedModel) -> None:
        """Once for each method, see what a pass takes with edits in force; what cannot be run is not timed."""
        from editguard.measurements import answering_cost, timed_prompts

        if cell.method in self._timed or not cell.edits:
            return
        self._timed.add(cell.method)
        with suppress(EditguardError):
            self.answering[cell.method] = answering_cost(edited, self._at_rest(), timed_prompts(cell.cases))

    def _activate_expected(self) -> None:
        (self._expected or self._at_rest()).activate()

    def _watch(self) -> None:
        """Note how the model looks in the expected state, for the comparison after the test."""
        if self._before is None and self._model is not None:
            self._activate_expected()
            self._before = guard.read(self._model.module)

    def _edited_names(self) -> set[str]:
        """Names of the parameters that the group's edits change."""
        changes = self._expected.changes if self._expected is not None else ()
        return {name for change in changes for name in getattr(change, "deltas", ())}


def _mode(cell: Cell) -> str:
    if cell.declaration.sequence:
        return "sequence"
    return "single" if cell.edits == 1 else "batch"
