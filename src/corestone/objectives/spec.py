"""Records of what is learnt."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from corestone.core.spec import Spec


class NextToken(Spec):
    """Predict each token from those before it. `z_loss` times the squared log-normaliser is added."""

    kind: Literal["next_token"] = "next_token"
    z_loss: float = Field(default=0.0, ge=0)
