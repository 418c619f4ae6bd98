"""Names beside points, none over another name, a point or an edge of the picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from math import cos, hypot, pi, sin
from typing import Final

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""
Place = tuple[float, float]
Faults = tuple[bool, bool, bool, bool]

_DIRECTIONS: Final = 16
_NEAREST: Final = 5.0
_FURTHER: Final = 4.0
_RINGS: Final = 200
_NEAR: Final = 12
"""Rings within which the best place is looked for, before any free one will do."""
_ROOM: Final = 30.0
"""Pixels from other points from which on more are no better."""
_AIR: Final = 1.5
"""Pixels kept free around a name."""


def placed(
    points: Sequence[Place],
    sizes: Sequence[Place],
    frame: Box,
    *,
    radius: float,
    lines: Sequence[Box] = (),
) -> list[Box]:
    """A box for each point's name, the nearest good one; the points are served in the order that they have.

    Good is, in this order: free of points and other names; within the frame; nearer to no other point than to its own,
    with nothing between the two; and free of lines. For the last two a name is not moved far. Of equally good and near
    places it takes the one that is farthest from other points.

    Args:
        points, sizes: centre of each point, and width and height of its name.
        frame: of the picture.
        radius: of the points; all lengths in pixels.
        lines: that the names had better not cover.
    """
    dots = [(x - radius, y - radius, x + radius, y + radius) for x, y in points]
    found: list[Box] = []
    for own, (point, size) in enumerate(zip(points, sizes, strict=True)):
        others = [*points[:own], *points[own + 1 :]]

        taken = [*dots, *found]
        foreign = [dot for dot, other in zip(dots, points, strict=True) if other != point]

        def faults(
            box: Box,
            point: Place = point,
            others: Sequence[Place] = others,
            taken: Sequence[Box] = taken,
            between: Sequence[Box] = (*foreign, *found),
        ) -> Faults:
            if any(overlap(box, other, _AIR) for other in taken):
                return (True, True, True, True)
            joint = nearest_edge(box, point)
            return (
                False,
                not _within(box, frame),
                any(distance(box, other) <= distance(box, point) for other in others)
                or any(_crosses(point, joint, other) for other in between),
                any(overlap(box, line, _AIR) for line in lines),
            )

        boxes = _around(point, size, radius)
        near = [
            (faults(box), at // _DIRECTIONS, -min([_ROOM, *(distance(box, other) for other in others)]), box)
            for at, box in enumerate(islice(boxes, _NEAR * _DIRECTIONS))
        ]
        least, _, _, best = min(near, key=lambda each: each[:3])
        if any(least[:2]):
            best = next((box for box in boxes if not any(faults(box)[:2])), best)
        found.append(best)
    return found


def overlap(one: Box, other: Box, air: float = 0.0) -> bool:
    """Whether two boxes share a place, or have less than `air` between them."""
    return one[0] < other[2] + air and other[0] < one[2] + air and one[1] < other[3] + air and other[1] < one[3] + air


def nearest_edge(box: Box, point: Place) -> Place:
    """The place of a box that is nearest to a point."""
    x, y = point
    return (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))


def distance(box: Box, point: Place) -> float:
    """From a point to a box; 0 inside."""
    x, y = nearest_edge(box, point)
    return hypot(x - point[0], y - point[1])


def _crosses(start: Place, end: Place, box: Box) -> bool:
    """Whether a straight line from `start` to `end` passes through a box (Liang and Barsky 1984)."""
    first, last = 0.0, 1.0
    for axis in (0, 1):
        step = end[axis] - start[axis]
        low, high = box[axis] - start[axis], box[axis + 2] - start[axis]
        if step == 0:
            if low > 0 or high < 0:
                return False
            continue
        enter, leave = sorted((low / step, high / step))
        first, last = max(first, enter), min(last, leave)
    return first <= last


def _around(point: Place, size: Place, radius: float) -> Iterator[Box]:
    """Boxes about a point, the near ones first, and of equally near ones the one to the right first."""
    x, y = point
    width, height = size
    for ring in range(_RINGS):
        away = radius + _NEAREST + _FURTHER * ring
        for step in sorted(range(_DIRECTIONS), key=lambda step: min(step, _DIRECTIONS - step)):
            angle = 2 * pi * step / _DIRECTIONS
            across, up = cos(angle), sin(angle)
            left = x + away * across + (across - 1) * width / 2
            bottom = y + away * up + (up - 1) * height / 2
            yield (left, bottom, left + width, bottom + height)


def _within(box: Box, frame: Box) -> bool:
    return frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]
