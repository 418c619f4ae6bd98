"""Seconds, memory and energy of phases that are kept apart."""

from __future__ import annotations

import json
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.measurements import PhaseCost, energy, host_memory, phase, summarise
from editguard.measurements.efficiency import PHASES

GIB = 2**30
EARLIER = {"method": "rome", "phase": "edit", "edits": 2, "seconds": 3.0, "host_peak_bytes": 7, "device_peak_bytes": 5}
"""A line of an earlier version, which also had these two."""
EARLIER |= {"device_reserved_bytes": 6, "kept_bytes": None}


def test_a_phase_measures_its_block_even_when_it_fails() -> None:
    with pytest.raises(RuntimeError), phase("rome", "edit", edits=2) as cost:
        time.sleep(0.02)
        raise RuntimeError
    assert 0.02 <= cost.seconds < 5
    assert cost.host_peak_bytes > 1_000_000
    assert PhaseCost.from_json(json.loads(json.dumps(cost.to_json()))) == cost


def test_without_an_accelerator_its_memory_and_energy_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (SimpleNamespace(cuda=Cards([]), backends=torch.backends), None):
        monkeypatch.setitem(sys.modules, "torch", module)
        with phase("rome", "edit", edits=1) as cost:
            pass
        assert (cost.device_peak_bytes, cost.device_reserved_bytes, cost.joules) == (None, None, None)
        assert cost.seconds >= 0


def test_lines_of_earlier_versions_are_read_and_what_they_do_not_tell_is_unknown() -> None:
    cost = PhaseCost.from_json(EARLIER)
    assert (cost.seconds, cost.device_reserved_bytes) == (3.0, 6)
    assert (cost.host_phase_peak_bytes, cost.joules) == (None, None)
    total = summarise([cost])[0].phases["edit"]
    assert (total.device_reserved_bytes, total.host_peak_bytes, total.joules) == (6, None, None)


class Cards:
    """`torch.cuda` with cards that a test fills: bytes allocated and reserved, and a counter of joules."""

    def __init__(self, cards: list[str], log: list[str] | None = None) -> None:
        self.cards, self.log = cards, [] if log is None else log
        self.allocated, self.reserved = [0] * len(cards), [0] * len(cards)
        self.peaks = [[0, 0] for _ in cards]
        self.millijoules = dict.fromkeys(cards, 5_000)

    def take(self, device: int, allocated: int, reserved: int) -> None:
        self.allocated[device], self.reserved[device] = allocated, reserved
        old = self.peaks[device]
        self.peaks[device] = [max(old[0], allocated), max(old[1], reserved)]

    def is_available(self) -> bool:
        return bool(self.cards)

    is_initialized = is_available

    def device_count(self) -> int:
        return len(self.cards)

    def synchronize(self, device: int) -> None:
        self.log.append(f"{device} done")

    def reset_peak_memory_stats(self, device: int) -> None:
        self.peaks[device] = [self.allocated[device], self.reserved[device]]

    def max_memory_allocated(self, device: int) -> int:
        return self.peaks[device][0]

    def max_memory_reserved(self, device: int) -> int:
        return self.peaks[device][1]

    def get_device_properties(self, device: int) -> SimpleNamespace:
        return SimpleNamespace(uuid=self.cards[device])


def test_peaks_of_allocated_and_reserved_bytes_are_of_each_phase_and_over_all_cards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cards = Cards(["a", "b"])
    monkeypatch.setattr(torch, "cuda", cards)
    with phase("rome", "prepare") as prepared:
        cards.take(0, 8, 16)
        cards.take(0, 1, 16)
        cards.take(1, 2, 4)
    cards.take(0, 1, 3)
    with phase("rome", "edit", edits=1) as applied:
        cards.take(0, 5, 6)
        cards.take(1, 0, 4)
    assert (prepared.device_peak_bytes, prepared.device_reserved_bytes) == (10, 20)
    assert (applied.device_peak_bytes, applied.device_reserved_bytes) == (7, 10)  # the second card held 2 at its start
    [one] = summarise([prepared, applied])
    assert {name: (total.device_peak_bytes, total.device_reserved_bytes) for name, total in one.phases.items()} == {
        "prepare": (10, 20),
        "edit": (7, 10),
    }
    assert one.device_peak_bytes == 10


def test_the_clock_is_read_when_every_card_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    def clock() -> float:
        log.append("clock")
        return 0.0

    monkeypatch.setattr(torch, "cuda", Cards(["a", "b"], log))
    monkeypatch.setattr(time, "perf_counter", clock)
    with phase("rome", "edit", edits=1):
        log.append("edit")
    monkeypatch.undo()
    done = ["0 done", "1 done", "clock"]
    assert log == [*done, *done, "edit", *done]


def test_the_clock_is_read_when_apples_queue_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: log.append("done"))
    with phase("rome", "edit", edits=1):
        log.append("edit")
    assert log == ["done", "done", "edit", "done"]


def test_what_is_read_around_a_phase_takes_none_of_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)

    def counted(_: object) -> dict[int, float]:
        clock.now += 50.0
        return {}

    monkeypatch.setattr(torch, "cuda", Cards(["a"]))
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(energy, "counters", counted)
    with phase("rome", "edit", edits=1) as cost:
        clock.now += 1.0
    monkeypatch.undo()
    assert cost.seconds == 1.0


class Nvml:
    """`pynvml` over the same cards, one of which may have no counter."""

    class NVMLError(Exception):
        pass

    def __init__(self, cards: Cards, without: tuple[str, ...] = ()) -> None:
        self.cards, self.without = cards, without

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        assert uuid.startswith("GPU-")
        return uuid.removeprefix("GPU-")

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        if handle in self.without:
            raise self.NVMLError("Not Supported")
        return self.cards.millijoules[handle]


def test_energy_is_that_of_the_cards_in_use_found_by_their_identity() -> None:
    cards = Cards(["b", "a"])
    assert energy.counters(cards, Nvml(cards)) == {0: 5.0, 1: 5.0}
    cards.millijoules["b"] = 7_500
    assert energy.counters(cards, Nvml(cards)) == {0: 7.5, 1: 5.0}
    assert energy.counters(cards, Nvml(cards, without=("b",))) == {1: 5.0}
    cards.get_device_properties = lambda _: SimpleNamespace()  # type: ignore[method-assign]
    assert energy.counters(cards, Nvml(cards)) == {}


@given(st.dictionaries(st.integers(0, 3), st.floats(0, 1e6)), st.dictionaries(st.integers(0, 3), st.floats(0, 1e6)))
@settings(deadline=None)
def test_joules_are_known_where_every_card_in_use_tells_and_are_never_negative(
    before: dict[int, float], after: dict[int, float]
) -> None:
    for devices in ([], [0], [0, 1], [3]):
        found = energy.joules_between(before, after, devices)
        tell = devices and all(device in before and device in after for device in devices)
        if tell and all(after[device] >= before[device] for device in devices):
            assert found == pytest.approx(sum(after[device] - before[device] for device in devices))
        else:
            assert found is None


@pytest.mark.parametrize(("without", "joules"), [((), 2.5), (("idle",), 2.5), (("used",), None)])
def test_a_phase_has_the_joules_of_the_cards_that_hold_its_memory(
    monkeypatch: pytest.MonkeyPatch, without: tuple[str, ...], joules: float | None
) -> None:
    cards = Cards(["idle", "used"])
    monkeypatch.setattr(torch, "cuda", cards)
    monkeypatch.setattr(energy, "_nvml", lambda: Nvml(cards, without))
    cards.take(1, 1, 2)
    with phase("rome", "edit", edits=1) as cost:
        cards.millijoules["used"] += 2_500
        cards.millijoules["idle"] += 60_000
    assert cost.joules == joules


def test_without_the_package_or_a_driver_energy_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise Nvml.NVMLError("Driver Not Loaded")

    for module in (None, SimpleNamespace(nvmlInit=no_driver, NVMLError=Nvml.NVMLError)):
        monkeypatch.setitem(sys.modules, "pynvml", module)
        energy._nvml.cache_clear()
        assert energy.counters(Cards(["a"])) == {}
    energy._nvml.cache_clear()


def test_the_largest_size_of_a_phase_is_its_own_and_that_of_the_process_never_shrinks() -> None:
    if not host_memory.start_anew():
        pytest.skip("this system cannot start the peak anew")
    with phase("rome", "prepare") as large:
        block = bytearray(256 * 2**20)
    del block
    with phase("rome", "edit", edits=1) as small:
        pass
    assert large.host_phase_peak_bytes is not None
    assert small.host_phase_peak_bytes is not None
    assert large.host_phase_peak_bytes - small.host_phase_peak_bytes > 128 * 2**20
    assert small.host_peak_bytes >= large.host_peak_bytes >= large.host_phase_peak_bytes


def test_where_the_system_cannot_tell_the_size_of_a_phase_is_unknown(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    nowhere = tmp_path_factory.mktemp("proc") / "none" / "file"
    monkeypatch.setattr(host_memory, "_CLEAR", nowhere)
    with phase("rome", "edit", edits=1) as cost:
        pass
    assert cost.host_phase_peak_bytes is None
    assert cost.host_peak_bytes > 1_000_000
    monkeypatch.setattr(host_memory, "_STATUS", nowhere)
    assert host_memory.peak_since() is None


def test_preparation_stays_apart_and_the_first_edit_too() -> None:
    costs = [
        PhaseCost(method="rome", phase="prepare", seconds=30.0, host_peak_bytes=5, joules=2.0),
        PhaseCost(method="rome", phase="edit", edits=1, seconds=9.0, host_peak_bytes=7, joules=1.0),
        *(PhaseCost(method="rome", phase="edit", edits=1, seconds=float(s), joules=1.0) for s in (1, 2, 3)),
        PhaseCost(method="rome", phase="edit", edits=10, seconds=40.0, device_peak_bytes=11),
        PhaseCost(method="rome", phase="evaluate", seconds=6.0),
        PhaseCost(method="ike", phase="edit", edits=1, seconds=0.5),
    ]
    rome, ike = summarise(costs)
    assert (rome.preparation_seconds, rome.first_seconds, rome.evaluation_seconds) == (30.0, 9.0, 6.0)
    assert rome.median_seconds == 2.5  # of 1, 2, 3 and 40 / 10
    assert rome.quartiles == (1.75, 3.25)
    assert (rome.edits, rome.host_peak_bytes, rome.device_peak_bytes) == (14, 7, 11)
    assert [(each.edits, each.times, each.median_seconds, each.quartiles) for each in rome.applications] == [
        (1, 3, 2.0, (1.5, 2.5)),
        (10, 1, 4.0, None),
    ]
    assert [rome.phases[name].joules for name in PHASES] == [2.0, None, None]
    assert (ike.first_seconds, ike.median_seconds, ike.quartiles, ike.device_peak_bytes) == (0.5, 0.5, None, None)
    assert [(each.edits, each.times) for each in ike.applications] == [(1, 1)]


COSTS = st.lists(
    st.builds(
        lambda phase, edits, seconds, joules: PhaseCost(
            method="rome", phase=phase, edits=edits if phase == "edit" else 0, seconds=seconds, joules=joules
        ),
        st.sampled_from(PHASES),
        st.sampled_from([1, 10, 100]),
        st.floats(0, 1e3),
        st.none() | st.floats(0, 1e3),
    ),
    min_size=1,
)


@given(COSTS)
@settings(deadline=None)
def test_every_phase_and_every_application_counts_once(costs: list[PhaseCost]) -> None:
    [one] = summarise(costs)
    assert sum(total.seconds for total in one.phases.values()) == pytest.approx(sum(cost.seconds for cost in costs))
    applied = [cost for cost in costs if cost.phase == "edit"]
    assert one.edits == sum(cost.edits for cost in applied)
    assert [each.edits for each in one.applications] == sorted({cost.edits for cost in applied})
    if applied:
        alone = sum(cost.edits == applied[0].edits for cost in applied) == 1
        assert sum(each.times for each in one.applications) == len(applied) - (not alone)
        assert one.first_seconds == applied[0].seconds / applied[0].edits
    for each in one.applications:
        if each.quartiles is not None:
            assert each.quartiles[0] <= each.median_seconds <= each.quartiles[1]
    for name, total in one.phases.items():
        told = [cost.joules for cost in costs if cost.phase == name]
        assert (total.joules is None) == (None in told)
