"""Which requests contradict each other, repeat each other, and are superseded by a later one."""

from collections.abc import Sequence

from editguard.edits.request import EditRequest
from editguard.errors import ConflictingEdits


def refuse_conflicts(requests: Sequence[EditRequest]) -> None:
    """Raise ConflictingEdits when two requests of one batch want different targets for one fact."""
    seen: dict[tuple[str, str], EditRequest] = {}
    for request in requests:
        earlier = seen.setdefault(request.fact_key, request)
        if earlier.target.strip() != request.target.strip():
            raise ConflictingEdits(
                f"two requests of one batch contradict each other: {earlier.statement!r} and "
                f"{request.statement!r}. Keep one of them, or apply them as a sequence."
            )


def first_mentions(requests: Sequence[EditRequest]) -> list[int]:
    """Return for each request of a batch the position of the first one that asks for the same; mostly its own."""
    seen: dict[tuple[str, str, str], int] = {}
    return [
        seen.setdefault((request.prompt, request.subject, request.target.strip()), position)
        for position, request in enumerate(requests)
    ]


def superseded(requests: Sequence[EditRequest]) -> frozenset[int]:
    """Return the positions of a sequence's requests whose fact a later request states anew.

    A repetition with the same target supersedes too: only the last mention is asked for.
    """
    last = {request.fact_key: position for position, request in enumerate(requests)}
    return frozenset(position for position, request in enumerate(requests) if last[request.fact_key] != position)
