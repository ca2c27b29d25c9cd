"""Names of Vision Transformers in other libraries: nothing is lost on the way there and back."""

from __future__ import annotations

import pytest
import torch
from tiny_models import random_tensors

from corestone.core.errors import CheckpointError
from corestone.interop.outgoing import export_huggingface
from corestone.interop.vision import HUGGINGFACE, TIMM
from corestone.interop.weights import to_ours, to_theirs
from corestone.models.picture_spec import ClassHead, ImageEncoder
from corestone.nn.spec import (
    Attention,
    AttentionPool,
    Block,
    ClassTokenPool,
    FeedForward,
    MeanPool,
    PatchEmbedding,
    Stack,
)

ATTENTION, FEEDFORWARD = Attention(num_heads=3, head_dim=4), FeedForward(hidden_dim=20)
POOLS = {
    "class_token": ClassTokenPool(),
    "mean": MeanPool(),
    "attention": AttentionPool(attention=ATTENTION, feedforward=FEEDFORWARD),
}


def spec_of(pool: str) -> ImageEncoder:
    return ImageEncoder(
        embedding=PatchEmbedding(image_size=(6, 9), channels=2, patch_size=3, class_token=pool == "class_token"),
        stack=Stack(width=12, blocks=(Block(mixer=ATTENTION, feedforward=FEEDFORWARD),) * 2),
        pool=POOLS[pool],
        head=ClassHead(classes=5),
    )


@pytest.mark.parametrize(
    ("family", "pool"), [(TIMM, "class_token"), (TIMM, "mean"), (TIMM, "attention"), (HUGGINGFACE, "class_token")]
)
def test_there_and_back_is_the_identity(family, pool):
    spec = spec_of(pool)
    ours = random_tensors(spec)
    theirs = to_theirs(family, spec, ours, 5)
    again = to_ours(family, spec, theirs, "test")
    assert again.keys() == ours.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in ours.items())


def test_a_run_of_pictures_is_not_exported_as_a_language_model(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="kind 'image_encoder' has no counterpart in Hugging Face known here"):
        export_huggingface(checkpoint(spec_of("class_token")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("patch_embed.proj.weight", (12, 2, 9), r"shape \[12, 2, 9\], config.json asks for \[12, 2, 3, 3\]"),
        ("patch_embed.proj.weight", (12, 3, 3, 2), r"shape \[12, 3, 3, 2\], config.json asks for \[12, 2, 3, 3\]"),
        ("pos_embed", (1, 8, 12), r"shape \[1, 8, 12\], config.json asks for \[1, 7, 12\]"),
        ("cls_token", (1, 12), r"shape \[1, 12\], config.json asks for \[1, 1, 12\]"),
    ],
)
def test_misshaped_tensors_are_refused(name, shape, message):
    """Of as many values as are asked for, too."""
    spec = spec_of("class_token")
    theirs = to_theirs(TIMM, spec, random_tensors(spec), 5) | {name: torch.zeros(shape)}
    with pytest.raises(CheckpointError, match=message):
        to_ours(TIMM, spec, theirs, "test")
