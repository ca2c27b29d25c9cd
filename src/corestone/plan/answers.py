"""Results of operations on tensors without values, by a few rules of shape.

torch knows all of them too, but its own rules for the meta device load its compiler and a library for algebra at the
first use, which takes longer than a whole plan (docs/LOG.md). What is not listed here is left to torch; both agree
(tests/plan/test_answers.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

NOT_KNOWN = object()
"""The answer where these rules know none."""

_aten = torch.ops.aten


def answer(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What an operation gives of meta tensors, or `NOT_KNOWN`."""
    rule = _RULES.get(function)
    first = args[0][0] if rule is not None and isinstance(args[0], (list, tuple)) else args[0]
    if rule is None or not isinstance(first, Tensor) or not first.is_meta:
        return NOT_KNOWN
    return rule(*args, **kwargs)


def _made(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """In the order that memory has, where that has no gaps; else row by row."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    if span != x.numel():
        return _made(x.shape, dtype or x.dtype)
    return torch.empty_strided(x.shape, x.stride(), dtype=dtype or x.dtype, device="meta")


def _same(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return _like(x)


def _in_place(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _new(x: Tensor, *_: Any, dtype: torch.dtype | None = None, **rest: Any) -> Any:
    """`empty_like` and `full_like`."""
    return NOT_KNOWN if rest.get("memory_format") or rest.get("device") else _like(x, dtype)


def _joined(x: Tensor, other: Any, **_: Any) -> Any:
    """Of two tensors, or a tensor and a number, of floating point."""
    dtype = torch.result_type(x, other)
    if not dtype.is_floating_point:
        return NOT_KNOWN
    shape = np.broadcast_shapes(x.shape, other.shape) if isinstance(other, Tensor) else x.shape
    full = next((one for one in (x, other) if isinstance(one, Tensor) and one.shape == shape), None)
    return _made(shape, dtype) if full is None else _like(full, dtype)


def _total(x: Tensor, *, dtype: torch.dtype | None = None) -> Any:
    return _summed(x, range(x.dim()), dtype=dtype)


def _summed(x: Tensor, axes: Sequence[int], keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    if not axes or (dtype is None and not x.is_floating_point()):
        return NOT_KNOWN
    gone = {axis % x.dim() for axis in axes}
    shape = [1 if axis in gone else size for axis, size in enumerate(x.shape) if keepdim or axis not in gone]
    return _made(shape, dtype or x.dtype)


def _largest(x: Tensor, axes: Sequence[int] = (), keepdim: bool = False) -> Any:
    return _summed(x, axes, keepdim)


def _softmax(x: Tensor, _: int, to_float32: bool) -> Tensor:
    return _made(x.shape, torch.float32 if to_float32 else x.dtype)


def _product(x: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
    return _made([*x.shape[:-1], other.shape[-1]], x.dtype) if out is None else out


def _product_added(_: Tensor, x: Tensor, other: Tensor, **__: Any) -> Tensor:
    return _product(x, other)


def _side_by_side(tensors: Sequence[Tensor], axis: int = 0) -> Any:
    first = tensors[0]
    if any(one.dtype != first.dtype or one.dim() != first.dim() for one in tensors):
        return NOT_KNOWN
    shape = list(first.shape)
    shape[axis] = sum(one.shape[axis] for one in tensors)
    return _made(shape, first.dtype)


def _stacked(tensors: Sequence[Tensor], axis: int = 0) -> Any:
    first = tensors[0]
    if any(one.dtype != first.dtype for one in tensors):
        return NOT_KNOWN
    shape = list(first.shape)
    shape.insert(axis % (first.dim() + 1), len(tensors))
    return _made(shape, first.dtype)


def _gathered(x: Tensor, _: int, index: Tensor, **__: Any) -> Tensor:
    return _made(index.shape, x.dtype)


def _embedded(weight: Tensor, indices: Tensor, *_: Any, **__: Any) -> Tensor:
    return _made([*indices.shape, weight.shape[1]], weight.dtype)


def _layer_norm(x: Tensor, shape: Sequence[int], *_: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Output, means and inverse deviations."""
    rows = [*x.shape[: -len(shape)], *[1] * len(shape)]
    return _made(x.shape, x.dtype), _made(rows, torch.float32), _made(rows, torch.float32)


_RULES: dict[Any, Callable[..., Any]] = {
    **{getattr(_aten, name).default: _same for name in ("neg", "exp", "sin", "cos", "rsqrt", "sqrt")},
    **{getattr(_aten, name).default: _same for name in ("silu", "gelu", "sigmoid", "tanh", "relu")},
    **{getattr(_aten, name).Tensor: _joined for name in ("add", "sub", "mul", "div")},
    _aten.pow.Tensor_Scalar: _joined,
    _aten.exp_.default: _in_place,
    _aten.log_.default: _in_place,
    _aten.add_.Tensor: _in_place,
    _aten.add_.Scalar: _in_place,
    _aten.mul_.Tensor: _in_place,
    _aten.div_.Scalar: _in_place,
    _aten.bernoulli_.float: _in_place,
    _aten.scatter_add_.default: _in_place,
    _aten.sum.default: _total,
    _aten.sum.dim_IntList: _summed,
    _aten.mean.dim: _summed,
    _aten.amax.default: _largest,
    _aten._softmax.default: _softmax,
    _aten._log_softmax.default: _softmax,
    _aten.mm.default: _product,
    _aten.mm.out: _product,
    _aten.bmm.default: _product,
    _aten.addmm.default: _product_added,
    _aten.cat.default: _side_by_side,
    _aten.stack.default: _stacked,
    _aten.gather.default: _gathered,
    _aten.embedding.default: _embedded,
    _aten.native_layer_norm.default: _layer_norm,
    _aten.full_like.default: _new,
    _aten.empty_like.default: _new,
}
