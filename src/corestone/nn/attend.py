"""Attention on tensors: the one place where a mask becomes a kernel's form and where a kernel is chosen.

Shape letters: B batch, T queries, S keys, N heads, K kv heads, H head dim, G = B*N, R query rows of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from corestone.core.mask import Mask
from corestone.nn.cache import KVCache

BLOCK_ROWS = 128
"""Query rows per product of the batched-products kernel (measured, docs/LOG.md)."""

LONGEST_FOR_PRODUCTS = 1024
"""Above this many tokens the fused kernel wins on CPU too (measured, docs/LOG.md)."""


@dataclass(frozen=True)
class LoweredMask:
    """A mask in the form kernels take.

    Attributes:
        causal: query t sees keys up to S - T + t. Only used while `bias_BTS` is None.
        bias_BTS: 0 where a query may look and -inf where not, causality included; None: `causal` says it all.
        bias_NTS: added to each head's scores (positions); None where there is none.
    """

    causal: bool
    bias_BTS: Tensor | None
    bias_NTS: Tensor | None = None


def lower(mask: Mask, tokens: int, dtype: torch.dtype, cache: KVCache | None = None) -> LoweredMask:
    """Turn a mask into a kernel's form, once per forward for all layers.

    Args:
        mask: of the `tokens` queries.
        tokens: T.
        dtype: of the scores, unless they are made with a cache's past keys: those have the cache's format.
        cache: where past keys are; its `segments_BS` must already cover the new tokens.
    """
    past = cache.length if cache is not None else 0
    if cache is not None and past > 0:
        dtype = cache.keys_BNSH[0].dtype
    q_segments = mask.segments_BT
    k_segments = q_segments if cache is None else cache.segments_BS
    if q_segments is None or k_segments is None:
        if past == 0 or tokens == 1:
            return LoweredMask(causal=mask.causal and tokens > 1, bias_BTS=None)
        return LoweredMask(causal=mask.causal, bias_BTS=None)
    sources = past + tokens
    allowed = q_segments[:, :, None] == k_segments[:, None, :sources]
    if mask.causal:
        allowed = allowed & _band(tokens, sources, None, allowed.device)
    return LoweredMask(causal=mask.causal, bias_BTS=_bias(allowed, dtype))


def _band(tokens: int, sources: int, window: int | None, device: torch.device) -> Tensor:
    """Boolean (T, S): keys not after the query, and within the window where there is one."""
    q = torch.arange(sources - tokens, sources, device=device)[:, None]
    k = torch.arange(sources, device=device)[None, :]
    return (k <= q) if window is None else (k <= q) & (k > q - window)


def _bias(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, float("-inf"))


def attend(
    q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, mask: LoweredMask, window: int | None = None, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention; (B, N, T, H) out, in the layout (B, T, N, H) underneath.

    K may be a divisor of N: each head of keys and values then serves N/K neighbouring heads of queries.

    On CPU, plain batched products beat the fused kernel up to about a thousand tokens; on GPU the fused kernel always
    wins. Both compute the same values (tests/nn/test_attend.py).
    """
    if k_BKSH.dtype != q_BNTH.dtype:  # keys out of a cache in another format than the model's
        wide = attend(q_BNTH.to(k_BKSH.dtype), k_BKSH, v_BKSH, mask, window, dropout)
        return wide.to(q_BNTH.dtype)
    k_BNSH, v_BNSH = (_shared(x, q_BNTH.shape[1]) for x in (k_BKSH, v_BKSH))
    T, S = q_BNTH.shape[2], k_BNSH.shape[2]
    products = (
        q_BNTH.device.type == "cpu"
        and 1 < T == S <= LONGEST_FOR_PRODUCTS
        and mask.causal
        and dropout == 0.0
        and not torch.compiler.is_compiling()
    )
    if products:
        return attend_products(q_BNTH, k_BNSH, v_BNSH, mask, window)
    return attend_fused(q_BNTH, k_BNSH, v_BNSH, mask, window, dropout)


def _shared(x_BKSH: Tensor, num_heads: int) -> Tensor:
    """Every head of keys or values as often as heads of queries share it."""
    B, K, S, H = x_BKSH.shape
    return x_BKSH if num_heads == K else x_BKSH[:, :, None].expand(B, K, num_heads // K, S, H).reshape(B, -1, S, H)


def attend_fused(
    q_BNTH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, mask: LoweredMask, window: int | None = None, dropout: float = 0.0
) -> Tensor:
    """Attention through `F.scaled_dot_product_attention`."""
    T, S = q_BNTH.shape[2], k_BNSH.shape[2]
    bias = None if mask.bias_BTS is None else mask.bias_BTS[:, None]
    flag = mask.causal and bias is None and mask.bias_NTS is None and T == S and (window is None or window >= S)
    if bias is None and not flag and (mask.causal or (window is not None and window < S)):
        bias = _bias(_band(T, S, window, q_BNTH.device), q_BNTH.dtype)
    elif bias is not None and window is not None and window < S:
        bias = bias + _bias(_band(T, S, window, q_BNTH.device), q_BNTH.dtype)
    if mask.bias_NTS is not None:
        per_head = mask.bias_NTS.to(q_BNTH.dtype)
        bias = per_head[None] if bias is None else bias + per_head
    return F.scaled_dot_product_attention(q_BNTH, k_BNSH, v_BNSH, attn_mask=bias, dropout_p=dropout, is_causal=flag)


def attend_products(
    q_BNTH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, mask: LoweredMask, window: int | None = None
) -> Tensor:
    """Causal self-attention as batched products over blocks of query rows, skipping keys no row of a block sees."""
    out: Tensor = _Products.apply(q_BNTH, k_BNSH, v_BNSH, mask.bias_NTS, mask.bias_BTS, window)
    return out


class _Products(torch.autograd.Function):
    """Forward keeps the probabilities of each block in the working precision; backward is three products a block."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: torch.autograd.function.FunctionCtx,
        q_BNTH: Tensor,
        k_BNTH: Tensor,
        v_BNTH: Tensor,
        bias_NTS: Tensor | None,
        bias_BTS: Tensor | None,
        window: int | None,
    ) -> Tensor:
        B, N, T, H = q_BNTH.shape
        q_GTH = torch.mul(q_BNTH, H**-0.5, out=q_BNTH.new_empty(B, N, T, H)).view(B * N, T, H)
        k_GTH, v_GTH = (x.reshape(B * N, T, H) for x in (k_BNTH, v_BNTH))
        out_BTNH = q_BNTH.new_empty(B, T, N, H)
        probabilities = []
        for start, stop, first in _blocks(T, window):
            scores = torch.bmm(q_GTH[:, start:stop], k_GTH[:, first:stop].transpose(1, 2))
            if bias_NTS is not None:
                scores.view(B, N, stop - start, stop - first).add_(bias_NTS[:, start:stop, first:stop])
            _add_bias(scores, start, stop, first, bias_BTS, window)
            p = torch.ops.aten._softmax.out(scores, -1, False, out=scores)
            out_BTNH[:, start:stop] = torch.bmm(p, v_GTH[:, first:stop]).view(B, N, stop - start, H).transpose(1, 2)
            probabilities.append(p)
        ctx.save_for_backward(q_GTH, k_GTH, v_GTH, *probabilities)
        ctx.window = window  # type: ignore[attr-defined]
        ctx.bias_dtype = None if bias_NTS is None else bias_NTS.dtype  # type: ignore[attr-defined]
        return out_BTNH.transpose(1, 2)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dout_BNTH,) = gradients
        B, N, T, H = dout_BNTH.shape
        q_GTH, k_GTH, v_GTH, *probabilities = ctx.saved_tensors  # type: ignore[attr-defined]
        dout_GTH = dout_BNTH.reshape(B * N, T, H)
        dq_GTH = torch.empty_like(q_GTH)
        learns_bias = ctx.needs_input_grad[3]  # type: ignore[attr-defined]
        dbias_NTS = dout_BNTH.new_zeros(N, T, T, dtype=ctx.bias_dtype) if learns_bias else None  # type: ignore[attr-defined]
        dk_GTH: Tensor | None = None
        dv_GTH: Tensor | None = None
        blocks = _blocks(T, ctx.window)  # type: ignore[attr-defined]
        # The last block sees most keys: its products are where the sums over blocks begin.
        for (start, stop, first), p in reversed(list(zip(blocks, probabilities, strict=True))):
            dout, q, k, v = dout_GTH[:, start:stop], q_GTH[:, start:stop], k_GTH[:, first:stop], v_GTH[:, first:stop]
            dv_GTH = _plus(dv_GTH, torch.bmm(p.transpose(1, 2), dout), first, T)
            dp = torch.bmm(dout, v.transpose(1, 2))
            ds = torch.ops.aten._softmax_backward_data.out(dp, p, -1, p.dtype, grad_input=dp)
            if dbias_NTS is not None:
                dbias_NTS[:, start:stop, first:stop] = ds.view(B, N, stop - start, stop - first).sum(0)
            dq_GTH[:, start:stop] = torch.bmm(ds, k)
            dk_GTH = _plus(dk_GTH, torch.bmm(ds.transpose(1, 2), q), first, T)
        dq_GTH *= H**-0.5
        shape = (B, N, T, H)
        assert dk_GTH is not None  # there is at least one block
        assert dv_GTH is not None
        return dq_GTH.view(shape), dk_GTH.view(shape), dv_GTH.view(shape), dbias_NTS, None, None


def _plus(total_GTH: Tensor | None, part_GSH: Tensor, first: int, tokens: int) -> Tensor:
    """Add a block's share of the keys' gradients, which belongs to the keys from `first` on."""
    G, S, H = part_GSH.shape
    if total_GTH is None and tokens == S:
        return part_GSH
    if total_GTH is None:
        total_GTH = part_GSH.new_zeros(G, tokens, H)
    total_GTH[:, first : first + S] += part_GSH
    return total_GTH


def _blocks(tokens: int, window: int | None) -> list[tuple[int, int, int]]:
    """Query rows [start, stop) and the first key any of them sees."""
    spans = []
    for start in range(0, tokens, BLOCK_ROWS):
        first = 0 if window is None else max(0, start - window + 1)
        spans.append((start, min(start + BLOCK_ROWS, tokens), first))
    return spans


def _add_bias(
    scores_GRS: Tensor, start: int, stop: int, first: int, bias_BTS: Tensor | None, window: int | None
) -> None:
    """Hide keys in place. Without segments only the block's own square, and the window's edge, hide anything."""
    G, R, S = scores_GRS.shape
    if bias_BTS is not None:
        B = bias_BTS.shape[0]
        scores_GRS.view(B, G // B, R, S).add_(bias_BTS[:, None, start:stop, first:stop])
    if window is not None and window < stop - first:
        band = _band(R, S, window, scores_GRS.device)
        scores_GRS.add_(_bias(band, scores_GRS.dtype))
    elif bias_BTS is None:
        square = _bias(_band(R, R, None, scores_GRS.device), scores_GRS.dtype)
        scores_GRS[:, :, S - R :].add_(square)
