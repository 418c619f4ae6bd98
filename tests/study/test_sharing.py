"""Several workers and one folder: the same records as one process leaves, whoever is lost and whenever."""

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from study import crews
from study.crews import PLAN, SMALL, ModelCrew, PaperCrew
from study.fakes import CASES, Scripted

from editguard.errors import ConfigurationError, EditguardError, ModelChanged, WorkersLost
from editguard.study.folder import StudyFolder
from editguard.study.plan import UNEDITED, Cell, Plan
from editguard.study.recording import Done, Recorder
from editguard.study.schedule import TRIES
from editguard.study.sharing import run_shared
from editguard.study.summary import summarised, write_summary
from editguard.study.worker import Failed, Ready, Sight

HEADER = {"environment": {"dtype": "float32"}, "data": {}, "settings": {}, "methods": {}, "notes": {"threads": 1}}


def everything(folder):
    return {path.name: path.read_bytes() for path in (folder.path / "records").iterdir()}


def shared(crew, path, *, workers=2, plan=PLAN, told=lambda _: None):
    return run_shared(crew, Plan(**plan), CASES, StudyFolder(path), workers=workers, told=told)


def on_paper(path, plan=PLAN):
    """What one process would leave."""
    folder = StudyFolder(path)
    made = Plan(**plan)
    for name in (UNEDITED, *made.methods):
        for cell in made.cells(name):
            for part in made.parts(cell, CASES):
                done = crews.found((cell,), part)
                folder.add(cell, part, done.values, done.end)
    return everything(folder)


@given(st.integers(1, 4), st.randoms(use_true_random=False), st.floats(0, 0.2))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_records_are_those_of_one_process_whatever_comes_when_and_who_is_lost(
    tmp_path_factory, workers, random, risk
):
    path = tmp_path_factory.mktemp("study")
    crew = PaperCrew(HEADER, choose=random.choice, loses=lambda *_: random.random() < risk)
    for _ in range(20):
        try:
            folder = shared(crew, path / "shared", workers=workers)
            break
        except WorkersLost:
            crew = PaperCrew(HEADER, choose=random.choice, loses=lambda *_: random.random() < risk)
    assert everything(folder) == on_paper(path / "alone")
    assert crew.stopped


def test_parts_are_in_the_order_of_the_plan_though_the_later_ones_came_first(tmp_path):
    cell = Cell("scripted", "single", 1)
    wanted = Plan(**PLAN).parts(cell, CASES)
    came = []

    def slowest_has_the_first(talking):
        at = dict(crew.given)
        others = [worker for worker in talking if worker not in at or (cell, wanted[0]) not in at[worker].parts]
        return (others or talking)[0]

    def noted(_, message):
        if isinstance(message, Done) and cell in message.cells:
            came.append(message.name)

    crew = PaperCrew(HEADER, choose=slowest_has_the_first, loses=noted)
    folder = shared(crew, tmp_path, workers=3)
    assert sorted(came) == wanted != came
    assert list(folder.parts(cell)) == wanted


def test_a_study_goes_on_where_the_last_one_was_left_with_another_number_of_workers(tmp_path):
    def stop(line):
        if "one-by-one-single" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared(PaperCrew(HEADER), tmp_path / "shared", told=stop)
    before = {name: len(raw) for name, raw in everything(StudyFolder(tmp_path / "shared")).items()}
    crew = PaperCrew(HEADER)
    folder = shared(crew, tmp_path / "shared", workers=3)
    assert everything(folder) == on_paper(tmp_path / "alone")
    again = sum(len(item.parts) for _, item in crew.given)
    assert before
    assert again < sum(len(folder.parts(cell)) for cell in folder.cells())


def test_what_was_handed_over_before_ctrl_c_is_kept(tmp_path):
    told = []

    class Burst(PaperCrew):
        """All that was said is heard at once."""

        def receive(self, *, wait=True):
            return [(worker, box.popleft()) for worker, box in self.boxes.items() for _ in range(len(box))]

    def stop(line):
        told.append(line)
        if len(told) == 2:
            raise KeyboardInterrupt

    crew = Burst(HEADER)
    with pytest.raises(KeyboardInterrupt):
        shared(crew, tmp_path, told=stop)
    given = [part for _, item in crew.given for part in item.parts]
    kept = [(cell, name) for cell in StudyFolder(tmp_path).cells() for name in StudyFolder(tmp_path).parts(cell)]
    assert sorted(kept) == sorted(given)
    assert len(kept) > 2
    assert crew.stopped


def test_no_more_workers_are_started_than_there_are_items(tmp_path):
    crew = PaperCrew(HEADER)
    shared(crew, tmp_path, workers=9, plan={"methods": ("scripted",), "batches": (3,)})
    assert sorted(crew.started) == [0, 1]
    again = PaperCrew(HEADER)
    shared(again, tmp_path, workers=9, plan={"methods": ("scripted",), "batches": (3,)})
    assert again.started == [0]
    assert again.given == []


def test_a_worker_that_comes_too_late_is_not_waited_for(tmp_path):
    class Late(PaperCrew):
        def begin(self, worker):
            if worker == 0:
                super().begin(worker)

    crew = Late(HEADER)
    folder = shared(crew, tmp_path / "shared")
    assert everything(folder) == on_paper(tmp_path / "alone")
    assert crew.stopped


def test_an_item_that_ends_every_worker_is_one_error_that_names_it_and_the_rest_is_done(tmp_path):
    cell = Cell("scripted", "batch", 3)
    crew = PaperCrew(HEADER, loses=lambda _, message: isinstance(message, Done) and cell in message.cells)
    told = []
    with pytest.raises(WorkersLost, match="scripted-batch-3, part 3") as error:
        shared(crew, tmp_path / "shared", told=told.append)
    assert "\n" not in str(error.value)
    assert sum("scripted-batch-3" in line for line in told if line.startswith("warning: worker")) == TRIES
    wanted = on_paper(tmp_path / "alone")
    del wanted["scripted-batch-3.jsonl"]
    assert everything(StudyFolder(tmp_path / "shared")) == wanted


def test_workers_that_never_begin_are_one_error(tmp_path):
    crew = PaperCrew(HEADER, loses=lambda _, message: isinstance(message, Ready))
    with pytest.raises(WorkersLost, match="before they began"):
        shared(crew, tmp_path)
    assert len(crew.started) <= 2 + TRIES
    assert crew.stopped


def test_a_worker_with_another_environment_is_refused(tmp_path):
    class Mixed(PaperCrew):
        def begin(self, worker):
            self.header = {**HEADER, "environment": {"dtype": ("float32", "bfloat16")[worker]}}
            super().begin(worker)

    with pytest.raises(ConfigurationError, match=r"environment\.dtype"):
        shared(Mixed(HEADER), tmp_path)
    notes = PaperCrew({**HEADER, "notes": {"threads": 2}})
    shared(PaperCrew(HEADER), tmp_path / "other")
    shared(notes, tmp_path / "other", plan={**PLAN, "single": 5})


@pytest.mark.parametrize("error", [ModelChanged("changed"), None])
def test_what_goes_wrong_in_a_worker_goes_wrong_here(tmp_path, error):
    class Failing(PaperCrew):
        def act(self, worker, item):
            super().act(worker, item)
            self.boxes[worker].insert(2, Failed(error, "Traceback of the worker"))

    crew = Failing(HEADER)
    with pytest.raises(EditguardError if error else RuntimeError, match="changed" if error else "of the worker"):
        shared(crew, tmp_path)
    assert crew.stopped
    assert everything(StudyFolder(tmp_path))


def test_the_time_left_counts_every_part(tmp_path):
    told = []
    shared(PaperCrew(HEADER), tmp_path, told=told.append)
    counted = [line for line in told if " parts, about " in line]
    parts = sum(len(StudyFolder(tmp_path).parts(cell)) for cell in StudyFolder(tmp_path).cells())
    assert f"{parts} of {parts} parts" in counted[-1]


# ---- with a model


def test_workers_with_models_find_what_one_process_finds(study, tmp_path):
    alone = study(out="alone", **SMALL)
    applied = set(Scripted.applied)
    Scripted.applied.clear()
    Scripted.prepared.clear()
    lost = []

    def loses(_, message):
        if isinstance(message, Done) and message.cells[0].method == "scripted" and not lost:
            lost.append(message)
        return lost[-1:] == [message]

    crew = ModelCrew(partial(crews.setup_of, SMALL), partial(Sight.of, tmp_path / "shared"), loses=loses)
    folder = shared(crew, tmp_path / "shared", plan=SMALL)
    assert everything(folder) == everything(alone)
    assert len(crew.started) == 3
    assert set(Scripted.applied) == applied
    assert len(Scripted.prepared) <= 1 + len({(at, item.method) for at, item in crew.given if item.method != UNEDITED})
    assert not (folder.path / "states").exists()
    for each in (alone, folder):
        write_summary(each, summarised(each), "")
    assert (alone.path / "summary.json").read_bytes() == (folder.path / "summary.json").read_bytes()
    costs = [line for line in folder.costs() if "cell" in line]
    assert {line["threads"] for line in costs} == {1}
    assert {line["worker"] for line in costs} == {0, 1}


@pytest.mark.parametrize("clear", [True, False])
def test_states_under_way_are_in_the_folder_where_it_is_seen_and_gone_in_the_end(tmp_path, monkeypatch, clear):
    monkeypatch.setattr("editguard.study.running.SAVED_EVERY", 1)
    plan = {"methods": ("one-by-one",), "sequences": (2,)}
    seen = []
    crew = ModelCrew(
        partial(crews.setup_of, plan), lambda: Sight.of(tmp_path) if clear else replace(Sight.of(tmp_path), mark=(1, 1))
    )
    folder = shared(
        crew, tmp_path, plan=plan, told=lambda _: seen.extend(path.name for path in tmp_path.glob("states/*"))
    )
    assert len(folder.parts(Cell("one-by-one", "sequence", 2))) == 1
    assert {"one-by-one.json", "one-by-one-sequence-2-answers.jsonl"} & set(seen) == (
        {"one-by-one.json", "one-by-one-sequence-2-answers.jsonl"} if clear else set()
    )
    assert not (folder.path / "states").exists()


def test_too_little_memory_for_a_model_says_what_to_do(tmp_path):
    crew = ModelCrew(partial(crews.setup_without_memory, PLAN), partial(Sight.of, tmp_path))
    with pytest.raises(ConfigurationError, match="fewer --workers"):
        shared(crew, tmp_path)


def test_a_recorder_expects_nothing_of_what_the_folder_holds(tmp_path):
    shared(PaperCrew(HEADER), tmp_path)
    assert Recorder(Plan(**PLAN), CASES, StudyFolder(tmp_path), print).items(workers=3) == []
