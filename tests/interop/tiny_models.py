"""Small random models whose sizes all differ."""

from __future__ import annotations

from typing import Any

import torch

from corestone.interop.weights import Record, parameter_shapes
from corestone.models.picture_spec import ImageEncoder
from corestone.models.spec import Decoder
from corestone.nn.spec import Attention, Block, FeedForward, Init, Norm, Stack, TokenEmbedding


def make_decoder(post_norm: bool = False, vocab_size: int = 320, **changes: Any) -> Decoder:
    """A Decoder of GPT-2's shape, or of GPT-1's, whose sizes all differ."""
    block = Block(
        norm=Norm(eps=1e-4),
        norm_at="after" if post_norm else "in",
        mixer=Attention(num_heads=3, head_dim=4, dropout=0.05),
        feedforward=FeedForward(hidden_dim=48 if post_norm else 40),
        dropout=0.2,
    ).model_copy(update=changes)
    return Decoder(
        embedding=TokenEmbedding(vocab_size=vocab_size, context_length=17, dropout=0.1),
        stack=Stack(width=12, blocks=(block,) * 3, final_norm=None if post_norm else block.norm),
        init=Init(std=0.03, position_std=0.03, scale_residual=not post_norm),
    )


def random_tensors(spec: Record | ImageEncoder, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights by our names, no gain 1 and no bias 0 among them."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in parameter_shapes(spec).items()}
