"""The page of a run: what stands on it, in which order, and that nothing a model says gets out of its place."""

from __future__ import annotations

import itertools
import json
import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from report.built_run import EDITS, HOSTILE, case, failed_run, finding, measurement, series, verdict

from editguard.comparison.policy import Breach
from editguard.measurements import Measurement
from editguard.report import terminal
from editguard.report.cases import COLUMNS, Cases, Packed
from editguard.report.run_page import METHODS_ABREAST, Run, run_page

VOID = {"meta", "link", "input", "img", "br", "wbr"}


class Page(HTMLParser):
    """The elements of a page, in order, with their texts; an element that is closed by another's end is an error."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert tag not in VOID
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        shown = "".join(text for tag, text in self.texts if tag not in ("script", "style"))
        return " ".join(shown.split())

    @property
    def data(self) -> dict[str, list[object]]:
        [text] = [text for tag, text in self.texts if tag == "script" and text.startswith('{"columns"')]
        found: dict[str, list[object]] = json.loads(text)
        return found


FAILED = run_page(failed_run())


def test_the_parts_come_in_the_order_in_which_a_release_is_decided() -> None:
    parts = ["outcome", "regressions", "open", "measured", "drift", "retention", "cases"]
    places = [FAILED.index(f'id="{part}"') for part in parts]
    assert places == sorted(places)
    levels = [int(tag[1]) for tag, _ in Page(FAILED).elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_a_run_of_which_nothing_is_known_has_a_page_without_empty_parts() -> None:
    page = Page(run_page(Run(exit_status=5)))
    assert "Nothing was tested" in page.text
    assert "No test ran; exit status 5." in page.text
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert ids & {"regressions", "open", "measured", "drift", "retention", "cases"} == {"cases"}


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (0, "Passed"),
        (1, "Failed"),
        (2, "Stopped"),
        (3, "Failed"),
        (5, "Nothing was tested"),
        (10, "Failed"),
        (11, "Failed"),
    ],
)
def test_the_exit_status_decides_the_outcome(status: int, outcome: str) -> None:
    run = failed_run(exit_status=status)
    assert run.outcome == outcome
    assert f"exit status {status}" in run.sentence
    assert Page(run_page(run)).text.startswith(f"{outcome}: editguard")


def test_the_sentence_counts_tests_checks_and_breaches() -> None:
    assert failed_run().sentence == (
        "1 of 7 tests failed (6 passed); 3 baseline checks: 1 held, 1 regressed, 1 undecided; "
        "the gate's policy is broken in 1 point; exit status 1."
    )
    fine = Run(exit_status=0, tests={"passed": 3}, gated=True)
    assert fine.sentence == "All 3 tests passed; the gate's policy is fulfilled; exit status 0."
    known = Run(exit_status=0, tests={"passed": 3, "xfailed": 1, "skipped": 2})
    assert known.sentence.startswith("None of 6 tests failed (3 passed, 1 xfailed, 2 skipped)")
    broken = Run(exit_status=1, tests={"failed": 1, "error": 2})
    assert broken.sentence.startswith("3 of 3 tests failed;")
    assert "of a part of it" in Run(exit_status=2, tests={"passed": 1}).sentence


def test_regressions_blame_and_open_questions_are_told_in_full() -> None:
    text = Page(FAILED).text
    for told in (
        "worse by 0.500, significantly.",
        "15 cases lost; here the first 10",
        "1 of 30 edits is to blame: it alone makes the check fail",
        "The check begins to fail with edit 17: The capital of edit017 is → Oskar.",
        "Applied from scratch they lose the same probes. 9 subsets of 30 edits tried, recorded updates, 2.5 s.",
        "Gate: locality [rome]: 0.500, the limit is locality>=0.9.",
        "About 80 cases like these would settle it",
        "test_x[rome-30]",
        "0123456789ab",
    ):
        assert told in text
    regressed, opened = text.index("significantly."), text.index("one case of ten was lost")
    assert regressed < text.index("Open questions", text.index("Regressions and what is to blame")) < opened


def test_checks_without_a_baseline_are_a_list() -> None:
    run = failed_run()
    lacking = replace(run.verdicts[2], kind="missing", reason="no value was accepted yet", details=("record it",))
    page = Page(run_page(failed_run(verdicts=[lacking, replace(lacking, kind="not comparable")])))
    assert "2 checks without a baseline to compare with" in page.text
    assert page.text.count("No value was accepted yet. record it") == 2
    assert "open" in {attributes.get("id") for attributes in page.of("section")}


def test_of_many_edits_to_blame_the_first_are_named_and_all_are_counted() -> None:
    [edit] = finding().blamed
    blamed = tuple(replace(edit, number=number, text=f"edit {number} is blamed") for number in range(1, 16))
    [probe] = finding().lost
    text = Page(run_page(failed_run(findings=[finding(blamed=blamed, lost=(probe,) * 12)]))).text
    assert "15 edits to blame; here the first 10" in text
    assert "12 probes lost with these edits in force; here the first 10" in text
    table, _, as_text = text.partition("The finding as text")
    assert (table.count("is blamed"), table.count("Lund")) == (10, 10)
    assert "and 7 more" in as_text


def test_a_finding_without_an_edit_says_why() -> None:
    run = failed_run(findings=[finding(reason="the time was over", blamed=(), first=None)])
    assert "no edit is named: the time was over" in Page(run_page(run)).text


def test_the_table_has_the_figures_of_the_terminal_s() -> None:
    methods = [f"method{number}" for number in range(METHODS_ABREAST + 2)]
    measurements = [measurement(method, 10, (3,)) for method in methods]
    page = Page(run_page(Run(exit_status=0, measurements=measurements)))
    rows, _ = terminal.measurement_rows(measurements, methods)
    assert rows
    for row in rows:
        for cell in row[3:]:
            assert cell.replace(" [", "[") in page.text.replace(" ", "") or cell.replace(" ", "") in page.text.replace(
                " ", ""
            )
    assert page.text.count("10 edits, sequence") == 2
    assert len([attributes for attributes in page.of("table") if attributes.get("class") == "measured"]) == 2


def test_nothing_is_loaded_from_anywhere_and_only_the_page_s_own_script_may_run() -> None:
    page = Page(FAILED)
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "action", "srcset", "data"):
                assert str(value).startswith(("#", "data:,"))
    assert "@import" not in FAILED
    assert "url(" not in FAILED
    script = (files("editguard.report") / "templates" / "run.js").read_text(encoding="utf-8")
    [policy] = [each["content"] for each in page.of("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none';")
    assert [text for tag, text in page.texts if tag == "script"][-1] == script
    assert "innerHTML" not in script


def test_what_is_referred_to_is_there_and_every_field_has_a_label() -> None:
    page = Page(FAILED)
    ids = [str(attributes["id"]) for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-controls", "for"):
            assert attributes.get(name, ids[0]) in ids
        if str(attributes.get("href", "")).startswith("#"):
            assert str(attributes["href"])[1:] in ids
    assert page.of("html")[0]["lang"] == "en"
    labels = FAILED.count("<label")
    assert labels == len(page.of("input")) + len(page.of("select")) > 0
    assert all(attributes.get("aria-label") for attributes in page.of("svg") if attributes.get("role") == "img")


@settings(deadline=None, max_examples=30)
@given(said=st.text(st.characters(codec=None), max_size=40))
@example(said=HOSTILE)
@example(said="<!--<script>")
@example(said="</script x>")
@example(said="]]></script\n>\u2028")
@example(said="\ud800 half")
def test_whatever_a_model_says_stays_where_it_is_put(said: str) -> None:
    wrong = case("edit001", right=False, answer=said, prompt=said, tokens=((said, 0.5),))
    red = measurement("rome", 2, values=(wrong, case("edit002")))
    cases = Cases()
    cases.add(red, said)
    run = failed_run(
        measurements=[red],
        verdicts=[verdict(red, "regressed", [wrong], reason=said)],
        findings=[finding(test=said)],
        breaches=[Breach("limit", said)],
        cases=Packed(cases.kept, 0, {EDITS[0]: said}),
    )
    html = run_page(run)
    page = Page(html)
    plain = said.encode("utf-8", "replace").decode()
    assert len(page.of("script")) == 2
    data = html.partition('id="data">')[2].rpartition("</script>\n<script>")[0]
    assert data.startswith('{"columns"')
    assert not set("<>&") & set(data)
    assert [tag for tag, _ in page.elements if tag in ("img", "iframe", "object", "a")] == ["a"] * len(page.of("a"))
    assert page.data["rows"][0][COLUMNS.index("after")] == page.data["texts"].index(plain)  # type: ignore[index]


def test_the_same_run_gives_the_same_page() -> None:
    assert run_page(failed_run()) == FAILED


# ---- cases


def gathered(*measurements: Measurement, most: int = 10_000) -> Cases:
    cases = Cases(most)
    for one in measurements:
        cases.add(one, "test")
    return cases


@settings(deadline=None, max_examples=30)
@given(
    lost=st.sets(st.integers(1, 20)),
    flipped=st.sets(st.integers(1, 20)),
    most=st.integers(0, 25),
    unit=st.sampled_from(["fraction", "nats"]),
)
def test_failing_and_lost_cases_are_kept_whatever_their_number(
    lost: set[int], flipped: set[int], most: int, unit: str
) -> None:
    measured = measurement("rome", 20, sorted(lost), unit=unit)
    flips = [value for number, value in enumerate(measured.values, start=1) if number in flipped]
    cases = Cases(most)
    cases.add(measured, "test", verdict(measured, "regressed", flips))
    bad = flipped | (lost if unit == "fraction" else set())
    kept = {EDITS.index(each.value.edit) + 1 for each in cases.kept if each.failing}
    assert kept == bad
    assert len(cases.kept) == len(bad) + min(most, 20 - len(bad))
    assert cases.left_out == max(0, 20 - len(bad) - most)
    assert {EDITS.index(each.value.edit) + 1 for each in cases.kept if each.flip} == flipped


def test_what_must_hold_comes_first_then_what_was_lost_then_what_fails() -> None:
    measured = measurement("rome", 5, (2, 4))
    must = replace(measured.values[4], must_hold=True)
    measured = replace(measured, values=(*measured.values[:4], must))
    cases = Cases()
    cases.add(measured, "test", replace(verdict(measured, "regressed", [measured.values[3], must]), lost=()))
    assert [each.value.edit for each in cases.kept] == ["edit005", "edit002", "edit004", "edit001", "edit003"]
    again = Cases()
    flips = verdict(measured, "regressed", [must, measured.values[3]])
    again.add(measured, "test", flips)
    assert [each.value.edit for each in again.kept] == ["edit005", "edit004", "edit002", "edit001", "edit003"]


def test_a_measurement_counts_once_and_hears_of_its_losses_later() -> None:
    measured = measurement("rome", 4, (2,))
    cases = gathered(measured, measured)
    assert len(cases.kept) == 4
    cases.add(measured, "other test", verdict(measured, "regressed", [measured.values[1]]))
    assert [each.value.edit for each in cases.kept if each.flip] == ["edit002"]
    assert {each.test for each in cases.kept} == {"test"}


def test_cases_of_the_unedited_model_do_not_fail() -> None:
    assert not any(each.failing for each in gathered(replace(measurement("original", 4, (1, 2)), edit_ids=())).kept)


def test_packed_rows_have_every_column_and_every_text_once() -> None:
    data = Packed(gathered(measurement("rome", 20), measurement("rome", 30)).kept, 0, {}).data
    assert all(len(row) == len(COLUMNS) for row in data["rows"])
    assert len(data["texts"]) == len(set(data["texts"]))
    assert len(data["rows"]) == 50
    row = data["rows"][0]
    tokens = row[COLUMNS.index("tokens")]
    assert [(data["texts"][place], chance) for place, chance in tokens] == [(" Os", 0.75), ("kar", 0.5)]
    assert row[COLUMNS.index("before")] == -1


def test_cases_that_are_left_out_are_counted_on_the_page() -> None:
    cases = gathered(measurement("rome", 20, (1,)), most=5)
    page = Page(run_page(Run(exit_status=1, cases=Packed(cases.kept, cases.left_out))))
    assert "6 cases, of which 1 fails and 0 were lost against the baseline." in page.text
    assert "14 further cases that did not fail are left out of this page" in page.text


def test_edits_of_other_lengths_of_signals_do_not_share_a_chart() -> None:
    text = Page(run_page(Run(exit_status=0, sequences=[series("rome", 30), series("memit", 20)]))).text
    assert "Read after every edit of 30" in text
    assert "Read after every edit of 20" in text
