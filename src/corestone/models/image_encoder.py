"""The image encoder: a transformer that sees whole pictures.

Shape letters: B batch, C channels, H height, W width, T tokens, S patches, D width, K classes.
"""

from __future__ import annotations

import torch
from torch import nn

from corestone.core.batch import ImageBatch
from corestone.core.mask import Mask
from corestone.core.protocols import Output
from corestone.models.flops import pool_flops, stack_flops
from corestone.models.picture_spec import ClassHead, ImageEncoder
from corestone.nn.head import OwnHead, TanhHead
from corestone.nn.init import started, without_values
from corestone.nn.patches import PatchEmbeddingLayer
from corestone.nn.pooling import build_pool
from corestone.nn.stack import StackLayer


class ImageEncoderModel(nn.Module):
    """`model(batch)` gives a vector per picture (B, D); `model.head(hidden)` gives logits (B, K).

    The patches' last hidden values (B, S, D), row by row from the top left, are the intermediate value `patches`.
    """

    generates = "nothing"

    def __init__(self, spec: ImageEncoder) -> None:
        super().__init__()
        self.spec = spec
        width = spec.stack.width
        self.before = int(spec.embedding.class_token)
        self.embedding = PatchEmbeddingLayer(spec.embedding, width)
        self.stack = StackLayer(spec.stack)
        self.pool = build_pool(spec.pool, width, self.before)
        self.head = _head(spec.head, width) if spec.head is not None else None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of a picture."""
        return self.spec.embedding.image_size

    @property
    def channels(self) -> int:
        """Of a picture."""
        return self.spec.embedding.channels

    @property
    def classes(self) -> int:
        """Logits of a picture; 0 where there is no head."""
        return self.spec.head.classes if self.spec.head is not None else 0

    def forward(self, batch: ImageBatch) -> Output:
        """The vectors and the patches of a batch of pictures."""
        x_BTD = self.embedding(batch.images_BCHW)
        positions_BT = torch.arange(x_BTD.shape[1], device=x_BTD.device).expand(x_BTD.shape[:2])
        hidden_BTD = self.stack(x_BTD, positions_BT, Mask(causal=False))
        return Output(hidden=self.pool(hidden_BTD), intermediates={"patches": hidden_BTD[:, self.before :]})

    def training_flops(self) -> float:
        """Floating-point operations of forward and backward per picture; pictures themselves have no gradient."""
        embedding, head, width = self.spec.embedding, self.spec.head, self.spec.stack.width
        flops = 4.0 * embedding.patches * embedding.patch_values * width
        flops += embedding.tokens * stack_flops(self.spec.stack, embedding.tokens, causal=False)
        flops += pool_flops(self.spec.pool, width, embedding.patches)
        if head is not None:
            flops += 6 * (width * head.classes + (width * width if head.hidden else 0))
        return flops


def _head(spec: ClassHead, width: int) -> OwnHead:
    return TanhHead(width, spec.classes) if spec.hidden else OwnHead(width, spec.classes)


def build_image_encoder(spec: ImageEncoder, seed: int = 0, device: torch.device | str = "cpu") -> ImageEncoderModel:
    """Build an image encoder with initial values; on the meta device, without values and in milliseconds."""
    with without_values():
        model = ImageEncoderModel(spec)
    return started(model, device, spec.init, 2 * len(spec.stack.blocks), seed)
