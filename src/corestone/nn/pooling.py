"""One vector out of a picture's or a text's tokens.

Shape letters: B batch, T tokens, S patches or places of a map, Q queries, D width, N heads, H head dim.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from corestone.core.mask import Mask
from corestone.nn.attend import LoweredMask, attend, attention_weights
from corestone.nn.attention import CrossAttentionLayer
from corestone.nn.feedforward import FeedForwardLayer
from corestone.nn.lowered import Lowered, Memory
from corestone.nn.norm import at_least_float32, build_norm
from corestone.nn.spec import AttentionPool, ClassTokenPool, MeanPool, Pool, TextPool

EVERYTHING = LoweredMask(causal=False, bias_BTS=None)
"""The mask of who may look at all there is."""


class ClassTokenPoolLayer(nn.Module):
    """The first token of (B, T, D): (B, D)."""

    def __init__(self, spec: ClassTokenPool, width: int, before: int) -> None:
        super().__init__()

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return hidden_BTD[:, 0]


class MeanPoolLayer(nn.Module):
    """The mean over the patches of (B, T, D), summed in float32: (B, D)."""

    def __init__(self, spec: MeanPool, width: int, before: int) -> None:
        super().__init__()
        self.before = before

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return at_least_float32(hidden_BTD[:, self.before :]).mean(dim=1).to(hidden_BTD.dtype)


class AttentionPoolLayer(nn.Module):
    """What a learned query, a row of `probe`, finds among the patches of (B, T, D): (B, D); `look` gives what each of
    several finds."""

    def __init__(self, spec: AttentionPool, width: int, before: int) -> None:
        super().__init__()
        self.before = before
        self.probe = nn.Embedding(spec.queries, width)
        self.attention = CrossAttentionLayer(spec.attention, width)
        self.norm = build_norm(spec.norm, width)
        self.feedforward = FeedForwardLayer(spec.feedforward, width) if spec.feedforward is not None else None

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return self.look(hidden_BTD)[:, 0]

    def look(self, hidden_BTD: Tensor) -> Tensor:
        """What all queries find, (B, Q, D)."""
        dtype, patches_BSD = self.probe.weight.dtype, hidden_BTD[:, self.before :]
        probe_BQD = self.probe.weight.expand(len(hidden_BTD), -1, -1)
        nowhere = torch.zeros(probe_BQD.shape[:2], dtype=torch.int64, device=hidden_BTD.device)
        lowered = Lowered(EVERYTHING, nowhere, {}, {}, Memory(patches_BSD, EVERYTHING))
        found_BQD = at_least_float32(self.attention(probe_BQD, lowered))
        normed_BQD: Tensor = self.norm(found_BQD).to(dtype)
        if self.feedforward is None:
            return normed_BQD
        out: Tensor = found_BQD + self.feedforward(normed_BQD)
        return out.to(dtype)


LAYERS: dict[str, Callable[..., nn.Module]] = {
    "class_token": ClassTokenPoolLayer,
    "mean": MeanPoolLayer,
    "attention": AttentionPoolLayer,
}


def build_pool(spec: Pool, width: int, before: int) -> nn.Module:
    """The layer that a record describes.

    Args:
        before: tokens that stand before the patches.
    """
    return LAYERS[spec.kind](spec, width, before)


class MapPoolLayer(nn.Module):
    """What the mean of a map's places (B, D, height, width) finds among these and itself, all with learned positions,
    by heads side by side (B, D): attention of one query whose last linear map is the next layer's (Radford et al. 2021,
    section 2.4). `kv` holds the keys' and values' maps, in that order."""

    def __init__(self, places: int, width: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.position = nn.Embedding(1 + places, width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)

    def forward(self, map_BDHW: Tensor) -> Tensor:
        found_BN1H = attend(*self._heads(map_BDHW), EVERYTHING)
        return found_BN1H.transpose(1, 2).flatten(1)

    def weights(self, map_BDHW: Tensor) -> Tensor:
        """How much each head looks at the mean and at each place, (B, N, 1, 1 + S)."""
        q, k, _ = self._heads(map_BDHW)
        return attention_weights(q, k, EVERYTHING)

    def _heads(self, map_BDHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The query (B, N, 1, H), keys and values (B, N, 1 + S, H) each."""
        places_BSD = at_least_float32(map_BDHW).flatten(2).transpose(1, 2)
        x_BSD = torch.cat((places_BSD.mean(dim=1, keepdim=True), places_BSD), dim=1) + self.position.weight
        x_BSD = x_BSD.to(self.q.weight.dtype)
        q, k, v = (
            x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for x in (self.q(x_BSD[:, :1]), *self.kv(x_BSD).chunk(2, dim=-1))
        )
        return q, k, v


def pool_text(spec: TextPool, hidden_BTD: Tensor, mask: Mask) -> Tensor:
    """One vector (B, D) of each text: of the tokens in the segment of its row's first; the others fill the row up."""
    if spec.kind == "class_token":
        return hidden_BTD[:, 0]
    if mask.segments_BT is None:
        return hidden_BTD[:, -1] if spec.kind == "last_token" else MeanPoolLayer(spec, 0, 0)(hidden_BTD)
    own_BT = mask.segments_BT == mask.segments_BT[:, :1]
    if spec.kind == "last_token":
        last_B = (own_BT * torch.arange(own_BT.shape[1], device=own_BT.device)).amax(dim=1)
        return hidden_BTD[torch.arange(len(last_B), device=last_B.device), last_B]
    sum_BD = at_least_float32(hidden_BTD).masked_fill(~own_BT[:, :, None], 0).sum(dim=1)
    return (sum_BD / own_BT.sum(dim=1, keepdim=True)).to(hidden_BTD.dtype)
