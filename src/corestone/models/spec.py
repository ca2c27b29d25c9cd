"""Records of the shapes of computation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from corestone.core.spec import Spec
from corestone.nn.spec import Init, Stack, TokenEmbedding


class Head(Spec):
    """The map from hidden values to logits.

    Attributes:
        tied: it is the token table itself (Press and Wolf 2017).
        scale: factor of the logits (PaLM: 1/sqrt(width)).
    """

    tied: bool = True
    bias: bool = False
    scale: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> Head:
        if self.tied and self.bias:
            raise ValueError("a tied head has no bias; set tied=false or bias=false")
        return self


class Decoder(Spec):
    """A causal transformer language model: embedding, stack, head."""

    kind: Literal["decoder"] = "decoder"
    embedding: TokenEmbedding
    stack: Stack
    head: Head = Head()
    init: Init = Init()
