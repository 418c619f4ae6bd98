"""A run made up by hand: two methods on a sequence of edits, hostile texts among the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from editguard.blame.finding import Finding, LostProbe, NamedEdit
from editguard.blame.nearest import NearPair
from editguard.comparison.policy import Breach
from editguard.comparison.verdict import Flip, Verdict
from editguard.measurements import CaseValue, Measurement
from editguard.measurements.signals import Series, Signals
from editguard.report.cases import Cases, Packed
from editguard.report.github import Annotation
from editguard.report.run_page import Run

HOSTILE = (
    "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">&amp;{{ 7 * 7 }}"
)
EDITS = tuple(f"edit{number:03}" for number in range(1, 31))
TEST = "suites/test_sequence.py::test_earlier_edits_survive[{}-{}]"


def case(edit: str, *, right: bool = True, name: str = "", answer: str | None = None, **more: Any) -> CaseValue:
    fields: dict[str, Any] = {
        "probe": f"{name}:{edit}",
        "edit": edit,
        "kind": name or "prompt",
        "prompt": f"The capital of {edit} is",
        "expected": ("Oskar",),
        "answer": answer if answer is not None else "Oskar" if right else "Tamrin",
        "outcome": "exact" if right else "other",
        "value": float(right),
        "tokens": ((" Os", 0.75), ("kar", 0.5)),
        **more,
    }
    return CaseValue(**fields)


def measurement(
    method: str, edits: int, lost: Sequence[int] = (), name: str = "reliability", **more: Any
) -> Measurement:
    """A property after so many edits of the sequence, of which the edits numbered `lost` fail."""
    values = tuple(
        case(edit, right=number not in lost, name=name) for number, edit in enumerate(EDITS[:edits], start=1)
    )
    fields = {"mode": "sequence", "protocol": "decode_match", "values": values, **more}
    return Measurement(name=name, method=method, model="pocket", edit_ids=EDITS[:edits], **fields)


def verdict(measured: Measurement, kind: str, lost: Sequence[CaseValue] = (), **more: Any) -> Verdict:
    flips = tuple(
        Flip(
            probe=value.probe,
            prompt=value.prompt,
            expected=value.expected[0],
            accepted_answer="Oskar",
            present_answer=value.answer,
            accepted_outcome="exact",
            present_outcome=value.outcome,
            must_hold=number == 0,
            accepted_value=1.0,
            present_value=value.value,
        )
        for number, value in enumerate(lost)
    )
    fields: dict[str, Any] = {
        "label": f"test_earlier_edits_survive[{measured.method}-{measured.edits}]",
        "reason": "worse by 0.500, significantly",
        "accepted": 1.0,
        "present": measured.mean,
        "drop": 1.0 - measured.mean,
        "interval": (0.2, 0.7),
        "p_value": 0.001,
        "test": "exact McNemar",
        "lost": flips,
        **more,
    }
    return Verdict(
        kind=kind,  # type: ignore[arg-type]
        check=measured.id,
        method=measured.method,
        mode=measured.mode,
        name=measured.name,
        probe_kind=measured.kind,
        edits=measured.edits,
        cases=measured.n,
        **fields,
    )


def finding(**more: Any) -> Finding:
    fields: dict[str, Any] = {
        "test": TEST.format("rome", 30),
        "method": "rome",
        "edits": 30,
        "first": NamedEdit(number=17, request=EDITS[16], text="The capital of edit017 is", target="Oskar"),
        "blamed": (NamedEdit(number=12, request=EDITS[11], text="The capital of edit012 is", target=HOSTILE),),
        "minimal": True,
        "recorded": True,
        "confirmed": "same",
        "lost": (
            LostProbe(
                property="reliability",
                kind="prompt",
                prompt="The capital of edit003 is",
                expected="Oskar",
                before="Tamrin",
                after="Lund",
                number=3,
                own=False,
            ),
        ),
        "near": (NearPair(edit=12, prompt="The capital of edit003 is", token=" edit", layer=3, similarity=0.81),),
        "tried": 9,
        "seconds": 2.5,
        **more,
    }
    return Finding(**fields)


def series(method: str, edits: int = 30, worse_from: int | None = None) -> Series:
    def perplexity(count: int) -> float:
        grown = 0.0 if worse_from is None else max(0, count - worse_from) * 0.3
        return 2.0 + 0.01 * (count % 3) + grown

    return Series(
        method,
        tuple(
            Signals(edits=count, log_perplexity=perplexity(count), entropy=3.0, weights={"w": 0.01 * count})
            for count in range(edits + 1)
        ),
    )


def failed_run(**more: Any) -> Run:
    """A run in which ROME loses half of its edits, and says something hostile."""
    by_checkpoint = {1: (), 10: (3,), 30: range(1, 16)}
    measurements = [
        measurement(method, edits, lost if method == "rome" else ())
        for method in ("rome", "memit")
        for edits, lost in by_checkpoint.items()
    ]
    red = measurements[2]
    wrong = [value for value in red.values if value.value == 0.0]
    bad = verdict(red, "regressed", wrong)
    doubtful = verdict(measurements[1], "undecided", wrong[2:3], reason="one case of ten was lost", cases_needed=80)
    said = measurement("rome", 30, name="locality", values=(case("edit001", right=False, name="near", answer=HOSTILE),))
    cases = Cases()
    for one in [*measurements, said]:
        found = next((each for each in (bad, doubtful) if each.check == one.id), None)
        cases.add(one, TEST.format(one.method, one.edits), found)
    names = {edit: f"“The capital of {edit} is” → “Oskar”" for edit in EDITS}
    fields: dict[str, Any] = {
        "exit_status": 1,
        "tests": {"failed": 1, "passed": 6},
        "facts": {"model": "pocket", "date": "2031-01-02 03:04 UTC", "version": "0.1.0", "commit": "0123456789ab"},
        "measurements": [*measurements, said],
        "verdicts": [bad, doubtful, verdict(measurements[0], "held")],
        "findings": [finding()],
        "sequences": [series("rome", worse_from=12), series("memit")],
        "failures": [
            Annotation(
                severity="error", file="suites/test_sequence.py", line=7, title="test_x[rome-30]", message=HOSTILE
            )
        ],
        "gated": True,
        "breaches": [Breach("limit", "locality [rome]: 0.500, the limit is locality>=0.9")],
        "cases": Packed(cases.kept, cases.left_out, names),
        **more,
    }
    return Run(**fields)
