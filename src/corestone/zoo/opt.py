"""OPT as specs (Zhang et al. 2022, table 1; sizes and the 350M variant as released)."""

from __future__ import annotations

from corestone.models.spec import Decoder
from corestone.nn.spec import Attention, Block, FeedForward, Init, LearnedPositions, Stack, TokenEmbedding
from corestone.zoo.entry import Entry

VOCAB_SIZE, CONTEXT_LENGTH = 50272, 2048


def opt(
    width: int, depth: int, num_heads: int, vocab_size: int = VOCAB_SIZE, context_length: int = CONTEXT_LENGTH
) -> Decoder:
    """Pre-norm decoder with ReLU; its position table begins two rows late (section 2.1 and code)."""
    mixer = Attention(num_heads=num_heads, head_dim=width // num_heads)
    feedforward = FeedForward(hidden_dim=4 * width, activation="relu")
    return Decoder(
        embedding=TokenEmbedding(
            vocab_size=vocab_size, context_length=context_length, position=LearnedPositions(offset=2)
        ),
        stack=Stack(width=width, blocks=(Block(mixer=mixer, feedforward=feedforward, dropout=0.1),) * depth),
        init=Init(std=0.006, position_std=0.006, scale_residual=True),
    )


def opt_350m() -> Decoder:
    """The one that differs: post-norm, no final norm, a token table of width 512 mapped to 1,024 and back."""
    spec = opt(1024, 24, 16)
    blocks = tuple(block.model_copy(update={"norm_at": "after"}) for block in spec.stack.blocks)
    return spec.model_copy(
        update={
            "embedding": spec.embedding.model_copy(update={"width": 512}),
            "stack": spec.stack.model_copy(update={"blocks": blocks, "final_norm": None}),
        }
    )


_SOURCE = "Zhang et al. 2022, table 1"


def entries() -> list[Entry]:
    """Every released size, and 175B."""
    shapes = {
        "opt-125m": (768, 12, 12, 125e6),
        "opt-1.3b": (2048, 24, 32, 1.3e9),
        "opt-2.7b": (2560, 32, 32, 2.7e9),
        "opt-6.7b": (4096, 32, 32, 6.7e9),
        "opt-13b": (5120, 40, 40, 13e9),
        "opt-30b": (7168, 48, 56, 30e9),
        "opt-66b": (9216, 64, 72, 66e9),
        "opt-175b": (12288, 96, 96, 175e9),
    }
    found = [Entry(name, "opt", opt(*shape[:3]), shape[3], _SOURCE) for name, shape in shapes.items()]
    doubt = "331 M with its factorised token table"
    return [found[0], Entry("opt-350m", "opt", opt_350m(), 350e6, _SOURCE, doubt), *found[1:]]
