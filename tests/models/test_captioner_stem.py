"""Convolutions in front of a captioner's patches: by torch's own layers, counted, refused where nothing is left."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from corestone.core.batch import ImageBatch, ImageTextBatch, plain_batch
from corestone.core.errors import SpecError
from corestone.core.mask import Mask
from corestone.core.spec import from_yaml, parse, plain, to_yaml
from corestone.models.captioner import build_captioner
from corestone.models.picture_spec import Captioner, ConvNet
from corestone.nn.gradients import GradientMaps
from corestone.nn.spec import ConvLayer, Gradients, Init, PatchEmbedding
from corestone.zoo.coca import coca

LAYERS = (ConvLayer(channels=6, kernel=3, padding=1), ConvLayer(channels=8, kernel=3, stride=2, padding=1))
STEM = ConvNet(image_size=(14, 18), classes=None, layers=LAYERS)


def spec_of(stem: dict[str, object] | None = None) -> Captioner:
    """Pictures of 14 x 18 whose last map, 7 x 9 of 8 channels, is cut into 2 x 3 patches of 3 x 3.

    Args:
        stem: changes of it.
    """
    picture = PatchEmbedding(image_size=(14, 18), patch_size=3, class_token=False)
    spec = coca(24, 3, (1, 40), (1, 28), vocab_size=32, tied=True, picture=picture, queries=5)
    init = Init(std=None, token_std=0.3, position_std=0.4)
    return parse(Captioner, plain(spec) | {"stem": plain(STEM) | (stem or {}), "init": plain(init)}, "model")


def pictures(count: int) -> ImageBatch:
    return ImageBatch(torch.randn(count, 3, 14, 18, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("training", [True, False])
def test_patches_are_cut_of_the_last_map(training):
    """By torch's own layers. Worst of both: 1.3e-6 of 3.4."""
    model, batch = build_captioner(spec_of()).train(training), pictures(4)
    map_BCHW = batch.images_BCHW
    for layer, one in zip(LAYERS, model.stem.layers, strict=True):
        made = F.conv2d(map_BCHW, one.convolution.weight, stride=layer.stride, padding=layer.padding)
        mean, variance = one.norm.mean.clone(), one.norm.variance.clone()
        map_BCHW = F.batch_norm(made, mean, variance, one.norm.weight, one.norm.bias, training, eps=1e-5).relu()
    assert map_BCHW.shape == (4, 8, 7, 9)
    cut_BPT = F.unfold(map_BCHW[:, :, :6], 3, stride=3)  # the last row of the map is left over
    x_BTD = model.image_embedding.patch(cut_BPT.transpose(1, 2)) + model.image_embedding.position.weight
    assert x_BTD.shape == (4, 6, 24)
    hidden_BTD = model.image_stack(x_BTD, torch.arange(6).expand(4, 6), Mask(causal=False))
    torch.testing.assert_close(model.encode(batch), model.caption_pool.look(hidden_BTD), atol=1e-5, rtol=0)


def test_what_it_says_of_itself_is_the_pictures():
    spec = spec_of()
    model = build_captioner(spec)
    assert (model.image_size, model.channels) == ((14, 18), 3)
    assert (spec.cut.grid, spec.cut.patch_values) == ((2, 3), 72)
    alone = spec.model_copy(update={"stem": None})
    assert alone.cut == alone.image_embedding
    assert from_yaml(Captioner, to_yaml(spec), "model") == spec


@pytest.mark.parametrize("gradients", [None, {"cell": 2, "directions": 5}])
def test_training_flops_count_the_stem(gradients):
    """By torch's own counter, as in `test_captioner.py`. With gradients the map is half as large."""
    patch = {"layers": [plain(LAYERS[0]), plain(LAYERS[0])]} if gradients else {}
    model, rows, T = build_captioner(spec_of({"gradients": gradients} | patch)), 3, 11
    tokens = torch.randint(1, 32, (rows, T))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        out = model(ImageTextBatch(pictures(rows), plain_batch(tokens, tokens)))
        ends = out.intermediates["image"].sum() + out.intermediates["text"].sum()
        (model.head(out.hidden).sum() + ends).backward()
    # The plain kernel computes the hidden half of a causal square too.
    hidden_half = sum(12 * 24 * read * (read - (read + 1) / 2) for read in (T + 1, T))
    assert counter.get_total_flops() == pytest.approx(rows * (model.training_flops(T) + hidden_half), rel=1e-9)


def test_gradients_come_in_front_of_the_stem():
    model, batch = (
        build_captioner(spec_of({"gradients": {"cell": 2, "directions": 5}, "layers": [plain(LAYERS[0])]})),
        pictures(2),
    )
    assert model.spec.cut.image_size == (7, 9)
    maps_BCHW = GradientMaps(Gradients(cell=2, directions=5))(batch.images_BCHW)
    assert maps_BCHW.shape == (2, 8, 7, 9)
    assert torch.equal(model.stem.map(batch.images_BCHW), model.stem.layers(maps_BCHW))


@pytest.mark.parametrize(
    ("stem", "message"),
    [
        ({"layers": [plain(LAYERS[1])] * 3}, "last map of 2x3 has no room for a patch of image_embedding.patch_size=3"),
        ({"classes": 4}, "tells no classes apart; set it to null"),
        ({"image_size": (14, 20)}, "must agree"),
        ({"channels": 1}, "must agree"),
        ({"gradients": {"cell": 15}}, r"gradients.cell=15 exceeds pictures of \(14, 18\)"),
        ({"gradients": {"cell": 2}, "layers": [plain(LAYERS[1])] * 4}, r"kernel=3 exceeds|last map of 1x1"),
    ],
)
def test_what_does_not_fit_is_refused(stem, message):
    with pytest.raises(SpecError, match=message):
        spec_of(stem)


def test_pictures_of_another_size_are_refused():
    with pytest.raises(SpecError, match="pictures of 3x9x9 reach a model for 3x14x18"):
        build_captioner(spec_of()).encode(ImageBatch(torch.zeros(1, 3, 9, 9)))
