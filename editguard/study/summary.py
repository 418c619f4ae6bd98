"""From the records of a study to its numbers; nothing but the records is needed, and the clock plays no part."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median, stdev
from typing import Any, Final

from editguard.edits import PROPERTIES
from editguard.measurements import AnsweringCost, PhaseCost, mean_interval, summarise
from editguard.measurements.efficiency import known_max
from editguard.methods.registry import methods
from editguard.storage import write_atomically
from editguard.study.folder import Part, StudyFolder
from editguard.study.plan import MODES, UNEDITED, Cell

ORDER: Final = (*PROPERTIES, "fluency")
DIGITS: Final = 6
"""Of the numbers in the summary: more would differ by the rounding of sums."""


@dataclass(frozen=True)
class Row:
    """A cell in numbers.

    Attributes:
        cell: method, mode and size.
        one_by_one: whether the edits of a batch were applied one after another, as the method cannot do otherwise.
        edits, applied, superseded: how many edits were wanted, are in force, and were replaced by later ones.
        failed: reason -> how many edits are not in force, or could not be asked about, because of it.
        message: of the first failure.
        excluded: probes left out.
        stored_bytes: of the numbers that the edits of a state left behind, the mean over states; None where that is not
            known, as in records of earlier versions.
        stored_bytes_per_edit: the same shared among the edits in force.
        tokens_per_answer: read and written for an answer that came through a memory of edits, the mean; None where
            none did.
        numbers: property, or "property/kind" -> mean, low, high, cases, clusters, unit and, where there is one, the
            mean teacher-forced score and the agreement with the unedited model; of answers through a memory of edits
            the share in scope, the mean tokens, and how often a procedure of several steps ended how. Of several orders
            it is the mean over orders, with each order's own and their standard deviation; the interval is over edits.
        orders: of a sequence; the counts above are of all of them together.
    """

    cell: Cell
    one_by_one: bool
    edits: int
    applied: int
    superseded: int
    failed: Mapping[str, int]
    message: str
    excluded: int
    stored_bytes: float | None
    stored_bytes_per_edit: float | None
    tokens_per_answer: float | None
    numbers: Mapping[str, Mapping[str, Any]]
    orders: int = 1

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "method": self.cell.method,
            "mode": self.cell.mode,
            "size": self.cell.size,
            "one_by_one": self.one_by_one,
            "edits": self.edits,
            "applied": self.applied,
            "superseded": self.superseded,
            "failed": dict(self.failed),
            "message": self.message,
            "excluded": self.excluded,
            "stored_bytes": self.stored_bytes,
            "stored_bytes_per_edit": self.stored_bytes_per_edit,
            "tokens_per_answer": self.tokens_per_answer,
            "numbers": {name: dict(values) for name, values in self.numbers.items()},
            **({"orders": self.orders} if self.orders > 1 else {}),
        }


def summarised(folder: StudyFolder) -> list[Row]:
    """The numbers of every cell that has records, by mode, size and method; the unedited model first in each group.

    Raises: ConfigurationError: the folder holds no study. MalformedRecord: a record cannot be read.
    """
    order = [UNEDITED, *methods(), *folder.header()["methods"]]
    cells = [cell for cell in folder.cells() if _is_shown(cell, folder.cells())]
    cells.sort(key=lambda cell: (*_group(cell), order.index(cell.method) if cell.method in order else len(order)))
    alike: dict[Cell, list[Cell]] = defaultdict(list)
    for cell in cells:
        alike[cell.in_all_orders].append(cell)
    rows = [_row(cell, {each.order: list(folder.parts(each).values()) for each in alike[cell]}) for cell in alike]
    return [row for row in rows if row is not None]


def costs_of(folder: StudyFolder) -> list[dict[str, Any]]:
    """Seconds, memory and energy by method, mode and size; of work that was done twice, after a kill, the later counts.

    The seconds of an answer are medians over the states of a cell; None where no pass was timed. "phases" has what
    preparing, editing and evaluating took each, as far as it is known; the preparation is the method's, for all its
    cells.
    """
    preparation: dict[str, list[PhaseCost]] = {}
    spent: dict[Cell, dict[tuple[int, str], list[PhaseCost]]] = defaultdict(dict)
    timed: dict[Cell, dict[tuple[int, str], AnsweringCost]] = defaultdict(dict)
    for record in folder.costs():
        costs = [PhaseCost.from_json(cost) for cost in record["costs"]]
        if "cell" in record:
            named = Cell.named(record["cell"])
            cell, part = named.in_all_orders, (named.order, record["part"])
            spent[cell][part] = costs
            if "answering" in record:
                timed[cell][part] = AnsweringCost.from_json(record["answering"])
        else:  # later preparations find what the first has left on disk
            preparation.setdefault(record["method"], costs)
    found = []
    for cell in sorted(spent, key=lambda cell: (*_group(cell), cell.method)):
        if cell.method == UNEDITED:
            continue
        known = [cost for costs in spent[cell].values() for cost in costs]
        if not known:  # a method that was refused before its first edit
            continue
        [one] = summarise(known)
        answering = list(timed[cell].values())
        overhead = [added for each in answering if (added := each.overhead_per_token) is not None]
        prepared = summarise(preparation.get(cell.method, []))
        phases = {name: total for each in (*prepared, one) for name, total in each.phases.items()}
        found.append(
            {
                "method": cell.method,
                "mode": cell.mode,
                "size": cell.size,
                "edits": one.edits,
                "seconds_per_edit": one.median_seconds,
                "quartile_seconds": one.quartiles,
                "applications": sum(each.times for each in one.applications),
                "first_seconds": one.first_seconds,
                "preparation_seconds": prepared[0].preparation_seconds if prepared else None,
                "evaluation_seconds": one.evaluation_seconds,
                "answer_seconds": median(each.edited_seconds for each in answering) if answering else None,
                "unedited_answer_seconds": median(each.unedited_seconds for each in answering) if answering else None,
                "answer_ratio": median(each.ratio for each in answering) if answering else None,
                "overhead_seconds_per_token": median(overhead) if overhead else None,
                "host_peak_bytes": one.host_peak_bytes,
                "device_peak_bytes": one.device_peak_bytes,
                "device_reserved_bytes": known_max(total.device_reserved_bytes for total in one.phases.values()),
                "phases": {name: asdict(total) for name, total in phases.items()},
            }
        )
    return found


def write_summary(folder: StudyFolder, rows: Sequence[Row], markdown: str) -> None:
    """Write summary.json, which depends on the records alone, costs.json and table.md.

    Raises: CacheError: a file cannot be written.
    """
    header = folder.header()
    study = {name: value for name, value in header.items() if name != "notes"}
    _write_json(folder, "summary.json", {"study": study}, [row.to_json() for row in rows])
    _write_json(folder, "costs.json", {"notes": header["notes"]}, costs_of(folder))
    write_atomically(folder.path / "table.md", markdown)


def _write_json(folder: StudyFolder, name: str, head: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON object with a line for each of its `rows`, so that two files can be compared line by line."""
    options: dict[str, Any] = {"ensure_ascii": False, "sort_keys": True, "allow_nan": False}
    opening = json.dumps(dict(head), indent=1, **options).removesuffix("\n}")
    lines = ",\n".join("  " + json.dumps(row, **options) for row in rows)
    write_atomically(folder.path / name, f'{opening},\n "rows": [\n{lines}\n ]\n}}\n')


def _is_shown(cell: Cell, cells: Sequence[Cell]) -> bool:
    """Of the unedited model's answers about single edits only those about the most cases count."""
    alike = [one.size for one in cells if one.method == UNEDITED and one.mode == "single"]
    return cell.method != UNEDITED or cell.mode != "single" or cell.size == max(alike)


def _group(cell: Cell) -> tuple[int, int]:
    return (MODES.index(cell.mode), 1 if cell.mode == "single" else cell.size)


def _row(cell: Cell, orders: Mapping[int, Sequence[Part]]) -> Row | None:
    orders = {order: parts for order, parts in sorted(orders.items()) if parts}
    if not orders:
        return None
    parts = [part for each in orders.values() for part in each]
    asked = {order: [value for part in each for value in part.values] for order, each in orders.items()}
    values = [value for each in asked.values() for value in each]
    failures = [failure for part in parts for failure in part.end["failed"]]
    failed: dict[str, int] = defaultdict(int)
    for failure in failures:
        failed[failure["reason"]] += 1
    lookups = [value["lookup"] for value in values if "lookup" in value]
    registered = methods().get(cell.method)
    sized = [part for part in parts if part.end.get("stored_bytes") is not None]
    stored = sum(part.end["stored_bytes"] for part in sized)
    return Row(
        cell=cell,
        one_by_one=cell.mode == "batch" and registered is not None and not registered.batches,
        edits=sum(part.end["edits"] for part in parts),
        applied=sum(part.end["applied"] for part in parts),
        superseded=sum(len(part.end["superseded"]) for part in parts),
        failed=dict(sorted(failed.items())),
        message=failures[0]["message"] if failures else "",
        excluded=sum(sum(part.end["excluded"].values()) for part in parts),
        stored_bytes=_rounded(stored / len(sized)) if sized else None,
        stored_bytes_per_edit=_rounded(stored / sum(part.end["applied"] for part in sized)) if sized else None,
        tokens_per_answer=_rounded(fmean(lookup["tokens"] for lookup in lookups)) if lookups else None,
        numbers=_over_orders(_numbers(values), asked) if len(orders) > 1 else _numbers(values),
        orders=len(orders),
    )


def _numbers(values: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each property, and each of its kinds where there are several."""
    groups = _titled(values)
    return {title: _statistics(groups[title]) for title in sorted(groups, key=_place)}


def _titled(values: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for value in values:
        groups[value["property"]].append(value)
        groups[f"{value['property']}/{value['kind']}"].append(value)
    return groups


def _over_orders(
    numbers: Mapping[str, Mapping[str, Any]], asked: Mapping[int, Sequence[Mapping[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """Numbers of all values, with the mean over orders in place of that over values, and the spread between orders.

    An order is a draw of a random effect: every one counts the same, and the spread is a standard deviation of its own,
    beside the interval, which is over edits.
    """
    groups = {order: _titled(values) for order, values in asked.items()}
    found = {}
    for title, entry in numbers.items():
        own = {
            order: [float(value["value"]) for value in titled.get(title, ()) if value["value"] is not None]
            for order, titled in groups.items()
        }
        means = {order: fmean(each) for order, each in own.items() if each}
        spread = stdev(means.values()) if len(means) > 1 else None
        whole = dict(entry)
        if means:
            mean = fmean(means.values())
            whole |= {"mean": _rounded(mean)}
            whole |= {"low": _rounded(min(entry["low"], mean)), "high": _rounded(max(entry["high"], mean))}
        shown = {str(order): _rounded(each) for order, each in means.items()}
        found[title] = {**whole, "orders": {"means": shown, "sd": _rounded(spread)}}
    return found


def _place(title: str) -> tuple[int, str]:
    name = title.partition("/")[0]
    return (ORDER.index(name) if name in ORDER else len(ORDER), title)


def _statistics(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    valid = [value for value in values if value["value"] is not None]
    numbers = [float(value["value"]) for value in valid]
    clusters = [value["case"] or value["probe"] for value in valid]
    unit = values[0]["unit"]
    binary = unit == "fraction" and set(numbers) <= {0.0, 1.0}
    low, high = mean_interval(numbers, clusters, binary=binary) if numbers else (None, None)
    forced = [value["token_accuracy"] for value in values if value["token_accuracy"] is not None]
    agreeing = [value["agrees"] for value in values if "agrees" in value]
    found = {
        "mean": _rounded(fmean(numbers) if numbers else None),
        "low": _rounded(low),
        "high": _rounded(high),
        "cases": len(valid),
        "invalid": len(values) - len(valid),
        "clusters": len(set(clusters)),
        "unit": unit,
    }
    if forced:
        found["token_accuracy"] = _rounded(fmean(forced))
    if agreeing:
        found["agreement"] = _rounded(fmean(agreeing))
    if lookups := [value["lookup"] for value in values if "lookup" in value]:
        found["in_scope"] = _rounded(fmean(lookup["route"] == "in-scope" for lookup in lookups))
        found["tokens"] = _rounded(fmean(lookup["tokens"] for lookup in lookups))
        outcomes = Counter(lookup["outcome"] for lookup in lookups if lookup["outcome"])
        if outcomes:
            found["outcomes"] = dict(sorted(outcomes.items()))
    return found


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, DIGITS)
