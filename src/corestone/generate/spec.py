"""Records of how text is drawn from a model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from corestone.core.spec import Spec


class Sampling(Spec):
    """How the next token is chosen. Filters apply in the order of the fields.

    Attributes:
        repetition_penalty: divides positive and multiplies negative logits of tokens already there (Keskar et al. 2019,
            section 4.1); 1 changes nothing.
        temperature: divides the logits; 0 takes the likeliest token always.
        top_k: keep the k likeliest tokens.
        top_p: keep the likeliest tokens that together hold this probability (Holtzman et al. 2020, section 3.1).
        min_p: keep tokens at least this fraction as likely as the likeliest (Nguyen et al. 2024).
        max_tokens: end after this many new tokens.
        stop: end before any of these strings appears.
        seed: of the draws; each row of a batch draws from a stream of its own.
    """

    repetition_penalty: float = Field(default=1.0, gt=0)
    temperature: float = Field(default=1.0, ge=0)
    top_k: int | None = Field(default=None, ge=1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    max_tokens: int = Field(default=200, ge=1)
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    seed: int = 0
