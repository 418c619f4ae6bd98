"""By what methods are compared: each criterion's value, and the utility that makes it comparable with others.

A utility is found from the method's own value and constants alone, so that no other method, present or not, changes it:

    share of answers   the mean itself, from 0 to 1
    fluency            the unedited model's bits that are kept, from 0 to 1; more bits than before are no merit
    cost               -log10(value / unit): one point for each factor of ten, 0 at one unit (a second, a token, a MiB)

Costs go by their ratio because their unit is arbitrary and methods lie orders of magnitude apart: another unit adds the
same number to every method's score. A weight on a cost says what a factor of ten is worth, in points of quality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final

import numpy as np

from editguard.edits import PROPERTIES
from editguard.errors import ConfigurationError
from editguard.study.plan import MODES, UNEDITED, Cell, Mode
from editguard.study.ranking import Floats
from editguard.study.results import Results, number

QUALITY: Final = "quality"
SURVEYED: Final = ("reliability", "generalization", "portability", "locality")
"""Properties whose plain mean is the criterion `quality`."""
FLUENCY: Final = "fluency"


@dataclass(frozen=True)
class Cost:
    """A criterion of which less is better.

    Attributes:
        field: of a row of costs.json or of summary.json.
        in_costs: whether it stands in costs.json.
        title: with its unit, for tables and axes.
        unit: how much of it has the utility 0.
        floor: less than this counts as this; below it differences are not of the method.
    """

    field: str
    in_costs: bool
    title: str
    unit: float
    floor: float


COSTS: Final[Mapping[str, Cost]] = {
    "time": Cost("seconds_per_edit", True, "seconds per edit", 1.0, 1e-4),
    "preparation": Cost("preparation_seconds", True, "seconds of preparation", 1.0, 1e-2),
    "answer": Cost("answer_seconds", True, "seconds per answer", 1.0, 1e-5),
    "tokens": Cost("tokens_per_answer", False, "tokens per answer", 1.0, 1.0),
    "bytes": Cost("stored_bytes", False, "stored bytes", 2.0**20, 2.0**10),
}


@dataclass(frozen=True)
class Value:
    """What was measured: unit of the criterion, with the 95 % interval and the number of cases where there are any, and
    the mean of each order where a sequence was run in several."""

    value: float
    low: float | None = None
    high: float | None = None
    cases: int | None = None
    orders: Mapping[str, float] = field(default_factory=dict)

    def text(self) -> str:
        """The value and its interval."""
        if self.low is None or self.high is None:
            return f"{self.value:,.0f}" if self.value >= 1000 else f"{self.value:.3g}"
        return f"{self.value:.3f} [{self.low:.2f}, {self.high:.2f}]"


def share_kept(bits: Floats, unedited: float) -> Floats:
    """Fluency as a share of the unedited model's.  bits: (methods,), unedited: bits, above 0; returns (methods,)."""
    kept: Floats = np.minimum(1.0, bits / unedited)
    return kept


def points_saved(amounts: Floats, unit: float, floor: float) -> Floats:
    """One point for each factor of ten below `unit`.  amounts: (methods,), in the unit of both; returns (methods,)."""
    points: Floats = -np.log10(np.maximum(amounts, floor) / unit)
    return points


@dataclass(frozen=True)
class Group:
    """The methods of a study in one mode and size, and what is known of each.

    Attributes:
        results: the whole study.
        mode, size: of the group.
    """

    results: Results
    mode: Mode
    size: int

    @property
    def title(self) -> str:
        """The group in words."""
        return {
            "single": "single edits",
            "batch": f"a batch of {self.size}",
            "sequence": f"a sequence, after {self.size}",
        }[self.mode]

    def methods(self) -> list[str]:
        """Those that were measured in this mode and size, in the order of the study's table."""
        cells = self.results.rows
        group = (self.mode, self.size)
        return [cell.method for cell in cells if (cell.mode, cell.size) == group and cell.method != UNEDITED]

    def criteria(self) -> list[str]:
        """Names of the criteria that at least one method has a value for: properties, their kinds, costs."""
        names = {name for method in self.methods() for name in self._row(method).get("numbers", {})}
        order = [*PROPERTIES, FLUENCY]
        found = sorted(names, key=lambda name: (_place(name.partition("/")[0], order), name))
        return [name for name in (QUALITY, *found, *COSTS) if any(self.value(name, each) for each in self.methods())]

    def value(self, criterion: str, method: str) -> Value | None:
        """What was measured of a method; None where nothing was."""
        if criterion == QUALITY:
            values = [self._mean(method, name) for name in SURVEYED if self._is_measured(name)]
            means = [value.value for value in values if value is not None]
            return Value(fmean(means)) if means and len(means) == len(values) else None
        if criterion in COSTS:
            cost = COSTS[criterion]
            table = (self.results.costs or {}) if cost.in_costs else self.results.rows
            amount = number(table.get(Cell(method, self.mode, self.size), {}).get(cost.field))
            return None if amount is None else Value(amount)
        return self._mean(method, criterion)

    def utilities(self, criterion: str, values: Sequence[Value]) -> Floats:
        """How good values of a criterion are: see the module.

        Returns: (methods,), one for each value, more is better.
        Raises: ConfigurationError: there is no scale: bits without the unedited model's, or another unit.
        """
        amounts = np.array([value.value for value in values], dtype=np.float64)
        if criterion in COSTS:
            return points_saved(amounts, COSTS[criterion].unit, COSTS[criterion].floor)
        units = {self._unit(method, criterion) for method in self.methods()} - {None}
        if criterion == QUALITY or units == {"fraction"}:
            return amounts
        if units != {"bits"}:
            raise ConfigurationError(
                f"{criterion} is measured in {' and '.join(sorted(map(str, units)))}, which cannot be weighed against "
                "other criteria; leave it out of --weights."
            )
        row = self.results.unedited(self.mode, self.size) or {}
        unedited = number(row.get("numbers", {}).get(criterion, {}).get("mean"))
        if not unedited or unedited < 0:
            raise ConfigurationError(
                f"{criterion} is weighed as the share of the unedited model's that is kept, but the study has no value "
                f"of the unedited model for {self.title}; leave {criterion} out of --weights."
            )
        return share_kept(amounts, unedited)

    def _row(self, method: str) -> Mapping[str, Any]:
        return self.results.rows[Cell(method, self.mode, self.size)]

    def _unit(self, method: str, criterion: str) -> str | None:
        unit = self._row(method).get("numbers", {}).get(criterion, {}).get("unit", "fraction")
        return unit if criterion in self._row(method).get("numbers", {}) else None

    def _is_measured(self, name: str) -> bool:
        return any(self._mean(method, name) is not None for method in self.methods())

    def _mean(self, method: str, name: str) -> Value | None:
        entry = self._row(method).get("numbers", {}).get(name)
        mean = None if entry is None else number(entry.get("mean"))
        if entry is None or mean is None:
            return None
        cases = number(entry.get("cases"))
        means = {order: number(own) for order, own in entry.get("orders", {}).get("means", {}).items()}
        orders = {order: own for order, own in means.items() if own is not None}
        low, high = number(entry.get("low")), number(entry.get("high"))
        return Value(mean, low, high, None if cases is None else int(cases), orders)


def choose_group(results: Results, mode: str | None, size: int | None) -> Group:
    """The group of a mode and size; by default single edits where there are any, and the only size.

    Raises: ConfigurationError: the study has none such, or several sizes and none was named; says which there are.
    """
    sizes = results.sizes()
    there = "; ".join(
        name if name == "single" else f"{name} of {', '.join(map(str, found))}" for name, found in sizes.items()
    )
    if not sizes:
        raise ConfigurationError(f"the study {results.name} has no row of any method.")
    chosen = mode or next(name for name in MODES if name in sizes)
    if chosen not in sizes:
        raise ConfigurationError(f"the study {results.name} has no {chosen} edits; it has {there}.")
    if size is None and len(sizes[chosen]) > 1:
        raise ConfigurationError(f"name the number of edits with --size: the study {results.name} has {there}.")
    if size is not None and size not in sizes[chosen]:
        raise ConfigurationError(f"the study {results.name} has no {chosen} of {size}; it has {there}.")
    return Group(results, next(name for name in MODES if name == chosen), size or sizes[chosen][0])


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)
