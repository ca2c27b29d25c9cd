"""Maps from hidden values to logits.

Shape letters: B batch, D width, E width of the token table, V vocabulary or classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from corestone.nn.batch_norm import BatchNorm
from corestone.nn.norm import build_norm
from corestone.nn.spec import Norm


class OwnHead(nn.Linear):
    """Logits by a matrix of its own. Satisfies `core.protocols.Head`.

    Args:
        scale: factor of the logits, but for their biases.
    """

    def __init__(self, width: int, outputs: int, bias: bool = True, scale: float = 1.0) -> None:
        super().__init__(width, outputs, bias)
        self.scale = scale

    def features(self, hidden: Tensor) -> Tensor:
        """What the matrix multiplies: the hidden values, scaled."""
        return _scaled(hidden, self.scale)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(self.features(hidden), self.weight, self.bias)


class TanhHead(OwnHead):
    """Logits of hidden values through a dense map and tanh, as when a ViT is pretrained (Dosovitskiy et al. 2021,
    section 3.1)."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(width, outputs)
        self.dense = nn.Linear(width, width)

    def features(self, hidden: Tensor) -> Tensor:
        """What the matrix multiplies."""
        out: Tensor = self.dense(hidden).tanh()
        return out


class TiedHead(nn.Module):
    """Logits by the token table itself (Press and Wolf 2017). Satisfies `core.protocols.Head`.

    Args:
        bias: whether each logit has a bias of its own.
        transform: what is done to hidden values before; None: nothing.
        scale: factor of the logits, but for their biases.
    """

    def __init__(
        self, table: nn.Embedding, bias: bool = False, transform: HeadTransform | None = None, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = table.weight  # (V, E)
        self.bias = nn.Parameter(table.weight.new_empty(table.num_embeddings)) if bias else None
        self.transform = transform
        self.scale = scale

    def features(self, hidden: Tensor) -> Tensor:
        """What the table multiplies."""
        return _scaled(hidden if self.transform is None else self.transform(hidden), self.scale)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(self.features(hidden), self.weight, self.bias)


def _scaled(features: Tensor, scale: float) -> Tensor:
    return features if scale == 1.0 else features * scale


class HeadTransform(nn.Module):
    """Dense map to the token table's width, GELU, norm (Devlin et al. 2018, code)."""

    def __init__(self, width: int, table_width: int, norm: Norm) -> None:
        super().__init__()
        self.dense = nn.Linear(width, table_width)
        self.norm = build_norm(norm, table_width)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.norm(F.gelu(self.dense(hidden))).to(hidden.dtype)
        return out


class DetectorHead(nn.Module):
    """One logit per token: was it replaced? (Clark et al. 2020, section 2 and code)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.out = nn.Linear(width, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) to (...)."""
        out: Tensor = self.out(F.gelu(self.dense(hidden)))[..., 0]
        return out


class Pooler(nn.Module):
    """A row as one vector: its first token's hidden values through a dense map and tanh; and logits of it, where there
    are classes (Devlin et al. 2018, section 3.1 and code)."""

    def __init__(self, width: int, classes: int | None) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.out = nn.Linear(width, classes) if classes is not None else None

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, D)."""
        out: Tensor = self.dense(hidden_BTD[:, 0]).tanh()
        return out


class NormedHead(nn.Linear):
    """Logits by a matrix of its own without bias, batch-normed (An et al. 2020, code)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(width, classes, bias=False)
        self.norm = BatchNorm(classes)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, D) to (B, V)."""
        out: Tensor = self.norm(super().forward(hidden))
        return out
