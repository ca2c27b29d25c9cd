"""Writing each picture's text, and telling which text goes with which picture.

Shape letters: N all pairs of a step, B those of a batch, T tokens, D width, Q what captions are written from, E width
of the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from corestone.core.batch import IGNORE, ImageBatch, ImageTextBatch, TextBatch
from corestone.core.errors import DataError
from corestone.core.protocols import Head, Loss, Output, Ranks, RowSums
from corestone.core.rng import Draws
from corestone.nn.cross_entropy import linear_cross_entropy
from corestone.objectives.contrastive import PairModel, softmax_share, two_pass_gradients
from corestone.objectives.scores import target_scores
from corestone.objectives.spec import Captioning


class CaptionModel(PairModel, Protocol):
    """A model of pairs that writes, too."""

    head: Head

    def encode(self, batch: ImageBatch) -> Tensor:
        """What captions are written from (B, Q, D)."""
        ...

    def decode(self, target: TextBatch, found_BQD: Tensor | None) -> Output:
        """Hidden values of texts beside their pictures."""
        ...

    def __call__(self, batch: ImageTextBatch) -> Output:
        """As `decode` gives them, with the features of `image` and `text` as intermediate values of these names.
        Dropout is drawn for these first, pictures before texts, so that it is theirs."""
        ...


class CaptioningObjective:
    """`caption_weight` times the nats of all captions' tokens, plus `contrastive_weight` times those of all pairs of a
    step (Yu et al. 2022, equations 1 to 3).

    Both are sums, divided once by the number of pairs: a pair's share of the contrastive loss is half the nats of each
    direction, and a caption's nats are summed over its tokens, as the paper's equation has them, so long captions weigh
    more. Implementations that divide captions by all their tokens instead give them less: their caption_weight w is
    here w / (tokens of a mean caption).

    Captions alone add up over micro-batches. With pairs they do not: `gradients` is what the loop calls then, and
    `loss` is one whole batch alone.
    """

    asks = True

    def __init__(self, spec: Captioning, vocabulary: object = None) -> None:
        self.spec = spec
        self.reduction = "joint" if spec.contrastive_weight else "additive"

    def corrupt(self, batch: ImageTextBatch, draws: Draws) -> ImageTextBatch:
        """Nothing is hidden."""
        return batch

    def loss(self, model: CaptionModel, batch: ImageTextBatch) -> Loss:
        """Nats summed over a batch, its pairs among themselves; weight = their number."""
        if not self.spec.contrastive_weight:
            nats = _nats(model, model.decode(batch.texts, model.encode(batch.images)), batch)
            return self._both(nats, None, [batch])
        image_BE, text_BE, nats = _whole(model, batch)
        pairs = self._share(model, image_BE, text_BE, slice(0, len(batch)))
        return self._both(nats, pairs, [batch])

    def gradients(
        self,
        model: CaptionModel,
        micro_batches: Sequence[ImageTextBatch],
        seeds: Sequence[int],
        ranks: Ranks | None = None,
    ) -> Loss:
        """Add the gradient of this rank's part (`two_pass_gradients`; only its second pass writes captions)."""
        captions: list[Tensor] = []

        def again(model: CaptionModel, batch: ImageTextBatch) -> Sequence[Tensor]:
            image_BE, text_BE, nats = _whole(model, batch)
            captions.append(nats.detach())
            return image_BE, text_BE, self.spec.caption_weight * nats

        pairs = two_pass_gradients(model, micro_batches, self._share, seeds, ranks, again)
        return self._both(torch.stack(captions).sum(), pairs.total, micro_batches)

    @torch.no_grad()
    def scores(self, model: CaptionModel, batch: ImageTextBatch) -> dict[str, RowSums]:
        """Nats and accuracy of captions' tokens; pairs are scored by retrieval (`evaluate/retrieval.py`)."""
        hidden_BTD = model.decode(batch.texts, model.encode(batch.images)).hidden
        return target_scores(model.head, hidden_BTD, batch.texts.targets_BT)

    def training_flops(self, model: Any, tokens: int) -> float:
        """Per pair whose text has so many tokens; what the two passes compute twice is not counted."""
        flops: float = model.training_flops(tokens, contrast=bool(self.spec.contrastive_weight))
        return flops

    def _share(self, model: PairModel, image_NE: Tensor, text_NE: Tensor, rows: slice) -> Tensor:
        return self.spec.contrastive_weight * softmax_share(model, image_NE, text_NE, rows)

    def _both(self, nats: Tensor, pairs: Tensor | None, batches: Sequence[ImageTextBatch]) -> Loss:
        """The sum of both, `pairs` weighted already; and each by itself, unweighted, with the tokens written."""
        total, count, device = self.spec.caption_weight * nats, sum(map(len, batches)), nats.device
        tokens = torch.stack([(batch.texts.targets_BT != IGNORE).sum() for batch in batches]).sum().to(device)
        metrics = {"caption_nats": nats.detach(), "caption_tokens": tokens}
        if pairs is not None:
            total = total + pairs
            metrics["pair_nats"] = pairs.detach() / self.spec.contrastive_weight
        return Loss(total, torch.tensor(count, device=device), metrics)


def _whole(model: CaptionModel, batch: ImageTextBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Features of pictures and texts, and the nats of captions."""
    out = model(batch)
    return out.intermediates["image"], out.intermediates["text"], _nats(model, out, batch)


def _nats(model: CaptionModel, out: Output, batch: ImageTextBatch) -> Tensor:
    """Of all real targets of the captions, summed, float32."""
    targets_BT = batch.texts.targets_BT
    if not bool((targets_BT != IGNORE).any()):
        raise DataError("objective captioning: the texts have no targets, so there is nothing to write; give captions")
    return linear_cross_entropy(out.hidden.flatten(0, -2), model.head, targets_BT.flatten())[0]
