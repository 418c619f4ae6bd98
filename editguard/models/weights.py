"""Changing weights so that they can always be given back byte for byte."""

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from editguard.errors import MethodRefused, ModelChanged
from editguard.models.placement import OFFLOADED, present_value


@dataclass(frozen=True, eq=False)
class LowRank:
    """The update left @ right.T of a matrix; left: (d_out, rank), right: (d_in, rank)."""

    left: Tensor
    right: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the update, (d_out, d_in)."""
        return (self.left.shape[0], self.right.shape[0])

    def dense(self) -> Tensor:
        """The update itself, (d_out, d_in)."""
        return self.left @ self.right.T


@dataclass(frozen=True, eq=False)
class Dense:
    """The update of a matrix (d_out, d_in), or of a vector such as a bias (d_out,)."""

    delta: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the update."""
        return tuple(self.delta.shape)

    def dense(self) -> Tensor:
        """The update itself."""
        return self.delta


@dataclass(frozen=True, eq=False)
class Masked:
    """The entries of an update that a mask keeps, and zeros; beside the factors it costs a bit per entry.

    Attributes:
        of: the whole update.
        bits: the mask in row-major order, eight entries per byte, the first in the highest bit; uint8.
    """

    of: LowRank | Dense
    bits: Tensor

    @classmethod
    def keeping(cls, of: LowRank | Dense, kept: Tensor) -> "Masked":
        """Return the update with the entries that `kept`, bool of its shape, keeps."""
        return cls(of, torch.from_numpy(np.packbits(kept.cpu().numpy())))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the update."""
        return self.of.shape

    def kept(self) -> Tensor:
        """The mask, bool, of the update's shape, in main memory."""
        count = math.prod(self.shape)
        flat = np.unpackbits(self.bits.numpy(), count=count)
        return torch.from_numpy(flat).reshape(self.shape).bool()

    def dense(self) -> Tensor:
        """The update itself."""
        whole = self.of.dense()
        return torch.where(self.kept().to(whole.device), whole, 0.0)


@dataclass(frozen=True, eq=False)
class Total:
    """The sum of all updates of a parameter up to here: it stands in their place, so none of them is needed.

    A sum that is set comes back to the bit; a difference of two sums that is added would not. Of a parameter whose
    value was replaced it is the sum since then.
    """

    total: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the sum."""
        return tuple(self.total.shape)

    def dense(self) -> Tensor:
        """The sum itself."""
        return self.total


Delta = LowRank | Dense | Masked | Total
"""An update of one parameter in the orientation of the field, y = W x + b with W (d_out, d_in)."""


@dataclass(frozen=True, eq=False)
class Replacement:
    """A value that stands in the place of the pristine one, of the parameter's own type; oriented as an update.

    It is there to the bit, as a difference that is added would not be.
    """

    value: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return tuple(self.value.shape)


@dataclass(frozen=True, eq=False)
class _Replaced:
    """A value in the pristine one's place, in the orientation of storage, and the sum of the updates since."""

    value: Tensor
    since: Tensor | None = None


_Sum = Tensor | _Replaced | None
"""What all updates of a parameter come to; None without any."""


@dataclass(eq=False)
class _Touched:
    """One parameter that an update has touched: its pristine value and the running sum of its
    updates, since it was replaced where it was.

    The sum is float32 (float64 for a float64 model), in the orientation of storage, and None while no update is in
    force: adding zeros would turn -0.0 into 0.0.
    """

    parameter: nn.Parameter
    transposed: bool
    pristine: Tensor
    total: _Sum = None

    def value(self, total: _Sum) -> Tensor:
        """What the parameter holds under that sum."""
        basis, added = (total.value, total.since) if isinstance(total, _Replaced) else (self.pristine, total)
        if added is None:
            return basis
        return (basis.to(added.dtype) + added).to(self.pristine.dtype)

    def plus(self, total: _Sum, delta: Delta | Replacement) -> Tensor | _Replaced:
        """The sum after one more update; the given one stays as it is."""
        if isinstance(delta, Replacement):
            return _Replaced(self.turned(delta.value.detach().to(self.pristine)))
        if isinstance(total, _Replaced):
            return _Replaced(total.value, self._added(total.since, delta))
        return self._added(total, delta)

    def _added(self, total: Tensor | None, delta: Delta) -> Tensor:
        wide = torch.promote_types(self.pristine.dtype, torch.float32)
        if isinstance(delta, Total):
            return self.turned(delta.total.detach().to(self.pristine.device, wide))
        if total is None:
            total = torch.zeros_like(self.pristine, dtype=wide)
        if isinstance(delta, LowRank):
            left, right = (part.detach().to(total) for part in (delta.left, delta.right))
            first, second = (right, left) if self.transposed else (left, right)
            return torch.addmm(total, first, second.T)
        return total + self.turned(delta.dense().detach().to(total.device, total.dtype))

    def turned(self, tensor: Tensor) -> Tensor:
        """From the orientation of the field to that of storage, or back."""
        return tensor.T if self.transposed else tensor


@dataclass(eq=False)
class _Mark:
    """The sums (None where there were none) at a depth of the stack, of the parameters pushed to since."""

    depth: int
    sums: dict[str, _Sum]


class WeightLedger:
    """The stack of weight updates in force on one module.

    A touched parameter is always cast(pristine, or what has replaced it, in float32 + sum of its updates in float32,
    in the order in which they were pushed): updates do not accumulate rounding in half precision, and a
    parameter without updates has its pristine bytes. Updates leave in the reverse order of their
    coming.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._stack: list[dict[str, Delta | Replacement]] = []
        self._touched: dict[str, _Touched] = {}
        self._before_last: dict[str, _Sum] | None = None  # the sums that undo the last push at once
        self._marks: list[_Mark] = []
        self._reference: dict[str, str] | None = None

    @property
    def depth(self) -> int:
        """How many pushes are in force."""
        return len(self._stack)

    def push(self, deltas: Mapping[str, Delta | Replacement]) -> None:
        """Add updates to parameters, or replace them; all of them or, if anything fails, none.

        Args:
            deltas: updates by parameter name (of tied parameters any of the names).

        Raises: MethodRefused: a parameter does not exist or cannot be changed (offloaded, quantised), an update has
            another shape than its parameter, or would make it infinite or undefined.
        """
        self.reference_digests()
        resolved: dict[str, Delta | Replacement] = {}
        for name, delta in deltas.items():
            canonical = self._touch(name)
            if canonical in resolved:
                raise MethodRefused(f"two updates of one push speak of the same parameter {canonical}.")
            self._check(canonical, delta)
            resolved[canonical] = delta
        touched = {name: self._touched[name] for name in resolved}
        before = {name: each.total for name, each in touched.items()}
        totals = {name: touched[name].plus(before[name], delta) for name, delta in resolved.items()}
        for name, total in totals.items():
            if not touched[name].value(total).isfinite().all():
                raise MethodRefused(
                    f"the update would leave infinite or undefined numbers in {name}; nothing was changed."
                )
        self._write(totals)
        self._stack.append(resolved)
        self._before_last = before
        for mark in self._marks:
            mark.sums = {**before, **mark.sums}  # the earliest are those of the mark

    def pop(self, count: int = 1) -> None:
        """Undo the last `count` pushes; the weights get the very bytes that they had before them.

        Raises: IndexError: fewer pushes are in force.
        """
        if not 0 <= count <= self.depth:
            raise IndexError(f"{count} updates should be undone, {self.depth} are in force")
        if count == 0:
            return
        names = {name for deltas in self._stack[-count:] for name in deltas}
        left = self.depth - count
        marked = next((mark for mark in self._marks if mark.depth == left), None)
        totals: Mapping[str, _Sum]
        if count == 1 and self._before_last is not None:
            totals = self._before_last
        elif marked is not None:
            totals = {name: marked.sums[name] for name in names}
        else:
            totals = self._sums(names, self._stack[:-count])
        self._write(totals)
        del self._stack[-count:]
        self._before_last = None
        self._marks = [mark for mark in self._marks if mark.depth <= left]

    @contextmanager
    def marked(self) -> Iterator[None]:
        """Within the block, undoing all pushes made in it costs the same however many were in force before.

        The sums in force now are kept, of the parameters that are pushed to; otherwise undoing several pushes sums up
        all that stay.
        """
        mark = _Mark(self.depth, {})
        self._marks.append(mark)
        try:
            yield
        finally:
            self._marks = [each for each in self._marks if each is not mark]

    def restore(self) -> None:
        """Undo everything, also what an interrupted push may have left: all parameters get their pristine bytes."""
        self._write({name: None for name, touched in self._touched.items() if touched.total is not None})
        self._stack.clear()
        self._before_last = None
        self._marks.clear()

    def pristine(self, name: str) -> Tensor:
        """The parameter's value without any update, as stored; a copy only where updates have
        touched it."""
        parameter = _parameter(self._module, name)
        touched = self._touched.get(self._canonical(name, parameter))
        return parameter.detach() if touched is None else touched.pristine

    def present(self, name: str) -> Tensor:
        """A view of the parameter's value as it is now, in the orientation of the field."""
        return self.turned(name, _parameter(self._module, name).detach())

    def turned(self, name: str, tensor: Tensor) -> Tensor:
        """A view of a tensor of the parameter's shape, from the orientation of storage to the field's, or back."""
        return tensor.T if self._is_transposed(name, _parameter(self._module, name)) else tensor

    def replacement(self, name: str, stored: Tensor) -> Replacement | None:
        """The update that gives a parameter a value as a checkpoint stores it; None where it is the pristine one.

        Args:
            stored: of the parameter's shape, and of any floating-point type: it is cast to the parameter's own.

        Raises: MethodRefused: there is no such parameter.
        """
        parameter = _parameter(self._module, name)
        touched = self._touched.get(self._canonical(name, parameter))
        pristine = present_value(self._module, name) if touched is None else touched.pristine
        value = stored.to(pristine.dtype)
        if torch.equal(_bytes(value), _bytes(pristine)):
            return None
        return Replacement(self.turned(name, value))

    def totals(self, stack: Sequence[Mapping[str, Delta]], names: Collection[str]) -> dict[str, Total]:
        """The sums that those pushes on the pristine model would leave on the named parameters, to the bit.

        Raises: MethodRefused: a parameter does not exist or cannot be changed.
        """
        self.reference_digests()
        canonical = {name: self._touch(name) for name in names}
        pushes = [{known: deltas[name] for name, known in canonical.items() if name in deltas} for deltas in stack]
        sums = self._sums(canonical.values(), pushes)
        return {
            name: Total(self._touched[known].turned(total))
            for name, known in canonical.items()
            if isinstance(total := sums[known], Tensor)
        }

    def digest(self) -> str:
        """sha256 of the names, types, shapes and bytes of all parameters and buffers as they are
        now."""
        return _combined(tensor_digests(self._module))

    def reference_digests(self) -> Mapping[str, str]:
        """The pristine sha256 of every tensor by its name: taken at the first call, before the
        first update."""
        if self._reference is None:
            self._reference = tensor_digests(self._module)
        return self._reference

    def verify(self) -> None:
        """Check that every tensor holds exactly the bytes that the ledger says.

        Raises: ModelChanged: names the tensors that differ.
        """
        expected = dict(self.reference_digests())
        for name, touched in self._touched.items():
            if touched.total is not None:
                expected[name] = tensor_sha256(touched.value(touched.total))
        found = tensor_digests(self._module)
        names = sorted(expected.keys() | found.keys())
        wrong = [name for name in names if expected.get(name) != found.get(name)]
        if wrong:
            shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            raise ModelChanged(
                f"the model's bytes are not those that {self.depth} edits in force should leave: {shown} changed. "
                "Something wrote to the weights directly; load the model again."
            )

    # ---- inner working

    def _canonical(self, name: str, parameter: nn.Parameter) -> str:
        return next((known for known, other in self._module.named_parameters() if other is parameter), name)

    def _touch(self, name: str) -> str:
        parameter = _parameter(self._module, name)
        canonical = self._canonical(name, parameter)
        if canonical in self._touched:
            return canonical
        if parameter.is_meta:
            raise MethodRefused(f"an edit would change {canonical}, {OFFLOADED}")
        if not parameter.is_floating_point() or parameter.dtype.itemsize < 2:
            raise MethodRefused(
                f"the parameter {canonical} is stored as {str(parameter.dtype).removeprefix('torch.')}: "
                "quantised weights cannot be edited; load the model in float32, bfloat16 or float16."
            )
        transposed = self._is_transposed(name, parameter)
        self._touched[canonical] = _Touched(parameter, transposed, parameter.detach().clone())
        return canonical

    def _is_transposed(self, name: str, parameter: nn.Parameter) -> bool:
        owner = self._module.get_submodule(name.rpartition(".")[0])
        return isinstance(owner, Conv1D) and parameter.ndim == 2

    def _check(self, name: str, delta: Delta | Replacement) -> None:
        touched = self._touched[name]
        stored = tuple(touched.parameter.shape)
        wanted = stored[::-1] if touched.transposed else stored
        if delta.shape != wanted:
            raise MethodRefused(f"an update of shape {delta.shape} for the parameter {name} of shape {wanted}.")

    def _sums(self, names: Iterable[str], stack: Iterable[Mapping[str, Delta | Replacement]]) -> dict[str, _Sum]:
        totals: dict[str, _Sum] = dict.fromkeys(names)
        for deltas in stack:
            for name in deltas.keys() & totals.keys():
                totals[name] = self._touched[name].plus(totals[name], deltas[name])
        return totals

    @torch.no_grad()
    def _write(self, totals: Mapping[str, _Sum]) -> None:
        """Set the sums and the weights that follow from them; on any failure both are as before."""
        values = {name: self._touched[name].value(total) for name, total in totals.items()}
        held = {name: self._touched[name].total for name in totals}
        try:
            for name, value in values.items():
                self._touched[name].parameter.copy_(value)
                self._touched[name].total = totals[name]
        except BaseException:
            for name, total in held.items():
                touched = self._touched[name]
                touched.parameter.copy_(touched.value(total))
                touched.total = total
            raise


def tensor_digests(module: nn.Module) -> dict[str, str]:
    """sha256 of type, shape and bytes of every parameter and buffer by name; tied parameters appear
    once.

    Weights that are offloaded are read from where they wait, one after the other. Left out are the rotary frequencies
    that no checkpoint holds: the configuration determines them, and some variants rewrite them as a sequence grows.
    """
    digests = {name: tensor_sha256(present_value(module, name)) for name, _ in module.named_parameters()}
    kept = {name: each for name, each in module.named_buffers() if not name.endswith("inv_freq")}
    return digests | {name: tensor_sha256(tensor) for name, tensor in kept.items()}


def tensor_sha256(tensor: Tensor) -> str:
    """sha256 of a tensor's type, shape and bytes; of one on the meta device, which has none, the type and shape."""
    digest = hashlib.sha256(f"{tensor.dtype}|{tuple(tensor.shape)}|".encode())
    if tensor.is_meta:
        digest.update(b"offloaded")
    else:
        digest.update(_bytes(tensor).numpy().data)
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Tensor:
    """A tensor's bytes in row-major order, uint8, in main memory."""
    return tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)


def _combined(digests: Mapping[str, str]) -> str:
    return hashlib.sha256("\n".join(f"{name} {digests[name]}" for name in sorted(digests)).encode()).hexdigest()


def _parameter(module: nn.Module, name: str) -> nn.Parameter:
    try:
        return module.get_parameter(name)
    except AttributeError:
        raise MethodRefused(
            f"the model {type(module).__name__} has no parameter {name!r}; nothing was changed."
        ) from None
