"""Operations of a stack's products.

Shape letters: T tokens, S source.
"""

from __future__ import annotations

from corestone.nn.spec import Attention, Stack


def stack_flops(stack: Stack, tokens: int, causal: bool, sources: int = 0) -> float:
    """Floating-point operations per token of forward and backward on rows of `tokens` tokens.

    6 per weight of a matrix, plus per layer 12 per attended key and inner width: two products forward, twice that
    backward, over the keys a token really sees. (Chowdhery et al. 2022, appendix B, counts all T keys; here causality
    and windows are counted, so utilisation reads lower.)

    Args:
        sources: tokens of the other text that cross-attention looks at; its keys' and values' maps are counted here.
    """
    total = 0.0
    for block in stack.blocks:
        mixer, maps = block.mixer, 3 if block.feedforward.gated else 2
        total += 6 * stack.width * mixer.head_dim * 2 * (mixer.num_heads + mixer.kv_heads)
        total += 6 * maps * stack.width * block.feedforward.hidden_dim
        total += 12 * mixer.num_heads * mixer.head_dim * _keys(mixer, tokens, causal)
        if block.cross is not None:
            cross = block.cross
            total += 6 * stack.width * cross.head_dim * 2 * cross.num_heads
            total += 6 * stack.width * cross.head_dim * 2 * cross.kv_heads * sources / tokens
            total += 12 * cross.num_heads * cross.head_dim * sources
    return total


def _keys(mixer: Attention, tokens: int, causal: bool) -> float:
    """Keys that a token sees, on average over a row."""
    if not causal:
        return tokens
    window = min(mixer.window or tokens, tokens)
    return window - window * (window - 1) / (2 * tokens)
