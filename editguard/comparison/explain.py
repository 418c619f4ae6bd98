"""What differs between two environments, or between two declarations of a check, one line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from editguard.comparison.check import CheckRecord
from editguard.comparison.environment import Environment

MOST_LINES = 12


def explain_environment(accepted: Environment, present: Environment) -> list[str]:
    """How the present environment differs from the one in which values were accepted."""
    return differences(accepted.to_json(), present.to_json())


def explain_declaration(accepted: CheckRecord, present: CheckRecord) -> list[str]:
    """How a check differs from what was accepted under the same test's name."""
    return differences(accepted.declaration(), present.declaration())


def differences(accepted: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Lines like "versions.torch: '2.12.0' -> '2.13.0'", in the order of their names."""
    from deepdiff import DeepDiff

    tree = DeepDiff(dict(accepted), dict(present), ignore_order=True, view="tree", threshold_to_diff_deeper=0)
    lines = []
    for kind, changes in tree.items():
        for change in changes:
            where = ".".join(str(step) for step in change.path(output_format="list") if isinstance(step, str))
            if kind.endswith("_added"):
                lines.append(f"{where}: {change.t2!r} is new")
            elif kind.endswith("_removed"):
                lines.append(f"{where}: {change.t1!r} is gone")
            else:
                lines.append(f"{where}: {change.t1!r} -> {change.t2!r}")
    lines.sort()
    if len(lines) > MOST_LINES:
        lines[MOST_LINES:] = [f"and {len(lines) - MOST_LINES} more differences"]
    return lines
