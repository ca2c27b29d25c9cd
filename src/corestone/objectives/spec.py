"""Records of what is learnt."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from corestone.core.spec import Spec


class NextToken(Spec):
    """Predict each token from those before it. `z_loss` times the squared log-normaliser is added."""

    kind: Literal["next_token"] = "next_token"
    z_loss: float = Field(default=0.0, ge=0)


class MaskedToken(Spec):
    """Hide some tokens and predict them from all others (Devlin et al. 2018, section 3.1).

    Attributes:
        rate: share of a row's tokens that are chosen.
        mask_share: of the chosen ones become the mask token,
        random_share: become a random token; the rest stay what they are.
        whole_words: choose all pieces of a word or none.
    """

    kind: Literal["masked_token"] = "masked_token"
    rate: float = Field(default=0.15, gt=0, lt=1)
    mask_share: float = Field(default=0.8, ge=0, le=1)
    random_share: float = Field(default=0.1, ge=0, le=1)
    whole_words: bool = False

    @model_validator(mode="after")
    def _fits(self) -> MaskedToken:
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(f"mask_share + random_share is {self.mask_share + self.random_share:g}, more than 1")
        return self


class ReplacedToken(Spec):
    """A generator fills in hidden tokens; a discriminator tells for every token whether it was replaced (Clark et al.
    2020, section 2).

    Attributes:
        rate: share of a row's tokens that the generator fills in.
        weight: of the discriminator's mean loss beside the generator's.
    """

    kind: Literal["replaced_token"] = "replaced_token"
    rate: float = Field(default=0.15, gt=0, lt=1)
    weight: float = Field(default=50.0, ge=0)
