"""What methods are given to prepare from."""

from collections.abc import Callable

import pytest
from methods.conftest import training_case
from pytest_plugin.inner import Suite

from editguard.datasets.jsonl import write_cases
from editguard.edits import EditRequest
from editguard.errors import ConfigurationError
from editguard.methods import Preparation
from editguard.probes.pocket import pocket_training_cases
from editguard.pytest_plugin import options
from editguard.pytest_plugin.materials import PLAIN_TEXTS, preparation, training_texts, unrelated_texts

CASES = tuple(training_case(number) for number in range(3))
EDITED = EditRequest(prompt="The mayor of {} is", subject="Tamrin", target="Ines")


@pytest.fixture
def prepared(suite: Suite) -> Callable[..., Preparation]:
    """What a method gets in an inner run with these arguments and these edits."""
    write_cases(suite.path / "training.jsonl", CASES)

    def make(*arguments: str, edited: tuple[EditRequest, ...] = (EDITED,)) -> Preparation:
        configuration = options.read(suite.pytester.parseconfig(*arguments))
        return preparation(configuration, edited, str.strip)

    return make


@pytest.mark.parametrize("model", ["other", "pocket"])
def test_training_cases_come_from_the_file_of_the_flag_or_of_the_table(
    model: str, prepared: Callable[..., Preparation], suite: Suite
) -> None:
    file = f"--editguard-training={suite.path / 'training.jsonl'}"
    assert tuple(prepared(file, f"--editguard-model={model}").training) == CASES
    suite.pytester.makepyprojecttoml(f"[tool.editguard]\ntraining = '{suite.path / 'training.jsonl'}'\n")
    assert tuple(prepared(f"--editguard-model={model}").training) == CASES


def test_the_embedded_model_brings_its_own_and_others_have_none(prepared: Callable[..., Preparation]) -> None:
    assert tuple(prepared().training) == pocket_training_cases()
    assert tuple(prepared("--editguard-model=other").training) == ()


def test_a_file_that_shares_a_subject_with_the_edits_is_refused_when_it_is_asked_for(
    prepared: Callable[..., Preparation], suite: Suite
) -> None:
    shared = EditRequest(prompt="{} lies in", subject=" land1 ", target="Tamrin")
    data = prepared(f"--editguard-training={suite.path / 'training.jsonl'}", edited=(EDITED, shared))
    with pytest.raises(ConfigurationError, match="share 1 subjects with the evaluated ones, such as 'Land1'"):
        tuple(data.training)


def test_edits_of_the_embedded_models_training_subjects_are_warned_about(
    prepared: Callable[..., Preparation],
) -> None:
    one = pocket_training_cases()[0].request
    data = prepared(edited=(EDITED, one))
    with pytest.warns(RuntimeWarning, match=f"such as '{one.subject}'.*exclude=pocket_training_subjects"):
        assert tuple(data.training) == pocket_training_cases()


def test_texts_for_a_further_training_name_no_edited_subject(suite: Suite) -> None:
    corpus = suite.path / "corpus.txt"
    corpus.write_text("\n".join(f"City{n} lies on the river {'and so on ' * 40}" for n in range(20)), encoding="utf-8")
    edits = [EditRequest(prompt="The mayor of {} is", subject=f"City{n}", target="Ines") for n in (2, 15)]
    configuration = options.read(suite.pytester.parseconfig(f"--editguard-corpus={corpus}"))
    found = training_texts(configuration, edits)
    assert [text.split()[0] for text in found] == [
        f"City{n}" for n in range(20) if f"City{n}" not in ("City2", "City15")
    ]
    assert {len(text.split()) for text in found} == {64}
    assert len(unrelated_texts(configuration, edits, count=3, of=4, words=2)) == 3
    other = options.read(suite.pytester.parseconfig("--editguard-model=other"))
    assert tuple(training_texts(other, edits)) == PLAIN_TEXTS
    pocket = training_texts(options.read(suite.pytester.parseconfig()), edits)
    assert len(set(pocket)) > 200
