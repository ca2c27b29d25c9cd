"""Cross-entropy of logits that never exist as a whole.

Shape letters: R rows, D width, V vocabulary, C rows of a chunk.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from corestone.core.batch import IGNORE

CHUNK_ROWS = 256
"""Rows whose logits exist at a time (measured, docs/LOG.md)."""


def linear_cross_entropy(
    hidden_RD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_R: Tensor, z_loss: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy (nats, float32) of `softmax(hidden @ weight.T + bias)`, and the summed squared
    log-normaliser, `z_loss` times which is added to the first (Chowdhery et al. 2022, section 5).

    Rows are taken in chunks and the softmax is float32; the gradients are formed in forward, while a chunk's logits
    are at hand, so that no logits are kept. Rows whose target is IGNORE count nothing.
    """
    keep = targets_R != IGNORE
    if not torch.compiler.is_compiling() and not bool(keep.all()):  # gather before the vocabulary projection
        hidden_RD, targets_R = hidden_RD[keep], targets_R[keep]
    if torch.compiler.is_compiling():
        return _whole(hidden_RD, weight_VD, bias_V, targets_R, z_loss)
    total, squares = _LinearCrossEntropy.apply(hidden_RD, weight_VD, bias_V, targets_R, z_loss)
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
        total = torch.zeros((), dtype=torch.float32, device=hidden_RD.device)
        squares = torch.zeros_like(total)
        dhidden = torch.empty_like(hidden_RD) if needs_grad else None
        dweight = torch.zeros(weight_VD.shape, dtype=torch.float32, device=weight_VD.device) if needs_grad else None
        dbias = torch.zeros(bias_V.shape, device=bias_V.device) if needs_grad and bias_V is not None else None
        for start in range(0, hidden_RD.shape[0], CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            logits_CV = F.linear(hidden_RD[rows], weight_VD, bias_V)
            log_z, dlogits = _softmax_step(logits_CV, targets_R[rows], z_loss, needs_grad)
            chosen = logits_CV.gather(1, targets_R[rows, None]).squeeze(1).float()
            total += (log_z - chosen).sum()
            squares += log_z.square().sum()
            if dhidden is not None and dweight is not None and dlogits is not None:
                torch.mm(dlogits, weight_VD, out=dhidden[rows])
                dweight += torch.mm(dlogits.t(), hidden_RD[rows])
                if dbias is not None:
                    dbias += dlogits.sum(0, dtype=torch.float32)
        if dhidden is not None and dweight is not None:
            low = [dweight.to(weight_VD.dtype)] + ([] if dbias is None else [dbias.to(hidden_RD.dtype)])
            ctx.save_for_backward(dhidden, *low)
        ctx.mark_non_differentiable(squares)
        return total + z_loss * squares, squares

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale = gradients[0]
        saved = [x if float(scale) == 1.0 else x * scale for x in ctx.saved_tensors]  # type: ignore[attr-defined]
        dhidden, dweight, dbias = [*saved, None][:3]
        return dhidden, dweight, dbias, None, None


def _softmax_step(
    logits_CV: Tensor, targets_C: Tensor, z_loss: float, needs_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Log-normalisers (float32) and, where wanted, the gradient of the summed loss in the logits (their dtype)."""
    # logsumexp takes several times as long as log_softmax on CPU, so the normaliser is read off the latter.
    log_p = torch.log_softmax(logits_CV, dim=-1, dtype=torch.float32)
    log_z = (logits_CV.gather(1, targets_C[:, None]).float() - log_p.gather(1, targets_C[:, None])).squeeze(1)
    if not needs_grad:
        return log_z, None
    p = log_p.exp_()
    if z_loss:
        p *= (1.0 + 2.0 * z_loss * log_z)[:, None]
    dlogits = p.to(logits_CV.dtype)
    one = torch.ones((), dtype=torch.float32, device=p.device)
    dlogits.scatter_(1, targets_C[:, None], (p.gather(1, targets_C[:, None]) - one).to(dlogits.dtype))
    return log_z, dlogits
