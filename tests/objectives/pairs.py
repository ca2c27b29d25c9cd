"""A small model of pairs, and pairs for it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from corestone.core.batch import ImageBatch, ImageTextBatch, plain_batch
from corestone.objectives.contrastive import ContrastiveObjective
from corestone.objectives.spec import Contrastive


class TinyTowers(nn.Module):
    """Both towers of two layers, with dropout between them."""

    def __init__(self, dropout=0.0, bias=True):
        super().__init__()
        torch.manual_seed(1)
        self.pixels, self.tokens = nn.Linear(3 * 4 * 4, 16), nn.Embedding(50, 16)
        self.drop = nn.Dropout(dropout)
        self.image_out, self.text_out = nn.Linear(16, 8), nn.Linear(16, 8)
        self.log_scale = nn.Parameter(torch.tensor(1.5))
        self.bias = nn.Parameter(torch.tensor(-2.0)) if bias else None

    def image(self, batch):
        hidden = torch.tanh(self.pixels(batch.images_BCHW.flatten(1).to(self.pixels.weight.dtype)))
        return F.normalize(self.image_out(self.drop(hidden)), dim=-1)

    def text(self, batch):
        hidden = torch.tanh(self.tokens(batch.tokens_BT).mean(dim=1))
        return F.normalize(self.text_out(self.drop(hidden)), dim=-1)

    def training_flops(self):
        return 123.0


def pairs(rows=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(rows, 3, 4, 4, generator=generator)
    tokens = torch.randint(50, (rows, 6), generator=generator)
    return ImageTextBatch(ImageBatch(images), plain_batch(tokens))


def split(batch, sizes):
    """The batch cut into parts of these sizes."""
    parts, first = [], 0
    for size in sizes:
        parts.append(batch.rows(first, first + size))
        first += size
    assert first == len(batch)
    return parts


def objective(loss):
    return ContrastiveObjective(Contrastive(loss=loss))


def gradients_of(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
