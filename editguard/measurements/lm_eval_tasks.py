"""Tasks of lm-eval as a canary for other tasks: one value per item, on the edited model as it is used.

Protocol: "lm_eval:METRIC": the task's own metric on each item, such as `acc` or `exact_match`; which prompts are asked,
and how, is the task's own as well.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import Any, Final

import numpy as np

from editguard.edits import EditCase, content_id
from editguard.errors import ConfigurationError, EditguardError, closest
from editguard.measurements.answering import Answering
from editguard.measurements.record import CaseValue, Measurement

SEED: Final = 1234
"""Of the few-shot examples, as lm-eval's own command has it."""
PROTOCOL: Final = "lm_eval"


def lm_eval(
    task: str,
    edited: Answering,
    original: Answering,
    cases: Sequence[EditCase] = (),
    *,
    metric: str | None = None,
    num_fewshot: int | None = None,
    include_path: str | Path | None = None,
    limit: int | None = None,
) -> Measurement:
    """Run a task, or a group of them, on the edited and on the unedited model.

    Args:
        task: its name in lm-eval, or in `include_path`.
        edited, original: the models; pass `Remembered` ones to ask them once.
        cases: the edits applied, in order.
        metric: one of the task's that has a value for each item; by default its first.
        num_fewshot: examples in front of each item; the task's own number by default. A task that fixes it at 0 keeps
            0, as in lm-eval.
        include_path: a folder with tasks of your own, as YAML files.
        limit: most items of each task, the first ones.

    Returns: values of the metric, with the unedited model's answers, so that `agreement` is known; the kind of an item
        is its task's name.
    Raises: ConfigurationError: lm-eval is not installed, there is no such task or metric, or the task cannot be run on
        a model that is asked by prompts.
    """
    before = _items(task, original, metric, num_fewshot, include_path, limit)
    after = _items(task, edited, metric, num_fewshot, include_path, limit)
    values: dict[str, CaseValue] = {}
    for item, old in zip(after, before, strict=True):
        values.setdefault(item.id, item.value(old))
    names = dict.fromkeys(item.metric for item in after)
    return Measurement(
        name="other_tasks",
        kind=task,
        protocol="+".join(f"{PROTOCOL}:{name}" for name in names),
        values=tuple(values.values()),
        edit_ids=tuple(case.id for case in cases),
    )


class _Item:
    """One sample that lm-eval logged."""

    def __init__(self, task: str, metric: str, kind: str, sample: Mapping[str, Any]) -> None:
        self.task, self.metric, self.kind, self.sample = task, metric, kind, sample
        number = sample[metric]
        if not isinstance(number, Real):
            raise ConfigurationError(
                f"the metric {metric!r} of the task {task!r} has no value for each item; choose another with metric=."
            )
        self.number = float(number)

    @property
    def id(self) -> str:
        """Content id: the same item with the same prompt in every run."""
        hashes = [self.sample[name] for name in ("doc_hash", "prompt_hash", "target_hash")]
        return content_id("lm_eval item", self.task, *hashes)

    @property
    def options(self) -> list[str]:
        """The texts among which the model chose; told apart by their contexts where they are the same."""
        pairs = [(arguments[0], str(arguments[1])) for arguments in self.sample["arguments"]]
        same = len({continuation for _, continuation in pairs}) < len(pairs)
        return [(context + continuation if same else continuation).strip() for context, continuation in pairs]

    @property
    def answer(self) -> str:
        """What the model said, or the option that it found likeliest; "" where that is not the one text scored."""
        found = self.sample["filtered_resps"]
        if self.kind == "generate_until":
            return str(found[0])
        if self.kind == "multiple_choice":
            likely = [score for score, _ in found]
            return self.options[likely.index(max(likely))]
        return self.options[0] if found[0][1] else ""

    def value(self, before: _Item) -> CaseValue:
        """The item's value, beside the unedited model's answer to it."""
        target = self.sample["target"]
        if self.kind == "multiple_choice" and isinstance(target, int) and 0 <= target < len(self.options):
            target = self.options[target]
        return CaseValue(
            probe=self.id,
            edit="",
            kind=self.task,
            prompt=str(self.sample["arguments"][0][0]),
            expected=tuple(map(str, target)) if isinstance(target, list | tuple) else (str(target),),
            answer=self.answer,
            outcome="exact" if self.number == 1.0 else "other",
            value=self.number,
            original=before.answer,
        )


def _items(
    task: str,
    model: Answering,
    metric: str | None,
    num_fewshot: int | None,
    include_path: str | Path | None,
    limit: int | None,
) -> list[_Item]:
    """All items of a task, asked of one model."""
    if limit is not None and limit < 1:
        raise ConfigurationError(f"a task is asked at least one item; the limit is {limit}.")
    _check_installed()
    from lm_eval.evaluator import evaluate

    from editguard.measurements.lm_eval_model import AnsweringLM

    with _seeded():
        loaded = _loaded(task, include_path)
        for each in loaded["tasks"].values():
            own = each.get_config("num_fewshot")
            each.set_config(key="num_fewshot", value=(own or 0) if num_fewshot is None or own == 0 else num_fewshot)
            each.set_fewshot_seed(seed=SEED)
        try:
            results = evaluate(
                lm=AnsweringLM(model), task_dict=loaded, limit=limit, bootstrap_iters=0, log_samples=True
            )
        except EditguardError:
            raise
        except ValueError as failure:  # tasks that run code, or look at pictures
            raise ConfigurationError(f"lm-eval refuses the task {task!r}: {_first_line(failure)}") from failure
    found = []
    for name, each in loaded["tasks"].items():
        samples = results["samples"][name]
        chosen = _metric(name, metric, samples[0]["metrics"])
        first = samples[0]["filter"]
        found += [_Item(name, chosen, each.OUTPUT_TYPE, sample) for sample in samples if sample["filter"] == first]
    return found


def _metric(task: str, wanted: str | None, known: Sequence[str]) -> str:
    if wanted is None:
        return known[0]
    if wanted not in known:
        raise ConfigurationError(
            f"the task {task!r} has no metric {wanted!r}; it has {', '.join(known)}.{closest(wanted, known)}"
        )
    return wanted


def _check_installed() -> None:
    try:
        import lm_eval.api.model  # noqa: F401
    except ImportError as missing:
        raise ConfigurationError(
            f"tasks of lm-eval need the package, which cannot be imported here ({missing}): "
            "pip install 'editguard[lm-eval]'."
        ) from missing


@lru_cache(maxsize=1)
def _built_in() -> Any:
    """The index of lm-eval's own tasks, thousands of files, which takes long to read."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _own(folder: str | Path) -> Any:
    """The index of a folder alone."""
    from lm_eval.tasks import TaskManager

    if not Path(folder).is_dir():
        raise ConfigurationError(f"include_path is a folder with tasks as YAML files; there is none at {folder}.")
    return TaskManager(include_path=str(folder), include_defaults=False)


def _loaded(task: str, include_path: str | Path | None) -> Any:
    """The tasks of a name, with their data; those of a folder go before lm-eval's own."""
    own = None if include_path is None else _own(include_path)
    manager = own if own is not None and task in own.all_tasks else _built_in()
    if task not in manager.all_tasks:
        known = [*(own.all_tasks if own is not None else ()), *manager.all_tasks]
        where = "" if include_path is None else f" or in {include_path}"
        raise ConfigurationError(
            f"there is no task {task!r} in lm-eval{where}.{closest(task, known)} "
            "The command 'lm_eval ls tasks' lists them; a folder of your own is include_path=."
        )
    try:
        return manager.load([task])
    except Exception as failure:
        raise ConfigurationError(
            f"the task {task!r} of lm-eval cannot be loaded: {_first_line(failure)} Its data come from the "
            "Hugging Face hub unless its YAML names files."
        ) from failure


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Tasks may draw from the global generators: always the same, and without a trace for what comes after."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  # the one that tasks draw from
    random.seed(0)
    np.random.seed(SEED)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def _first_line(failure: Exception) -> str:
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return f"{type(failure).__name__}: {lines[0].rstrip('.') if lines else 'no reason given'}."
