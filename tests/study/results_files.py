"""Small summaries written by hand."""

import json
from pathlib import Path


def number(mean, *, low=None, high=None, unit="fraction", cases=10):
    """An entry of a row's numbers; without an interval it has no width."""
    ends = {"low": mean if low is None else low, "high": mean if high is None else high}
    return {"mean": mean, **ends, "cases": cases, "clusters": cases, "invalid": 0, "unit": unit}


def row(method, numbers, *, mode="single", size=1, **more):
    """numbers: name -> mean in a fraction, or a whole entry."""
    entries = {name: value if isinstance(value, dict) else number(value) for name, value in numbers.items()}
    return {"method": method, "mode": mode, "size": size, "numbers": entries, **more}


def cost(method, seconds, *, mode="single", size=1, **more):
    return {"method": method, "mode": mode, "size": size, "seconds_per_edit": seconds, **more}


def write(folder: Path, rows, costs=None, *, methods=None):
    """Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    named = methods or [each["method"] for each in rows if each["method"] != "unedited"]
    study = {"study": {"methods": {name: {} for name in named}}, "rows": rows}
    (folder / "summary.json").write_text(json.dumps(study))
    if costs is not None:
        (folder / "costs.json").write_text(json.dumps({"notes": {"model": "tiny"}, "rows": costs}))
    return folder


def survey(reliability, locality, **more):
    return {"reliability": reliability, "locality": locality, **more}
