"""Measurements against what was accepted: files, statistics, verdicts."""

from editguard.comparison.check import Acceptance, AcceptedValue, CheckRecord, who
from editguard.comparison.environment import Environment, present_environment
from editguard.comparison.explain import differences, explain_declaration, explain_environment
from editguard.comparison.statistics import (
    benjamini_hochberg,
    compare_pairs,
    flips_needed,
    holm,
    mcnemar,
    newcombe,
    sign_flip,
    smallest_detectable_drop,
)
from editguard.comparison.store import BaselineStore
from editguard.comparison.verdict import Flip, Verdict, judge, missing, not_comparable, upgrade

__all__ = [
    "Acceptance",
    "AcceptedValue",
    "BaselineStore",
    "CheckRecord",
    "Environment",
    "Flip",
    "Verdict",
    "benjamini_hochberg",
    "compare_pairs",
    "differences",
    "explain_declaration",
    "explain_environment",
    "flips_needed",
    "holm",
    "judge",
    "mcnemar",
    "missing",
    "newcombe",
    "not_comparable",
    "present_environment",
    "sign_flip",
    "smallest_detectable_drop",
    "upgrade",
    "who",
]
