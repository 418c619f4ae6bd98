"""Reading and changing what flows between a model's modules; every hook is gone when its `with`
block is left.

Modules return a tensor or a tuple that begins with one, depending on family and library version;
the first tensor is meant here throughout, on reading and on replacing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn

Place = Literal["input", "output"]


class Captured:
    """What went through one module, call by call."""

    def __init__(self) -> None:
        self.calls: list[Tensor] = []

    @property
    def value(self) -> Tensor:
        """The tensor of the only call, or of the last one.

        Raises: LookupError: the module was not called within the `with` block.
        """
        if not self.calls:
            raise LookupError("the module was not called while its values were captured")
        return self.calls[-1]


class _ReachedError(Exception):
    """The forward pass came to the module after which nothing is needed."""


@contextmanager
def capture(
    module: nn.Module, at: Place = "output", kept: Callable[[Tensor], Tensor] = Tensor.clone
) -> Iterator[Captured]:
    """Keep copies of what enters or leaves `module`; gradients flow through them.

    The values are copied because some families add to a module's output in place afterwards: a `kept` that takes a
    part of the tensor returns a copy too, not a view.
    """
    captured = Captured()

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        captured.calls.append(kept(_first_input(args, kwargs)))

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        captured.calls.append(kept(first(output)))

    handle = (
        module.register_forward_pre_hook(before, with_kwargs=True)
        if at == "input"
        else module.register_forward_hook(after)
    )
    try:
        yield captured
    finally:
        handle.remove()


@contextmanager
def replaced(module: nn.Module, change: Callable[[Tensor], Tensor], at: Place = "output") -> Iterator[None]:
    """Let `change` rewrite what enters or leaves `module`: it gets the tensor and returns one of
    the same shape."""

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        name = next(iter(kwargs))
        return args, {**kwargs, name: change(kwargs[name])}

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        return with_first(output, change(first(output)))

    handle = (
        module.register_forward_pre_hook(before, with_kwargs=True)
        if at == "input"
        else module.register_forward_hook(after)
    )
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def added(module: nn.Module, positions: Sequence[int] | Tensor, vectors: Tensor) -> Iterator[None]:
    """Add a vector to the module's output at one position of every row.

    Args:
        positions: shape (rows,), the position in each row of the batch, counted from its left end.
        vectors: shape (width,) for all rows, or (rows, width).
    """
    places = [int(position) for position in positions]

    def change(output: Tensor) -> Tensor:
        moved = output.reshape(len(places), -1, output.shape[-1]).clone()  # some families flatten rows and tokens
        moved[range(len(places)), places] += vectors.to(moved)
        return moved.reshape(output.shape)

    with replaced(module, change):
        yield


@contextmanager
def stop_after(module: nn.Module, at: Place = "output") -> Iterator[None]:
    """End a forward pass as soon as `module` is entered or has returned; what is above never runs.

    The pass is cut short by an exception that this context takes, so the rest of the `with` block does not run
    either: keep the model's call its last statement, and read captured values outside.
    """

    def reached(*_: Any) -> None:
        raise _ReachedError

    register = module.register_forward_pre_hook if at == "input" else module.register_forward_hook
    handle = register(reached)
    try:
        yield
    except _ReachedError:
        pass
    finally:
        handle.remove()


def first(output: Any) -> Tensor:
    """The tensor of a module's output, whether it is returned bare or first in a tuple."""
    tensor = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(tensor, Tensor):
        raise TypeError(f"a module returned {type(output).__name__}, not a tensor or a tuple that begins with one")
    return tensor


def with_first(output: Any, tensor: Tensor) -> Any:
    """The module's output with its tensor exchanged, in the form that it had."""
    if isinstance(output, Tensor):
        return tensor
    return type(output)((tensor, *output[1:]))


def _first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    value = args[0] if args else next(iter(kwargs.values()))
    return first(value)
