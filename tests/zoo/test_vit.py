"""Vision Transformers have exactly the parameters that were counted of independent implementations."""

from __future__ import annotations

import pytest

from corestone.models.image_encoder import build_image_encoder
from corestone.models.picture_spec import ClassHead, ImageEncoder
from corestone.zoo.vit import entries, vit

SPECS: dict[str, ImageEncoder] = {entry.name: entry.spec for entry in entries()}  # type: ignore[misc]

# Without a head at 224 pixels.
HEADLESS = {
    "vit-ti16": 5_524_416,
    "vit-s16": 21_665_664,
    "vit-b32": 87_455_232,
    "vit-b16": 85_798_656,
    "vit-l32": 305_510_400,
    "vit-l16": 303_301_632,
    "vit-h14": 630_764_800,
    "vit-g14": 1_011_202_432,
    "vit-gigantic14": 1_842_775_680,
}

# Fine-tuned for ten classes at 384 pixels: 27 x 27 patches of 14, 6 pixels left over.
AT_384 = {"vit-b16": 86_098_186, "vit-l16": 303_701_002, "vit-h14": 631_383_050}


def count(spec: ImageEncoder) -> int:
    return sum(p.numel() for p in build_image_encoder(spec, device="meta").parameters())


def test_every_size_is_tested():
    assert list(SPECS) == list(HEADLESS)


@pytest.mark.parametrize("name", HEADLESS)
def test_parameters_without_a_head(name):
    assert count(SPECS[name].model_copy(update={"head": None})) == HEADLESS[name]


@pytest.mark.parametrize("name", AT_384)
def test_parameters_for_ten_classes_at_384_pixels(name):
    spec = SPECS[name]
    embedding = spec.embedding.model_copy(update={"image_size": (384, 384)})
    assert count(spec.model_copy(update={"embedding": embedding, "head": ClassHead(classes=10)})) == AT_384[name]


def test_a_pretrained_head_has_a_hidden_layer_of_the_models_width():
    pretrained = vit(192, 12, 3, 16, head=ClassHead(classes=1000, hidden=True))
    assert count(pretrained) - count(SPECS["vit-ti16"]) == 192 * 192 + 192


def test_dropout_is_behind_every_dense_map_but_queries_keys_and_values():
    spec = vit(192, 2, 3, 16, dropout=0.1)
    for block in spec.stack.blocks:
        assert (block.dropout, block.feedforward.dropout, block.mixer.dropout) == (0.1, 0.1, 0.0)
    assert (spec.embedding.dropout, spec.stack.dropout) == (0.1, 0.0)
