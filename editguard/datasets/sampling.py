"""A sample of records that depends on their ids and a seed alone, not on their order or on a random generator."""

from __future__ import annotations

from collections.abc import Sequence

from editguard.edits import content_id


def sample(records: Sequence[tuple[str, str]], limit: int, seed: int) -> frozenset[int]:
    """Choose records, each stratum by its share.

    Args:
        records: (stratum, id) of each.
        limit: how many to choose, at least 1; all where there are no more.
        seed: another seed chooses others.

    Returns: places in `records`. Each stratum has its share of `limit`, rounded down or up (largest remainder); inside
        a stratum the records with the smallest hash of seed and id are taken.
    """
    strata: dict[str, list[tuple[str, int]]] = {}
    for place, (stratum, name) in enumerate(records):
        strata.setdefault(stratum, []).append((content_id("sample", seed, name), place))
    count = min(limit, len(records))
    whole = {stratum: count * len(members) // len(records) for stratum, members in strata.items()}
    open_places = count - sum(whole.values())
    by_remainder = sorted(
        strata,
        key=lambda stratum: (-(count * len(strata[stratum]) % len(records)), content_id("stratum", seed, stratum)),
    )
    for stratum in by_remainder[:open_places]:
        whole[stratum] += 1
    return frozenset(place for stratum, members in strata.items() for _, place in sorted(members)[: whole[stratum]])
