"""Items of other tasks: PIQA, and any multiple choice with a question, its options and the right one.

Source of PIQA: Bisk et al., "PIQA: Reasoning about Physical Commonsense in Natural Language" (AAAI 2020).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from editguard.datasets.fields import Fields, shown
from editguard.datasets.form import Form, Record
from editguard.datasets.streams import Positioned
from editguard.errors import ConfigurationError, InvalidEdit, MalformedRecord, UnusableRecord
from editguard.probes import task

PROMPT: Final = "Question: {}\nAnswer:"
"""How an item is asked."""


def translate_piqa(fields: Fields) -> Record:
    """Translate one goal with its two solutions; "label" is the right one, 0 or 1."""
    if "label" not in fields:
        raise InvalidEdit(
            "the field 'label' is missing: the labels of PIQA are in a file of their own; use --labels FILE."
        )
    return _item(fields, "piqa", fields.text("goal"), (fields.text("sol1"), fields.text("sol2")), fields.raw("label"))


def translate_choice(fields: Fields) -> Record:
    """Translate one item; "answer" is the right option, or its place from 0; "task" names the task."""
    asked = next((name for name in ("question", "prompt", "goal") if name in fields), "question")
    name = fields.optional_text("task") or "choice"
    return _item(fields, name, fields.text(asked), fields.texts("choices", required=True), fields.raw("answer"))


def _item(fields: Fields, name: str, asked: str, choices: tuple[str, ...], right: Any) -> Record:
    if not asked.strip() or any(not choice.strip() for choice in choices) or len(choices) < 2:
        raise InvalidEdit("an item has a question and at least two options, none of them empty.")
    if isinstance(right, int) and not isinstance(right, bool):
        if not 0 <= right < len(choices):
            raise InvalidEdit(f"the right option is one of 0 to {len(choices) - 1}, not {right}.")
        right = choices[right]
    if right not in choices:
        raise InvalidEdit(f"the right option is one of {shown(list(choices))} or its place from 0, not {shown(right)}.")
    if len(set(choices)) < len(choices):
        raise UnusableRecord("same_choices", f"two options of {shown(asked)} are equal.")
    probe = task(name, PROMPT.format(asked), right, choices=choices)
    return Record(id=fields.identifier("id") if "id" in fields else None, tasks=(probe,))


def labelled(records: Iterator[Positioned], labels: Path) -> Iterator[Positioned]:
    """Give each record its label, one per line of a file.

    Raises: ConfigurationError: the file cannot be read, or has another number of labels. MalformedRecord: a line is no
        whole number.
    """
    try:
        with labels.open(encoding="utf-8") as lines:
            numbered = ((number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip())
            for position, record in records:
                number, label = next(numbered, (0, ""))
                if not number:
                    raise ConfigurationError(f"{labels} has fewer labels than there are records.")
                if not (label.isascii() and label.isdigit()):
                    raise MalformedRecord(labels, number, f"a label is a whole number from 0 on, not {shown(label)}.")
                yield position, {**record, "label": int(label)} if isinstance(record, Mapping) else record
            if next(numbered, None) is not None:
                raise ConfigurationError(f"{labels} has more labels than there are records.")
    except (OSError, UnicodeDecodeError) as failure:
        raise ConfigurationError(f"cannot read the labels of {labels}: {failure}.") from failure


PIQA: Final = Form(
    name="piqa",
    title="PIQA",
    keys=("goal", "sol1", "sol2"),
    example={"goal": "Dry a wet shoe.", "sol1": "Fill it with paper.", "sol2": "Fill it with water.", "label": 0},
    translate=translate_piqa,
    gives="tasks",
)
CHOICE: Final = Form(
    name="choice",
    title="any multiple choice",
    keys=("choices", "answer"),
    any_of=("question", "prompt", "goal"),
    example={
        "task": "geography",
        "question": "Where is Oskar?",
        "choices": ["in Velloria", "in Dralonia"],
        "answer": 0,
    },
    translate=translate_choice,
    gives="tasks",
)
