"""A run as one page that needs nothing beside itself: the verdict first, then why, what was measured, and each case."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.resources import files
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from editguard.blame.finding import Finding
from editguard.comparison.policy import Breach
from editguard.comparison.verdict import Verdict
from editguard.measurements.record import Measurement
from editguard.measurements.signals import Series
from editguard.report import terminal
from editguard.report.cases import Packed
from editguard.report.drift_panels import Look, Panel, looks, property_panels, signal_panels
from editguard.report.github import Annotation
from editguard.report.palette import COLOURS, ON_DARK
from editguard.report.retention_map import SIGNS, RetentionMap, retention_maps
from editguard.report.sequences import Grown, grown_sequences

METHODS_ABREAST: Final = 6
"""In a table that paper holds."""
SHOWN: Final = 10
"""Lost cases of a verdict, and edits and probes of a finding, at most; all cases are below."""
_PASSED, _FAILED, _STOPPED, _NOTHING = "Passed", "Failed", "Stopped", "Nothing was tested"
_OUTCOMES: Final[Mapping[int, str]] = {0: _PASSED, 2: _STOPPED, 5: _NOTHING}
"""By exit status; all others are failures."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a page is made of.

    Attributes:
        exit_status: of the run.
        tests: outcome in words -> how many tests had it.
        facts: what and where was run; name -> value, as shown.
        measurements: of all tests; their cases need no texts.
        verdicts, findings, sequences: of all tests.
        failures: tests that failed, with their messages.
        gated: whether the run is held to a policy.
        breaches: what it does not fulfil.
        notes: further lines that speak for a failure, such as baselines that cannot be written.
        remarks: further lines, such as methods that refused.
        cases: what is shown one by one; also says what the edits are in words.
    """

    exit_status: int
    tests: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    measurements: Sequence[Measurement] = ()
    verdicts: Sequence[Verdict] = ()
    findings: Sequence[Finding] = ()
    sequences: Sequence[Series] = ()
    failures: Sequence[Annotation] = ()
    gated: bool = False
    breaches: Sequence[Breach] = ()
    notes: Sequence[str] = ()
    remarks: Sequence[str] = ()
    cases: Packed = field(default_factory=lambda: Packed(()))

    @property
    def outcome(self) -> str:
        """In a word or two."""
        return _OUTCOMES.get(self.exit_status, _FAILED)

    @property
    def sentence(self) -> str:
        """The outcome and its reasons in a sentence."""
        parts = [_tests_in_words(self.tests)]
        if self.verdicts:
            parts.append(terminal.verdict_counts(self.verdicts))
        if self.gated:
            count = len(self.breaches)
            points = f"is broken in {count} point{'' if count == 1 else 's'}" if count else "is fulfilled"
            parts.append(f"the gate's policy {points}")
        if self.outcome == _STOPPED:
            parts.append("the run was stopped before its end, so that this page is of a part of it")
        text = "; ".join([*filter(None, parts), f"exit status {self.exit_status}"])
        return f"{_begun(text)}."

    @property
    def regressed(self) -> list[Verdict]:
        """Checks that got worse, the strongest evidence first."""
        found = [verdict for verdict in self.verdicts if verdict.kind == "regressed"]
        return sorted(found, key=lambda verdict: -1.0 if verdict.p_value is None else verdict.p_value)

    @property
    def undecided(self) -> list[Verdict]:
        """Checks that were compared without a clear verdict."""
        return [verdict for verdict in self.verdicts if verdict.kind == "undecided"]

    @property
    def uncompared(self) -> list[Verdict]:
        """Checks that there is nothing to compare with for."""
        return [verdict for verdict in self.verdicts if verdict.kind in ("missing", "not comparable")]


@dataclass(frozen=True)
class Table:
    """A part of the table of measurements: some methods abreast; `groups`: mode and edits -> rows of cells.

    A row is the property, the number of cases, and of each method its value and its interval.
    """

    methods: tuple[str, ...]
    groups: tuple[tuple[str, tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]], ...]


@dataclass(frozen=True)
class Drift:
    """A figure of several charts with one legend."""

    title: str
    panels: Sequence[Panel]
    methods: Sequence[str]


def run_page(run: Run) -> str:
    """Return the HTML of a run; the same run gives the same page."""
    environment = Environment(
        loader=PackageLoader("editguard.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["begun"] = _begun
    grown = grown_sequences(run.measurements)
    drifts = _drifts(run, grown)
    names = [one.method for one in run.measurements] + [name for drift in drifts for name in drift.methods]
    drawn: dict[str, Look] = looks(names)
    script = _file("run.js")
    page = environment.get_template("run.html").render(
        run=run,
        tables=_tables(run.measurements),
        drifts=drifts,
        looks=drawn,
        maps=_maps(run, grown),
        signs=SIGNS,
        colours=list(zip(COLOURS, ON_DARK, strict=True)),
        shown=SHOWN,
        style=Markup(_file("run.css")),
        script=Markup(script),
        digest=b64encode(sha256(script.encode()).digest()).decode("ascii"),
        data=Markup(_as_script(run.cases)),
    )
    return page.encode("utf-8", "replace").decode()  # a model may say half of a pair of surrogates


def _begun(text: str) -> str:
    """Text with a capital in front."""
    return text[:1].upper() + text[1:]


def _tests_in_words(tests: Mapping[str, int]) -> str:
    """How many tests failed, and what became of the others."""
    total = sum(tests.values())
    failed = tests.get("failed", 0) + tests.get("error", 0)
    if not total:
        return "no test ran"
    tests_in_all = f"{total} test{'' if total == 1 else 's'}"
    passed = tests.get("passed", 0)
    if passed == total:
        return "the only test passed" if total == 1 else f"all {tests_in_all} passed"
    rest = ", ".join(f"{count} {name}" for name, count in tests.items() if count and name not in ("failed", "error"))
    first = f"{failed} of {tests_in_all} failed" if failed else f"none of {tests_in_all} failed"
    return f"{first} ({rest})" if rest else first


def _tables(measurements: Sequence[Measurement]) -> list[Table]:
    methods = list(dict.fromkeys(one.method for one in measurements))
    tables = []
    for start in range(0, len(methods), METHODS_ABREAST):
        abreast = methods[start : start + METHODS_ABREAST]
        rows, _ = terminal.measurement_rows([one for one in measurements if one.method in abreast], abreast)
        groups: list[tuple[str, list[tuple[str, str, tuple[tuple[str, str], ...]]]]] = []
        for edits, title, cases, *cells in rows:
            if edits:
                groups.append((_edits_in_words(edits), []))
            groups[-1][1].append((title, cases, tuple(_parted(cell) for cell in cells)))
        tables.append(Table(tuple(abreast), tuple((edits, tuple(lines)) for edits, lines in groups)))
    return tables


def _edits_in_words(edits: str) -> str:
    """From "10 (sequence)", as the terminal has it, to "10 edits, sequence"."""
    number, _, mode = edits.partition(" (")
    return f"{number} edit{'' if number == '1' else 's'}, {mode.removesuffix(')')}"


def _parted(cell: str) -> tuple[str, str]:
    """A cell's mean, and its interval with what follows."""
    mean, bracket, rest = cell.partition(" [")
    return mean, f"[{rest}" if bracket else ""


def _drifts(run: Run, grown: Sequence[Grown]) -> list[Drift]:
    found = [
        Drift(f"Properties {_about(sequence, run.cases.edits)}", panels, sequence.methods)
        for sequence in grown
        if (panels := property_panels(sequence))
    ]
    for length, panels in signal_panels(run.sequences):
        methods = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
        found.append(Drift(f"Read after every edit of {length}", panels, methods))
    return found


def _maps(run: Run, grown: Sequence[Grown]) -> list[tuple[str, list[RetentionMap]]]:
    found = [(_about(sequence, run.cases.edits), retention_maps(sequence, run.cases.edits)) for sequence in grown]
    return [(title, maps) for title, maps in found if maps]


def _about(sequence: Grown, edits: Mapping[str, str]) -> str:
    first = edits.get(sequence.edit_ids[0], "")
    begins = f", the first of them {first}" if first else ""
    return f"over a sequence of {len(sequence.edit_ids)} edits{begins}"


def _as_script(cases: Packed) -> str:
    """The cases as JSON that ends no element of HTML, whatever stands in it."""
    text = json.dumps(cases.data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _file(name: str) -> str:
    return (files("editguard.report") / "templates" / name).read_text(encoding="utf-8")
