"""The outcome of a run for GitHub: a job summary in Markdown, and annotations at the lines of the suites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, Literal

from editguard.blame.finding import Finding
from editguard.comparison.verdict import Verdict
from editguard.measurements.record import Measurement
from editguard.measurements.signals import Series
from editguard.report import terminal

SUMMARY_BYTES: Final = 900_000
"""GitHub takes no summary of more than 1 MiB, and shows nothing of a larger one."""
MOST_ANNOTATIONS: Final = 8
"""GitHub shows ten of a step; one is left for "and more", and one for others."""
Severity = Literal["error", "warning", "notice"]
_ORDER: Final[tuple[Severity, ...]] = ("error", "warning", "notice")


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """A message at a line of a file, relative to the repository's root.

    Attributes:
        severity: as GitHub names it.
        file, line: where, from 1 on.
        title: a few words.
        message: for people, with line ends.
    """

    severity: Severity
    file: str
    line: int
    title: str
    message: str

    def __str__(self) -> str:
        where = f"file={_property(self.file)},line={self.line},title={_property(self.title)}"
        return f"::{self.severity} {where}::{_data(self.message)}"


def commands(found: Sequence[Annotation]) -> list[str]:
    """The workflow commands of annotations, the most severe first; of many the rest is counted.

    Source: GitHub's documentation, "Workflow commands for GitHub Actions".
    """
    ordered = sorted(found, key=lambda each: _ORDER.index(each.severity))
    lines = [str(each) for each in ordered[:MOST_ANNOTATIONS]]
    left = len(ordered) - MOST_ANNOTATIONS
    if left > 0:
        lines.append(f"::notice title=editguard::and {left} more, see the job summary")
    return lines


def job_summary(
    *,
    failed: Sequence[Annotation],
    measurements: Sequence[Measurement],
    verdicts: Sequence[Verdict],
    findings: Sequence[Finding],
    sequences: Sequence[Series],
    notes: Sequence[str] = (),
) -> str:
    """The run in Markdown: the outcome first, then what failed, what was measured, and how sequences drifted.

    Args:
        failed: tests that failed.
        measurements, verdicts, findings, sequences: of all tests.
        notes: further lines, such as refused methods.

    Returns: at most `SUMMARY_BYTES` in UTF-8; what is cut is said.
    """
    parts = [f"## editguard: {_outcome(failed, verdicts)}", terminal.verdict_counts(verdicts) if verdicts else ""]
    parts += [_item(each) for each in failed]
    parts += [_folded(f"{verdict.label}: {verdict.lines[0]}", verdict.lines) for verdict in _bad(verdicts)]
    parts += [_folded(f"{finding.test}: {finding.lines[0]}", finding.lines) for finding in findings]
    methods = list(dict.fromkeys(one.method for one in measurements))
    if measurements:
        parts.append(_table(*terminal.measurement_rows(measurements, methods)))
    parts += [_table(*part) for part in terminal.drift_rows(sequences)]
    parts += [_text(note) for note in notes]
    return _cut("\n\n".join(part for part in parts if part) + "\n")


def _outcome(failed: Sequence[Annotation], verdicts: Sequence[Verdict]) -> str:
    regressed = sum(verdict.kind == "regressed" for verdict in verdicts)
    if failed or regressed:
        tests = f"{len(failed)} test{'' if len(failed) == 1 else 's'} failed" if failed else "no test failed by itself"
        return f"{tests}, {regressed} of {len(verdicts)} checks regressed"
    undecided = sum(verdict.kind == "undecided" for verdict in verdicts)
    return "all held" if not undecided else f"nothing regressed, {undecided} undecided"


def _bad(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Verdicts that need a look, regressions first."""
    order = ("regressed", "undecided", "missing", "not comparable")
    return sorted(
        (verdict for verdict in verdicts if verdict.kind in order), key=lambda verdict: order.index(verdict.kind)
    )


def _item(failed: Annotation) -> str:
    first, _, rest = failed.message.partition("\n")
    return _details(f"{failed.file}:{failed.line}: {failed.title}: {first}", rest)


def _folded(title: str, lines: Sequence[str]) -> str:
    return _details(title, "\n".join(lines[1:]))


def _details(title: str, text: str) -> str:
    """A line that opens to a text of fixed width, where there is one."""
    if not text.strip():
        return _text(title)
    return f"<details><summary>{escape(title, quote=False)}</summary>\n\n<pre>{_raw(text)}</pre>\n\n</details>"


def _raw(text: str) -> str:
    """Text within HTML; a blank line would end the HTML for Markdown."""
    return "\n".join(escape(line, quote=False) or "&nbsp;" for line in text.strip("\n").splitlines())


def _table(rows: Sequence[Sequence[str]], titles: Sequence[str]) -> str:
    from tabulate import tabulate

    cells = [[_text(cell).replace("|", "\\|") for cell in row] for row in rows]
    return tabulate(cells, headers=[_text(title) for title in titles], tablefmt="github", disable_numparse=True)


def _text(text: str) -> str:
    """Text that Markdown leaves as it is, on one line."""
    safe = escape(" ".join(text.split()), quote=False)
    for sign in "\\`*_#[]~":
        safe = safe.replace(sign, f"\\{sign}")
    return safe


def _cut(text: str) -> str:
    raw = text.encode()
    if len(raw) <= SUMMARY_BYTES:
        return text
    end = "\n\n(cut: the whole would be too long for a job summary)\n"
    kept = raw[: SUMMARY_BYTES - len(end)].decode(errors="ignore")
    if kept.rfind("<details>") > kept.rfind("</details>"):  # one that would stay open
        kept = kept.rpartition("<details>")[0]
    return kept + end


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
