"""Which edits of many make a check fail: found among what was applied, then confirmed by applying them alone."""

from editguard.blame.counterfactual import Counterfactual
from editguard.blame.finding import Finding, LostProbe, NamedEdit
from editguard.blame.nearest import NearPair, nearest_pairs
from editguard.blame.replay import Replay, separable
from editguard.blame.search import Search, Suspects
from editguard.blame.trial import Trial

__all__ = [
    "Counterfactual",
    "Finding",
    "LostProbe",
    "NamedEdit",
    "NearPair",
    "Replay",
    "Search",
    "Suspects",
    "Trial",
    "nearest_pairs",
    "separable",
]
