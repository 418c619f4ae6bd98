"""Measurements against what was accepted: files, statistics, verdicts."""

from editguard.comparison.check import Acceptance, AcceptedValue, CheckRecord, who
from editguard.comparison.environment import Environment, present_environment
from editguard.comparison.explain import differences, explain_declaration, explain_environment
from editguard.comparison.limits import score_interval
from editguard.comparison.planning import (
    cases_needed,
    cases_to_hold,
    cases_to_settle,
    flips_needed,
    minimum_detectable_effect,
    smallest_detectable_drop,
)
from editguard.comparison.policy import Breach, Policy, read_policy
from editguard.comparison.statistics import benjamini_hochberg, compare_pairs, holm, mcnemar, sign_flip
from editguard.comparison.store import BaselineStore
from editguard.comparison.verdict import Flip, Verdict, judge, missing, not_comparable, upgrade

__all__ = [
    "Acceptance",
    "AcceptedValue",
    "BaselineStore",
    "Breach",
    "CheckRecord",
    "Environment",
    "Flip",
    "Policy",
    "Verdict",
    "benjamini_hochberg",
    "cases_needed",
    "cases_to_hold",
    "cases_to_settle",
    "compare_pairs",
    "differences",
    "explain_declaration",
    "explain_environment",
    "flips_needed",
    "holm",
    "judge",
    "mcnemar",
    "minimum_detectable_effect",
    "missing",
    "not_comparable",
    "present_environment",
    "read_policy",
    "score_interval",
    "sign_flip",
    "smallest_detectable_drop",
    "upgrade",
    "who",
]
