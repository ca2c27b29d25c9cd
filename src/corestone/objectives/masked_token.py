"""Filling in hidden tokens.

Shape letters: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from corestone.core.batch import IGNORE, TextBatch
from corestone.core.errors import SpecError
from corestone.core.mask import Mask
from corestone.core.protocols import Loss, Model, RowSums
from corestone.core.rng import Draws
from corestone.core.vocabulary import Vocabulary
from corestone.nn.cross_entropy import linear_cross_entropy
from corestone.objectives.scores import target_scores
from corestone.objectives.spec import MaskedToken


class MaskedTokenObjective:
    """Cross-entropy of the chosen tokens, summed (Devlin et al. 2018, section 3.1, task 1)."""

    reduction = "additive"
    asks = True

    def __init__(self, spec: MaskedToken, vocabulary: Vocabulary) -> None:
        if spec.whole_words and vocabulary.starts_word is None:
            raise SpecError("objective.whole_words: the tokenizer does not tell where words begin; set it to false")
        self.spec, self.vocabulary = spec, vocabulary
        self.mask = vocabulary.require("mask", f"objective {spec.kind}")
        self.special_V = torch.zeros(vocabulary.size, dtype=torch.bool)
        self.special_V[list(vocabulary.special)] = True
        starts = self.special_V.numpy() if vocabulary.starts_word is None else vocabulary.starts_word
        self.starts_V = torch.from_numpy(starts)

    def corrupt(self, batch: TextBatch, draws: Draws) -> TextBatch:
        """Hide tokens; targets are the hidden ones, and every token sees both ways."""
        tokens_BT, T = batch.tokens_BT, batch.tokens_BT.shape[1]
        text_BT = ~flags_of(self.special_V, tokens_BT) & (batch.targets_BT != IGNORE)
        words_BT = self._words(tokens_BT) if self.spec.whole_words else None
        chosen_BT = choose(text_BT, words_BT, self.spec.rate, draws.uniform(T))
        how_BT, random_BT = draws.uniform(T), (draws.uniform(T) * self.vocabulary.size).long()
        hidden_BT = torch.where(how_BT < self.spec.mask_share, self.mask, tokens_BT)
        swapped = (how_BT >= self.spec.mask_share) & (how_BT < self.spec.mask_share + self.spec.random_share)
        hidden_BT = torch.where(swapped, random_BT, hidden_BT)
        return replace(
            batch,
            tokens_BT=torch.where(chosen_BT, hidden_BT, tokens_BT),
            targets_BT=torch.where(chosen_BT, tokens_BT, IGNORE),
            mask=Mask(causal=False, segments_BT=batch.mask.segments_BT),
        )

    def loss(self, model: Model, batch: TextBatch) -> Loss:
        """Nats summed over chosen tokens; weight = their number."""
        hidden = model(batch).hidden
        total, _ = linear_cross_entropy(hidden.flatten(0, -2), model.head, batch.targets_BT.flatten())
        return Loss(total=total, weight=(batch.targets_BT != IGNORE).sum())

    def scores(self, model: Model, batch: TextBatch) -> dict[str, RowSums]:
        """Nats and accuracy over chosen tokens."""
        return target_scores(model.head, model(batch).hidden, batch.targets_BT)

    def questions(self, before: TextBatch, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """The token truly left of each chosen one, and the chosen one."""
        return before.tokens_BT.roll(1, dims=1), batch.targets_BT

    def training_flops(self, model: Any, tokens: int) -> float:
        """Every token passes through the model, the chosen ones through its head."""
        flops: float = model.training_flops(tokens, predicted=self.spec.rate)
        return flops

    def _words(self, tokens_BT: Tensor) -> Tensor:
        """Number of each token's word in its row, from 0; a special token is a word of its own."""
        starts_BT = flags_of(self.starts_V, tokens_BT) | flags_of(self.special_V, tokens_BT).roll(1, dims=1)
        starts_BT[:, 0] = True
        return starts_BT.cumsum(dim=1) - 1


def choose(text_BT: Tensor, words_BT: Tensor | None, rate: float, uniform_BT: Tensor) -> Tensor:
    """Which tokens to hide: in each row `rate` of the text's tokens, rounded, at least one; boolean (B, T).

    With words, whole ones in random order as long as all of a word still fits (Devlin et al. 2018, code of May 2019).

    Args:
        text_BT: tokens that may be hidden.
        words_BT: the number of each token's word in its row; None: each token is one.
        uniform_BT: numbers in [0, 1) that decide.
    """
    wanted_B = (rate * text_BT.sum(dim=1)).round().clamp(min=1).long()
    if words_BT is not None:
        uniform_BT = uniform_BT.gather(1, words_BT)
    order_BT = uniform_BT.masked_fill(~text_BT, 2.0).argsort(dim=1, stable=True)
    if words_BT is None:
        rank_BT = torch.empty_like(order_BT).scatter_(1, order_BT, torch.arange(order_BT.shape[1]).expand_as(order_BT))
        return text_BT & (rank_BT < wanted_B[:, None])
    return _whole_words(text_BT, words_BT, order_BT, wanted_B)


def _whole_words(text_BT: Tensor, words_BT: Tensor, order_BT: Tensor, wanted_B: Tensor) -> Tensor:
    chosen_BT = torch.zeros_like(text_BT)
    for row, (text, words, order) in enumerate(zip(text_BT, words_BT, order_BT, strict=True)):
        lengths = torch.zeros(len(words), dtype=torch.int64).index_add_(0, words, text.long()).tolist()
        left, taken = int(wanted_B[row]), set()
        for word in dict.fromkeys(words[order].tolist()):
            if 0 < lengths[word] <= left:
                taken.add(word)
                left -= lengths[word]
            if left == 0:
                break
        chosen_BT[row] = text & torch.isin(words, torch.tensor(sorted(taken), dtype=torch.int64))
    return chosen_BT


def flags_of(flags_V: Tensor, tokens_BT: Tensor) -> Tensor:
    """The flag of each token; ids beyond the vocabulary, which pad a model's table, have none."""
    return flags_V[tokens_BT.clamp(max=len(flags_V) - 1)] & (tokens_BT < len(flags_V))
