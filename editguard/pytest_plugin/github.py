"""On GitHub: where a failed test stands, and writing to the job's summary."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from editguard.errors import CacheError

if TYPE_CHECKING:
    from editguard.report.github import Annotation

SUMMARY: Final = "GITHUB_STEP_SUMMARY"
MOST_CHARACTERS: Final = 4_000


def wanted(setting: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a run writes for GitHub: "on", or "auto" on a runner of GitHub Actions."""
    return setting == "on" or (setting == "auto" and environment.get("GITHUB_ACTIONS") == "true")


def annotation(report: pytest.TestReport, root: Path) -> Annotation:
    """What is to be said of a failed test, at the line of the suite that failed, or at the test's own.

    Args:
        root: pytest's root directory.
    """
    from editguard.report.github import Annotation

    shown: Any = report.longrepr
    crash = getattr(shown, "reprcrash", None)
    file, line = root / report.location[0], (report.location[1] or 0) + 1
    if crash is not None and Path(crash.path).is_relative_to(root) and Path(crash.path).suffix == ".py":
        file, line = Path(crash.path), crash.lineno
    message = str(crash.message if crash is not None else shown)
    repository = Path(os.environ.get("GITHUB_WORKSPACE") or root)
    place = file.relative_to(repository) if file.is_relative_to(repository) else file
    title = report.nodeid.partition("::")[2] or report.nodeid
    phase = "" if report.when == "call" else f" ({report.when})"
    return Annotation(
        severity="error",
        file=place.as_posix(),
        line=line,
        title=f"{title}{phase}",
        message=message[:MOST_CHARACTERS],
    )


def write_summary(text: str, environment: Mapping[str, str] = os.environ) -> None:
    """Add to the summary of the present step; nothing where the runner names no file.

    Raises: CacheError: the file cannot be written.
    """
    path = environment.get(SUMMARY)
    if not path:
        return
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as failure:
        raise CacheError(f"cannot write the job summary {path}: {failure.strerror or failure}.") from failure
