"""What a model's guesses at real targets are worth, row by row.

Shape letters: B batch, T tokens, R rows of hidden values with a target, C rows of a chunk.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from corestone.core.batch import IGNORE
from corestone.core.protocols import Head, RowSums

CHUNK_LOGITS = 2**22
"""Logits that exist at a time: 16 MB in float32."""


@torch.no_grad()
def target_scores(head: Head, hidden_BTD: Tensor, targets_BT: Tensor) -> dict[str, RowSums]:
    """Nats per real target and the share of targets that were the likeliest token, as sums of each row."""
    B, keep_BT = len(targets_BT), targets_BT != IGNORE
    hidden_RD, targets_R = hidden_BTD[keep_BT], targets_BT[keep_BT]
    size = max(1, CHUNK_LOGITS // head.weight.shape[0])
    nats, hits = [], []
    for hidden_CD, targets_C in zip(hidden_RD.split(size), targets_R.split(size), strict=True):
        logits_CV = head(hidden_CD).float()
        nats.append(F.cross_entropy(logits_CV, targets_C, reduction="none"))
        hits.append((logits_CV.argmax(dim=-1) == targets_C).float())
    row_R = torch.arange(B, device=keep_BT.device)[:, None].expand_as(keep_BT)[keep_BT]
    count_B = keep_BT.sum(dim=1).double()

    def by_row(values: list[Tensor]) -> Tensor:
        sums_B = torch.zeros(B, dtype=torch.float64, device=row_R.device)
        return sums_B.index_add_(0, row_R, torch.cat(values).double()) if values else sums_B

    return {
        "nats_per_target": RowSums(by_row(nats), count_B, "nats/target"),
        "accuracy": RowSums(by_row(hits), count_B, "share of targets"),
    }
