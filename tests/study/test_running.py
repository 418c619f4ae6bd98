"""What a study asks which state of the model, and that nothing is done twice, skipped or mixed."""

from dataclasses import replace

import pytest
import torch
import zoo
from study import fakes
from study.fakes import CASES, TASKS, Scripted, case

from editguard.edited import EditedModel
from editguard.errors import ConfigurationError, InvalidEdit, MethodRefused, ModelChanged
from editguard.measurements import AnsweringCost, Remembered
from editguard.methods import registry
from editguard.study.evaluation import measurements, records
from editguard.study.folder import StudyFolder
from editguard.study.plan import Cell
from editguard.study.running import Materials


def values(folder, name, part=None):
    parts = folder.parts(Cell.named(name))
    return [dict(value) for value in (parts[part] if part else next(iter(parts.values()))).values]


def expected(cases, *, applied=None, size=3.0):
    """The records of a model with the cases applied by hand."""
    model = zoo.tiny("gpt2")
    rest = EditedModel.original(model)
    edited = rest
    for one in cases if applied is None else applied:
        edited = Scripted().apply(edited, [one.request])
    found = measurements(edited, Remembered(rest), cases, tasks=TASKS)
    return records(found, case=cases[0].id if len(cases) == 1 else None)


def answers(lines):
    return [line["answer"] for line in lines]


def test_a_batch_and_a_checkpoint_are_asked_with_all_their_edits_in_force(study):
    folder = study(batches=(3,), sequences=(2, 5))
    assert answers(expected(CASES[:3])) != answers(expected(CASES[:3], applied=[]))
    assert answers(expected(CASES[:3])) != answers(expected(CASES[:3], applied=CASES[2:3]))
    assert answers(values(folder, "scripted-batch-3")) == answers(expected(CASES[:3]))
    for size in (2, 5):
        found = values(folder, f"scripted-sequence-{size}")
        assert found == expected(CASES[:size])
        asked = {line["case"] for line in found if line["property"] == "reliability"}
        assert asked == {one.id for one in CASES[:size]}
    assert values(folder, "unedited-sequence-5") == expected(CASES[:5], applied=[])


def test_single_edits_are_alone_on_the_original_model(study):
    folder = study(single=3, materials=Materials())
    parts = folder.parts(Cell("scripted", "single", 1))
    assert len(parts) == 3
    for one, part in zip(CASES, parts.values(), strict=False):
        wanted = [line for line in expected([one]) if line["property"] != "other_tasks"]
        assert [dict(value) for value in part.values] == wanted
    assert len(values(folder, "unedited-single-3")) > len(wanted)


def test_every_record_says_case_property_kind_outcome_scores_and_unit(study):
    found = values(study(single=1), "scripted-single-1")
    kinds = {(line["property"], line["kind"]) for line in found}
    assert {
        ("reliability", "request"),
        ("generalization", "rephrase"),
        ("portability", "one_hop"),
        ("locality", "other_relation"),
        ("locality", "neighbourhood"),
        ("locality", "distracting_neighbourhood"),
        ("other_tasks", "copy"),
        ("fluency", "continuation"),
    } == kinds
    for line in found:
        assert line["case"] == CASES[0].id
        assert {"outcome", "value", "token_accuracy", "answer", "probe"} <= line.keys()
        assert line["unit"] == ("bits" if line["property"] == "fluency" else "fraction")


@pytest.mark.parametrize("kept", [False, True])
def test_what_a_memory_of_edits_did_is_in_the_records_and_the_prompts_if_wished(study, kept):
    materials = Materials(tasks=TASKS, keeps_prompts=kept)
    folder = study(methods=("ike",), settings={"ike": {"demonstrations": 0}}, single=1, materials=materials)
    lookups = [line["lookup"] for line in values(folder, "ike-single-1") if line["property"] != "fluency"]
    for lookup in lookups:
        assert lookup["route"] == "in-scope"
        assert [row for row, _ in lookup["retrieved"]] == [CASES[0].request.id]
        assert lookup["tokens"] > 0
        assert lookup.get("sent", "New Fact: ").count("New Fact: ") == 1 + kept
    assert {"sent" in lookup for lookup in lookups} == {kept}


def test_the_conditioning_of_the_second_moments_is_kept_with_the_values(study):
    [part] = study(batches=(2,)).parts(Cell("scripted", "batch", 2)).values()
    assert part.end["conditioning"] == [{"jitter": 0.0}]


def test_the_size_of_what_a_state_holds_is_kept_with_its_values(study):
    folder = study(single=2, batches=(3,), sequences=(4,))
    bias = 4 * zoo.D_MODEL
    ends = {cell.name: [part.end for part in folder.parts(cell).values()] for cell in folder.cells()}
    assert [end["stored_bytes"] for end in ends["scripted-single-1"]] == [bias, bias]
    assert ends["scripted-batch-3"][0]["stored_bytes"] == bias  # one application, one update
    assert ends["scripted-sequence-4"][0]["stored_bytes"] == bias  # of dense updates the sum alone
    assert "stored_bytes" not in ends["unedited-batch-3"][0]


def test_every_state_is_timed_over_the_same_prompts_beside_the_unedited_one(study, monkeypatch):
    timed = []

    def noted(edited, unedited, prompts):
        timed.append((len(edited.requests), len(unedited.requests), tuple(prompts)))
        return AnsweringCost(prompts=len(prompts), edited_seconds=2.0, unedited_seconds=1.0)

    monkeypatch.setattr("editguard.study.running.answering_cost", noted)
    folder = study(single=2, batches=(3,), sequences=(4,))
    assert sorted(found[:2] for found in timed) == [(1, 0), (1, 0), (3, 0), (4, 0)]
    [prompts] = {found[2] for found in timed}
    assert list(prompts) == [one.request.text for one in CASES] + [one.probes[2].prompt for one in CASES]
    answering = {(line["cell"], line["part"]): line["answering"] for line in folder.costs() if "answering" in line}
    assert len(answering) == 4
    assert answering["scripted-sequence-4", "4"] == {
        "prompts": len(prompts),
        "edited_seconds": 2.0,
        "unedited_seconds": 1.0,
        "lookup_seconds": 0.0,
        "tokens": None,
    }


def test_a_pass_that_cannot_be_timed_costs_nothing_else(study, monkeypatch):
    def short(*_):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr("editguard.study.running.answering_cost", short)
    folder = study(batches=(3,))
    assert answers(values(folder, "scripted-batch-3")) == answers(expected(CASES[:3]))
    assert not any("answering" in line for line in folder.costs())
    assert folder.parts(Cell("scripted", "batch", 3))["3"].end["failed"] == []


def test_the_tasks_of_single_edits_take_turns(study):
    tasks = tuple(
        type(task)(property="other_tasks", kind="copy", prompt=f"{number}: {task.prompt}", answers=task.answers)
        for number in range(8)
        for task in TASKS
    )
    folder = study(single=3, materials=Materials(tasks=tasks))
    per_case = [
        {value["probe"] for value in part.values if value["property"] == "other_tasks"}
        for part in folder.parts(Cell("scripted", "single", 1)).values()
    ]
    assert [len(asked) for asked in per_case] == [8, 8, 8]
    assert len(set.union(*per_case)) == 24


def test_a_sequence_applies_every_edit_once_and_a_batch_is_one_application(study):
    study(batches=(4,), sequences=(2, 4))
    assert Scripted.applied == [one.request.subject for one in CASES[:4]] * 2
    assert Scripted.prepared == ["scripted"]


def test_a_sequence_of_dense_updates_holds_their_sum_alone(study):
    study(sequences=(2, 5))
    assert Scripted.held == [0, 1, 1, 1, 1]


def test_a_method_that_does_not_batch_grows_one_chain_for_batches_and_sequences(study):
    folder = study(methods=("one-by-one",), batches=(1, 3), sequences=(2, 3))
    assert Scripted.applied == [one.request.subject for one in CASES[:3]]
    assert values(folder, "one-by-one-batch-3") == values(folder, "one-by-one-sequence-3") == expected(CASES[:3])


def test_superseded_edits_are_left_out_and_counted(study):
    moved = case(CASES[0].request.subject, "Tamrin")
    folder = study(cases=(*CASES[:2], moved), sequences=(3,))
    [part] = folder.parts(Cell("scripted", "sequence", 3)).values()
    asked = {value["case"] for value in part.values if value["property"] in ("reliability", "fluency")}
    assert asked == {CASES[1].id, moved.id}
    assert part.end["superseded"] == [CASES[0].id]
    assert (part.end["edits"], part.end["applied"]) == (3, 3)


# ---- going on


def everything(folder):
    return {path.name: path.read_bytes() for path in (folder.path / "records").iterdir()}


PLAN = {"single": 2, "batches": (3,), "sequences": (1, 4)}
APPLICATIONS = 2 + 3 + 4


def test_the_same_command_again_does_nothing(study):
    folder = study(**PLAN)
    before, applied = everything(folder), len(Scripted.applied)
    study(**PLAN)
    assert everything(folder) == before
    assert len(Scripted.applied) == applied
    assert Scripted.prepared == ["scripted"]


@pytest.mark.parametrize("after", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(8, marks=pytest.mark.slow)])
def test_a_study_that_was_stopped_ends_as_one_that_was_not(study, after, tmp_path):
    whole = everything(study(out="whole", **PLAN))
    Scripted.applied.clear()

    def stop(request):
        if len(Scripted.applied) > after:
            raise KeyboardInterrupt

    Scripted.before = staticmethod(stop)
    with pytest.raises(KeyboardInterrupt):
        study(out="cut", **PLAN)
    folder = StudyFolder(tmp_path / "cut")
    parts = {cell.name: list(folder.parts(cell)) for cell in folder.cells()}
    Scripted.before = None
    Scripted.applied.clear()
    model = zoo.tiny("gpt2")
    study(out="cut", model=model, **PLAN)
    assert everything(folder) == whole
    singles = parts.get("scripted-single-1", [])
    assert len(Scripted.applied) <= APPLICATIONS - len(singles)
    model.weights.verify()


def stopped_at(applications):
    def stop(request):
        if len(Scripted.applied) == applications:
            raise KeyboardInterrupt

    Scripted.before = staticmethod(stop)


@pytest.mark.parametrize(
    ("at", "harmed", "applied_again"),
    [(2, None, 6), (4, None, 3), (6, None, 2), (6, "numbers", 6), (6, "state", 6)],
)
def test_a_sequence_goes_on_from_the_last_edit_that_was_saved(study, monkeypatch, tmp_path, at, harmed, applied_again):
    monkeypatch.setattr("editguard.study.running.SAVED_EVERY", 2)
    refusing(CASES[1].request.subject, error=MethodRefused("not this one"))
    refuse = Scripted.before
    plan = {"methods": ("one-by-one",), "batches": (3,), "sequences": (3, 6)}
    whole = study(out="whole", **plan)
    assert not (whole.path / "states").exists()
    Scripted.applied.clear()

    def stop(request):
        if len(Scripted.applied) == at:
            raise KeyboardInterrupt
        refuse(request)

    Scripted.before = staticmethod(stop)
    with pytest.raises(KeyboardInterrupt):
        study(out="cut", **plan)
    for file in (tmp_path / "cut" / "states").glob({"numbers": "*.safetensors", "state": "*.json"}.get(harmed, "none")):
        file.write_bytes(file.read_bytes()[:-3])
    Scripted.applied.clear()
    Scripted.before = refuse
    model = zoo.tiny("gpt2")
    folder = study(out="cut", model=model, **plan)
    assert everything(folder) == everything(whole)
    assert len(Scripted.applied) == applied_again
    assert not (folder.path / "states").exists()
    model.weights.verify()


def test_a_sequence_that_was_stopped_while_it_was_asked_goes_on_with_the_questions(study, monkeypatch):
    whole = everything(study(out="whole", sequences=(2, 5)))
    asked = StudyFolder.add

    def stop(folder, cell, *arguments):
        if cell == Cell("scripted", "sequence", 5):
            raise KeyboardInterrupt
        return asked(folder, cell, *arguments)

    monkeypatch.setattr(StudyFolder, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        study(out="cut", sequences=(2, 5))
    monkeypatch.setattr(StudyFolder, "add", asked)
    Scripted.applied.clear()
    assert everything(study(out="cut", sequences=(2, 5))) == whole
    assert Scripted.applied == []


def test_a_state_beyond_a_checkpoint_that_is_asked_for_is_not_used(study, monkeypatch):
    monkeypatch.setattr("editguard.study.running.SAVED_EVERY", 1)
    stopped_at(5)
    with pytest.raises(KeyboardInterrupt):
        study(sequences=(6,))
    Scripted.before = None
    folder = study(sequences=(2, 6))
    assert values(folder, "scripted-sequence-2") == expected(CASES[:2])
    assert values(folder, "scripted-sequence-6") == expected(CASES)


def test_the_costs_of_edits_before_a_stop_are_kept_once(study, monkeypatch):
    monkeypatch.setattr("editguard.study.running.SAVED_EVERY", 1)
    stopped_at(4)
    with pytest.raises(KeyboardInterrupt):
        study(sequences=(2, 6))
    Scripted.before = None
    folder = study(sequences=(2, 6))
    costs = {line["cell"]: line["costs"] for line in folder.costs() if "cell" in line}
    edits = {name: sum(cost["edits"] for cost in of_cell) for name, of_cell in costs.items()}
    assert edits == {
        "unedited-sequence-2": 0,
        "unedited-sequence-6": 0,
        "scripted-sequence-2": 2,
        "scripted-sequence-6": 4,
    }


def test_edits_of_a_kind_that_cannot_be_written_are_applied_again(study, monkeypatch):
    """A prompt memory, for one."""
    monkeypatch.setattr("editguard.study.running.SAVED_EVERY", 1)
    plan = {"methods": ("ike",), "settings": {"ike": {"demonstrations": 0}}, "sequences": (2, 3)}
    whole = everything(study(out="whole", **plan))
    folder = study(out="cut", **{**plan, "sequences": (2,)})
    assert not (folder.path / "states").exists()
    assert everything(study(out="cut", **plan)) == whole


def test_only_the_checkpoints_that_are_missing_are_asked(study):
    study(sequences=(2,))
    told = []
    study(sequences=(2, 4), told=told.append)
    assert not [line for line in told if line.startswith("scripted-sequence-2,")]
    assert [line for line in told if line.startswith("scripted-sequence-4,")]


def test_a_larger_plan_adds_to_a_smaller_one(study):
    study(single=1, sequences=(2,))
    folder = study(single=2, batches=(2,), sequences=(2, 3))
    assert len(folder.parts(Cell("scripted", "single", 1))) == 2
    assert values(folder, "scripted-sequence-3") == expected(CASES[:3])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": {"scripted": {"size": 4.0}}}, r"scripted\.provenance\.size|scripted\.settings\.size"),
        ({"seed": 1}, r"settings\.seed"),
        ({"second_moment_tokens": 100}, "second_moment_tokens"),
        ({"cases": CASES[:5]}, r"data\.cases"),
        ({"cases": (*CASES[:5], case("Quintessa"))}, r"data\.cases_digest"),
        ({"materials": Materials(tasks=TASKS[:1])}, r"data\.tasks_digest"),
        ({"materials": Materials(tasks=TASKS, texts=["text"])}, r"data\.texts_digest"),
        ({"model": lambda: zoo.tiny("gpt2", seed=1)}, r"environment\.fingerprint"),
        ({"model": lambda: zoo.tiny("gpt2", dtype=torch.bfloat16)}, r"environment\.(dtype|fingerprint)"),
        ({"model": lambda: zoo.tiny("gpt2", chat=False)}, None),
        ({"cases": [replace(each, label="another", origin={"form": "zsre"}) for each in CASES]}, None),
    ],
)
def test_other_settings_data_or_models_are_refused(study, change, named):
    folder = study(single=1)
    before = everything(folder)
    made = {name: value() if callable(value) else value for name, value in change.items()}
    if named is None:
        study(single=1, **made)
    else:
        with pytest.raises(ConfigurationError, match=named):
            study(single=2, **made)
    assert everything(folder) == before


def test_training_cases_reach_the_methods_and_are_part_of_what_trained_ones_are(study, scripted, monkeypatch):
    given = []
    monkeypatch.setattr(scripted, "prepare", lambda _, __, data: given.append(tuple(data.training)))
    trained = replace(fakes.REGISTERED[0], trains=True), *fakes.REGISTERED[1:]
    monkeypatch.setattr(registry, "BUILT_IN", trained)
    folder = study(single=1, materials=Materials(tasks=TASKS, training=CASES[4:]))
    assert given == [CASES[4:]]
    with pytest.raises(ConfigurationError, match=r"methods.*training_digest|scripted\.training_digest"):
        study(single=2, materials=Materials(tasks=TASKS, training=CASES[5:]))
    study(single=1, methods=("one-by-one",), materials=Materials(tasks=TASKS, training=CASES[5:]))
    assert "training_digest" in folder.header()["methods"]["scripted"]
    assert "training_digest" not in folder.header()["methods"]["one-by-one"]


def test_too_few_cases_are_refused_before_any_work(study, tmp_path):
    with pytest.raises(ConfigurationError, match="needs 7 cases, but there are 6"):
        study(sequences=(7,))
    assert not (tmp_path / "study").exists()


# ---- what goes wrong for one edit


def refusing(*subjects, error):
    def before(request):
        if request.subject in subjects:
            raise error

    Scripted.before = staticmethod(before)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MethodRefused("not this one"), "refused"),
        (InvalidEdit("not this one"), "refused"),
        (torch.OutOfMemoryError("not this one\nmore"), "out of memory"),
    ],
)
def test_an_edit_that_fails_is_recorded_and_the_study_goes_on(study, error, reason):
    refusing(CASES[1].request.subject, error=error)
    folder = study(single=3, batches=(1, 2), sequences=(3,))
    failure = {"case": CASES[1].id, "reason": reason, "message": "not this one"}
    singles = list(folder.parts(Cell("scripted", "single", 1)).values())
    assert [part.end["failed"] for part in singles] == [[], [failure], []]
    assert [bool(part.values) for part in singles] == [True, False, True]
    [batch] = folder.parts(Cell("scripted", "batch", 2)).values()
    assert [each["case"] for each in batch.end["failed"]] == [CASES[0].id, CASES[1].id]
    assert (batch.values, batch.end["applied"]) == ((), 0)
    [sequence] = folder.parts(Cell("scripted", "sequence", 3)).values()
    assert (sequence.end["failed"], sequence.end["applied"]) == ([failure], 2)
    assert [dict(value) for value in sequence.values] == expected([CASES[0], CASES[2]])


def test_an_update_that_cannot_be_put_in_force_is_an_edit_that_fails(study, monkeypatch):
    vector = Scripted._vector

    def infinite(self, request):
        return vector(self, request) * (float("inf") if request.subject == CASES[1].request.subject else 1.0)

    monkeypatch.setattr(Scripted, "_vector", infinite)
    folder = study(single=3, sequences=(3,))
    singles = folder.parts(Cell("scripted", "single", 1)).values()
    assert [len(part.end["failed"]) for part in singles] == [0, 1, 0]
    [sequence] = folder.parts(Cell("scripted", "sequence", 3)).values()
    [failure] = sequence.end["failed"]
    assert (failure["case"], failure["reason"]) == (CASES[1].id, "refused")
    assert "infinite" in failure["message"]
    assert [dict(value) for value in sequence.values] == expected([CASES[0], CASES[2]])


def test_a_method_that_cannot_be_prepared_is_refused_everywhere_and_the_others_go_on(study, monkeypatch):
    def prepare(self, model, data):
        if self.name == "scripted":
            raise MethodRefused("no text")

    monkeypatch.setattr(Scripted, "prepare", prepare)
    folder = study(methods=("scripted", "one-by-one"), single=2, sequences=(2,))
    for part in folder.parts(Cell("scripted", "single", 1)).values():
        assert part.end["failed"][0]["message"] == "no text"
    assert folder.parts(Cell("scripted", "sequence", 2))["2"].end["applied"] == 0
    assert values(folder, "one-by-one-sequence-2") == expected(CASES[:2])
    assert set(Scripted.applied) == {CASES[0].request.subject, CASES[1].request.subject}


def test_a_method_that_leaves_the_model_changed_ends_the_study(study):
    model = zoo.tiny("gpt2")

    def harm(request):
        with torch.no_grad():
            model.anatomy.embedding.weight[0, 0] += 1

    model.fingerprint()
    Scripted.before = staticmethod(harm)
    with pytest.raises(ModelChanged):
        study(model=model, single=1)
