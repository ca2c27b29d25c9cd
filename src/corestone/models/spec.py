"""Records of the shapes of computation."""

from __future__ import annotations

from typing import Literal

from corestone.core.spec import Spec
from corestone.nn.spec import Init, Stack, TokenEmbedding


class Decoder(Spec):
    """A causal transformer language model: embedding, stack, and a head tied to the token table."""

    kind: Literal["decoder"] = "decoder"
    embedding: TokenEmbedding
    stack: Stack
    init: Init = Init()
