"""Dynamic evaluation: a model that goes on learning from the text it is scored on (Krause et al. 2017).

The text is read in order, in segments. Each is scored first, by weights that have seen only what stands before it, and
learnt from afterwards; so the product of all the probabilities is still one probability of the text. Nothing is asked
of the model but a forward call and a head: a segment is read from the start of its window, with the weights as they are
by then, so n segments of a window cost (n + 1) / 2 times its tokens.

Shape letters: B batch, T tokens, D width, R rows with a target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from corestone.core.batch import IGNORE, TextBatch
from corestone.core.errors import SpecError
from corestone.core.protocols import Model
from corestone.core.tensors import each_tensor
from corestone.evaluate.perplexity import Scorer, token_losses
from corestone.evaluate.spec import RMS, SGD
from corestone.nn.cross_entropy import linear_cross_entropy
from corestone.nn.modes import evaluation_mode

Update = Callable[[list[Tensor]], None]
"""Given the gradients of a segment, changes the weights in place."""


@contextmanager
def learning(model: Any, spec: SGD | RMS, rms: Sequence[Tensor] | None = None) -> Iterator[Scorer]:
    """A way for `TextPerplexity` to score this model while it learns; behind the block its weights are as before.

    Batches are rows in the order of the text, one a batch: what a row teaches is known to the next.

    Args:
        model: with float32 weights.
        rms: for `RMS`, what `root_mean_squares` found of the model.

    Raises:
        SpecError: weights of lower precision, in which small steps vanish; `RMS` without its statistics.
    """
    weights = _learning_weights(model)
    if any(weight.dtype in (torch.bfloat16, torch.float16) for weight in weights):
        raise SpecError(
            "dynamic evaluation: needs float32 weights, since its steps vanish in 16 bits: precision=float32"
        )
    trained = [weight.detach().clone() for weight in weights]
    if isinstance(spec, SGD):
        update = _sgd_update(spec, weights, trained)
    elif rms is not None:
        update = _rms_update(spec, weights, trained, rms)
    else:
        raise SpecError("dynamic evaluation: rms needs statistics of gradients over the training text; use sgd")

    def score(model: Model, batch: TextBatch) -> tuple[Tensor, Tensor]:
        if len(batch) != 1:
            raise SpecError(f"dynamic evaluation: rows are read one after the other; batch_size=1, not {len(batch)}")
        found = []
        for segment in segments(batch, spec.segment):
            with torch.enable_grad():
                losses_R, targets_R = token_losses(model, segment)
                gradients = _gradients(losses_R.mean(), weights)
            found.append((losses_R.detach(), targets_R))
            update(gradients)
        return torch.cat([losses for losses, _ in found]), torch.cat([targets for _, targets in found])

    try:
        yield score
    finally:
        with torch.no_grad():
            torch._foreach_copy_(weights, trained)


def segments(batch: TextBatch, length: int) -> Iterator[TextBatch]:
    """A batch once per segment of so many tokens that has a target: cut off behind it, with its targets alone."""
    T = batch.tokens_BT.shape[1]
    for start in range(0, T, length):
        read = each_tensor(batch, partial(_beginning, length=start + length))
        targets_BT = read.targets_BT.clone()
        targets_BT[:, :start] = IGNORE
        if bool((targets_BT != IGNORE).any()):
            yield replace(read, targets_BT=targets_BT)


def _beginning(tensor_BT: Tensor, length: int) -> Tensor:
    return tensor_BT[:, :length]


def root_mean_squares(model: Any, batches: Iterable[TextBatch]) -> list[Tensor]:
    """Per weight the root of the mean, over batches of training text, of the squared gradient of their mean loss."""
    weights = _learning_weights(model)
    sums, count = [torch.zeros_like(weight) for weight in weights], 0
    with evaluation_mode(model), torch.enable_grad():
        for batch in batches:
            moved = batch.to(weights[0].device)
            hidden_RD, targets_R = model(moved).hidden.flatten(0, 1), moved.targets_BT.flatten()
            total, _ = linear_cross_entropy(hidden_RD, model.head, targets_R)
            gradients = _gradients(total / (targets_R != IGNORE).sum(), weights)
            torch._foreach_addcmul_(sums, gradients, gradients)
            count += 1
    return [(total / count).sqrt_() for total in sums]


def relative(rms: Sequence[Tensor]) -> list[Tensor]:
    """Each root over the mean of all weights' roots."""
    mean = sum(float(root.double().sum()) for root in rms) / sum(root.numel() for root in rms)
    return [root / mean for root in rms]


def _learning_weights(model: Any) -> list[Tensor]:
    return [weight for _, weight in model.named_parameters() if weight.requires_grad]


def _gradients(loss: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return [
        torch.zeros_like(weight) if gradient is None else gradient
        for weight, gradient in zip(weights, found, strict=True)
    ]


def _sgd_update(spec: SGD, weights: list[Tensor], trained: list[Tensor]) -> Update:
    @torch.no_grad()
    def update(gradients: list[Tensor]) -> None:
        torch._foreach_lerp_(weights, trained, spec.lam)
        torch._foreach_add_(weights, gradients, alpha=-spec.eta)

    return update


def _rms_update(spec: RMS, weights: list[Tensor], trained: list[Tensor], rms: Sequence[Tensor]) -> Update:
    steps = [spec.eta / (root + spec.eps) for root in rms]
    back = [(spec.lam * share).clamp_(max=1.0) for share in relative(rms)]

    @torch.no_grad()
    def update(gradients: list[Tensor]) -> None:
        torch._foreach_lerp_(weights, trained, back)
        torch._foreach_addcmul_(weights, gradients, steps, value=-1.0)

    return update
