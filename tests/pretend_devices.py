"""Devices that are not there: a model is spread over "cpu:0" and "cpu:1", and mixing the two fails as on two GPUs.

Torch takes any index behind "cpu", tells such devices apart when it compares them, and allocates on none of them. Here
a tensor of a pretended device is a shell around a real one in main memory. While `pretended` is in force every
operation comes by: it runs on the real tensors, its results are where its arguments are or where `device=` says, and
arguments of several devices are an error in torch's words. Main memory, "cpu" without an index, is one more device. As
with GPUs:

- Only `Tensor.to`, `copy_` and constructors move.
- A number (a tensor without dimensions) in main memory may meet tensors of any device, element by element.
- Indices in main memory may pick from tensors of any device.
- Autograd itself checks where gradients are.

What this cannot show is all that a kernel of a GPU does otherwise: rounding, what it does not implement, memory, time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

MEMORY: Final = torch.device("cpu")
FIRST: Final = torch.device("cpu", 0)
SECOND: Final = torch.device("cpu", 1)

_PICKING = frozenset({"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"})
_MOVING = frozenset({"_to_copy", "copy", "copy_"})
_FILLING = frozenset({"fill_", "masked_fill", "masked_fill_"})


class Shell(Tensor):
    """A tensor of a pretended device, and the real one behind it."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> "Shell":
        shell = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=device,
        )
        shell.inner = inner
        return shell

    def tolist(self) -> Any:
        return self.inner.tolist()

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    def __repr__(self) -> str:
        return f"Shell({self.inner!r}, {self.device})"

    def __tensor_flatten__(self) -> tuple[list[str], torch.device]:
        """By this torch knows that a module's parameters become shells in place, so that tied ones stay tied."""
        return ["inner"], self.device

    @staticmethod
    def __tensor_unflatten__(parts: Mapping[str, Tensor], device: torch.device, *_: Any) -> "Shell":
        return Shell(parts["inner"], device)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Watch(TorchDispatchMode):
    """Sees the operations that have no shell among their arguments too: what is made on, or moved to, a device."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # its import takes seconds, and nothing is compiled here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors: list[Tensor] = []
    bare_args, bare_kwargs = _bared(args, tensors), _bared(kwargs, tensors)
    asked = kwargs.get("device")
    if asked is None or asked == MEMORY:
        if not any(isinstance(tensor, Shell) for tensor in tensors):
            return func(*args, **kwargs)
    else:
        bare_kwargs["device"] = MEMORY
    nature = _nature(func)
    device = _common_device(func, nature, tensors, args) if asked is None else asked
    if nature.reshapes:
        raise NotImplementedError(f"pretended devices do not know {func}, which changes the shape of a tensor in place")
    found = func(*bare_args, **bare_kwargs)
    if nature.writes:
        return kwargs.get("out", args[0])
    return found if device == MEMORY else _shelled(found, device)


class _Nature(NamedTuple):
    """What kind of operation it is: whether arguments may be elsewhere, and whether it works in place."""

    moves: bool
    picks: bool
    elementwise: bool
    writes: bool
    reshapes: bool


@cache
def _nature(func: Any) -> _Nature:
    name = func.__name__.partition(".")[0]
    elementwise = torch.Tag.pointwise in func.tags or name in _FILLING
    reshapes = torch.Tag.inplace_view in func.tags
    return _Nature(name in _MOVING, name in _PICKING, elementwise, func._schema.is_mutable, reshapes)


def _bared(arguments: Any, tensors: list[Tensor]) -> Any:
    """Arguments with real tensors in place of shells; every tensor among them joins the list."""
    if isinstance(arguments, Tensor):
        tensors.append(arguments)
        return arguments.inner if isinstance(arguments, Shell) else arguments
    if isinstance(arguments, list | tuple):
        return type(arguments)(_bared(each, tensors) for each in arguments)
    if isinstance(arguments, dict):
        return {name: _bared(each, tensors) for name, each in arguments.items()}
    return arguments


def _shelled(found: Any, device: torch.device) -> Any:
    if isinstance(found, Tensor):
        return Shell(found, device)
    return type(found)(_shelled(each, device) for each in found) if isinstance(found, list | tuple) else found


def _common_device(func: Any, nature: _Nature, tensors: Sequence[Tensor], args: tuple[Any, ...]) -> torch.device:
    """The device of all of an operation's tensors.

    Raises: RuntimeError: there are several.
    """
    if nature.moves:
        return args[0].device
    checked = list(tensors)
    if nature.picks:
        indices = [index for index in args[1] if index is not None and index.device != MEMORY]
        checked = [args[0], *indices, *(value for value in args[2:3] if value.ndim or value.device != MEMORY)]
    elif nature.elementwise:
        written = tensors[0] if nature.writes else None
        checked = [each for each in tensors if each.ndim or each.device != MEMORY or each is written]
    if len({tensor.device for tensor in checked}) > 1:
        devices = sorted({str(tensor.device) for tensor in checked})
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {devices[0]} and "
            f"{devices[1]}! (when checking {func.__name__})"
        )
    return checked[0].device


def _moving(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A constructor from numbers, which asks no dispatcher: let it make the tensor in main memory, and move that."""

    def made(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        tensor = make(*args, **kwargs)
        return tensor if device is None else tensor.to(device)

    return made


def _new_tensor(like: Tensor, data: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
    return torch.tensor(data, dtype=dtype or like.dtype, device=device or like.device)


@contextmanager
def pretended() -> Iterator[None]:
    """Let there be pretended devices: within the block, tensors can be made on and moved to `FIRST` and `SECOND`."""
    with (
        patch.object(torch, "tensor", _moving(torch.tensor)),
        patch.object(torch, "as_tensor", _moving(torch.as_tensor)),
        patch.object(Tensor, "new_tensor", _new_tensor),
        _Watch(),
    ):
        yield


def _blocks(path: str, count: int) -> dict[str, torch.device]:
    return {f"{path}.{layer}": FIRST if 2 * layer < count else SECOND for layer in range(count)}


MAPS: Final[Mapping[str, Mapping[str, torch.device]]] = {
    "llama": {
        "model.embed_tokens": FIRST,
        "model.rotary_emb": FIRST,
        **_blocks("model.layers", 4),
        "model.norm": SECOND,
        "lm_head": SECOND,
    },
    "gpt2": {
        "transformer.wte": FIRST,
        "transformer.wpe": FIRST,
        **_blocks("transformer.h", 4),
        "transformer.ln_f": SECOND,
        "lm_head": FIRST,  # tied to the embedding
    },
    "t5": {
        "shared": FIRST,
        "encoder.embed_tokens": FIRST,
        "decoder.embed_tokens": FIRST,
        **_blocks("encoder.block", 2),
        "encoder.final_layer_norm": SECOND,
        **_blocks("decoder.block", 3),
        "decoder.final_layer_norm": SECOND,
        "lm_head": FIRST,
    },
}
"""Where the parts of the tiny models are, by family: cut in the middle of the blocks, as "auto" and "balanced" do."""


def spread(
    module: PreTrainedModel, device_map: Mapping[str, torch.device] | None = None, *, main: torch.device = FIRST
) -> None:
    """Put the parts of a model onto devices, with the hooks of `accelerate` that move what flows between them.

    Args:
        device_map: None takes the one of the model's family.
        main: where the model is called.
    """
    from accelerate import dispatch_model

    chosen = MAPS[module.config.model_type] if device_map is None else device_map
    dispatch_model(module, dict(chosen), main_device=main, force_hooks=True)
