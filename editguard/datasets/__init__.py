"""Files of edit cases: a foreign record becomes an `EditCase`, in one place per format."""

from editguard.datasets.jsonl import load_cases, load_tasks, read_cases, write_cases, write_tasks
from editguard.datasets.mquake import instances

__all__ = ["instances", "load_cases", "load_tasks", "read_cases", "write_cases", "write_tasks"]
