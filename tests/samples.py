"""Published records for tests: read from the folder that EDITGUARD_SAMPLES names; the repository holds none."""

import json
import os
from pathlib import Path
from typing import Any

import pytest


def sample(name: str) -> Any:
    """The records of one sample file; the test is skipped, with the reason, where there is none."""
    folder = os.environ.get("EDITGUARD_SAMPLES", "")
    if not folder:
        pytest.skip("EDITGUARD_SAMPLES names no folder of published records")
    path = Path(folder) / name
    if not path.is_file():
        pytest.skip(f"{path} does not exist")
    return json.loads(path.read_text(encoding="utf-8"))
