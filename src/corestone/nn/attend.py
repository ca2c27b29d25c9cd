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

VECTOR = 32
"""Numbers in bfloat16 that the widest vector holds."""


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
        dtype = cache.dtype
    sources = past + tokens
    q_segments = mask.segments_BT
    k_segments = q_segments if cache is None else cache.segments_BS
    if q_segments is None or k_segments is None:
        if mask.prefix_BT is None or not mask.causal:
            return LoweredMask(causal=mask.causal and tokens > 1, bias_BTS=None)
        allowed = _seen(mask, tokens, sources)
    else:
        allowed = q_segments[:, :, None] == k_segments[:, None, :sources]
        if mask.causal:
            allowed = allowed & _seen(mask, tokens, sources)
    # Who sees what is written out; only pure causality lets a kernel skip the keys behind a query.
    return LoweredMask(causal=mask.causal and mask.prefix_BT is None, bias_BTS=_bias(allowed, dtype))


def lower_sources(mask: Mask, dtype: torch.dtype) -> LoweredMask:
    """The kernel's form of a mask whose keys are another text's tokens."""
    if mask.segments_BT is None or mask.sources_BS is None:
        return LoweredMask(causal=False, bias_BTS=None)
    allowed = mask.segments_BT[:, :, None] == mask.sources_BS[:, None, :]
    nothing = ~allowed.any(dim=-1, keepdim=True)  # what fills up a row may look anywhere: nobody looks at it
    return LoweredMask(False, _bias(allowed | nothing, dtype))


def _seen(mask: Mask, tokens: int, sources: int) -> Tensor:
    """Boolean (T, S) or (B, T, S): keys not after the query, or in a prefix."""
    prefix_BS = mask.prefix_BT
    if prefix_BS is None:
        assert mask.segments_BT is not None
        return _band(tokens, sources, None, mask.segments_BT.device)
    if tokens != sources:
        raise ValueError("a prefix is read in one forward call: with a cache, its keys are there already")
    return _band(tokens, sources, None, prefix_BS.device) | prefix_BS[:, None, :]


def _band(tokens: int, sources: int, window: int | None, device: torch.device) -> Tensor:
    """Boolean (T, S): keys not after the query, and within the window where there is one."""
    q = torch.arange(sources - tokens, sources, device=device)[:, None]
    k = torch.arange(sources, device=device)[None, :]
    return (k <= q) if window is None else (k <= q) & (k > q - window)


def _bias(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, float("-inf"))


def attend(
    q_BNTH: Tensor,
    k_BKSH: Tensor,
    v_BKSH: Tensor,
    mask: LoweredMask,
    window: int | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """Scaled dot-product attention; (B, N, T, H) out, in the layout (B, T, N, H) underneath.

    K may be a divisor of N: each head of keys and values then serves N/K neighbouring heads of queries. The scores'
    factor is `scale`, or 1/sqrt(H).

    On CPU, plain batched products beat the fused kernel up to about a thousand tokens; on GPU the fused kernel always
    wins. Both compute the same values (tests/nn/test_attend.py).
    """
    if k_BKSH.dtype != q_BNTH.dtype:  # keys out of a cache in another format than the model's
        wide = attend(q_BNTH.to(k_BKSH.dtype), k_BKSH, v_BKSH, mask, window, dropout, scale)
        return wide.to(q_BNTH.dtype)
    k_BNSH, v_BNSH = (_shared(x, q_BNTH.shape[1]) for x in (k_BKSH, v_BKSH))
    T, S = q_BNTH.shape[2], k_BNSH.shape[2]
    products = (
        q_BNTH.device.type == "cpu"
        and T > 1
        and S <= LONGEST_FOR_PRODUCTS
        and (T == S or not mask.causal)
        and dropout == 0.0
        and not torch.compiler.is_compiling()
    )
    if products:
        return attend_products(q_BNTH, k_BNSH, v_BNSH, mask, window, scale)
    return attend_fused(q_BNTH, k_BNSH, v_BNSH, mask, window, dropout, scale)


def _shared(x_BKSH: Tensor, num_heads: int) -> Tensor:
    """Every head of keys or values as often as heads of queries share it."""
    B, K, S, H = x_BKSH.shape
    return x_BKSH if num_heads == K else x_BKSH[:, :, None].expand(B, K, num_heads // K, S, H).reshape(B, -1, S, H)


def attend_fused(
    q_BNTH: Tensor,
    k_BNSH: Tensor,
    v_BNSH: Tensor,
    mask: LoweredMask,
    window: int | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
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
    return F.scaled_dot_product_attention(
        q_BNTH, k_BNSH, v_BNSH, attn_mask=bias, dropout_p=dropout, is_causal=flag, scale=scale
    )


def attention_weights(
    q_BNTH: Tensor, k_BKSH: Tensor, mask: LoweredMask, window: int | None = None, scale: float | None = None
) -> Tensor:
    """How much each query looks at each key, (B, N, T, S): what `attend` gives of values that are the rows of the
    identity, so that masks, positions and scale are those of `attend` itself. For a look at a few rows, not to train.
    """
    k_BNSH = _shared(k_BKSH, q_BNTH.shape[1])
    eye_SS = torch.eye(k_BNSH.shape[2], dtype=q_BNTH.dtype, device=q_BNTH.device)
    return attend_fused(q_BNTH, k_BNSH, eye_SS.expand(*k_BNSH.shape[:2], -1, -1), mask, window, scale=scale)


def attend_products(
    q_BNTH: Tensor,
    k_BNSH: Tensor,
    v_BNSH: Tensor,
    mask: LoweredMask,
    window: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """Attention as batched products over blocks of query rows, skipping keys no row of a block sees."""
    factor = q_BNTH.shape[-1] ** -0.5 if scale is None else scale
    keys = _Keys(k_BNSH.shape[2], mask.causal, window)
    out: Tensor = _Products.apply(q_BNTH, k_BNSH, v_BNSH, mask.bias_NTS, mask.bias_BTS, keys, factor)
    return out


@dataclass(frozen=True)
class _Keys:
    """Which of S keys blocks of query rows can see."""

    sources: int
    causal: bool
    window: int | None

    def blocks(self, tokens: int) -> list[tuple[int, int, int, int]]:
        """Query rows [start, stop), and the keys [first, last) that any of them sees."""
        spans = []
        for start in range(0, tokens, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, tokens)
            first = 0 if self.window is None else max(0, start - self.window + 1)
            spans.append((start, stop, first, stop if self.causal else self.sources))
        return spans


class _Products(torch.autograd.Function):
    """Forward keeps the probabilities of each block in the working precision; backward is three products a block."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: torch.autograd.function.FunctionCtx,
        q_BNTH: Tensor,
        k_BNSH: Tensor,
        v_BNSH: Tensor,
        bias_NTS: Tensor | None,
        bias_BTS: Tensor | None,
        keys: _Keys,
        factor: float,
    ) -> Tensor:
        B, N, T, H = q_BNTH.shape
        q_GTH = torch.mul(q_BNTH, factor, out=q_BNTH.new_empty(B, N, T, H)).view(B * N, T, H)
        k_GSH, v_GSH = (x.reshape(B * N, keys.sources, H) for x in (k_BNSH, v_BNSH))
        out_BTNH = q_BNTH.new_empty(B, T, N, H)
        probabilities = []
        for start, stop, first, last in keys.blocks(T):
            scores = torch.bmm(q_GTH[:, start:stop], k_GSH[:, first:last].transpose(1, 2))
            if bias_NTS is not None:
                scores.view(B, N, stop - start, last - first).add_(bias_NTS[:, start:stop, first:last])
            if bias_BTS is not None:
                scores.view(B, N, stop - start, last - first).add_(bias_BTS[:, None, start:stop, first:last])
            _hide(scores, keys, causality=bias_BTS is None)
            p = _softmax_in_place(scores)
            out_BTNH[:, start:stop] = torch.bmm(p, v_GSH[:, first:last]).view(B, N, stop - start, H).transpose(1, 2)
            probabilities.append(p)
        ctx.save_for_backward(q_GTH, k_GSH, v_GSH, *probabilities)
        ctx.keys, ctx.factor = keys, factor  # type: ignore[attr-defined]
        ctx.bias_dtype = None if bias_NTS is None else bias_NTS.dtype  # type: ignore[attr-defined]
        return out_BTNH.transpose(1, 2)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dout_BNTH,) = gradients
        B, N, T, H = dout_BNTH.shape
        q_GTH, k_GSH, v_GSH, *probabilities = ctx.saved_tensors  # type: ignore[attr-defined]
        dout_GTH = dout_BNTH.reshape(B * N, T, H)
        dq_GTH = torch.empty_like(q_GTH)
        learns_bias = ctx.needs_input_grad[3]  # type: ignore[attr-defined]
        S = k_GSH.shape[1]
        dbias_NTS = dout_BNTH.new_zeros(N, T, S, dtype=ctx.bias_dtype) if learns_bias else None  # type: ignore[attr-defined]
        dk_GSH: Tensor | None = None
        dv_GSH: Tensor | None = None
        blocks = ctx.keys.blocks(T)  # type: ignore[attr-defined]
        # The last block sees most keys: its products are where the sums over blocks begin.
        for (start, stop, first, last), p in reversed(list(zip(blocks, probabilities, strict=True))):
            dout, q, k, v = dout_GTH[:, start:stop], q_GTH[:, start:stop], k_GSH[:, first:last], v_GSH[:, first:last]
            dv_GSH = _plus(dv_GSH, torch.bmm(p.transpose(1, 2), dout), first, S)
            dp = torch.bmm(dout, v.transpose(1, 2))
            ds = torch.ops.aten._softmax_backward_data.out(dp, p, -1, p.dtype, grad_input=dp)
            if dbias_NTS is not None:
                dbias_NTS[:, start:stop, first:last] = ds.view(B, N, stop - start, last - first).sum(0)
            dq_GTH[:, start:stop] = torch.bmm(ds, k)
            dk_GSH = _plus(dk_GSH, torch.bmm(ds.transpose(1, 2), q), first, S)
        dq_GTH *= ctx.factor  # type: ignore[attr-defined]
        assert dk_GSH is not None  # there is at least one block
        assert dv_GSH is not None
        dk_BNSH, dv_BNSH = dk_GSH.view(B, N, S, H), dv_GSH.view(B, N, S, H)
        return dq_GTH.view(B, N, T, H), dk_BNSH, dv_BNSH, dbias_NTS, None, None, None


def _softmax_in_place(scores_GRS: Tensor) -> Tensor:
    """Over the last axis. Rows that do not fill whole vectors go through float32: rounded to bfloat16 that is the same
    within a unit in the last place, and torch's bfloat16 kernel takes 2 (S = 77) to 40 (S = 31) times as long."""
    if scores_GRS.dtype == torch.bfloat16 and scores_GRS.shape[-1] % VECTOR:
        return scores_GRS.copy_(torch.softmax(scores_GRS, dim=-1, dtype=torch.float32))
    probabilities: Tensor = torch.ops.aten._softmax.out(scores_GRS, -1, False, out=scores_GRS)
    return probabilities


def _plus(total_GSH: Tensor | None, part_GSH: Tensor, first: int, sources: int) -> Tensor:
    """Add a block's share of the keys' gradients, which belongs to the keys from `first` on."""
    G, S, H = part_GSH.shape
    if total_GSH is None and sources == S:
        return part_GSH
    if total_GSH is None:
        total_GSH = part_GSH.new_zeros(G, sources, H)
    total_GSH[:, first : first + S] += part_GSH
    return total_GSH


def _hide(scores_GRS: Tensor, keys: _Keys, causality: bool) -> None:
    """Hide keys in place: those out of the window and, where asked, those of the block's own square that come later."""
    _, R, S = scores_GRS.shape
    if keys.window is not None and keys.window < S:
        scores_GRS.add_(_bias(_band(R, S, keys.window, scores_GRS.device), scores_GRS.dtype))
    elif causality and keys.causal:
        square = _bias(_band(R, R, None, scores_GRS.device), scores_GRS.dtype)
        scores_GRS[:, :, S - R :].add_(square)
