"""Names of models of pictures and texts in other libraries: nothing is lost on the way there and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from corestone.core.batch import ImageBatch
from corestone.core.errors import CheckpointError
from corestone.interop.two_tower import (
    HUGGINGFACE_CLIP,
    HUGGINGFACE_SIGLIP,
    OPEN_CLIP,
    OPEN_CLIP_RESNET,
    two_tower_from,
    two_tower_to,
)
from corestone.interop.weights import build_with, parameter_shapes
from corestone.models.picture_spec import ModifiedResNet, TwoTower
from corestone.models.two_tower import build_two_tower
from corestone.nn.batch_norm import BatchNorm
from corestone.zoo.clip import clip_vit, text_tower
from corestone.zoo.siglip import siglip


def small(spec: TwoTower) -> TwoTower:
    """Towers of two and three layers, few tokens."""
    text = spec.text.model_copy(
        update={
            "embedding": spec.text.embedding.model_copy(update={"vocab_size": 13, "context_length": 5}),
            "stack": spec.text.stack.model_copy(update={"blocks": spec.text.stack.blocks[:3]}),
        }
    )
    return spec.model_copy(update={"text": text})


CLIP = small(clip_vit(64, 2, 4, 128, 24, image_size=8))
SIGLIP = small(siglip(24, 3, 4, 4, 8, vocab_size=13))
RESNET = small(
    TwoTower(
        image=ModifiedResNet(image_size=(32, 32), width=2, depths=(1, 5, 1, 2)),
        text=text_tower(64),
        embed_dim=24,
        image_projection={"bias": True},
    )
)
FAMILIES: dict[str, Any] = {
    "open_clip": (OPEN_CLIP, CLIP),
    "residual": (OPEN_CLIP_RESNET, RESNET),
    "clip": (HUGGINGFACE_CLIP, CLIP),
    "siglip": (HUGGINGFACE_SIGLIP, SIGLIP),
}


def tensors(spec: TwoTower) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(shape, generator=generator) for name, shape in parameter_shapes(spec).items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_there_and_back_is_the_identity(name):
    family, spec = FAMILIES[name]
    ours = tensors(spec)
    theirs = two_tower_to(family, spec, ours)
    assert sum(t.numel() for t in theirs.values()) == sum(t.numel() for t in ours.values())
    again = two_tower_from(family, spec, theirs, "test")
    assert again.keys() == ours.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in ours.items())
    state = build_two_tower(spec).state_dict()
    assert ours.keys() == state.keys()


def test_batch_norms_bring_their_statistics_and_counters_are_passed_over():
    ours = {name: t if "variance" in name else t - 0.5 for name, t in tensors(RESNET).items()}
    theirs = two_tower_to(OPEN_CLIP_RESNET, RESNET, ours)
    for name in [name for name in theirs if name.endswith("running_var")]:
        theirs[name.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    model = build_with(RESNET, two_tower_from(OPEN_CLIP_RESNET, RESNET, theirs, "test"), "test")
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    assert len(norms) == 3 + 3 * 9 + 4
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, ours[name])
    other = build_two_tower(RESNET).eval()
    other.load_state_dict(ours)
    batch = ImageBatch(torch.randn(2, 3, 32, 32))
    assert torch.isfinite(model.image(batch)).all()
    assert torch.equal(model.image(batch), other.image(batch))


@pytest.mark.parametrize(
    ("name", "tensor", "shape", "message"),
    [
        ("open_clip", "visual.class_embedding", (1, 64), r"shape \[1, 64\], config.json asks for \[64\]"),
        ("open_clip", "visual.proj", (24, 64), r"shape \[24, 64\], config.json asks for \[64, 24\]"),
        ("clip", "logit_scale", (1,), r"shape \[1\], config.json asks for \[\]"),
        ("siglip", "logit_scale", (), r"shape \[\], config.json asks for \[1\]"),
        ("siglip", "vision_model.head.attention.in_proj_weight", (48, 24), r"shape \[16, 24\].* asks for \[24, 24\]"),
        ("residual", "visual.bn1.running_mean", (2,), r"shape \[2\], config.json asks for \[1\]"),
        ("residual", "visual.layer5.0.bn1.weight", (2,), r"also hold 'visual.layer5.0.bn1.weight'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(name, tensor, shape, message):
    family, spec = FAMILIES[name]
    theirs = two_tower_to(family, spec, tensors(spec)) | {tensor: torch.zeros(shape)}
    with pytest.raises(CheckpointError, match=message):
        two_tower_from(family, spec, theirs, "test")


def test_a_missing_tensor_is_named():
    theirs = two_tower_to(HUGGINGFACE_SIGLIP, SIGLIP, tensors(SIGLIP))
    del theirs["vision_model.head.attention.in_proj_bias"]
    with pytest.raises(CheckpointError, match=r"lack 'vision_model.head.attention.in_proj_k.bias'"):
        two_tower_from(HUGGINGFACE_SIGLIP, SIGLIP, theirs, "test")
