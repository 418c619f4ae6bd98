"""What GitHub is told of a run: commands that it reads, and a summary that it shows."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from editguard.comparison.verdict import Verdict
from editguard.report.github import MOST_ANNOTATIONS, SUMMARY_BYTES, Annotation, commands, job_summary

TEXTS = st.text(max_size=60)


def failed(number: int = 0, message: str = "assert 0.5 >= 0.9", **more: object) -> Annotation:
    values = {"severity": "error", "file": "suites/test_x.py", "line": 7, "title": f"test_{number}", **more}
    return Annotation(message=message, **values)  # type: ignore[arg-type]


def verdict(kind: str, label: str = "test_y[rome]", reason: str = "worse by 0.3") -> Verdict:
    return Verdict(
        kind=kind,  # type: ignore[arg-type]
        check="c",
        label=label,
        method="rome",
        mode="single",
        name="locality",
        probe_kind=None,
        edits=1,
        cases=10,
        reason=reason,
    )


def summary(**parts: object) -> str:
    empty: dict[str, object] = dict.fromkeys(("failed", "measurements", "verdicts", "findings", "sequences"), ())
    return job_summary(**{**empty, **parts})  # type: ignore[arg-type]


@settings(deadline=None, max_examples=40)
@given(title=TEXTS, message=TEXTS, file=TEXTS)
@example(title="50%0Aoff", message="%2C%25\n", file="a%3Ab:c,d")
def test_an_annotation_is_one_line_that_reads_back(title: str, message: str, file: str) -> None:
    line = str(failed(title=title, message=message, file=file))
    assert "\n" not in line
    assert "\r" not in line
    head, _, data = line.removeprefix("::error ").partition("::")
    fields = dict(part.split("=", 1) for part in head.split(","))

    def read(text: str) -> str:
        for code, sign in (("%3A", ":"), ("%2C", ","), ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
            text = text.replace(code, sign)
        return text

    assert (read(fields["file"]), read(fields["title"]), read(data)) == (file, title, message)
    assert fields["line"] == "7"


def test_of_many_annotations_the_most_severe_are_told_and_the_rest_is_counted() -> None:
    found = [failed(number, severity="warning") for number in range(20)] + [failed(99)]
    lines = commands(found)
    assert len(lines) == MOST_ANNOTATIONS + 1
    assert lines[0].startswith("::error")
    assert lines[-1] == "::notice title=editguard::and 13 more, see the job summary"
    assert len(commands(found[:MOST_ANNOTATIONS])) == MOST_ANNOTATIONS
    assert commands([]) == []


@settings(deadline=None, max_examples=40)
@given(message=st.text(), reason=st.text())
@example(message="a\n\n<b>", reason="</pre>\n\n")
def test_nothing_that_a_model_says_can_leave_its_place(message: str, reason: str) -> None:
    """Neither tags nor blank lines end the block that holds a text."""
    text = summary(failed=[failed(message=f"first\n{message}")], verdicts=[verdict("regressed", reason=reason)])
    assert text.count("<details>") == text.count("</details>")
    assert text.count("<pre>") == text.count("</pre>")
    for block in text.split("<pre>")[1:]:
        inside = block.partition("</pre>")[0]
        assert "<" not in inside
        assert "\n\n" not in inside


def test_the_outcome_comes_first() -> None:
    assert summary(verdicts=[verdict("held")]).startswith("## editguard: all held\n")
    assert summary(verdicts=[verdict("undecided"), verdict("held")]).startswith(
        "## editguard: nothing regressed, 1 undecided\n"
    )
    red = summary(failed=[failed()], verdicts=[verdict("held"), verdict("regressed")])
    assert red.startswith("## editguard: 1 test failed, 1 of 2 checks regressed\n")
    assert red.index("suites/test") < red.index("worse by 0.3")


@settings(deadline=None, max_examples=40)
@given(st.integers(200, 400))
def test_a_long_summary_is_cut_between_its_parts_and_says_so(count: int) -> None:
    long = [failed(number, "head\n" + "\u00e4" * 4_000) for number in range(count)]
    text = summary(failed=long)
    assert len(text.encode()) <= SUMMARY_BYTES
    assert text.count("<details>") == text.count("</details>") < count
    assert text.endswith("(cut: the whole would be too long for a job summary)\n")
