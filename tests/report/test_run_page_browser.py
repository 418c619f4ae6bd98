"""The page of a run in a browser: searched, filtered, opened by keyboard; nothing is fetched, no text runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report.built_run import EDITS, HOSTILE, case, failed_run, measurement

from editguard.report.cases import Cases, Packed
from editguard.report.run_page import Run, run_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = os.environ.get("EDITGUARD_CHROMIUM") or shutil.which("chromium")
MILLISECONDS = 20_000
"""After so long a step fails rather than waits."""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="browser tests need chromium: install it, or name its file in EDITGUARD_CHROMIUM"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for the module; what it opens is made here, so that it needs no sandbox, which not every host has."""
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-dev-shm-usage"],
            timeout=3 * MILLISECONDS,
        )
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run that failed."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(run_page(failed_run()), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Opens a file in a fresh context; afterwards no script has complained, and nothing else was asked for."""
    contexts, complaints, asked = [], [], []

    def open_page(path: Path, **options: Any) -> Any:
        context = browser.new_context(**options)
        context.set_default_timeout(MILLISECONDS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda each: asked.append(each.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert all(url.startswith("data:") or url.endswith("report.html") for url in asked)


def field(page: Any, label: str) -> Any:
    return page.locator("#filters").get_by_label(label, exact=True)


def prompts(page: Any) -> list[str]:
    return [str(text) for text in page.locator("#rows button").all_inner_texts()]


def test_it_shows_the_verdict_and_every_failing_case(opened: Any, file: Path) -> None:
    page = opened(file, viewport={"width": 1280, "height": 900})
    assert page.title() == "Failed: editguard, pocket"
    assert "Failed" in page.locator("h1").inner_text()
    assert page.locator("#count").inner_text() == "17 of 83 cases"
    assert len(prompts(page)) == 17
    assert page.locator("body").evaluate("each => each.scrollWidth <= innerWidth")
    picture = page.screenshot()
    assert len(set(picture)) == 256
    assert len(picture) > 20_000


def test_the_cases_are_searched_and_filtered(opened: Any, file: Path) -> None:
    page = opened(file)
    field(page, "Show").select_option("all")
    assert page.locator("#count").inner_text() == "83 of 83 cases"
    assert len(prompts(page)) == 50
    page.get_by_role("button", name="Next").click()
    assert len(prompts(page)) == 33
    assert page.get_by_role("button", name="Next").is_disabled()
    field(page, "Method").select_option("memit")
    assert page.locator("#count").inner_text() == "41 of 83 cases"
    field(page, "Edits").select_option("10")
    field(page, "Search").fill("CAPITAL edit007")
    assert prompts(page) == ["The capital of edit007 is"]
    field(page, "Show").select_option("failing")
    assert page.locator("#count").inner_text().startswith("None of 83 cases; choose “all”")
    field(page, "Search").fill("")
    field(page, "Method").select_option("")
    assert prompts(page) == ["The capital of edit003 is"]
    field(page, "Edits").select_option("")
    field(page, "Property").select_option("locality")
    assert page.locator("#count").inner_text() == "1 of 83 cases"
    field(page, "Show").select_option("lost")
    assert page.locator("#count").inner_text().startswith("None of")
    field(page, "Property").select_option("")
    field(page, "Outcome").select_option("other")
    assert page.locator("#count").inner_text() == "16 of 83 cases"


def test_a_case_is_opened_by_keyboard(opened: Any, file: Path) -> None:
    page = opened(file)
    page.keyboard.press("Tab")
    skip = page.evaluate("document.activeElement.textContent")
    assert skip == "Skip to the verdict"
    field(page, "Show").focus()
    page.keyboard.press("Tab")
    button = page.locator("#rows button").first
    assert button.evaluate("each => each === document.activeElement")
    assert button.evaluate("each => getComputedStyle(each).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    more = page.locator(f"#{button.get_attribute('aria-controls')}")
    told = dict(zip(more.locator("dt").all_inner_texts(), more.locator("dd").all_inner_texts(), strict=True))
    assert told["Wanted"] == "Oskar"
    assert told["Answer now"] == "Tamrin"
    assert told["In the accepted run"] == "Oskar"
    assert told["Baseline"] == "lost against the baseline, must hold"
    assert told["Edit"] == "“The capital of edit003 is” → “Oskar”"
    assert told["Probability of the wanted tokens"].split() == ["Os", "0.750", "kar", "0.500"]
    page.keyboard.press("Space")
    assert button.get_attribute("aria-expanded") == "false"
    assert more.count() == 0


def test_what_a_model_says_is_text(opened: Any, file: Path) -> None:
    page = opened(file)
    field(page, "Property").select_option("locality")
    page.locator("#rows button").click()
    assert page.locator(".more dd").filter(has_text="taken").first.inner_text() == HOSTILE
    assert page.locator("main img").count() == 0
    assert page.locator("script").count() == 2
    assert page.title() == "Failed: editguard, pocket"


def test_a_script_that_gets_into_the_page_does_not_run(browser: Any, tmp_path: Path, file: Path) -> None:
    """The content policy is a second wall: what is escaped otherwise is planted raw here."""
    path = tmp_path / "report.html"
    planted = "<script>document.title = 'taken'</script><h2 onclick=\"document.title = 'taken'\">planted</h2>"
    path.write_text(file.read_text(encoding="utf-8").replace("<footer>", f"{planted}<footer>"), encoding="utf-8")
    page = browser.new_page()
    page.set_default_timeout(MILLISECONDS)
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(path.as_uri())
    page.get_by_text("planted").click()
    assert page.title() == "Failed: editguard, pocket"
    assert len(refused) >= 2
    assert page.locator("#count").inner_text() == "17 of 83 cases"
    page.close()


def test_dark_light_and_print_have_their_own_ground(opened: Any, file: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = (opened(file, color_scheme=scheme) for scheme in ("light", "dark"))
    assert light.evaluate(ground) == "rgb(255, 255, 255)"
    assert dark.evaluate(ground) == "rgb(20, 23, 27)"
    dark.emulate_media(media="print", color_scheme="dark")
    assert dark.evaluate(ground) == "rgb(255, 255, 255)"
    assert not dark.locator(".filters").is_visible()
    assert dark.evaluate("getComputedStyle(document.querySelector('h2')).color") == "rgb(27, 32, 39)"


def test_a_narrow_window_scrolls_in_one_direction(opened: Any, file: Path) -> None:
    page = opened(file, viewport={"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.locator("#rows td").first.is_visible()


def test_without_scripts_all_but_the_single_cases_is_there(opened: Any, file: Path) -> None:
    page = opened(file, java_script_enabled=False)
    assert "scripts are off" in page.locator("#cases").inner_text()
    assert not page.locator("#browser").is_visible()
    assert page.locator("table.heat").count() == 2
    assert page.locator("svg[role=img]").count() == 5
    assert page.get_by_role("heading", name="1 of 30 edits is to blame").is_visible()


def test_ten_thousand_cases_can_be_used(opened: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    edits = tuple(f"e{number:05}" for number in range(10_000))
    many = measurement("rome", 1, values=tuple(case(edit, right=number % 2 == 0) for number, edit in enumerate(edits)))
    cases = Cases()
    cases.add(many, "test")
    path.write_text(run_page(Run(exit_status=1, cases=Packed(cases.kept))), encoding="utf-8")
    page = opened(path)
    assert page.locator("#count").inner_text() == "5,000 of 10,000 cases"
    assert page.locator("#rows tr").count() == 50
    field(page, "Search").fill("e09999")
    assert prompts(page) == ["The capital of e09999 is"]
    field(page, "Search").fill("")
    field(page, "Show").select_option("all")
    assert page.locator("#place").inner_text() == "1 to 50 of 10000"


def test_a_run_without_failing_cases_shows_all(opened: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    cases = Cases()
    cases.add(measurement("rome", len(EDITS)), "test")
    path.write_text(run_page(Run(exit_status=0, tests={"passed": 1}, cases=Packed(cases.kept))), encoding="utf-8")
    page = opened(path)
    assert page.locator("#count").inner_text() == "30 of 30 cases"
    assert field(page, "Show").input_value() == "all"
