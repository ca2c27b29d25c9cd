"""Operations of a stack's products.

Shape letters: T tokens, S source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from corestone.nn.spec import Attention, AttentionPool, ConvLayer, FeedForward, Pool, Stack


def stack_flops(stack: Stack, tokens: int, causal: bool, sources: int = 0) -> float:
    """Floating-point operations per token of forward and backward on rows of `tokens` tokens.

    6 per weight of a matrix, plus per attention layer 12 per attended key and inner width: two products forward, twice
    that backward, over the keys a token really sees. (Chowdhery et al. 2022, appendix B, counts all T keys; here
    causality and windows are counted, so utilisation reads lower.)

    Args:
        sources: tokens of the other text that cross-attention looks at; its keys' and values' maps are counted here.
    """
    total = 0.0
    for block in stack.blocks:
        total += _feedforward(block.feedforward, stack.width)
        if isinstance(block.mixer, Attention):
            total += _attention(block.mixer, stack.width, tokens, causal)
        else:
            total += _h3(stack.width, tokens)
        if block.cross is not None:
            total += _cross(block.cross, stack.width, tokens, sources)
    return total


def convolution_flops(layers: Sequence[ConvLayer], channels: int, size: tuple[int, int]) -> float:
    """Floating-point operations of forward and backward per picture: 6 per weight and place that it is used at, but 4
    in the first layer, since pictures need no gradient. Norms and activations are not counted."""
    total = 0.0
    for place, layer in enumerate(layers):
        size = layer.outputs(size)
        total += (6 if place else 4) * size[0] * size[1] * layer.kernel**2 * channels * layer.channels
        channels = layer.channels
    return total


def pool_flops(pool: Pool, width: int, patches: int) -> float:
    """Floating-point operations per picture of forward and backward, counted as in `stack_flops`."""
    if not isinstance(pool, AttentionPool):
        return 0.0
    each = _cross(pool.attention, width, pool.queries, patches)
    return pool.queries * (each + (_feedforward(pool.feedforward, width) if pool.feedforward is not None else 0.0))


def map_pool_flops(width: int, places: int) -> float:
    """Of attention of one query among a map's places and their mean, as `pool_flops`."""
    return 6.0 * width * width * (1 + 2 * (places + 1)) + 12.0 * width * (places + 1)


def _feedforward(feedforward: FeedForward, width: int) -> float:
    return 6.0 * (3 if feedforward.gated else 2) * width * feedforward.hidden_dim


def _cross(cross: Attention, width: int, tokens: int, sources: int) -> float:
    maps = 6 * width * cross.head_dim * (2 * cross.num_heads + 2 * cross.kv_heads * sources / tokens)
    return maps + 12 * cross.num_heads * cross.head_dim * sources


def _attention(mixer: Attention, width: int, tokens: int, causal: bool) -> float:
    inner = mixer.num_heads * mixer.head_dim
    matrices = width * (mixer.made_heads * mixer.head_dim + inner) + (inner**2 if mixer.shared_qk else 0)
    return 6 * matrices + 12 * inner * _keys(mixer, tokens, causal)


def _h3(width: int, tokens: int) -> float:
    """Four matrices, and per channel two convolutions of two Fourier transforms each, of twice the row's length,
    backward twice as many; a real one of n values costs 2.5 n log2 n. The kernels, made once per step for all rows, are
    not counted."""
    transforms = 3 * 2 * 2
    return 24.0 * width**2 + width * transforms * 2.5 * 2 * math.log2(2 * tokens)


def _keys(mixer: Attention, tokens: int, causal: bool) -> float:
    """Keys that a token sees, on average over a row."""
    if not causal:
        return tokens
    window = min(mixer.window or tokens, tokens)
    return window - window * (window - 1) / (2 * tokens)
