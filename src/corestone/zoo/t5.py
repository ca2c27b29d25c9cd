"""T5 as specs: 1.0 (Raffel et al. 2020, section 3.8), 1.1 (release notes of its code; Shazeer 2020)."""

from __future__ import annotations

from corestone.models.spec import EncoderDecoder, Head
from corestone.nn.spec import Attention, Block, Buckets, FeedForward, Init, Norm, Stack, TokenEmbedding
from corestone.zoo.entry import Entry

NORM = Norm(kind="rms", eps=1e-6, bias=False)


def t5(
    width: int,
    depth: int,
    num_heads: int,
    head_dim: int,
    hidden_dim: int,
    gated: bool = False,
    vocab_size: int = 32128,
    dropout: float = 0.1,
) -> EncoderDecoder:
    """Pre-norm encoder and decoder of `depth` layers each; distances in buckets, no biases, unscaled attention.

    Args:
        gated: version 1.1: GELU-gated feed-forwards, and a head of its own; else ReLU, and a tied head.
        dropout: in feed-forwards, of branches, on attention probabilities, at both ends of each stack (section 2.1).
    """
    plain = Attention(num_heads=num_heads, head_dim=head_dim, bias_in=False, bias_out=False, scale=1.0, dropout=dropout)
    block = Block(
        norm=NORM,
        mixer=plain.model_copy(update={"position": Buckets()}),
        feedforward=FeedForward(
            hidden_dim=hidden_dim,
            activation="gelu_tanh" if gated else "relu",
            gated=gated,
            bias=False,
            dropout=dropout,
        ),
        dropout=dropout,
    )
    reading = Stack(width=width, blocks=(block,) * depth, final_norm=NORM, dropout=dropout)
    writing = reading.model_copy(update={"blocks": (block.model_copy(update={"cross": plain}),) * depth})
    return EncoderDecoder(
        embedding=TokenEmbedding(vocab_size=vocab_size, context_length=512, position=None, dropout=dropout),
        encoder=reading,
        decoder=writing,
        head=Head(tied=not gated, scale=1.0 if gated else width**-0.5),
        init=Init(std=None, token_std=1.0, position_std=width**-0.5),
    )


def entries() -> list[Entry]:
    """Every published size. FLAN-T5 (Chung et al. 2022) has the shapes of version 1.1."""
    first = {  # width, depth, heads, head size, hidden values, published parameters
        "t5-small": (512, 6, 8, 64, 2048, 60e6),
        "t5-base": (768, 12, 12, 64, 3072, 220e6),
        "t5-large": (1024, 24, 16, 64, 4096, 770e6),
        "t5-3b": (1024, 24, 32, 128, 16384, 2.8e9),
        "t5-11b": (1024, 24, 128, 128, 65536, 11e9),
    }
    second = {
        "t5-v1.1-small": (512, 8, 6, 64, 1024, 80e6),
        "t5-v1.1-base": (768, 12, 12, 64, 2048, 250e6),
        "t5-v1.1-large": (1024, 24, 16, 64, 2816, 780e6),
        "t5-v1.1-xl": (2048, 24, 32, 64, 5120, 3e9),
        "t5-v1.1-xxl": (4096, 24, 64, 64, 10240, 11e9),
    }
    doubt = {"t5-large": "the paper's 770 M is not what its table of sizes gives"}
    paper, flan = "Raffel et al. 2020, section 3.8", "T5 release notes; figures of Chung et al. 2022 (FLAN-T5)"
    return [
        *(Entry(name, "t5", t5(*x[:5]), x[5], paper, doubt.get(name, "")) for name, x in first.items()),
        *(Entry(name, "t5", t5(*x[:5], gated=True), x[5], flan) for name, x in second.items()),
    ]
