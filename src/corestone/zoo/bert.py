"""BERT as specs (Devlin et al. 2018, section 3; the small sizes: Turc et al. 2019)."""

from __future__ import annotations

from corestone.models.spec import Encoder, Head, PoolerHead, Transform
from corestone.nn.spec import Attention, Block, FeedForward, Init, Norm, Stack, TokenEmbedding
from corestone.zoo.entry import Entry

NORM = Norm(eps=1e-12)


def bert(
    width: int,
    depth: int,
    num_heads: int,
    vocab_size: int = 30522,
    context_length: int = 512,
    hidden_dim: int | None = None,
    dropout: float = 0.1,
) -> Encoder:
    """Post-norm encoder with types of tokens, a head for hidden tokens, and a pooler that tells what comes next."""
    block = Block(
        norm=NORM,
        norm_at="after",
        mixer=Attention(num_heads=num_heads, head_dim=width // num_heads, dropout=dropout),
        feedforward=FeedForward(hidden_dim=hidden_dim or 4 * width, activation="gelu"),
        dropout=dropout,
    )
    return Encoder(
        embedding=TokenEmbedding(
            vocab_size=vocab_size, context_length=context_length, types=2, norm=NORM, dropout=dropout
        ),
        stack=Stack(width=width, blocks=(block,) * depth, final_norm=None),
        head=Head(bias=True, transform=Transform(norm=NORM)),
        pooler=PoolerHead(classes=2),
        init=Init(std=0.02, token_std=0.02, position_std=0.02),
    )


def entries() -> list[Entry]:
    """Every published size, with the heads of pretraining."""
    base, large, small = "Devlin et al. 2018, section 3", "Devlin et al. 2018, section 3", "Turc et al. 2019"
    shapes = {  # width, depth, heads, vocabulary, published, source
        "bert-tiny": (128, 2, 2, 30522, 4.4e6, small),
        "bert-mini": (256, 4, 4, 30522, 11.3e6, small),
        "bert-small": (512, 4, 8, 30522, 29.1e6, small),
        "bert-medium": (512, 8, 8, 30522, 41.7e6, small),
        "bert-base": (768, 12, 12, 30522, 110e6, base),
        "bert-base-cased": (768, 12, 12, 28996, 110e6, base),
        "bert-large": (1024, 24, 16, 30522, 340e6, large),
    }
    return [Entry(name, "bert", bert(*shape[:4]), shape[4], shape[5]) for name, shape in shapes.items()]
