"""Files of edit cases: a foreign record becomes an `EditCase`, in one place per format."""

from editguard.datasets.jsonl import load_cases, read_cases, write_cases

__all__ = ["load_cases", "read_cases", "write_cases"]
