"""How large a page of many cases is, how long making it takes, and how long until a browser has opened it.

    python benchmarks/run_page.py
    python benchmarks/run_page.py --cases 1000 10000 50000 --rounds 5

Half of the cases fail, with prompts of about 60 characters, three methods, four checkpoints, probabilities of three
tokens. "Opened" is the time from asking for the file until its rows are drawn: the browser's own measure of the load
event, in a fresh context each time, the median and the extremes of the rounds. Needs chromium
(EDITGUARD_CHROMIUM names its file) and playwright.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser, sync_playwright
from tabulate import tabulate

from editguard.measurements import CaseValue, Measurement
from editguard.report.cases import Cases, Packed
from editguard.report.run_page import Run, run_page

METHODS = ("rome", "memit", "ft-l")
CHECKPOINTS = (1, 10, 100, 500)
DRAWN = """() => {
  const timing = performance.getEntriesByType("navigation")[0];
  return [timing.loadEventEnd, document.querySelectorAll("#rows tr").length];
}"""


def made(count: int) -> Run:
    """A run with so many cases."""
    ids = tuple(f"edit{number}" for number in range(CHECKPOINTS[-1]))
    measurements = []
    cases = Cases(most_passing=count)
    share = -(-count // (len(METHODS) * len(CHECKPOINTS)))
    for method in METHODS:
        for edits in CHECKPOINTS:
            values = tuple(
                CaseValue(
                    probe=f"probe{number}",
                    edit=ids[number % edits],
                    kind="question",
                    prompt=f"Question: In which of the cities was person number {number} born? Answer:",
                    expected=(f"City {number}",),
                    answer=f"City {number + number % 2}",
                    outcome="exact" if number % 2 == 0 else "other",
                    value=float(number % 2 == 0),
                    original=f"Town {number}",
                    tokens=((" City", 0.9123), (f" {number}", 0.4321), (".", 0.9876)),
                )
                for number in range(share)
            )
            one = Measurement(
                name="reliability",
                protocol="decode_match",
                values=values,
                method=method,
                mode="sequence",
                edit_ids=ids[:edits],
            )
            measurements.append(one)
            cases.add(one, f"suites/test_sequence.py::test_survive[{method}-{edits}]")
    return Run(exit_status=1, tests={"failed": 1}, measurements=measurements, cases=Packed(cases.kept))


def opened(browser: Browser, path: Path) -> float:
    """Seconds until a page is open with its rows."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(path.as_uri(), wait_until="load")
    page.wait_for_function("() => performance.getEntriesByType('navigation')[0].loadEventEnd > 0")
    milliseconds, rows = page.evaluate(DRAWN)
    context.close()
    assert rows == 50
    return float(milliseconds) / 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--cases", nargs="+", type=int, default=[1_000, 10_000, 50_000])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=os.environ.get("EDITGUARD_CHROMIUM") or shutil.which("chromium"), args=["--no-sandbox"]
        )
        for count in arguments.cases:
            run = made(count)
            began = time.perf_counter()
            text = run_page(run)
            seconds = time.perf_counter() - began
            path = Path(folder) / "report.html"
            path.write_text(text, encoding="utf-8")
            times = [opened(browser, path) for _ in range(arguments.rounds)]
            rows.append(
                [
                    f"{len(run.cases.cases):,}",
                    f"{len(text.encode()) / 1e6:.1f}",
                    f"{seconds:.2f}",
                    f"{median(times):.2f}",
                    f"{min(times):.2f} to {max(times):.2f}",
                ]
            )
        browser.close()
    print(tabulate(rows, ["cases", "MB", "made in s", "opened in s", "extremes"], "github", disable_numparse=True))


if __name__ == "__main__":
    main()
