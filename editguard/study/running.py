"""Carrying out a plan, part by part; what is complete in the folder is never done again.

A sequence is one chain that grows edit by edit, and is saved every so often. A process that goes on with a killed one
starts from what was saved, or else applies the edits again, which gives the same model because methods are
deterministic; it asks questions at the checkpoints that are missing alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editguard.comparison import present_environment
from editguard.edited import EditedModel, merged
from editguard.edits import EditCase, Probe, content_id
from editguard.errors import AmbiguousTokens, InvalidEdit, MethodRefused, PromptTooLong
from editguard.measurements import Measurement, PhaseCost, answering_cost, phase, timed_prompts
from editguard.measurements.fluency import continuing
from editguard.methods.protocol import DemonstrationRecord, EditMethod, Preparation
from editguard.methods.registry import create, methods
from editguard.methods.settings import in_force
from editguard.study.answers import KeptAnswers
from editguard.study.chain import SAVED_EVERY, Chain, saved_chain
from editguard.study.data_set import described
from editguard.study.evaluation import COMPARED, left_out, measurements, records, tasks_in_turn
from editguard.study.folder import StudyFolder
from editguard.study.items import Item
from editguard.study.plan import UNEDITED, Cell, Plan
from editguard.study.recording import Done, Recorder, Sink, sequence_name

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

REFUSALS = (MethodRefused, InvalidEdit, AmbiguousTokens, PromptTooLong)
"""What a method, or the model, may say to an edit without anything being wrong with the study."""


def _silent(line: str) -> None:
    del line


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What a study has beside the cases.

    Attributes:
        texts: running text for statistics of the unedited model.
        demonstrations: records for methods that edit by example, none about an edited subject.
        tasks: items of other tasks; single edits get a part of them each, in turns.
        training: cases for methods that train an editor, none about an edited subject.
        cache_dir: where prepared data is kept; None keeps none.
        keeps_prompts: whether the records hold the prompts that memories of edits have written.
    """

    texts: Iterable[str] = ()
    demonstrations: Sequence[DemonstrationRecord] = ()
    tasks: Sequence[Probe] = ()
    training: Iterable[EditCase] = ()
    cache_dir: Path | None = None
    keeps_prompts: bool = False


@dataclass(frozen=True)
class Failure:
    """Why an edit is not in force."""

    reason: str
    message: str

    def of(self, cases: Iterable[EditCase]) -> list[dict[str, str]]:
        """One record per edit."""
        return [{"case": case.id, "reason": self.reason, "message": self.message} for case in cases]


def run(
    plan: Plan,
    model: LanguageModel,
    cases: Sequence[EditCase],
    folder: StudyFolder | str | Path,
    *,
    materials: Materials | None = None,
    told: Callable[[str], None] = _silent,
) -> StudyFolder:
    """Carry out what of the plan the folder does not hold yet.

    Args:
        plan: methods and sizes.
        model: without any edit; it has the same bytes afterwards.
        cases: the data set; edits are taken from its beginning. All of it is part of the study's identity.
        folder: where the records go.
        materials: what methods prepare from, and other tasks.
        told: called with a line of text now and then.

    Raises:
        ConfigurationError: too few cases; the folder holds another study, cannot be written or is in use.
        InvalidSettings: a setting is unknown or impossible.
        ModelChanged: a method has left something behind on the model.
    """
    materials = materials or Materials()
    plan.refuse_too_few(cases)
    folder = folder if isinstance(folder, StudyFolder) else StudyFolder(folder)
    created = {name: create(name, plan.settings.get(name, {}), model) for name in plan.methods}
    with folder.locked():
        folder.begin(header(plan, model, cases, materials, created))
        recorder = Recorder(plan, cases, folder, told)
        bench = Bench(plan, model, cases, created, materials, recorder, told)
        for item in recorder.items():
            bench.carry_out(item)
        bench.verify()
        recorder.arrange()
        recorder.forget_all()
    return folder


def header(
    plan: Plan,
    model: LanguageModel,
    cases: Sequence[EditCase],
    materials: Materials,
    created: Mapping[str, EditMethod],
) -> dict[str, Any]:
    """What a study is of, as plain data: values under another header must not be mixed with these.

    "notes" explain, and may differ.
    """
    environment = present_environment(device=model.device.type, dtype=str(model.dtype), fingerprint=model.fingerprint())
    record = dict(environment.record)
    parameters = sum(parameter.numel() for parameter in model.module.parameters())
    return {
        "environment": {
            "device": environment.device,
            "dtype": environment.dtype,
            "fingerprint": environment.fingerprint,
            "chat": model.chat,
            "attention": model.attention,
            "versions": record.pop("versions"),
        },
        "data": {
            "cases": len(cases),
            "cases_digest": digest_of_cases(cases),
            "tasks_digest": content_id([probe.id for probe in materials.tasks]),
            "texts_digest": _digest(materials.texts),
            "demonstrations_digest": content_id([dataclasses.asdict(record) for record in materials.demonstrations]),
        },
        "settings": {"seed": plan.seed, "second_moment_tokens": plan.second_moment_tokens},
        "methods": {
            name: {**_settings(method, plan.settings.get(name, {})), **_learnt_from(name, materials)}
            for name, method in created.items()
        },
        **({"orders": {"cases": plan.sequences[-1]}} if plan.orders > 1 else {}),
        "notes": {
            "model": model.name,
            "parameters": parameters,
            "revision": model.revision,
            "batch_size": model.batch_size,
            "data": described(cases),
            **record,
        },
    }


@dataclass
class Bench:
    """The model at rest, its answers, the methods with what they have prepared, and where records go."""

    plan: Plan
    model: LanguageModel
    cases: Sequence[EditCase]
    created: Mapping[str, EditMethod]
    materials: Materials
    sink: Sink
    told: Callable[[str], None]
    rest: EditedModel = field(init=False)
    original: KeptAnswers = field(init=False)
    prepared: dict[str, Failure | None] = field(init=False, default_factory=dict)
    last: str = field(init=False, default=UNEDITED)

    def __post_init__(self) -> None:
        self.rest = EditedModel.original(self.model)
        self.original = self._kept(self.sink.original, self.rest)

    def carry_out(self, item: Item) -> None:
        """All parts of an item; the model is at rest afterwards.

        Raises: ModelChanged: the method before this one has left something behind on the model.
        """
        if item.method != self.last:
            self.verify()
        self.last = item.method
        if item.kind == "unedited":
            self._unedited(item)
        else:
            self._edited(item, self.created[item.method])
        self.rest.activate()

    def verify(self) -> None:
        """See that the last method has left nothing behind on the model.

        Raises: ModelChanged: it has.
        """
        if self.last != UNEDITED:
            self.model.weights.verify()

    def _unedited(self, item: Item) -> None:
        """Ask the unedited model, which shows what each score is without an edit."""
        for cell, parts in item.missing:
            for name in parts:
                chosen = self.plan.ordered(self.cases, cell.order)[: cell.size]
                self._write([cell], name, self.rest, chosen, wanted=chosen, failures=[], tasks=self.materials.tasks)

    def _edited(self, item: Item, method: EditMethod) -> None:
        """The method is prepared for its first item."""
        if item.method not in self.prepared:
            self.prepared[item.method] = self._prepared(item.method, method)
        refused = self.prepared[item.method]
        if refused is not None:
            for cell, parts in item.missing:
                self._refuse(cell, parts, refused)
        elif item.kind == "single":
            for cell, parts in item.missing:
                self._singles(cell, parts, method)
        elif item.kind == "batch":
            for cell, _ in item.missing:
                self._batch(cell, method)
        else:
            checkpoints: dict[int, list[Cell]] = {}
            for cell, _ in item.missing:
                checkpoints.setdefault(cell.size, []).append(cell)
            self._sequence(item.method, item.order, checkpoints, method)

    def _prepared(self, name: str, method: EditMethod) -> Failure | None:
        prepare = getattr(method, "prepare", None)
        if prepare is None:
            self.sink.prepared(name, None)
            return None
        data = Preparation(
            texts=self.materials.texts,
            demonstrations=self.materials.demonstrations,
            training=self.materials.training,
            cache_dir=self.materials.cache_dir,
            seed=self.plan.seed,
            second_moment_tokens=self.plan.second_moment_tokens,
            on_progress=self.told,
        )
        self.rest.activate()
        self.told(f"{name}: preparing")
        with phase(name, "prepare") as cost:
            failure = self._attempted(lambda: prepare(self.model, data))
        self.sink.prepared(name, cost)
        return failure if isinstance(failure, Failure) else None

    def _refuse(self, cell: Cell, parts: Sequence[str], failure: Failure) -> None:
        """Write a failure that no edit of the cell can escape."""
        for name in parts:
            chosen = self._wanted(cell, name)
            self._write([cell], name, None, (), wanted=chosen, failures=failure.of(chosen), tasks=())

    def _wanted(self, cell: Cell, part: str) -> Sequence[EditCase]:
        if cell.mode == "single":
            position = int(part.partition("-")[0])
            return self.cases[position : position + 1]
        return self.plan.ordered(self.cases, cell.order)[: cell.size]

    def _singles(self, cell: Cell, parts: Sequence[str], method: EditMethod) -> None:
        """Each case alone on the original model."""
        self._ask_original([case for name in parts for case in self._wanted(cell, name)])
        for name in parts:
            chosen = self._wanted(cell, name)
            edited, costs = self._applied(cell.method, method, self.rest, chosen)
            tasks = tasks_in_turn(self.materials.tasks, int(name.partition("-")[0]))
            if isinstance(edited, Failure):
                self._write([cell], name, None, (), wanted=chosen, failures=edited.of(chosen), tasks=(), costs=costs)
            else:
                self._write([cell], name, edited, chosen, wanted=chosen, failures=[], tasks=tasks, costs=costs)

    def _batch(self, cell: Cell, method: EditMethod) -> None:
        """The first cases in one application, which is saved before it is asked."""
        chosen = self.cases[: cell.size]
        self._ask_original(chosen)
        path = self.sink.states.chain_file(cell.name)
        chain = saved_chain(path, self.model, first=cell.size)
        if chain is None:
            edited, costs = self._applied(cell.method, method, self.rest, chosen)
            if isinstance(edited, Failure):
                chain = Chain(self.rest, cell.size, failures=edited.of(chosen), costs=costs)
            else:
                chain = Chain(edited, cell.size, standing=list(range(cell.size)), costs=costs)
                chain.save(path, at_checkpoint=True)
        self._checkpoint([cell], chain, chosen)
        self.sink.forget(cell.name)

    def _sequence(self, name: str, order: int, checkpoints: Mapping[int, Sequence[Cell]], method: EditMethod) -> None:
        """One chain for all sizes; a method that edits one request at a time has its batches on it too."""
        last, first = max(checkpoints), min(checkpoints)
        cases = self.plan.ordered(self.cases, order)
        self._ask_original(cases[:last])
        state = sequence_name(name, order)
        path = self.sink.states.chain_file(state)
        chain = saved_chain(path, self.model, first=first) or Chain(self.rest)
        if chain.done:
            self.told(f"{name}, sequence: going on after {chain.done} edits")
        writable = True
        for number in range(max(1, chain.done), last + 1):
            if number > chain.done:
                self._grow(name, chain, method, cases)
                if writable and (number % SAVED_EVERY == 0 or number in checkpoints):
                    writable = chain.save(path, at_checkpoint=number in checkpoints)
            if number in checkpoints:
                self._checkpoint(checkpoints[number], chain, cases[:number])
                chain.costs = []
            elif number % 10 == 0:
                self.told(f"{name}, sequence: {number} of {last} edits applied")
        self.sink.forget(state)

    def _checkpoint(self, cells: Sequence[Cell], chain: Chain, wanted: Sequence[EditCase]) -> None:
        """Ask a batch, or a sequence as it is now, and write the part."""
        standing = [wanted[position] for position in chain.standing]
        self._write(
            cells,
            str(len(wanted)),
            chain.edited if standing else None,
            standing,
            wanted=wanted,
            failures=chain.failures,
            tasks=self.materials.tasks,
            costs=chain.costs,
        )

    def _grow(self, name: str, chain: Chain, method: EditMethod, cases: Sequence[EditCase]) -> None:
        """Put the next case on the chain."""
        case = cases[chain.done]
        chain.edited.activate()
        edited, spent = self._applied(name, method, chain.edited, [case])
        chain.costs += spent
        if isinstance(edited, Failure):
            chain.failures += edited.of([case])
        else:
            chain.edited = merged(edited, since=0)
            chain.standing.append(chain.done)
        chain.done += 1

    # ---- one part

    def _applied(
        self, name: str, method: EditMethod, edited: EditedModel, cases: Sequence[EditCase]
    ) -> tuple[EditedModel | Failure, list[PhaseCost]]:
        def in_force() -> EditedModel:
            result = method.apply(edited, [case.request for case in cases])
            result.activate()  # what cannot be put in force, such as an infinite update, is refused here
            return result

        with phase(name, "edit", edits=len(cases)) as cost:
            result = self._attempted(in_force)
        return result, [cost]

    def _attempted(self, act: Callable[[], Any]) -> Any:
        """What `act` returns, or the failure that it ended in when that is one of a single part; tells of warnings."""
        import torch

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = act()
            except REFUSALS as refusal:
                result = Failure("refused", str(refusal))
            except (torch.OutOfMemoryError, MemoryError) as short:
                result = Failure("out of memory", (str(short).strip().splitlines() or ["no memory is left"])[0])
        if isinstance(result, Failure) and result.reason == "out of memory" and torch.cuda.is_available():
            torch.cuda.empty_cache()  # here the traceback no longer holds the tensors
        for message in dict.fromkeys(str(each.message) for each in caught):
            self.told(f"warning: {message}")
        return result

    def _ask_original(self, cases: Sequence[EditCase]) -> None:
        """Let the original model answer, together, what comparing the edited ones with it will ask of it."""
        self._attempted(
            lambda: measurements(
                self.rest,
                self.original,
                cases,
                tasks=self.materials.tasks,
                by=self.original,
                properties=COMPARED,
            )
        )

    def _asked(
        self, cell: Cell, edited: EditedModel, standing: Sequence[EditCase], tasks: Sequence[Probe]
    ) -> tuple[list[Measurement] | Failure, float]:
        """What is measured of a state, or why it cannot be; and the seconds of answers that an earlier process kept."""
        if edited is self.rest:
            by: KeptAnswers | None = self.original
        else:
            by = self._kept(cell.name, edited) if cell.mode != "single" else None
        before = by.seconds if by is not None and by is not self.original else 0.0
        continued = by.continued if by is not None else continuing(edited, self.plan.seed)
        result = self._attempted(
            lambda: measurements(edited, self.original, standing, tasks=tasks, by=by, continued=continued)
        )
        return result, before

    def _kept(self, name: str, state: EditedModel) -> KeptAnswers:
        """A state whose answers outlive the process."""
        return KeptAnswers(state, self.sink.states.answers_file(name), seed=self.plan.seed)

    def _write(
        self,
        cells: Sequence[Cell],
        name: str,
        edited: EditedModel | None,
        standing: Sequence[EditCase],
        *,
        wanted: Sequence[EditCase],
        failures: Sequence[Mapping[str, str]],
        tasks: Sequence[Probe],
        costs: Sequence[PhaseCost] = (),
    ) -> None:
        """Ask a state of the model, and add its part to each of the cells; None stands for no state to ask."""
        method = cells[0].method
        failures, found = list(failures), []
        spent, timed = list(costs), {}
        if edited is not None:
            with phase(method, "evaluate") as cost:
                result, before = self._asked(cells[0], edited, standing, tasks)
            spent.append(dataclasses.replace(cost, seconds=cost.seconds + before))
            if isinstance(result, Failure):
                failures += result.of(standing)
            else:
                found = result
        only = standing[0].id if len(standing) == 1 else None
        lines = records(found, case=only, keeps_prompts=self.materials.keeps_prompts)
        end = {"edits": len(wanted), "applied": len(standing), "failed": failures, **left_out(found)}
        if edited is not None and edited.edits:
            end["conditioning"] = _conditioning(edited.edits[-1].record)
            end["stored_bytes"] = edited.stored_bytes()
            answering = self._attempted(lambda: answering_cost(edited, self.rest, timed_prompts(self.cases)))
            timed = {} if isinstance(answering, Failure) else {"answering": answering.to_json()}
        taken = {"costs": [each.to_json() for each in spent], **timed}
        self.sink.add(Done(cells=tuple(cells), name=name, values=lines, end=end, cost=taken))


def _conditioning(record: Any) -> list[Any]:
    """What an edit's record says of each second moment that it solved with: condition number, shrinkage, jitter."""
    if isinstance(record, Mapping):
        own = record.get("second_moment")
        inner = [found for name, value in record.items() if name != "second_moment" for found in _conditioning(value)]
        return ([json.loads(json.dumps(own, default=str))] if own else []) + inner
    return [found for value in record for found in _conditioning(value)] if isinstance(record, list | tuple) else []


def digest_of_cases(cases: Iterable[EditCase]) -> str:
    """The same for cases with the same requests and probes, wherever they were imported from."""
    return content_id([_plain(case) for case in cases])


def _plain(case: EditCase) -> dict[str, Any]:
    plain = dataclasses.asdict(dataclasses.replace(case, label="", origin={}))
    del plain["origin"]  # where a case was imported from
    return plain


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(json.dumps(text).encode())
    return digest.hexdigest()[:16]


def _learnt_from(name: str, materials: Materials) -> dict[str, str]:
    """What a method that trains an editor is trained on."""
    if not methods()[name].trains:
        return {}
    return {"training_digest": digest_of_cases(materials.training)}


def _settings(method: EditMethod, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A method's settings and where each comes from, as plain data."""
    found = in_force(method)
    values = dict(overrides) if found is None else found
    plain: dict[str, Any] = json.loads(
        json.dumps({"settings": values, "provenance": dict(getattr(method, "provenance", {}))}, default=str)
    )
    return plain
