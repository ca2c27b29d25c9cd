"""Cross-entropy of logits that never exist as a whole.

Shape letters: R rows, D width, V vocabulary, G rows of a group, C rows in cache.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from corestone.core.batch import IGNORE
from corestone.core.protocols import Head

GROUP_ROWS = {True: 2048, False: 256}
"""Rows whose logits exist at a time, with a gradient (where they become their own gradient, and one product per group
is faster than several and sums in float32 inside the product) and without (measured, docs/LOG.md)."""

SOFTMAX_LOGITS = {"cpu": 800_000, "meta": 1 << 62}
"""Logits that exist in float32 at a time: on CPU what stays in cache (measured, docs/LOG.md), without values all, since
nothing is computed; elsewhere 2^24."""


def linear_cross_entropy(
    hidden_RD: Tensor, head: Head, targets_R: Tensor, z_loss: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy (nats, float32) of `softmax(head.features(hidden) @ weight.T + bias)`, and the summed
    squared log-normaliser, `z_loss` times which is added to the first (Chowdhery et al. 2022, section 5).

    Rows are taken in groups and the softmax is float32; the gradients are formed in forward, in place of the logits,
    so that none are kept. Rows whose target is IGNORE count nothing.
    """
    keep = targets_R != IGNORE
    if not torch.compiler.is_compiling() and not bool(keep.all()):  # gather before the vocabulary projection
        hidden_RD, targets_R = hidden_RD[keep], targets_R[keep]
    features_RD, weight_VD, bias_V = head.features(hidden_RD), head.weight, head.bias
    if torch.compiler.is_compiling():
        return _whole(features_RD, weight_VD, bias_V, targets_R, z_loss)
    total, squares = _LinearCrossEntropy.apply(features_RD, weight_VD, bias_V, targets_R, z_loss)
    return total, squares


def _whole(
    hidden_RD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_R: Tensor, z_loss: float
) -> tuple[Tensor, Tensor]:
    """The same in plain form, which the compiler fuses itself."""
    logits = F.linear(hidden_RD, weight_VD, bias_V).float()
    squares = torch.where(targets_R != IGNORE, torch.logsumexp(logits, dim=-1).square(), 0.0).sum()
    return F.cross_entropy(logits, targets_R, ignore_index=IGNORE, reduction="sum") + z_loss * squares, squares.detach()


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: torch.autograd.function.FunctionCtx,
        hidden_RD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_R: Tensor,
        z_loss: float,
    ) -> tuple[Tensor, Tensor]:
        needs_grad = any(ctx.needs_input_grad[:3])  # type: ignore[attr-defined]
        R = hidden_RD.shape[0]
        sums = torch.zeros(2, dtype=torch.float32, device=hidden_RD.device)  # loss, squared log-normalisers
        dhidden = torch.empty_like(hidden_RD)
        dweight: Tensor | None = None
        dbias: Tensor | None = None
        for start in range(0, R, GROUP_ROWS[needs_grad]):
            group = slice(start, min(R, start + GROUP_ROWS[needs_grad]))
            logits_GV = F.linear(hidden_RD[group], weight_VD, bias_V)
            _softmax_step(logits_GV, targets_R[group], z_loss, sums, needs_grad)
            if needs_grad:  # the logits are their own gradients now
                torch.mm(logits_GV, weight_VD, out=dhidden[group])
                dweight = _plus(dweight, torch.mm(logits_GV.t(), hidden_RD[group]))
                dbias = None if bias_V is None else _plus(dbias, logits_GV.sum(0, dtype=torch.float32))
        if needs_grad and dweight is not None:
            low = [dweight.to(weight_VD.dtype)] + ([] if dbias is None else [dbias.to(hidden_RD.dtype)])
            ctx.save_for_backward(dhidden, *low)
        total, squares = sums[0] + z_loss * sums[1], sums[1].clone()
        ctx.mark_non_differentiable(squares)
        return total, squares

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale = gradients[0]
        saved = [x if float(scale) == 1.0 else x * scale for x in ctx.saved_tensors]  # type: ignore[attr-defined]
        dhidden, dweight, dbias = [*saved, None][:3]
        return dhidden, dweight, dbias, None, None


def _softmax_step(logits_GV: Tensor, targets_G: Tensor, z_loss: float, sums: Tensor, gradients: bool) -> None:
    """Add the loss and the squared log-normalisers to `sums`; turn the logits into the loss's gradients if asked."""
    rows = max(1, SOFTMAX_LOGITS.get(logits_GV.device.type, 1 << 24) // logits_GV.shape[1])
    for logits_CV, targets_C in zip(logits_GV.split(rows), targets_G[:, None].split(rows), strict=True):
        p_CV = torch.softmax(logits_CV, dim=-1, dtype=torch.float32)
        # logsumexp takes several times as long as a softmax on CPU; the largest probability, which is never too small
        # for float32, tells the normaliser as well.
        log_z = logits_CV.amax(-1, keepdim=True).float() - p_CV.amax(-1, keepdim=True).log_()
        sums += torch.stack([(log_z - logits_CV.gather(1, targets_C)).sum(), log_z.square().sum()])
        if gradients:
            if z_loss:
                p_CV *= 1.0 + 2.0 * z_loss * log_z
            p_CV.scatter_add_(1, targets_C, torch.full_like(log_z, -1.0))
            logits_CV.copy_(p_CV)


def _plus(total: Tensor | None, part: Tensor) -> Tensor:
    """A sum over groups, in float32 as soon as there are two."""
    return part if total is None else total.float().add_(part)
