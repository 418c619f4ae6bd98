"""Measurements, baselines and environments to compare."""

from __future__ import annotations

from collections.abc import Sequence

from editguard.comparison import Acceptance, CheckRecord, Environment
from editguard.measurements import CaseValue, Measurement


def measured(numbers: Sequence[float | None], *, edits: Sequence[str] | None = None, **more: object) -> Measurement:
    """A measurement with these values, one probe per edit unless `edits` says otherwise."""
    values = tuple(
        CaseValue(
            probe=f"probe{i:04}",
            edit=edits[i] if edits is not None else f"edit{i:04}",
            kind="request",
            prompt=f"The capital of S{i} is",
            expected=(f"T{i}",),
            answer=f"T{i}" if number else "Tamrin",
            outcome="exact" if number else ("invalid" if number is None else "contradiction"),
            value=number,
            token_accuracy=number,
        )
        for i, number in enumerate(numbers)
    )
    fields = {
        "name": "reliability",
        "protocol": "decode_match",
        "method": "rome",
        "model": "pocket",
        "mode": "batch",
        "edit_ids": tuple(dict.fromkeys(value.edit for value in values)),
        **more,
    }
    return Measurement(values=values, **fields)  # type: ignore[arg-type]


def accepted(
    measurement: Measurement, *, label: str = "test_it", why: str = "first", on: str = "2026-01-02"
) -> CheckRecord:
    return CheckRecord.of(measurement, label=label, accepted=Acceptance("Ada", why, on))


def lost(cases: int, losses: int, gains: int = 0) -> tuple[Measurement, Measurement]:
    """Runs before and after: `losses` of the cases fail now, `gains` pass now, of the others 9 in 10 pass in both."""
    rest = cases - losses - gains
    both = rest - rest // 10
    before = [1.0] * losses + [0.0] * gains + [1.0] * both + [0.0] * (rest - both)
    now = [0.0] * losses + [1.0] * gains + [1.0] * both + [0.0] * (rest - both)
    return measured(before), measured(now)


def environment(**more: object) -> Environment:
    fields = {"device": "cpu", "dtype": "float32", "fingerprint": "abc123", "record": {"versions": {"torch": "2.13.0"}}}
    return Environment(**{**fields, **more})  # type: ignore[arg-type]
