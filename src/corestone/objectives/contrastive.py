"""Telling which text goes with which picture.

Shape letters: N all pairs of a step, B those of one rank, R some rows of N, E width of the shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corestone.core.batch import ImageBatch, ImageTextBatch, TextBatch
from corestone.core.errors import SpecError
from corestone.core.protocols import Loss, Ranks
from corestone.core.rng import Draws, fold
from corestone.nn.norm import at_least_float32
from corestone.objectives.spec import Contrastive


class PairModel(Protocol):
    """What a model of pairs is: two towers into one space.

    Attributes:
        log_scale: logarithm of what similarities are multiplied by (scalar). CLIP's is at most log 100, to which the
            model clamps it after each update; no loss here does.
        bias: added to similarities (scalar; Zhai et al. 2023, arXiv 2303.15343), None where there is none.
    """

    log_scale: nn.Parameter
    bias: nn.Parameter | None

    def image(self, batch: ImageBatch) -> Tensor:
        """Unit vectors (B, E)."""
        ...

    def text(self, batch: TextBatch) -> Tensor:
        """Unit vectors (B, E)."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


Run = Callable[[Any, ImageTextBatch], Sequence[Tensor]]
"""Of a model and a batch, the features of both towers, drawing dropout for pictures first and then for texts; and
scalars that are added to the loss as they are."""

Share = Callable[[PairModel, Tensor, Tensor, slice], Tensor]
"""Of a model, the features of all pictures and of all texts, and some rows: what these rows add to the summed loss. The
rows' other halves may be anywhere, so all features are given."""


class ContrastiveObjective:
    """The loss of all pairs of a step together, over all ranks.

    It does not add up over micro-batches: `gradients` is what the loop calls, and `loss` is one whole batch alone.
    Held-out pairs are scored by retrieval (`evaluate/retrieval.py`), which knows how many others each is among.
    """

    reduction = "joint"
    asks = False

    def __init__(self, spec: Contrastive, vocabulary: object = None) -> None:
        self.spec = spec
        self.share: Share = softmax_share if spec.loss == "softmax" else sigmoid_share

    def corrupt(self, batch: ImageTextBatch, draws: Draws) -> ImageTextBatch:
        """Nothing is hidden."""
        return batch

    def loss(self, model: PairModel, batch: ImageTextBatch) -> Loss:
        """Nats summed over the pairs of a batch, among themselves; weight = their number."""
        total = self.share(model, model.image(batch.images), model.text(batch.texts), slice(0, len(batch)))
        return Loss(total, torch.tensor(len(batch), device=total.device))

    def gradients(
        self,
        model: PairModel,
        micro_batches: Sequence[ImageTextBatch],
        seeds: Sequence[int],
        ranks: Ranks | None = None,
    ) -> Loss:
        """Add the gradient of this rank's part (`two_pass_gradients`)."""
        return two_pass_gradients(model, micro_batches, self.share, seeds, ranks)

    def training_flops(self, model: Any, tokens: int) -> float:
        """Per pair whose text has so many tokens; what the two passes compute twice is not counted."""
        flops: float = model.training_flops(tokens)
        return flops


def softmax_share(model: PairModel, image_NE: Tensor, text_NE: Tensor, rows: slice) -> Tensor:
    """`softmax_loss` with the model's scale."""
    return softmax_loss(image_NE, text_NE, model.log_scale, rows)


def sigmoid_share(model: PairModel, image_NE: Tensor, text_NE: Tensor, rows: slice) -> Tensor:
    """`sigmoid_loss` with the model's scale and bias."""
    if model.bias is None:
        raise SpecError("objective contrastive: loss=sigmoid needs a model with a bias; give it one, or take softmax")
    return sigmoid_loss(image_NE, text_NE, model.log_scale, model.bias, rows)


def softmax_loss(image_NE: Tensor, text_NE: Tensor, log_scale: Tensor, rows: slice = slice(None)) -> Tensor:
    """Half the nats of finding each picture's text among all and half those of finding each text's picture, summed over
    some rows, in float32 at least (Radford et al. 2021, figure 3; van den Oord et al. 2018, equation 4)."""
    image_NE, text_NE, log_scale = map(at_least_float32, (image_NE, text_NE, log_scale))
    scale = log_scale.exp()
    own_R = torch.arange(len(image_NE), device=image_NE.device)[rows]
    text_of_RN = scale * image_NE[rows] @ text_NE.T
    image_of_RN = scale * text_NE[rows] @ image_NE.T
    texts, images = (F.cross_entropy(logits, own_R, reduction="sum") for logits in (text_of_RN, image_of_RN))
    return (texts + images) / 2


def sigmoid_loss(
    image_NE: Tensor, text_NE: Tensor, log_scale: Tensor, bias: Tensor, rows: slice = slice(None)
) -> Tensor:
    """Nats of telling for each picture of some rows, and every text, whether they are a pair; summed, in float32 at
    least (Zhai et al. 2023, section 3.2, which divides by the number of pairs, not by that of questions)."""
    image_NE, text_NE, log_scale, bias = map(at_least_float32, (image_NE, text_NE, log_scale, bias))
    logits_RN = log_scale.exp() * image_NE[rows] @ text_NE.T + bias
    sign_RN = 2 * torch.eye(len(text_NE), device=logits_RN.device)[rows] - 1
    return -F.logsigmoid(sign_RN * logits_RN).sum()


IMAGE, TEXT = 0, 1
"""The towers, in the order of their features."""


def two_pass_gradients(
    model: PairModel,
    micro_batches: Sequence[ImageTextBatch],
    share: Share,
    seeds: Sequence[int],
    ranks: Ranks | None = None,
    again: Run | None = None,
) -> Loss:
    """Add the gradient of one loss over all pairs to the parameters, with the activations of one micro-batch at a time
    (Gao et al. 2021, arXiv 2101.06983; Pham et al. 2021, arXiv 2111.10050).

    First every micro-batch is embedded without a graph (a single one with its graph, and once); the loss of all
    features, gathered from all ranks, gives their gradients; then each micro-batch runs again and its part of those is
    sent back through the towers. Gradients summed over ranks are those of one batch that holds all pairs, to rounding.
    Logits exist for one micro-batch's rows at a time. Layers that mix rows (batch norm) see micro-batches, and twice.

    Args:
        micro_batches: this rank's pairs, moved to the model's device when their turn comes. All ranks have as many.
        seeds: of each micro-batch's dropout, the same in both passes.
        ranks: all who take part; None: this one alone.
        again: both towers in turn and scalars to add, where there are any; it runs in the second pass. None: the texts
            of all micro-batches, then their pictures, each with its backward and draws of its own. So the activations
            of one tower exist at a time, and those of the second beside the first one's gradient, never the other way
            round: in turn, an allocator that keeps what is freed needs 140 MB more for a ViT-B/32 and 256 pairs.

    Returns:
        This rank's part of the features' summed loss, without a graph, and its number of pairs.
    """
    device = next(iter(model.named_parameters()))[1].device
    seeded = list(zip(micro_batches, seeds, strict=True))
    one_pass = len(seeded) == 1  # nothing is saved by computing it again
    with torch.set_grad_enabled(one_pass):
        ran = [_features(model, batch.to(device), seed, again, one_pass) for batch, seed in seeded]
    images, texts = (at_least_float32(torch.cat([found[tower] for found in ran]).detach()) for tower in (IMAGE, TEXT))
    count, first = len(images), 0
    if ranks is not None:
        images, texts, first = ranks.gather(images), ranks.gather(texts), ranks.rank * count
    total, gradients = _feature_gradients(model, images, texts, share, _rows(micro_batches, first))
    if ranks is not None:
        ranks.sum_(gradients)
    rows = list(_rows(micro_batches, first))
    if one_pass:
        _send_back(ran[0], [gradient[rows[0]] for gradient in gradients])
    elif again is not None:
        for (batch, seed), part in zip(seeded, rows, strict=True):
            torch.manual_seed(seed)
            _send_back(again(model, batch.to(device)), [gradient[part] for gradient in gradients])
    else:
        for tower in (TEXT, IMAGE):
            for (batch, seed), part in zip(seeded, rows, strict=True):
                _send_back([_tower(tower, model, batch.to(device), seed)], [gradients[tower][part]])
    return Loss(total, torch.tensor(count, device=device))


def _features(
    model: PairModel, batch: ImageTextBatch, seed: int, again: Run | None, one_pass: bool
) -> Sequence[Tensor]:
    """What the first pass computes, with the draws that the second one has."""
    if again is None:
        return [_tower(tower, model, batch, seed) for tower in (IMAGE, TEXT)]
    torch.manual_seed(seed)
    return again(model, batch) if one_pass else (model.image(batch.images), model.text(batch.texts))


def _tower(tower: int, model: PairModel, batch: ImageTextBatch, seed: int) -> Tensor:
    torch.manual_seed(fold(seed, tower))
    return model.image(batch.images) if tower == IMAGE else model.text(batch.texts)


def _send_back(ran: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Backward from some towers' features with their gradients, and from the scalars behind them."""
    ends, scalars = ran[: len(gradients)], ran[len(gradients) :]
    sent = [(end, gradient.to(end.dtype)) for end, gradient in zip(ends, gradients, strict=True)]
    sent = [pair for pair in sent if pair[0].requires_grad]  # a frozen tower's do not
    sent += [(scalar, torch.ones_like(scalar)) for scalar in scalars]
    if sent:
        torch.autograd.backward([end for end, _ in sent], [gradient for _, gradient in sent])


def _rows(micro_batches: Sequence[ImageTextBatch], first: int) -> Iterator[slice]:
    """Where each micro-batch stands among all pairs."""
    for batch in micro_batches:
        yield slice(first, first + len(batch))
        first += len(batch)


def _feature_gradients(
    model: PairModel, image_NE: Tensor, text_NE: Tensor, share: Share, all_rows: Iterator[slice]
) -> tuple[Tensor, list[Tensor]]:
    """The loss of some rows and its gradient in both towers' features; that in scale and bias is added to theirs."""
    image_NE.requires_grad_()
    text_NE.requires_grad_()
    total = torch.zeros((), dtype=image_NE.dtype, device=image_NE.device)
    for rows in all_rows:
        part = share(model, image_NE, text_NE, rows)
        part.backward()
        total += part.detach()
    return total, [torch.zeros_like(x) if x.grad is None else x.grad for x in (image_NE, text_NE)]
