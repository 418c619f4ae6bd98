"""A choice of a method in words and tables, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

import numpy as np

from editguard.report.trade_off import TradeOff
from editguard.study.choice import Choice
from editguard.study.criteria import COSTS, FLUENCY
from editguard.study.fitting import tables_within
from editguard.study.ranking import normalised


def choice_text(choice: Choice, shown: TradeOff | None, width: int | None = None) -> str:
    """The ranking with its parts, who is not ranked and why, how the weights decide, and who is dominated.

    Args:
        shown: two criteria against each other; None where they are not known.
        width: in characters; None for as much as wanted.
    """
    return "\n".join(
        [*_ranking(choice, width), *_unranked(choice), *_sensitivity(choice, width), *_front(choice, shown)]
    )


def _ranking(choice: Choice, width: int | None) -> Iterator[str]:
    study = choice.group.results
    of = f" of {study.model}" if study.model and study.model != study.name else ""
    yield f"{study.name}{of}, {choice.group.title}: {len(choice.methods)} of {_total(choice)} methods ranked"
    if not choice.methods:
        return
    shares = normalised(np.array(list(choice.weights.values())))
    headers = ["place", "method", "score"]
    headers += [
        f"{COSTS[name].title if name in COSTS else name} (weight {share:.1%})"
        for name, share in zip(choice.weights, shares, strict=True)
    ]
    lines = [
        [str(choice.places[at]), name, f"{choice.parts[at].sum():.3f}"]
        + [
            f"{choice.values[name][criterion].text()}\n{choice.parts[at, column]:+.3f}"
            for column, criterion in enumerate(choice.weights)
        ]
        for at, name in enumerate(choice.methods)
    ]
    yield ""
    yield from tables_within(lines, headers, "simple", 3, width)
    yield ""
    yield "Under each value what it adds to the score: the weight's share times the utility."
    notes = ["A share of answers is its own utility"]
    if any(name.partition("/")[0] == FLUENCY for name in choice.weights):
        notes.append("fluency is the share of the unedited model's that is kept")
    if any(name in COSTS for name in choice.weights):
        notes.append("a cost is a point less for each factor of ten (0 at one second, one token, one MiB)")
    yield f"{'; '.join(notes)}."


def _total(choice: Choice) -> int:
    return len(choice.methods) + len(choice.unranked)


def _unranked(choice: Choice) -> Iterator[str]:
    if choice.unranked:
        yield "\nNot ranked:"
    yield from (f"  {name}: {reason}" for name, reason in choice.unranked.items())
    for name, limits in choice.doubtful.items():
        if limits:
            yield f"  (in doubt: the interval of {name} reaches over {', '.join(limits)})"


def _sensitivity(choice: Choice, width: int | None) -> Iterator[str]:
    if not choice.methods:
        yield "\nNo method is left to choose: see the reasons, and loosen a limit."
        return
    yield f"\nFirst: {', '.join(choice.winners)}{' (equal)' if len(choice.winners) > 1 else ''}"
    if len(choice.winners) == 1 and choice.lead is not None and choice.margin is not None:
        doubt = "; these measurements do not tell the two apart" if choice.lead < choice.margin else ""
        yield (
            f"It leads {choice.methods[1]} by {choice.lead:.3f}; the intervals of the values allow +- "
            f"{choice.margin:.3f}{doubt}."
        )
    if len(choice.weights) > 1:
        yield from _shares(choice)
        yield from _nearest(choice)
        yield from _ranges(choice, width)


def _shares(choice: Choice) -> Iterator[str]:
    how = (
        "exact"
        if choice.exact
        else f"{choice.draws:,} uniform draws, seed {choice.seed}, with the standard error of each"
    )
    yield f"Over all divisions of the weight among these {len(choice.weights)} criteria ({how}) the first one is"
    order = sorted(range(len(choice.methods)), key=lambda at: (-choice.shares[at], at))
    for at in order:
        if choice.shares[at] > 0 or choice.choosable[at]:
            error = "" if choice.exact else f" +- {choice.errors[at]:.3%}"
            rare = "" if choice.shares[at] > 0 else " (in no draw, but there are such weights)"
            yield f"  {choice.methods[at]:<16} {choice.shares[at]:>8.3%}{error}{rare}"
    never = [name for name, possible in zip(choice.methods, choice.choosable, strict=True) if not possible]
    if never:
        yield f"  and never, whatever the weights: {', '.join(never)}"


def _nearest(choice: Choice) -> Iterator[str]:
    if choice.shift is None:
        yield "No weights put another method before it."
        return
    given = normalised(np.array(list(choice.weights.values())))
    changed = [
        f"{name} {before:.1%} -> {choice.shift.shares[name]:.1%}"
        for name, before in zip(choice.weights, given, strict=True)
        if abs(before - choice.shift.shares[name]) > 1e-9
    ]
    yield (
        f"Nearest change: {choice.shift.method} is level once {choice.shift.moved:.1%} of the weight moves"
        + (f" ({', '.join(changed)})." if changed else ".")
    )


def _ranges(choice: Choice, width: int | None) -> Iterator[str]:
    lines = [
        [
            name,
            f"{choice.weights[name]:g}",
            f"{each.low:.3g}",
            "" if each.below is None else choice.methods[each.below],
            f"{each.high:.3g}" if isfinite(each.high) else "any",
            "" if each.above is None else choice.methods[each.above],
        ]
        for name, each in choice.ranges.items()
    ]
    headers = ["one weight alone", "given", f"{choice.methods[0]} from", "below it", "up to", "above it"]
    yield ""
    yield from tables_within(lines, headers, "simple", 1, width)


def _front(choice: Choice, shown: TradeOff | None) -> Iterator[str]:
    if choice.methods:
        front = [name for name, on_it in zip(choice.methods, choice.front, strict=True) if on_it]
        yield f"\nNot dominated in the {len(choice.weights)} weighted criteria: {', '.join(front)}"
    if shown is not None:
        pair = f"{shown.up} against {shown.across}"
        yield f"Not dominated in {pair}, limits aside: {', '.join(shown.to_json()['front'])}"
