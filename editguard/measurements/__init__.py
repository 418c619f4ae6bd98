"""Numbers with unit and per-case values: what was asked, what came back, how it was judged."""

from editguard.measurements.answering import ANSWER_TOKENS, Answering, Remembered
from editguard.measurements.efficiency import EfficiencySummary, PhaseCost, phase, summarise
from editguard.measurements.inference import AnsweringCost, answering_cost, timed_prompts
from editguard.measurements.intervals import cluster_bootstrap, mean_interval, wilson
from editguard.measurements.matching import OUTCOMES, PASSING, judge_answer, normalise
from editguard.measurements.noise import NoiseFloor, noise_floor, noise_floors
from editguard.measurements.pair_probability import compare, harmonic_mean, token_probability
from editguard.measurements.record import CaseValue, Measurement
from editguard.measurements.scores import measure
from editguard.measurements.under_test import Answer, ModelUnderTest

__all__ = [
    "ANSWER_TOKENS",
    "OUTCOMES",
    "PASSING",
    "Answer",
    "Answering",
    "AnsweringCost",
    "CaseValue",
    "EfficiencySummary",
    "Measurement",
    "ModelUnderTest",
    "NoiseFloor",
    "PhaseCost",
    "Remembered",
    "answering_cost",
    "cluster_bootstrap",
    "compare",
    "harmonic_mean",
    "judge_answer",
    "mean_interval",
    "measure",
    "noise_floor",
    "noise_floors",
    "normalise",
    "phase",
    "summarise",
    "timed_prompts",
    "token_probability",
    "wilson",
]
