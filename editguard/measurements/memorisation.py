"""How much of an edit's answer is left after later edits: its probability now, against that right after it was made.

Source: Zheng et al., "Can We Edit Factual Knowledge by In-Context Learning?" (EMNLP 2023): the memorisation
ratio, there of a fact of one subject whose answer changes with the years.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, isfinite
from typing import Final

from editguard.edits import EditRequest, content_id, superseded
from editguard.measurements.answering import Answering
from editguard.measurements.record import CaseValue, Measurement

PROTOCOL: Final = "answer_likelihood"


def memorisation_ratio(
    now: Answering,
    then: Answering,
    requests: Sequence[EditRequest],
) -> Measurement:
    """Measure P_now(target | prompt) / P_then(target | prompt) of each edit, P that of the whole target.

    Args:
        now: the model with all edits in force.
        then: the model right after `requests` (an `EditedModel.prefix`, say).
        requests: what `then` was edited by, in order; those that a later one supersedes are left out, and counted.
            An edit that gives the same subject and relation another answer for another year is no such one: its
            prompt is another.

    Returns: ratios, unit "ratio": 1 where nothing was forgotten, more where later edits have made the answer likelier.
    """
    gone = superseded(requests)
    standing = [request for place, request in enumerate(requests) if place not in gone]
    pairs = [(request.text, request.target) for request in standing]
    values = []
    for request, new, old in zip(standing, now.score(pairs), then.score(pairs), strict=True):
        gap = new.log_prob - old.log_prob
        value = exp(min(gap, 700.0)) if isfinite(gap) else None
        values.append(
            CaseValue(
                probe=content_id("memorisation", request.id),
                edit=request.id,
                kind="request",
                prompt=request.text,
                expected=(request.target,),
                answer="",
                outcome="invalid" if value is None else "other",
                value=value,
            )
        )
    return Measurement(
        name="memorisation",
        protocol=PROTOCOL,
        values=tuple(values),
        mode="sequence",
        edit_ids=tuple(request.id for request in requests),
        superseded_edits=tuple(requests[place].id for place in sorted(gone)),
        unit="ratio",
    )
