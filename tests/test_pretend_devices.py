"""That pretended devices find what two GPUs would, and let pass what they would."""

# ruff: noqa: ARG005

import pytest
import torch
import zoo
from pretend_devices import FIRST, MAPS, MEMORY, SECOND, Shell, pretended, spread
from torch import Tensor, nn

PAIRS = [("The capital of Velloria is", "Tamrin"), ("Question: who is the mayor of Tamrin? Answer:", "Ines Holt")]

WRONG = {
    "sum": lambda here, there: here + there,
    "product of matrices": lambda here, there: here[None] @ there[:, None],
    "product in one vector": lambda here, there: torch.dot(here, there),
    "in place": lambda here, there: here.add_(there),
    "in place, from the other side": lambda here, there: there.add_(here),
    "stack": lambda here, there: torch.stack([here, there]),
    "stack of numbers": lambda here, there: torch.stack([here.sum(), there.sum()]),
    "cat": lambda here, there: torch.cat([here, there]),
    "choice": lambda here, there: torch.where(there > 0, here, 0.0),
    "gather": lambda here, there: here.gather(0, there.long()),
    "assignment": lambda here, there: here.index_copy(0, there.long(), here),
    "linear": lambda here, there: nn.functional.linear(here[None], there[None]),
    "embedding": lambda here, there: nn.functional.embedding(there.long(), here[:, None]),
    "loss": lambda here, there: nn.functional.cross_entropy(here[None], there[:1].long()),
    "norm": lambda here, there: nn.functional.layer_norm(here, (3,), there),
    "solution": lambda here, there: torch.linalg.solve(torch.diag(here), there),
}
"""What no two devices can do together."""

RIGHT = {
    "number of main memory": lambda here, there: here * torch.tensor(2.0),
    "number read out": lambda here, there: here * float(there.sum()),
    "moved": lambda here, there: here + there.to(here.device),
    "moved by example": lambda here, there: here + there.to(here),
    "copied into": lambda here, there: here.clone().copy_(there),
    "indices of main memory": lambda here, there: here[torch.tensor([0, 2])],
    "indices as numbers": lambda here, there: here[[0, 2]],
    "mask of main memory": lambda here, there: here[torch.tensor([True, False, True])],
    "made there": lambda here, there: here + torch.arange(3, device=here.device) + here.new_tensor([1, 2, 3]),
    "made like it": lambda here, there: torch.zeros_like(here) + here.new_zeros(3) + torch.full_like(here, 2.0),
    "view": lambda here, there: here[None].expand(2, -1).T.reshape(-1)[1:3],
    "written through a view": lambda here, there: [part := here.clone(), part[1:].mul_(2.0)][0],
}
"""What they can."""


def pair() -> tuple[Tensor, Tensor]:
    return torch.tensor([1.0, 2.0, 0.5], device=FIRST), torch.tensor([0.0, 2.0, 1.0], device=SECOND)


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("others", [SECOND, MEMORY], ids=str)
def test_what_meets_on_two_devices_is_an_error_in_torchs_words(name, others):
    with pretended():
        here, there = pair()
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            WRONG[name](here, there.to(others))


@pytest.mark.parametrize("name", WRONG)
def test_on_one_device_the_same_passes_and_stays_there(name):
    with pretended():
        here, there = pair()
        for device in (FIRST, SECOND, MEMORY):
            found = WRONG[name](here.to(device, copy=True), there.to(device, copy=True))
            assert found.device == device


@pytest.mark.parametrize("name", RIGHT)
def test_what_gpus_allow_gives_the_same_numbers_and_stays_on_its_device(name):
    with pretended():
        here, there = pair()
        found = RIGHT[name](here, there)
        assert found.device == FIRST
        assert isinstance(found, Shell)
        wanted = RIGHT[name](here.to(MEMORY), there.to(MEMORY))
        assert torch.equal(found.to(MEMORY), wanted)


def test_numbers_of_two_pretended_devices_do_not_meet():
    with pretended():
        here, there = pair()
        plain = torch.ones(3)
        for wrong in (lambda: here * there.sum(), lambda: plain * here.sum(), lambda: plain[here.long()]):
            with pytest.raises(RuntimeError, match="same device"):
                wrong()


def test_numpy_needs_main_memory_as_it_does_from_a_gpu():
    with pretended():
        here, _ = pair()
        with pytest.raises((RuntimeError, TypeError)):
            here.numpy()
        assert here.cpu().numpy().tolist() == here.tolist() == [1.0, 2.0, 0.5]


def test_gradients_go_back_to_where_they_belong():
    with pretended():
        here, there = (each.requires_grad_() for each in pair())
        loss = (here * there.to(FIRST) ** 2).sum()
        gradients = torch.autograd.grad(loss, [here, there])
        assert [each.device for each in gradients] == [FIRST, SECOND]
        assert [each.tolist() for each in gradients] == [[0.0, 4.0, 1.0], [0.0, 8.0, 1.0]]


def test_parameters_that_are_tied_stay_tied_on_their_way_to_a_device():
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    with pretended():
        both = nn.ModuleList([first, second]).to(SECOND)
        assert both[0].weight is both[1].weight
        assert both[0].weight.device == SECOND


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name == "llama" else [pytest.mark.slow]) for name in MAPS]
)
def test_a_spread_model_answers_as_the_whole_one_and_not_without_the_hooks_that_move(family):
    accelerate = pytest.importorskip("accelerate")
    wanted, answers = zoo.tiny(family).score(PAIRS), zoo.tiny(family).generate([PAIRS[0][0]], max_new_tokens=4)
    with pretended():
        model = zoo.tiny(family)
        fingerprint = model.fingerprint()
        spread(model.module)
        assert {parameter.device for parameter in model.module.parameters()} == {FIRST, SECOND}
        assert model.score(PAIRS) == wanted
        assert model.generate([PAIRS[0][0]], max_new_tokens=4) == answers
        model.weights.verify()
        again = zoo.tiny(family)
        spread(again.module)
        assert again.fingerprint() == fingerprint
        accelerate.hooks.remove_hook_from_submodules(model.module)
        with pytest.raises(RuntimeError, match="same device"):
            model.score(PAIRS)


def test_nothing_of_it_is_left_afterwards():
    before = torch.tensor, torch.as_tensor, Tensor.new_tensor
    with pytest.raises(ValueError, match="on purpose"), pretended():
        raise ValueError("on purpose")
    assert before == (torch.tensor, torch.as_tensor, Tensor.new_tensor)
    assert torch.tensor([1.0], device="cpu:1").device == MEMORY
