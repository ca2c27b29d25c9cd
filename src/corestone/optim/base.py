"""What every optimiser here is: torch's, without the import of torch's compiler."""

from __future__ import annotations

from typing import Any

import torch


class LightOptimizer(torch.optim.Optimizer):
    """`torch.optim.Optimizer` whose groups are taken as they are given.

    torch's own way of adding a group, and the steps of its own optimisers, load its compiler, used or not: about a
    second and 0.15 GB of a run's memory (docs/LOG.md).
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group: `params`, a list of float32 leaves that no other group has, and settings (else the defaults)."""
        self.param_groups.append({**self.defaults, **param_group})
