"""Does the second text follow the first?

Shape letters: B batch, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from corestone.core.batch import IGNORE, TextBatch
from corestone.core.errors import SpecError
from corestone.core.mask import Mask
from corestone.core.protocols import Loss, RowSums
from corestone.core.rng import Draws
from corestone.core.tensors import each_tensor, moved
from corestone.core.vocabulary import Vocabulary
from corestone.nn.cross_entropy import linear_cross_entropy
from corestone.objectives.masked_token import MaskedTokenObjective
from corestone.objectives.scores import target_scores
from corestone.objectives.spec import NextSentence

FOLLOWS, RANDOM = 0, 1
FILLED_UP = -1
_SPECIAL_TOKENS = 3  # [CLS] A [SEP] B [SEP]

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class PairBatch:
    """Rows of two texts with hidden tokens.

    Attributes:
        text: `[CLS] A [SEP] B [SEP]`, filled up; types tell A from B.
        labels_B: 0 where B follows A in its document, 1 where it is from elsewhere.
    """

    text: TextBatch
    labels_B: Tensor

    def __len__(self) -> int:
        return len(self.text)

    def rows(self, start: int, stop: int) -> PairBatch:
        """Some rows of the batch, as a batch."""
        return each_tensor(self, lambda tensor: tensor[start:stop])

    def to(self, device: torch.device) -> PairBatch:
        """The batch on a device."""
        return moved(self, device)


class NextSentenceObjective:
    """Masked tokens and next sentences (Devlin et al. 2018, section 3.1): "sentences" are spans of text, as there.

    A row's text is what it holds of one document, the longest piece of it; A is its beginning, cut at a random place. B
    is the rest, or as often the beginning of the text of the neighbour row (rows 2n and 2n + 1 are neighbours), which
    the loader drew from elsewhere. In the paper the loss is the sum of two means; here a pair's nats weigh as many
    tokens as are hidden in it, so the sum over rows divided by all hidden tokens is the sum of two means, too.
    """

    reduction = "additive"
    asks = True

    def __init__(self, spec: NextSentence, vocabulary: Vocabulary) -> None:
        self.spec = spec
        self.classify = vocabulary.require("classify", f"objective {spec.kind}")
        self.separator = vocabulary.separator
        self.fill = vocabulary.separator if vocabulary.pad is None else vocabulary.pad
        self.masked = MaskedTokenObjective(spec.masked, vocabulary)

    def corrupt(self, batch: TextBatch, draws: Draws) -> PairBatch:
        """Make pairs, and hide tokens in them."""
        B, T = batch.tokens_BT.shape
        if B % 2:
            raise SpecError(
                f"objective next_sentence: takes rows two by two and a rank has {B}; change training.batch_tokens"
            )
        uniform_B2 = draws.uniform(2).numpy()
        pieces = [self._piece(batch, row) for row in range(B)]
        tokens_BT = np.full((B, T), self.fill)
        types_BT, segments_BT = np.zeros((B, T), np.int64), np.full((B, T), FILLED_UP, np.int32)
        labels_B = np.where(uniform_B2[:, 0] < self.spec.share, FOLLOWS, RANDOM)
        room = T - _SPECIAL_TOKENS
        for row, piece in enumerate(pieces):
            cut = 1 + int(uniform_B2[row, 1] * max(1, min(len(piece), room) - 1))
            first = piece[:cut][:room]
            second = (piece[cut:] if labels_B[row] == FOLLOWS else pieces[row ^ 1])[: room - len(first)]
            end = np.array([self.separator])
            whole = np.concatenate([np.array([self.classify]), first, end, second, end])
            tokens_BT[row, : len(whole)] = whole
            types_BT[row, len(first) + 2 : len(whole)] = 1
            segments_BT[row, : len(whole)] = 0
        tokens, segments = torch.from_numpy(tokens_BT), torch.from_numpy(segments_BT)
        text = TextBatch(
            tokens_BT=tokens,
            targets_BT=torch.where(segments == FILLED_UP, IGNORE, tokens),
            positions_BT=torch.arange(T).expand(B, T),
            mask=Mask(causal=False, segments_BT=segments),
            types_BT=torch.from_numpy(types_BT),
        )
        return PairBatch(self.masked.corrupt(text, draws), torch.from_numpy(labels_B))

    def _piece(self, batch: TextBatch, row: int) -> Ids:
        """What a row holds of the document of which it holds most, its separator left out."""
        tokens, text = batch.tokens_BT[row].numpy(), (batch.targets_BT[row] != IGNORE).numpy()
        text = text & (tokens != self.separator)
        segments = None if batch.mask.segments_BT is None else batch.mask.segments_BT[row].numpy()
        if segments is not None and text.any():
            text = text & (segments == np.bincount(segments[text] - segments.min()).argmax() + segments.min())
        piece: Ids = tokens[text]
        return piece

    def loss(self, model: Any, batch: PairBatch) -> Loss:
        """Nats over hidden tokens, and of each pair times its number of hidden tokens; weight = all hidden tokens."""
        hidden, targets_BT = model(batch.text).hidden, batch.text.targets_BT
        guessed, _ = linear_cross_entropy(hidden.flatten(0, -2), model.head, targets_BT.flatten())
        count_B = (targets_BT != IGNORE).sum(dim=1)
        nats_B = F.cross_entropy(self._logits(model, hidden), batch.labels_B, reduction="none")
        pairs = (nats_B * count_B).sum()
        metrics = {"masked_nats": guessed.detach(), "next_sentence_nats": pairs.detach()}
        return Loss(guessed + pairs, count_B.sum(), metrics)

    def _logits(self, model: Any, hidden_BTD: Tensor) -> Tensor:
        """(B, 2), float32."""
        logits: Tensor = model.pooler.out(model.pooler(hidden_BTD)).float()
        return logits

    @torch.no_grad()
    def scores(self, model: Any, batch: PairBatch) -> dict[str, RowSums]:
        """Over hidden tokens, and over pairs."""
        hidden = model(batch.text).hidden
        logits_B2 = self._logits(model, hidden)
        ones_B = torch.ones_like(batch.labels_B)
        nats_B = F.cross_entropy(logits_B2, batch.labels_B, reduction="none")
        right_B = (logits_B2.argmax(dim=-1) == batch.labels_B).float()
        return {
            **target_scores(model.head, hidden, batch.text.targets_BT),
            "next_sentence_nats": RowSums(nats_B, ones_B, "nats/pair"),
            "next_sentence_accuracy": RowSums(right_B, ones_B, "share of pairs"),
        }

    def questions(self, before: TextBatch, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Hidden tokens; their left neighbours as they show, which may be hidden too."""
        return batch.text.tokens_BT.roll(1, dims=1), batch.text.targets_BT

    def training_flops(self, model: Any, tokens: int) -> float:
        """As for masked tokens."""
        return self.masked.training_flops(model, tokens)
