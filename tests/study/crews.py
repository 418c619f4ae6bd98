"""Setups that a process can import, and crews whose workers do what a test says."""

import os
from collections import deque

import pytest
import zoo
from study import fakes

from editguard.methods import registry
from editguard.study.items import Item
from editguard.study.plan import Plan
from editguard.study.recording import Done
from editguard.study.running import Materials
from editguard.study.worker import Finished, Lost, Place, Prepared, Ready, Setup, Worker

PLAN = {"methods": ("scripted", "one-by-one"), "single": 4, "batches": (3,), "sequences": (1, 4), "orders": 2}
SMALL = {"methods": ("scripted", "one-by-one"), "single": 2, "batches": (1,), "sequences": (2,)}


def setup_of(plan, place):
    """A tiny model with the scripted methods."""
    return Setup(Plan(**plan), zoo.tiny("gpt2"), fakes.CASES, Materials(tasks=fakes.TASKS))


def setup_elsewhere(plan, place):
    """The same in a process that knows nothing of the tests' fixtures."""
    if not set(fakes.REGISTERED) <= set(registry.BUILT_IN):
        registry.BUILT_IN = (*registry.BUILT_IN, *fakes.REGISTERED)
    shorten(pytest.MonkeyPatch())
    return setup_of(plan, place)


def shorten(monkeypatch):
    """Random models never end an answer; a few tokens tell their states apart as well."""
    monkeypatch.setattr("editguard.measurements.fluency.CONTINUATION_TOKENS", 6)
    monkeypatch.setattr("editguard.measurements.decoding.ANSWER_TOKENS", 3)
    monkeypatch.setattr("editguard.measurements.scores.answer_limit", lambda _: 3)


def noted_setup(plan, pids, place):
    """As elsewhere; leaves the number of the process."""
    (pids / str(place.number)).write_text(str(os.getpid()))
    return setup_elsewhere(plan, place)


def dies(status, place):
    """A process that ends at once."""
    os._exit(status)


def setup_without_memory(plan, place):
    """More models than there is room for."""
    raise MemoryError


class Crew:
    """Workers in this process that act when they are told to, and are heard one message at a time.

    Args:
        choose: of the numbers of workers that have something to say, the one that is heard; in turns by default.
        loses: whether a worker is lost instead of saying a message.
    """

    def __init__(self, *, choose=None, loses=lambda *_: False):
        self.heard = 0
        self.choose, self.loses = choose or self.in_turns, loses
        self.boxes: dict[int, deque] = {}
        self.started: list[int] = []
        self.given: list[tuple[int, Item]] = []
        self.stopped = False

    def start(self, worker):
        self.started.append(worker)
        self.boxes[worker] = deque()
        self.begin(worker)

    def give(self, worker, item):
        if item is None:
            self.boxes[worker].append(Finished())
            return
        self.given.append((worker, item))
        self.act(worker, item)

    def receive(self, *, wait=True):
        talking = [worker for worker, box in self.boxes.items() if box]
        if not talking:
            assert not wait, "everybody waits for everybody"
            return []
        worker = self.choose(talking)
        message = self.boxes[worker].popleft()
        if self.loses(worker, message):
            del self.boxes[worker]
            return [(worker, Lost("the test wants it"))]
        return [(worker, message)]

    def stop(self):
        self.stopped = True

    def in_turns(self, talking):
        self.heard += 1
        return talking[self.heard % len(talking)]


class PaperCrew(Crew):
    """Workers without a model: what they find of a part follows from its name."""

    def __init__(self, header, **options):
        super().__init__(**options)
        self.header = header

    def begin(self, worker):
        self.boxes[worker] += [Ready(self.header), Finished()]

    def act(self, worker, item):
        box = self.boxes[worker]
        box.append(Prepared(item.method, None))
        states = {}
        for cell, name in item.parts:
            states.setdefault(name, []).append(cell)
        for name, cells in states.items():
            together = [cells] if item.kind == "sequence" else [[cell] for cell in cells]
            box += [found(tuple(group), name) for group in together]
        box.append(Finished())


class ModelCrew(Crew):
    """Workers as they are, with a model each."""

    def __init__(self, build, sight, **options):
        super().__init__(**options)
        self.build, self.sight, self.workers = build, sight, {}

    def begin(self, worker):
        box = self.boxes[worker]
        self.workers[worker] = Worker(self.build, Place(number=worker), self.sight(), box.append)
        self.workers[worker].begin()

    def act(self, worker, item):
        self.workers[worker].carry_out(item)


def found(cells, name):
    """A part on paper."""
    end = {"edits": 1, "applied": 1, "failed": [], "excluded": {}, "superseded": []}
    values = [{"case": name, "property": "reliability", "value": len(name) / 10}]
    return Done(cells=cells, name=name, values=values, end=end, cost={"costs": []})
