"""What the edited model is asked: from an edit case to the probes of each property."""

from editguard.probes.denial import negation, yes_no
from editguard.probes.generalization import rephrases
from editguard.probes.locality import distracting, other_relations, unchanged
from editguard.probes.other_tasks import task
from editguard.probes.portability import one_hop, reversed_relation, subject_replace
from editguard.probes.reliability import request_probe
from editguard.probes.selection import probes_of

__all__ = [
    "distracting",
    "negation",
    "one_hop",
    "other_relations",
    "probes_of",
    "rephrases",
    "request_probe",
    "reversed_relation",
    "subject_replace",
    "task",
    "unchanged",
    "yes_no",
]
