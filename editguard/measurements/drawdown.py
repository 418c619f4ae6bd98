"""Drawdown: what an edit costs on inputs that have nothing to do with it, as a fall of accuracy.

Source: Mitchell et al., "Fast Model Editing at Scale" (ICLR 2022), section 4. Where no answer is right or wrong, the
rise of the perplexity (`perplexity`) and the divergence (`divergence`) take its place.
"""

from __future__ import annotations

from dataclasses import replace

from editguard.errors import UnpairedScores
from editguard.measurements.record import Measurement


def drawdown(before: Measurement, after: Measurement) -> Measurement:
    """Return the fall of each case: 1 where it was right and is wrong now, -1 the other way round, else 0.

    Args:
        before, after: the same property of the unedited and of the edited model, over the same probes.

    The mean is the fall of the accuracy; its interval is that of paired values.

    Raises: UnpairedScores: both are not of the same probes.
    """
    old = {value.probe: value.value for value in before.values}
    if old.keys() != {value.probe for value in after.values}:
        raise UnpairedScores("the drawdown compares the same probes before and after; these differ.")
    values = []
    for case in after.values:
        first = old[case.probe]
        fall = None if first is None or case.value is None else first - case.value
        values.append(replace(case, value=fall, token_accuracy=None))
    return replace(after, name=f"{after.name} drawdown", values=tuple(values), lower_is_better=True)
