"""The choice of a method: who is ranked and who is not, by what, and how sure the first place is of the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from editguard.study.criteria import COSTS, Group, Value
from editguard.study.preferences import Limit
from editguard.study.ranking import (
    Floats,
    WeightRange,
    choosable,
    contributions,
    dominated,
    lead_margin,
    normalised,
    ranks,
    smallest_shift,
    weight_range,
    winning_shares,
)


@dataclass(frozen=True)
class Shift:
    """The smallest move of weight after which another method is level with the winner.

    Attributes:
        method: the other one.
        moved: share of the whole weight that moves, from 0 to 1.
        shares: criterion -> its share of the weight afterwards.
    """

    method: str
    moved: float
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Choice:
    """A ranking, and what it rests on.

    Attributes:
        group: mode and size.
        weights: criterion -> weight as given, above 0.
        limits: that every ranked method holds.
        methods: ranked ones, the best first; of equal ones in alphabetical order.
        values: method -> criterion -> what was measured, also of criteria that have only a limit.
        utilities, parts: (methods, criteria) in the order of `methods` and `weights`; the parts add up to the score.
        places: (methods,), from 1 on.
        unranked: method -> reason.
        lead, margin: of the first method over the second in points of the score, and half its 95 % interval by the
            intervals of the values; None where there are no two methods.
        doubtful: method -> limits that the mean holds and an end of the interval does not.
        shares, errors: (methods,), share of all weights under which a method is first, and its standard error.
        choosable: (methods,), whether any weights make the method first.
        front: (methods,), whether no other method dominates it.
        shift: to the nearest change of winner; None where no weights change it.
        ranges: criterion -> values of its weight for which the winner stays.
        draws, seed: of the shares, where they are not exact.
    """

    group: Group
    weights: Mapping[str, float]
    limits: Sequence[Limit]
    methods: tuple[str, ...]
    values: Mapping[str, Mapping[str, Value]]
    utilities: Floats
    parts: Floats
    places: Sequence[int]
    unranked: Mapping[str, str]
    lead: float | None
    margin: float | None
    doubtful: Mapping[str, Sequence[str]]
    shares: Floats
    errors: Floats
    choosable: Sequence[bool]
    front: Sequence[bool]
    shift: Shift | None
    ranges: Mapping[str, WeightRange]
    draws: int
    seed: int

    @property
    def winners(self) -> tuple[str, ...]:
        """The first method, or several that are equal."""
        return tuple(name for name, place in zip(self.methods, self.places, strict=True) if place == 1)

    @property
    def exact(self) -> bool:
        """Whether the shares of the weights are exact."""
        return len(self.weights) < 3

    def to_json(self) -> dict[str, Any]:
        """Plain data: everything that the terminal shows, and the utilities."""
        share = dict(zip(self.weights, normalised(np.array(list(self.weights.values()))).tolist(), strict=True))
        return {
            "study": self.group.results.name,
            "model": self.group.results.model,
            "mode": self.group.mode,
            "size": self.group.size,
            "weights": dict(self.weights),
            "weight_shares": share,
            "limits": [limit.text() for limit in self.limits],
            "winners": list(self.winners),
            "lead": self.lead,
            "lead_margin": self.margin,
            "methods": [
                {
                    "method": name,
                    "place": self.places[at],
                    "score": float(self.parts[at].sum()),
                    "criteria": {
                        criterion: {
                            **_plain(self.values[name][criterion]),
                            "utility": float(self.utilities[at, column]),
                            "contribution": float(self.parts[at, column]),
                        }
                        for column, criterion in enumerate(self.weights)
                    },
                    "on_front": self.front[at],
                    "choosable": self.choosable[at],
                    "share_of_weights": float(self.shares[at]),
                    "share_standard_error": float(self.errors[at]),
                    "doubtful_limits": list(self.doubtful.get(name, ())),
                }
                for at, name in enumerate(self.methods)
            ],
            "unranked": [
                {
                    "method": name,
                    "reason": reason,
                    "values": {each: _plain(value) for each, value in self.values.get(name, {}).items()},
                }
                for name, reason in self.unranked.items()
            ],
            "shares": {"exact": self.exact, "draws": None if self.exact else self.draws, "seed": self.seed},
            "nearest_change": None
            if self.shift is None
            else {
                "method": self.shift.method,
                "moved": self.shift.moved,
                "weight_shares": dict(self.shift.shares),
            },
            "weight_ranges": {
                name: {
                    "low": each.low,
                    "high": each.high if np.isfinite(each.high) else None,
                    "below": None if each.below is None else self.methods[each.below],
                    "above": None if each.above is None else self.methods[each.above],
                }
                for name, each in self.ranges.items()
            },
            "costs": {
                name: {"unit": COSTS[name].unit, "floor": COSTS[name].floor} for name in self.weights if name in COSTS
            },
        }


def choose(group: Group, weights: Mapping[str, float], limits: Sequence[Limit], *, draws: int, seed: int) -> Choice:
    """Rank the methods of a group.

    Args:
        weights: criterion -> above 0.
        limits: hard ones.
        draws, seed: for the shares of the weights.

    Raises: ConfigurationError: a criterion has no scale.
    """
    asked = list(dict.fromkeys([*weights, *(limit.criterion for limit in limits)]))
    measured = {name: {each: group.value(each, name) for each in asked} for name in group.methods()}
    values = {
        name: {each: value for each, value in found.items() if value is not None} for name, found in measured.items()
    }
    unranked = {}
    for name in dict.fromkeys([*group.results.methods, *values]):
        reason = _reason(values.get(name), weights, limits)
        if reason:
            unranked[name] = reason
    names = sorted(set(values) - set(unranked))
    columns = [group.utilities(each, [values[name][each] for name in names]) for each in weights]
    utilities = np.stack(columns, axis=1)
    given = np.array(list(weights.values()), dtype=np.float64)
    places = ranks(contributions(utilities, given).sum(axis=1))
    order = np.argsort(places, kind="stable")
    names, utilities, places = [names[at] for at in order], utilities[order], places[order]
    parts = contributions(utilities, given)
    scores = parts.sum(axis=1)
    widths = np.stack(
        [_half_widths(group, each, [values[name][each] for name in names[:2]]) for each in weights], axis=1
    )
    shares, errors = (
        winning_shares(utilities, draws=draws, seed=seed)
        if names
        else (np.zeros(0, np.float64), np.zeros(0, np.float64))
    )
    return Choice(
        group=group,
        weights=dict(weights),
        limits=tuple(limits),
        methods=tuple(names),
        values=values,
        utilities=utilities,
        parts=parts,
        places=places.tolist(),
        unranked=unranked,
        lead=float(scores[0] - scores[1]) if len(names) > 1 else None,
        margin=lead_margin(widths, given) if len(names) > 1 else None,
        doubtful={
            name: [limit.text() for limit in limits if limit.doubtful(values[name][limit.criterion])] for name in names
        },
        shares=shares,
        errors=errors,
        choosable=choosable(utilities).tolist(),
        front=(~dominated(utilities)).tolist(),
        shift=_nearest(names, utilities, weights),
        ranges={each: weight_range(utilities, given, 0, at) for at, each in enumerate(weights)} if names else {},
        draws=draws,
        seed=seed,
    )


def _reason(values: Mapping[str, Value] | None, weights: Mapping[str, float], limits: Sequence[Limit]) -> str:
    """Why a method is not ranked; empty where it is."""
    if values is None:
        return "not measured in this mode and size"
    reasons = [
        f"{limit.criterion} is {values[limit.criterion].text()}, and {limit.text()} is required"
        + (" (in doubt: its interval reaches over that)" if limit.doubtful(values[limit.criterion]) else "")
        for limit in limits
        if limit.criterion in values and not limit.holds(values[limit.criterion].value)
    ]
    missing = [each for each in (*weights, *(limit.criterion for limit in limits)) if each not in values]
    reasons += [f"no value of {each}" for each in dict.fromkeys(missing)]
    return "; ".join(reasons)


def _half_widths(group: Group, criterion: str, values: Sequence[Value]) -> Floats:
    """Half the interval of each utility, 0 where a value has none.  Returns (values,)."""
    ends = [
        [Value(value.value if end is None else end) for end in ends]
        for value, *ends in ((value, value.low, value.high) for value in values)
    ]
    low, high = (group.utilities(criterion, [pair[at] for pair in ends]) for at in (0, 1))
    widths: Floats = np.abs(high - low) / 2
    return widths


def _nearest(names: Sequence[str], utilities: Floats, weights: Mapping[str, float]) -> Shift | None:
    """Of the smallest shifts to every rival the smallest."""
    given = normalised(np.array(list(weights.values()), dtype=np.float64))
    found = []
    for at, name in enumerate(names[1:], start=1):
        moved = smallest_shift(utilities[0] - utilities[at], given)
        if moved is not None:
            shares = dict(zip(weights, moved.tolist(), strict=True))
            found.append(Shift(name, float(np.abs(moved - given).sum() / 2), shares))
    return min(found, key=lambda shift: shift.moved, default=None)


def _plain(value: Value) -> dict[str, Any]:
    return {"value": value.value, "low": value.low, "high": value.high, "cases": value.cases}
