"""What should become true: edit requests, cases with probes, conflicts between requests."""

from editguard.edits.case import PROPERTIES, EditCase, Probe, Property, as_cases
from editguard.edits.conflicts import first_mentions, refuse_conflicts, superseded
from editguard.edits.request import SLOT, EditRequest, content_id

__all__ = [
    "PROPERTIES",
    "SLOT",
    "EditCase",
    "EditRequest",
    "Probe",
    "Property",
    "as_cases",
    "content_id",
    "first_mentions",
    "refuse_conflicts",
    "superseded",
]
