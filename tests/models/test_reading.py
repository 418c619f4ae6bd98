"""What changes can learn of the prompts that are being read."""

from contextlib import contextmanager

import pytest
import torch
import zoo

from editguard.models import LanguageModel
from editguard.models.reading import Reading
from editguard.models.sampling import continued_freely

SHORT, LONG = "Ines Holt", "Question: who is the mayor of Tamrin? Answer:"


class Watching:
    """A change that keeps, pass by pass, which tokens of each row are said to be prompt, and counts the rows."""

    reads_prompts = True

    def __init__(self, layer: int = 0) -> None:
        self.layer = layer
        self.passes: list[tuple[int, list[int] | None]] = []
        self.in_encoder: set[bool] = set()

    def install(self, model: LanguageModel) -> None:
        def look(*_: object) -> None:
            reading = model.reading
            assert reading is not None
            self.in_encoder.add(reading.in_encoder)
            if reading.prompts is not None:
                reading.decided[self] = reading.prompts.sum(dim=1)
            self.passes.append(
                (len(reading.decided[self]), None if reading.prompts is None else reading.prompts.sum(dim=1).tolist())
            )

        self.handle = model.anatomy.block(self.layer).register_forward_pre_hook(look)

    def uninstall(self, model: LanguageModel) -> None:
        del model
        self.handle.remove()


@contextmanager
def watched(model: LanguageModel, layer: int = 0):
    watching = Watching(layer)
    watching.install(model)
    model.installed.append(watching)
    try:
        yield watching
    finally:
        model.installed.remove(watching)
        watching.uninstall(model)


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_decoding_says_where_the_prompts_are_once_and_carries_what_was_decided(family):
    model = zoo.tiny(family)
    lengths = sorted(len(model.encode(prompt)) for prompt in (SHORT, LONG))
    with watched(model) as watching:
        model.generate([SHORT, LONG], max_new_tokens=3)
    assert sorted(watching.passes[0][1]) == lengths
    assert all(prompts is None for _, prompts in watching.passes[1:])


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_teacher_forcing_counts_the_answer_out_of_the_prompt(family):
    model = zoo.tiny(family)
    lengths = sorted(len(model.encode(prompt)) for prompt in (SHORT, LONG))
    with watched(model) as watching:
        model.score([(SHORT, "Tamrin is far away"), (LONG, "Oskar")])
        model.next_tokens([SHORT, LONG])
    assert [sorted(prompts) for _, prompts in watching.passes] == [lengths, lengths]


@pytest.mark.parametrize("family", zoo.PAIRED)
def test_behind_an_encoder_the_prompts_are_what_that_reads_for_the_whole_of_the_first_pass(family):
    """A change in the encoder and one in the decoder see the same."""
    model = zoo.tiny(family)
    lengths = sorted(len(model.encode(prompt)) for prompt in (SHORT, LONG))
    for layer in (0, zoo.ENCODER_LAYERS):
        with watched(model, layer) as watching:
            model.generate([SHORT, LONG], max_new_tokens=3)
        assert sorted(watching.passes[0][1]) == lengths
        assert [prompts for _, prompts in watching.passes[1:]] == ([] if layer == 0 else [None, None])
        with watched(model, layer) as watching:
            model.score([(SHORT, "Tamrin is far away"), (LONG, "Oskar")])
            model.next_tokens([SHORT, LONG])
            continued_freely(model, [SHORT], tokens=1)
        assert [sorted(prompts) for _, prompts in watching.passes] == [lengths, lengths, [len(model.encode(SHORT))]]
        assert watching.in_encoder == {True}
    assert model.reading is None


def test_free_continuations_say_where_the_prompts_are():
    model = zoo.tiny("gpt2")
    with watched(model) as watching:
        continued_freely(model, [SHORT], tokens=3)
    assert [prompts for _, prompts in watching.passes] == [[len(model.encode(SHORT))], None, None]


def test_whole_prompts_are_read_where_a_change_looks_at_them():
    model = zoo.tiny("gpt2")
    beginning = "The capital of Velloria is Tamrin. " * 12
    prompts = [beginning + SHORT, beginning + LONG]
    with watched(model) as watching:
        model.next_tokens(prompts)
    assert sorted(watching.passes[0][1]) == sorted(len(model.encode(prompt)) for prompt in prompts)


def test_no_pass_over_running_text_has_prompts():
    model = zoo.tiny("gpt2")
    seen = []
    handle = model.anatomy.block(0).register_forward_pre_hook(lambda *_: seen.append(model.reading))
    ids = torch.tensor([model.encode(LONG)])
    model.logits(ids, torch.ones_like(ids))
    model.generate([SHORT], max_new_tokens=1)
    handle.remove()
    assert seen[0] is None
    assert isinstance(seen[1], Reading)
    assert model.reading is None


def test_ends_are_the_last_prompt_tokens_wherever_padding_is():
    prompts = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    assert Reading(prompts).ends.tolist() == [4, 1, 4]
    assert Reading(None).ends is None


def test_rows_that_go_on_keep_their_decisions():
    reading = Reading(torch.eye(3).bool())
    reading.decided["route"] = torch.tensor([10, 11, 12])
    reading.select(torch.tensor([2, 0]))
    assert reading.decided["route"].tolist() == [12, 10]
    assert reading.ends.tolist() == [2, 0]
    reading.behind()
    reading.select(torch.tensor([1]))
    assert reading.decided["route"].tolist() == [10]


def test_a_decoding_that_loses_rows_selects_the_decisions_of_the_others(monkeypatch: pytest.MonkeyPatch):
    """A row that ends early leaves; what was decided on the others moves with them."""
    model = zoo.tiny("gpt2")
    lengths = {prompt: len(model.encode(prompt)) for prompt in (SHORT, LONG)}
    rows: list[list[int]] = []

    class Deciding(Watching):
        def install(self, model: LanguageModel) -> None:
            def look(*_: object) -> None:
                reading = model.reading
                assert reading is not None
                if reading.prompts is not None:
                    reading.decided[self] = reading.prompts.sum(dim=1)
                rows.append(reading.decided[self].tolist())

            self.handle = model.anatomy.block(0).register_forward_pre_hook(look)

    deciding = Deciding()
    deciding.install(model)
    model.installed.append(deciding)
    short_answer = model.generate([SHORT], max_new_tokens=1)[0].token_ids[0]
    long_answer = model.generate([LONG], max_new_tokens=1)[0].token_ids[0]
    assert short_answer != long_answer
    monkeypatch.setattr(model, "_end_ids", frozenset({short_answer}))
    del rows[:]
    model.generate([LONG, SHORT], max_new_tokens=3)
    model.installed.remove(deciding)
    deciding.uninstall(model)
    assert sorted(rows[0]) == sorted(lengths.values())
    assert rows[1] == [lengths[LONG]]
