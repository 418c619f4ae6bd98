"""The picture of two criteria: every point is named, no name lies on another, the front stands out."""

import io
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.report.labels import distance, nearest_edge, overlap, placed
from editguard.report.trade_off import BEHIND, FRONT, TradeOff, draw, trade_off_pictures
from editguard.study.criteria import Value

image = pytest.importorskip("PIL.Image")
FRAME = (0.0, 0.0, 900.0, 600.0)
RADIUS = 5.0
QUICK = settings(deadline=None, max_examples=15)


def shown(places, *, across="time", up="quality", front=()):
    names = [f"method-{at}" for at in range(len(places))]
    return TradeOff(
        "a $tudy", across, up, tuple(names), tuple((Value(x), Value(y)) for x, y in places), frozenset(front)
    )


@QUICK
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), min_size=1, max_size=25))
def test_no_name_lies_on_another_or_on_a_point_or_outside(cells):
    points = [(30.0 * x, 30.0 * y) for x, y in cells]
    boxes = placed(points, [(70.0, 14.0)] * len(points), FRAME, radius=RADIUS)
    for one, other in combinations(boxes, 2):
        assert not overlap(one, other)
    for box in boxes:
        assert min(box[0] - FRAME[0], box[1] - FRAME[1], FRAME[2] - box[2], FRAME[3] - box[3]) >= 0
        for x, y in points:
            assert not overlap(box, (x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS))


def test_a_name_alone_is_close_to_its_point_and_nearer_to_it_than_to_another():
    [box] = placed([(400.0, 300.0)], [(70.0, 14.0)], FRAME, radius=RADIUS)
    assert distance(box, (400.0, 300.0)) <= 2 * RADIUS + 1
    near = [(400.0, 300.0), (412.0, 300.0), (406.0, 310.0)]
    for own, box in zip(near, placed(near, [(70.0, 14.0)] * 3, FRAME, radius=RADIUS), strict=True):
        assert all(distance(box, own) < distance(box, other) for other in near if other != own)


def test_nothing_lies_between_a_name_and_its_point():
    row = [(400.0 + 12 * at, 300.0) for at in range(4)]
    for own, box in zip(row, placed(row, [(40.0, 14.0)] * 4, FRAME, radius=RADIUS), strict=True):
        end = nearest_edge(box, own)
        for part in range(21):
            at = tuple(a + (b - a) * part / 20 for a, b in zip(own, end, strict=True))
            for other in row:
                assert other == own or abs(at[0] - other[0]) > RADIUS or abs(at[1] - other[1]) > RADIUS


def test_a_name_does_not_cover_a_line_where_there_is_room_beside_it():
    line = (400.0, 300.0, 800.0, 300.0)
    [box] = placed([(400.0, 300.0)], [(70.0, 14.0)], FRAME, radius=RADIUS, lines=[line])
    assert not overlap(box, line)


@pytest.mark.parametrize("places", [[(0.1, 0.5)] * 6, [(10.0 ** (at % 5 - 2), 0.5 + at / 1000) for at in range(20)]])
def test_in_the_figure_no_two_names_touch_even_where_points_coincide(places):
    figure = draw(shown(places, front={"method-0"}))
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    [axis] = figure.axes
    extents = {text.get_text(): text.get_window_extent(renderer) for text in axis.texts}
    assert set(extents) == {f"method-{at}" for at in range(len(places))}
    for one, other in combinations(extents.values(), 2):
        assert not one.overlaps(other)
    for extent in extents.values():
        assert figure.bbox.x0 <= extent.x0 < extent.x1 <= figure.bbox.x1
    assert axis.get_xscale() == "log"
    assert axis.get_yscale() == "linear"


def test_the_front_is_red_the_rest_grey_and_the_steps_pass_no_method_that_is_better():
    figure = draw(shown([(0.1, 0.4), (1.0, 0.8), (2.0, 0.6)], front={"method-0", "method-1"}))
    [axis] = figure.axes
    dots = {line.get_xdata()[0]: line.get_color() for line in axis.lines if line.get_marker() == "o"}
    assert dots == {0.1: FRONT, 1.0: FRONT, 2.0: BEHIND}
    steps = [(list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines if line.get_marker() != "o"]
    assert ([0.1, 1.0], [0.4, 0.4]) in steps  # less time is better: up to the next one nothing better is known
    assert ([1.0, 1.0], [0.4, 0.8]) in steps
    [other] = draw(shown([(0.1, 0.8), (0.5, 0.4)], across="reliability", front={"method-0", "method-1"})).axes
    steps = [(list(line.get_xdata()), list(line.get_ydata())) for line in other.lines if line.get_marker() != "o"]
    assert ([0.1, 0.5], [0.4, 0.4]) in steps
    assert ([0.1, 0.1], [0.8, 0.4]) in steps


def test_the_same_values_give_the_same_bytes_in_both_forms():
    what = shown([(0.0, 0.4), (1.0, 0.8)], front={"method-0", "method-1"})  # a time of 0 is drawn at the floor
    first, second = trade_off_pictures(what), trade_off_pictures(what)
    assert first == second
    assert image.open(io.BytesIO(first["png"])).size >= (900, 600)
    assert first["svg"].startswith(b"<?xml")
