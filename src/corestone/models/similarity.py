"""What makes logits of the cosines of pictures and texts: a learned scale and bias."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from corestone.models.picture_spec import Similarity
from corestone.nn.exact import Exact

LOG_SCALE = "similarity.log_scale"
"""The name of the parameter that `after_update` brings back, in a model that calls its similarity so."""


class LearnedSimilarity(Exact):
    """The scale, as its logarithm, and the bias of similarities; float32 whatever format the model has."""

    def __init__(self, spec: Similarity) -> None:
        super().__init__()
        self.spec = spec
        self.log_scale = nn.Parameter(torch.empty(()))
        self.bias = nn.Parameter(torch.empty(())) if spec.bias is not None else None

    @torch.no_grad()
    def start(self) -> None:
        """The record's values."""
        self.log_scale.fill_(math.log(self.spec.scale))
        if self.bias is not None and self.spec.bias is not None:
            self.bias.fill_(self.spec.bias)

    @torch.no_grad()
    def after_update(self, masters: Mapping[str, Tensor] | None = None) -> None:
        """Bring the scale back to the most it may be (Radford et al. 2021, section 2.5); to be called after each update
        of the weights.

        Args:
            masters: the model's weights by name that the optimiser updates, where these are not the model's own: the
                scale among them is brought back too.
        """
        if self.spec.scale_most is not None:
            for log_scale in (self.log_scale, *([] if masters is None else [masters[LOG_SCALE]])):
                log_scale.clamp_(max=math.log(self.spec.scale_most))
