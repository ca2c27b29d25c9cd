"""Finding the tokens that a generator replaced.

Shape letters: B batch, T tokens, R rows, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from corestone.core.batch import IGNORE, TextBatch
from corestone.core.protocols import Head, Loss, RowSums
from corestone.core.rng import Draws
from corestone.core.tensors import each_tensor, moved
from corestone.core.vocabulary import Vocabulary
from corestone.nn.cross_entropy import linear_cross_entropy
from corestone.objectives.masked_token import MaskedTokenObjective
from corestone.objectives.scores import target_scores
from corestone.objectives.spec import MaskedToken, ReplacedToken


@dataclass(frozen=True)
class ReplacedBatch:
    """A batch with hidden tokens, and the numbers that choose what the generator puts in their place.

    Attributes:
        hidden: chosen tokens are masks; targets are what they were.
        text_BT: positions that stand for text or a separator, not for what fills up a row.
        uniform_BT: numbers in [0, 1).
    """

    hidden: TextBatch
    text_BT: Tensor
    uniform_BT: Tensor

    def __len__(self) -> int:
        return len(self.hidden)

    def rows(self, start: int, stop: int) -> ReplacedBatch:
        """Some rows of the batch, as a batch."""
        return each_tensor(self, lambda tensor: tensor[start:stop])

    def to(self, device: torch.device) -> ReplacedBatch:
        """The batch on a device."""
        return moved(self, device)


class ReplacedTokenObjective:
    """The generator's cross-entropy and `weight` times the discriminator's (Clark et al. 2020, section 2).

    In the paper each is a mean of its own: over chosen tokens, and over all. Here both are sums, divided by the number
    of chosen tokens once; a row's sum over all its tokens is multiplied with its share of chosen ones before. So the
    second is a mean, too, of the rows' means, each weighing as many tokens as are chosen in it.
    """

    reduction = "additive"
    asks = True

    def __init__(self, spec: ReplacedToken, vocabulary: Vocabulary) -> None:
        self.spec = spec
        everything_hidden = MaskedToken(rate=spec.rate, mask_share=1.0, random_share=0.0)
        self.masked = MaskedTokenObjective(everything_hidden, vocabulary)
        self.size = vocabulary.size

    def corrupt(self, batch: TextBatch, draws: Draws) -> ReplacedBatch:
        """Hide tokens, and draw what the generator's samples will depend on."""
        hidden = self.masked.corrupt(batch, draws)
        return ReplacedBatch(hidden, batch.targets_BT != IGNORE, draws.uniform(batch.tokens_BT.shape[1]))

    def loss(self, model: Any, batch: ReplacedBatch) -> Loss:
        """Nats summed over chosen tokens plus the weighted sum over all; weight = the number of chosen ones."""
        hidden, targets_BT = model.generator(batch.hidden).hidden, batch.hidden.targets_BT
        filled_in, _ = linear_cross_entropy(hidden.flatten(0, -2), model.generator.head, targets_BT.flatten())
        nats_BT, _, _ = self._detected(model, batch, hidden)
        share_B = (targets_BT != IGNORE).sum(dim=1) / batch.text_BT.sum(dim=1).clamp(min=1)
        found = ((nats_BT * batch.text_BT).sum(dim=1) * share_B).sum()
        metrics = {"generator_nats": filled_in.detach(), "detection_nats": found.detach()}
        return Loss(filled_in + self.spec.weight * found, (targets_BT != IGNORE).sum(), metrics)

    def _detected(self, model: Any, batch: ReplacedBatch, hidden_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of every token: the discriminator's nats, whether it was right, and whether the token was replaced. A sample
        that is the hidden token itself was not."""
        replaced = self.replaced(model.generator.head, hidden_BTD, batch)
        targets_BT = batch.hidden.targets_BT
        wrong_BT = (targets_BT != IGNORE) & (replaced.tokens_BT != targets_BT)
        logits_BT = model.discriminator.detector(model.discriminator(replaced).hidden).float()
        nats_BT = F.binary_cross_entropy_with_logits(logits_BT, wrong_BT.float(), reduction="none")
        return nats_BT, (logits_BT > 0) == wrong_BT, wrong_BT

    @torch.no_grad()
    def scores(self, model: Any, batch: ReplacedBatch) -> dict[str, RowSums]:
        """The discriminator over all tokens, beside always answering "not replaced"; the generator over chosen ones."""
        hidden = model.generator(batch.hidden).hidden
        nats_BT, right_BT, wrong_BT = self._detected(model, batch, hidden)
        count_B = batch.text_BT.sum(dim=1)

        def over_text(values_BT: Tensor, unit: str) -> RowSums:
            return RowSums((values_BT * batch.text_BT).sum(dim=1), count_B, unit)

        generator = target_scores(model.generator.head, hidden, batch.hidden.targets_BT)
        return {
            "detection_nats": over_text(nats_BT, "nats/token"),
            "detection_accuracy": over_text(right_BT, "share of tokens"),
            "never_replaced_accuracy": over_text(~wrong_BT, "share of tokens"),
            **{f"generator_{name}": sums for name, sums in generator.items()},
        }

    def questions(self, before: TextBatch, batch: ReplacedBatch) -> tuple[Tensor, Tensor]:
        """The generator's."""
        return self.masked.questions(before, batch.hidden)

    @torch.no_grad()
    def replaced(self, head: Head, hidden_BTD: Tensor, batch: ReplacedBatch) -> TextBatch:
        """The text with a sample of the generator's in every chosen place (no gradient passes through it)."""
        chosen_BT = batch.hidden.targets_BT != IGNORE
        tokens_BT = batch.hidden.tokens_BT.clone()
        logits_RV = head(hidden_BTD[chosen_BT])[:, : self.size].float()
        tokens_BT[chosen_BT] = sampled(logits_RV, batch.uniform_BT[chosen_BT])
        return replace(batch.hidden, tokens_BT=tokens_BT)

    def training_flops(self, model: Any, tokens: int) -> float:
        """Every token passes through both; chosen ones through the generator's head (once more to sample: forward)."""
        generator = model.generator.training_flops(tokens, predicted=self.spec.rate * 4 / 3)
        flops: float = generator + model.discriminator.training_flops(tokens)
        return flops


def sampled(logits_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """One id per row, drawn with the probabilities of its logits: where the sum of probabilities passes the number."""
    sums_RV = torch.softmax(logits_RV, dim=-1).cumsum(dim=-1)
    wanted_R1 = (uniform_R[:, None] * sums_RV[:, -1:]).contiguous()
    return torch.searchsorted(sums_RV, wanted_R1, right=True)[:, 0].clamp(max=logits_RV.shape[1] - 1)
