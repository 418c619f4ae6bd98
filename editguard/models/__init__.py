"""The model under edit: loading, anatomy, answers and scores, weights that can be given back,
second moments."""

from editguard.models.anatomy import Anatomy, Matrix
from editguard.models.families import FAMILIES, FamilyRow
from editguard.models.generation import DEFAULT_STOP, Generation, StopRule
from editguard.models.hooks import added, capture, replaced, stop_after
from editguard.models.language_model import Change, LanguageModel
from editguard.models.loading import load_model
from editguard.models.scoring import Score
from editguard.models.second_moment import SecondMoment, second_moments
from editguard.models.weights import Delta, Dense, LowRank, Masked, Total, WeightLedger

__all__ = [
    "DEFAULT_STOP",
    "FAMILIES",
    "Anatomy",
    "Change",
    "Delta",
    "Dense",
    "FamilyRow",
    "Generation",
    "LanguageModel",
    "LowRank",
    "Masked",
    "Matrix",
    "Score",
    "SecondMoment",
    "StopRule",
    "Total",
    "WeightLedger",
    "added",
    "capture",
    "load_model",
    "replaced",
    "second_moments",
    "stop_after",
]
