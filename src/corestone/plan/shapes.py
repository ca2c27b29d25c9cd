"""A model's shapes without its values: parts of its parameters, and what a training step keeps for backward.

A step is run on tensors that have shapes and no memory, so that a 540B model is traced on any machine: torch's fake
tensors where a CPU is meant, and the meta device, with the fused attention kernel's own account of what it keeps, where
an accelerator is.

Shape letters: B batch, N heads, T queries, S keys, H head dim, D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from corestone.nn.init import materialise
from corestone.nn.stack import StackLayer
from corestone.plan.answers import NOT_KNOWN, answer

_INDEXING = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put_.default,
    torch.ops.aten.index_put.default,
    torch.ops.aten._index_put_impl_.default,
}


def parameter_parts(model: nn.Module) -> dict[str, int]:
    """Parameters by part: a module's children, and of stacks of blocks what each kind of branch has. Shared ones count
    once, where they come first."""
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = _part(name.split("."))
        parts[part] = parts.get(part, 0) + parameter.numel()
    return parts


def _part(path: list[str]) -> str:
    if "blocks" in path[:-1]:
        place = path.index("blocks")
        return ".".join([*path[:place], path[place + 2]])
    return ".".join(path[:1]) if len(path) < 3 else ".".join(path[: min(2, len(path) - 1)])


def largest_block(model: nn.Module) -> int:
    """Parameters of the largest block of a stack, which full sharding gathers at a time; of a model without stacks its
    largest parameter."""
    blocks = [block for stack in _stacks(model) for block in stack.blocks]
    if not blocks:
        return max(parameter.numel() for parameter in model.parameters())
    return max(sum(parameter.numel() for parameter in block.parameters()) for block in blocks)


def block_count(model: nn.Module) -> int:
    """Pieces that full sharding gathers one after the other: the blocks of all stacks, and what is around them."""
    return 1 + sum(len(stack.blocks) for stack in _stacks(model))


def _stacks(model: nn.Module) -> list[StackLayer]:
    return [module for module in model.modules() if isinstance(module, StackLayer)]


@dataclass(frozen=True)
class Kept:
    """What a forward pass of some rows keeps for backward, in bytes: distinct memory, parameters not counted.

    Attributes:
        saved: all of it.
        largest: the largest single piece, of which backward makes a gradient.
        recomputed: what is kept where blocks are computed again in backward: what is outside of them, the input of
            each, and all of the largest one.
    """

    rows: int
    saved: float
    largest: float
    recomputed: float


@dataclass(frozen=True)
class Activations:
    """The same of any number of rows, by two of them: some memory does not grow with rows."""

    fewer: Kept
    more: Kept

    def at(self, rows: int, recompute: bool) -> tuple[float, float]:
        """Bytes kept, and of the largest piece."""
        kept = (self.fewer.recomputed, self.more.recomputed) if recompute else (self.fewer.saved, self.more.saved)
        return self._line(*kept, rows), self._line(self.fewer.largest, self.more.largest, rows)

    def _line(self, fewer: float, more: float, rows: int) -> float:
        slope = (more - fewer) / (self.more.rows - self.fewer.rows)
        return max(0.0, fewer + slope * (rows - self.fewer.rows))


class _Mixed(TorchDispatchMode):
    """Real batches through models without values. What follows from the batch alone is computed, since control flow may
    depend on it; what meets a tensor without values becomes one, and so does what is large (position biases).

    Args:
        within: makes tensors without values.
        device: where they are.
    """

    def __init__(self, within: AbstractContextManager[Any], device: torch.device) -> None:
        super().__init__()
        self.within, self.device = within, device
        self.stand_ins: dict[tuple[int, torch.dtype], tuple[Any, Tensor]] = {}
        self.stands_for: dict[int, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here: wrapping the mode for it would load torch's compiler, which takes a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(map(_is_empty, tensors)) and not _makes_much(func, tensors):
            return func(*args, **kwargs)
        if func in _INDEXING:  # a mask of known values has a known number of places
            args = (args[0], _places(args[1]), *args[2:])
        with self.within:
            args, kwargs = tree_map_only(Tensor, self._emptied, (args, kwargs))
            found = answer(func, args, kwargs)
            return func(*args, **kwargs) if found is NOT_KNOWN else found

    def _emptied(self, tensor: Tensor) -> Tensor:
        """The tensor's stand-in; those of one memory have one memory, so that it counts once."""
        if _is_empty(tensor):
            return tensor
        storage, dtype = tensor.untyped_storage(), tensor.dtype
        if (storage._cdata, dtype) not in self.stand_ins:
            made = torch.empty(storage.nbytes() // tensor.element_size(), dtype=dtype, device=self.device)
            self.stand_ins[storage._cdata, dtype] = storage, made  # both are held, so that no id comes twice
            self.stands_for[made.untyped_storage()._cdata] = storage._cdata
        return self.stand_ins[storage._cdata, dtype][1].as_strided(
            tensor.shape, tensor.stride(), tensor.storage_offset()
        )


MUCH = 1 << 25
"""Values that no model's control flow depends on."""


def _makes_much(func: Any, tensors: Sequence[Tensor]) -> bool:
    if torch.Tag.pointwise not in func.tags or not tensors:
        return False
    return bool(prod(np.broadcast_shapes(*[tensor.shape for tensor in tensors])) > MUCH)


def _is_empty(tensor: Tensor) -> bool:
    return isinstance(tensor, FakeTensor) or tensor.is_meta


def _places(indices: Any) -> list[Any]:
    out: list[Any] = []
    for index in indices:
        known_mask = index is not None and index.dtype == torch.bool and not _is_empty(index)
        out += index.nonzero(as_tuple=True) if known_mask else [index]
    return out


class _FusedKernels(TorchFunctionMode):
    """Attention as an accelerator's kernels account for it: scores never exist."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Fused.apply(*args, (kwargs or {}).get("attn_mask"))
        return func(*args, **(kwargs or {}))


class _Fused(torch.autograd.Function):
    """Keeps queries, keys, values, a bias where there is one, the output, and each query's log-normaliser in float32
    (Dao et al. 2022, algorithm 2)."""

    @staticmethod
    def forward(ctx: Any, q_BNTH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        out_BTNH = q_BNTH.transpose(1, 2).new_empty(q_BNTH.transpose(1, 2).shape)
        log_z_BNT = q_BNTH.new_empty(q_BNTH.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q_BNTH, k_BNSH, v_BNSH, *([] if bias is None else [bias]), out_BTNH, log_z_BNT)
        return out_BTNH.transpose(1, 2)


class _Seen(nn.Module):
    """Stands for a block that is like an earlier one: it gives back what it was given."""

    def forward(self, x_BTD: Tensor, *rest: Any) -> Tensor:
        return x_BTD


class _Saved:
    """What autograd keeps, each piece of memory once, with the block that made it; what a block is given beside its
    input, such as masks, positions and another text's hidden values, is of no block, since all share it.

    Args:
        stands_for: of memory without values, the batch's memory that it stands for.
    """

    def __init__(self, stands_for: Mapping[int, int]) -> None:
        self.stands_for = stands_for
        self.block: int | None = None
        self.times: dict[int | None, int] = {None: 1}
        self.inputs = 0.0
        self.pieces: dict[int, tuple[Any, int | None]] = {}
        self.own: set[int] = set()
        self.given: set[int] = set()

    def keep(self, tensor: Tensor) -> Tensor:
        storage, place = tensor.untyped_storage(), self._place(tensor)
        if place not in self.own and place not in self.pieces:
            # held, so that no id comes twice
            self.pieces[place] = (storage, None if place in self.given else self.block)
        return tensor

    def _place(self, tensor: Tensor) -> int:
        place = tensor.untyped_storage()._cdata
        return self.stands_for.get(place, place)

    def enter(self, block: nn.Module, args: Any) -> None:
        self.block = id(block)
        self.given = {self._place(tensor) for tensor in _tensors(args[1:])}
        self.inputs += args[0].untyped_storage().nbytes() * self.times[self.block]

    def leave(self, *_: Any) -> None:
        self.block = None

    def kept(self, rows: int) -> Kept:
        """In sum, a block as often as there are blocks like it."""
        within: dict[int | None, float] = {None: 0.0}
        for storage, block in self.pieces.values():
            within[block] = within.get(block, 0.0) + storage.nbytes()
        return Kept(
            rows=rows,
            saved=sum(size * self.times[block] for block, size in within.items()),
            largest=float(max((storage.nbytes() for storage, _ in self.pieces.values()), default=0)),
            recomputed=within[None] + self.inputs + max((within[b] for b in within if b is not None), default=0.0),
        )


def _tensors(value: Any) -> Iterator[Tensor]:
    """Those in a record of records, sequences and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        yield from _tensors([getattr(value, one.name) for one in fields(value)])
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)


def _once_each(model: nn.Module) -> dict[nn.Module, int]:
    """Let of blocks with equal records only the first run; how many each stands for."""
    times = {}
    for stack in _stacks(model):
        counts = Counter(stack.spec.blocks)
        for place, record in enumerate(stack.spec.blocks):
            if record in counts:
                times[stack.blocks[place]] = counts.pop(record)
            else:
                stack.blocks[place] = _Seen()
    return times


def trace(
    model: nn.Module, loss: Callable[[Any, Any], Any], batches: Sequence[Any], dtype: torch.dtype, cpu: bool = True
) -> list[Kept]:
    """What forward passes of some batches keep for backward, each by itself.

    Args:
        model: on the meta device; it is spent afterwards.
        loss: an objective's, of a model and a batch.
        batches: real, on the CPU, as the objective's `corrupt` gives them.
        dtype: that the model computes in.
        cpu: as a CPU's kernels keep it; else as an accelerator's.
    """
    times = _once_each(model)
    model.to(dtype)
    within: AbstractContextManager[Any] = FakeTensorMode(allow_non_fake_inputs=True) if cpu else nullcontext()
    if cpu:
        with within:
            materialise(model, "cpu")
    return [_traced(model, loss, batch, times, within, cpu) for batch in batches]


def _traced(
    model: nn.Module,
    loss: Callable[[Any, Any], Any],
    batch: Any,
    times: Mapping[nn.Module, int],
    within: AbstractContextManager[Any],
    cpu: bool,
) -> Kept:
    mixed = _Mixed(within, torch.device("cpu" if cpu else "meta"))
    saved = _Saved(mixed.stands_for)
    saved.times |= {id(block): count for block, count in times.items()}
    saved.own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    hooks = [block.register_forward_pre_hook(saved.enter) for block in times]
    hooks += [block.register_forward_hook(saved.leave) for block in times]
    fused = nullcontext() if cpu else _FusedKernels()
    with torch.autograd.graph.saved_tensors_hooks(saved.keep, _same), fused, mixed:
        loss(model, batch)
    for hook in hooks:
        hook.remove()
    return saved.kept(len(batch))


def _same(tensor: Tensor) -> Tensor:
    return tensor
