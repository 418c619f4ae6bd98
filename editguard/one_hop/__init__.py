"""One-hop questions for edits: proposed by a generator, checked against the model's knowledge, judged by a person."""

from editguard.one_hop.proposal import Proposal, read_proposal
from editguard.one_hop.proposing import Propose, Proposed
from editguard.one_hop.review import Judged, accept, read_review

__all__ = ["Judged", "Proposal", "Propose", "Proposed", "accept", "read_proposal", "read_review"]
