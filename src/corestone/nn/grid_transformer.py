"""The transformer block on a map of places.

            x ─┬─ norm ─ pool ─ attention ─ drop path ─ + ─┬─ norm ─ feedforward ─ drop path ─ + ─ y
               └── pool ─ shortcut ─────────────────────┘  └───────────────────────────────────┘

It is no `nn.block.BlockLayer`: its first branch may change the width and halve the map, and its biases belong to one
size of map and to one layer, which no record of a text's stack could honour.

Shape letters: B batch, H height, W width, C channels, T = H W places, N heads.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from corestone.nn.attend import LoweredMask, attend, attention_weights
from corestone.nn.drop_path import DropPath
from corestone.nn.feedforward import FeedForwardLayer
from corestone.nn.norm import at_least_float32, build_norm
from corestone.nn.position import grid_bias
from corestone.nn.spec import FeedForward, GridTransformer, Norm

EXPANSION = 4
"""The feed-forward's hidden values for each of its outputs (Dai et al. 2021, appendix A)."""

NORM = Norm(eps=1e-6)


class GridAttention(nn.Module):
    """(B, H, W, C) to (B, H, W, width): `softmax(q k / sqrt(head_dim) + bias of the offset)` (Dai et al. 2021, section
    2.1). `qkv` holds the queries', keys' and values' maps, in that order."""

    def __init__(self, channels: int, width: int, head_dim: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.head_dim, (height, breadth) = head_dim, size
        self.qkv = nn.Linear(channels, 3 * width)
        self.position = nn.Embedding((2 * height - 1) * (2 * breadth - 1), width // head_dim)
        self.out = nn.Linear(width, width)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        q, k, v, mask = self._heads(x_BHWC)
        mixed_BNTH = attend(q, k, v, mask)
        out: Tensor = self.out(mixed_BNTH.transpose(1, 2).reshape(*x_BHWC.shape[:3], -1))
        return out

    def weights(self, x_BHWC: Tensor) -> Tensor:
        """How much each head's places look at each other, (B, N, T, T)."""
        q, k, _, mask = self._heads(x_BHWC)
        return attention_weights(q, k, mask)

    def _heads(self, x_BHWC: Tensor) -> tuple[Tensor, Tensor, Tensor, LoweredMask]:
        """Queries, keys and values (B, N, T, head_dim) each, and what the offsets add to scores."""
        B, H, W, _ = x_BHWC.shape
        q, k, v = self.qkv(x_BHWC).view(B, H * W, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4)
        return q, k, v, LoweredMask(causal=False, bias_BTS=None, bias_NTS=grid_bias(self.position.weight, H, W))


class GridTransformerBlock(nn.Module):
    """(B, C, H, W) to so many channels, of half the height and width where it halves (Dai et al. 2021, appendix A).

    The residual stream is float32; the branches compute in their parameters' format. A shortcut between different
    numbers of channels is a linear map.

    Args:
        size: height and width of the map that it makes.
    """

    def __init__(
        self,
        spec: GridTransformer,
        channels: int,
        width: int,
        size: tuple[int, int],
        halve: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.halve = halve
        self.mixer_norm = build_norm(NORM, channels)
        self.mixer = GridAttention(channels, width, spec.head_dim, size)
        self.feedforward_norm = build_norm(NORM, width)
        self.feedforward = FeedForwardLayer(FeedForward(hidden_dim=EXPANSION * width, activation="gelu"), width)
        self.shortcut = nn.Linear(channels, width) if channels != width else None
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BHWC, dtype = x_BCHW.permute(0, 2, 3, 1), self.mixer.qkv.weight.dtype
        h_BHWC = self.mixer_norm(x_BHWC).to(dtype)
        if self.halve:
            x_BHWC, h_BHWC = _halved(x_BHWC), _halved(h_BHWC)
        if self.shortcut is not None:
            x_BHWC = at_least_float32(self.shortcut(x_BHWC.to(dtype)))
        x_BHWC = x_BHWC + self.drop_path(self.mixer(h_BHWC))
        x_BHWC = x_BHWC + self.drop_path(self.feedforward(self.feedforward_norm(x_BHWC).to(dtype)))
        out_BCHW: Tensor = x_BHWC.permute(0, 3, 1, 2)
        return out_BCHW


def _halved(x_BHWC: Tensor) -> Tensor:
    """The largest of each square of four places."""
    pooled_BCHW: Tensor = F.max_pool2d(x_BHWC.permute(0, 3, 1, 2), 2)
    return pooled_BCHW.permute(0, 2, 3, 1)
