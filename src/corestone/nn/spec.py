"""Records of the block table: what a transformer layer is made of.

An option enters a record when a paper of the zoo uses it and a parity test covers it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from corestone.core.spec import Spec


class Norm(Spec):
    """Normalisation over the width, with a gain and a bias (layer norm, Ba et al. 2016)."""

    kind: Literal["layer"] = "layer"
    eps: float = Field(default=1e-5, gt=0)


class Attention(Spec):
    """Multi-head attention (Vaswani et al. 2017, section 3.2), scores scaled by 1/sqrt(head_dim).

    Attributes:
        window: a token sees itself and the `window - 1` tokens before it; None sees everything the mask allows.
        dropout: on the attention probabilities.
    """

    kind: Literal["attention"] = "attention"
    num_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    window: int | None = Field(default=None, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class FeedForward(Spec):
    """Two linear maps with an activation between them (Vaswani et al. 2017, section 3.3)."""

    kind: Literal["feedforward"] = "feedforward"
    hidden_dim: int = Field(ge=1)
    activation: Literal["gelu_tanh"] = "gelu_tanh"


class Block(Spec):
    """One layer: per branch `y = norm_after(x + dropout(f(norm_in(x))))`, absent parts being the identity.

    Attributes:
        norm_at: "in" is pre-norm (GPT-2), "after" is post-norm (GPT-1).
        dropout: on each branch, before it is added to the residual.
    """

    norm: Norm = Norm()
    norm_at: Literal["in", "after"] = "in"
    mixer: Attention
    feedforward: FeedForward
    dropout: float = Field(default=0.0, ge=0, lt=1)


class Stack(Spec):
    """Layers one after the other, one record each, and an optional norm behind the last."""

    width: int = Field(ge=1)
    blocks: tuple[Block, ...] = Field(min_length=1)
    final_norm: Norm | None = Norm()


class TokenEmbedding(Spec):
    """Token table plus learned position table (Radford et al. 2018)."""

    vocab_size: int = Field(ge=1)
    context_length: int = Field(ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class Init(Spec):
    """Normal initialisation; gains start at 1, biases at 0.

    Attributes:
        std: of every weight matrix and the token table.
        position_std: of the position table.
        scale_residual: divide the std of each branch's last matrix by sqrt(number of branches)
            (Radford et al. 2019, section 2.3).
    """

    std: float = Field(default=0.02, gt=0)
    position_std: float = Field(default=0.02, gt=0)
    scale_residual: bool = False
