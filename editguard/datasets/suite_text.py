"""The text of a suite for imported cases: short enough to be read, and changed, by whoever keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from editguard.edits import Property

WIDTH: Final = 120
"""Columns of a line."""
_HEAD: Final = '''"""{title}.

{about}
"""

import pytest
'''
_SEQUENCE: Final = """
from editguard import load_cases

CASES = load_cases("{data}", base=__file__)

# One after another, looked at after so many edits. All as one batch: pytest.mark.edit(CASES), without contradictions.
pytestmark = pytest.mark.edit_sequence(CASES, checkpoints={checkpoints})

"""
_INSTANCES: Final = '''
from editguard import load_cases
from editguard.datasets import instances

CASES = load_cases("{data}", base=__file__)


class Instance:
    """What is asked of the edits of one instance, applied together."""

'''
_CLASSES: Final = """

for number, cases in enumerate(instances(CASES), start=1):  # one class per instance: TestInstance1, TestInstance2, ...
    name = f"TestInstance{number}"
    globals()[name] = type(name, (Instance,), {"__doc__": cases[0].label, "pytestmark": pytest.mark.edit(cases)})
"""
_TASKS: Final = """
from editguard import EditRequest
from editguard.datasets import load_tasks

TASKS = load_tasks("{data}", base=__file__)
MOVED = EditRequest(prompt="The capital of {{}} is", subject="Velloria", target="Oskar")  # put your own edits here

pytestmark = pytest.mark.edit(MOVED)


def test_other_tasks(edited, baseline):
    baseline.check(edited.other_tasks(TASKS))
"""


def sequence_suite(
    *, title: str, about: str, data: str, kinds: Mapping[Property, Sequence[str]], checkpoints: Sequence[int]
) -> str:
    """A suite that applies the cases one after another.

    Args:
        title, about: for the docstring.
        data: the file of cases, from the suite's folder.
        kinds: the kinds of probes of each property that every checkpoint has; reliability is always asked.
        checkpoints: numbers of edits.
    """
    head = _HEAD.format(title=_plain(title), about=_plain(about)) + _SEQUENCE.format(
        data=data, checkpoints=_tuple(checkpoints)
    )
    tests = ["def test_reliability(edited, baseline):\n    baseline.check(edited.reliability())"]
    for property, found in kinds.items():
        if len(found) == 1:
            tests.append(f"def test_{property}(edited, baseline):\n    baseline.check(edited.{property}())")
        elif found:
            tests.append(
                f"{_over_kinds(found)}\n"
                f"def test_{property}(edited, baseline, kind):\n"
                f"    baseline.check(edited.{property}(kind=kind))"
            )
    return head + "\n" + "\n\n\n".join(tests) + "\n"


def instances_suite(*, title: str, about: str, data: str, properties: Sequence[Property]) -> str:
    """A suite that applies each instance alone; arguments as for `sequence_suite`.

    Args:
        properties: those that every instance has probes for; reliability is always asked.
    """
    tests = [
        f"    def test_{property}(self, edited, baseline):\n        baseline.check(edited.{property}())\n"
        for property in dict.fromkeys(("reliability", *properties))
    ]
    head = _HEAD.format(title=_plain(title), about=_plain(about)) + _INSTANCES.format(data=data)
    return head + "\n".join(tests) + _CLASSES


def tasks_suite(*, title: str, about: str, data: str) -> str:
    """A suite that asks items of other tasks of an edited model; arguments as for `sequence_suite`."""
    return _HEAD.format(title=_plain(title), about=_plain(about)) + _TASKS.format(data=data)


def _plain(text: str) -> str:
    """The text as it can stand in a docstring."""
    return text.replace("\\", "/").replace('"', "'")


def _tuple(numbers: Sequence[int]) -> str:
    return f"({', '.join(map(str, numbers))}{',' if len(numbers) == 1 else ''})"


def _over_kinds(kinds: Sequence[str]) -> str:
    """The decorator that runs a test once per kind, in lines as the formatter breaks them."""
    named = [json.dumps(kind, ensure_ascii=False) for kind in kinds]  # escapes of JSON are escapes of Python
    arguments = f'"kind", [{", ".join(named)}]'
    if len(line := f"@pytest.mark.parametrize({arguments})") <= WIDTH:
        return line
    if len(arguments) + 4 > WIDTH:
        each = "".join(f"\n        {name}," for name in named)
        arguments = f'"kind",\n    [{each}\n    ],'
    return f"@pytest.mark.parametrize(\n    {arguments}\n)"
