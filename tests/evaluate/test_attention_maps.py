"""Maps of attention: they are the layers' own weights, and follow from them as published."""

from __future__ import annotations

import pytest
import torch

from corestone.core.batch import ImageBatch
from corestone.core.mask import Mask
from corestone.evaluate.attention_maps import attention_maps, mean_weights, rollout
from corestone.models.captioner import build_captioner
from corestone.models.coatnet import build_coatnet
from corestone.models.convnet import build_convnet
from corestone.models.image_encoder import build_image_encoder
from corestone.models.picture_spec import (
    CoAtNet,
    ImageEncoder,
    ModifiedResNet,
    Projection,
    Stage,
    TextTower,
    TwoTower,
)
from corestone.models.two_tower import build_two_tower
from corestone.nn.attention import AttentionLayer, CrossAttentionLayer
from corestone.nn.grid_transformer import GridAttention
from corestone.nn.lowered import Lowered, Memory, lower_all
from corestone.nn.pooling import EVERYTHING, MapPoolLayer
from corestone.nn.spec import (
    Alibi,
    Attention,
    AttentionPool,
    Block,
    Buckets,
    ClassTokenPool,
    FeedForward,
    GridTransformer,
    Init,
    MBConv,
    MeanPool,
    PatchEmbedding,
    Rotary,
    Stack,
    TokenEmbedding,
)
from corestone.zoo.coatnet import stem
from corestone.zoo.coca import coca
from corestone.zoo.mnist_cnn import m3

LIVELY = Init(std=None, token_std=1.0, position_std=0.5)
SIZES = {"num_heads": 4, "head_dim": 6}
KINDS = {
    "plain": Attention(**SIZES),
    "scaled": Attention(**SIZES, scale=0.7, bias_in=False),
    "shared heads": Attention(**SIZES, num_kv_heads=2, position=Rotary(dims=4)),
    "distances": Attention(**SIZES, position=Alibi()),
    "buckets": Attention(**SIZES, position=Buckets(num=8, max_distance=16), scale=1.0),
    "window": Attention(**SIZES, window=3),
    "queries of keys": Attention(**SIZES, shared_qk=True, conv_width=3),
}
MASKS = {
    "causal": Mask(),
    "both ways": Mask(causal=False),
    "documents": Mask(segments_BT=torch.tensor([[0] * 4 + [1] * 5, [0] * 7 + [1] * 2])),
}


def random(module: torch.nn.Module) -> torch.nn.Module:
    """Values at which attention is uneven and biases show."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.eval()


def values(mixed_BNTS: torch.Tensor, v_BKSH: torch.Tensor) -> torch.Tensor:
    """Weights times values, heads side by side, (B, T, N H)."""
    v_BNSH = v_BKSH.repeat_interleave(mixed_BNTS.shape[1] // v_BKSH.shape[1], dim=1)
    return (mixed_BNTS @ v_BNSH).transpose(1, 2).flatten(2)


def sums_to_one(weights: torch.Tensor) -> None:
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_times_values_are_what_the_layer_gives(kind, mask):
    """Measured worst case 3.3e-6 at outputs up to 11.4."""
    spec, positions = KINDS[kind], torch.arange(9).expand(2, 9)
    layer, x = random(AttentionLayer(spec, 10)), torch.randn(2, 9, 10)
    lowered = lower_all([spec], MASKS[mask], positions, torch.float32, None, torch.randn(8, 4))
    weights = layer.weights(x, lowered)
    sums_to_one(weights)
    assert weights.max() > 0.5  # of nine: a mean of the values would not do
    found = layer.out(values(weights, layer.heads(x, lowered)[2]))
    torch.testing.assert_close(found, layer(x, lowered), atol=1e-5, rtol=0)


def test_weights_of_other_layers_times_values_are_what_they_give():
    """Attention to another text, over a map, and of a map's mean. Measured worst case 9.5e-7."""
    cross = random(CrossAttentionLayer(Attention(**SIZES, num_kv_heads=1, scale=0.4), 10))
    memory = Memory(torch.randn(2, 7, 10), EVERYTHING)
    lowered, x = Lowered(EVERYTHING, torch.zeros(2, 3, dtype=torch.int64), {}, {}, memory), torch.randn(2, 3, 10)
    weights = cross.weights(x, lowered)
    sums_to_one(weights)
    found = cross.out(values(weights, cross.heads(x, lowered)[2]))
    torch.testing.assert_close(found, cross(x, lowered), atol=1e-5, rtol=0)

    grid, x = random(GridAttention(10, 12, 6, (2, 5))), torch.randn(2, 2, 5, 10)
    v = grid.qkv(x).flatten(1, 2)[..., 24:].unflatten(-1, (2, 6)).transpose(1, 2)
    found = grid.out(values(grid.weights(x), v)).view(2, 2, 5, 12)
    torch.testing.assert_close(found, grid(x), atol=1e-5, rtol=0)

    pool, x = random(MapPoolLayer(6, 12, 4)), torch.randn(2, 12, 2, 3)
    places = x.flatten(2).transpose(1, 2)
    places = torch.cat((places.mean(1, keepdim=True), places), dim=1) + pool.position.weight
    v = pool.kv(places)[..., 12:].unflatten(-1, (3, 4)).transpose(1, 2)
    torch.testing.assert_close(values(pool.weights(x), v)[:, 0], pool(x), atol=1e-5, rtol=0)


def test_rollout_by_hand():
    """Two layers over two tokens."""
    first, second = torch.tensor([[[0.8, 0.2], [0.4, 0.6]]]), torch.tensor([[[0.0, 1.0], [0.5, 0.5]]])
    assert torch.allclose(rollout([first]), torch.tensor([[[0.9, 0.1], [0.2, 0.8]]]))
    assert torch.allclose(rollout([first, second]), torch.tensor([[[0.55, 0.45], [0.375, 0.625]]]))


POOLS = {
    "class_token": ClassTokenPool(),
    "mean": MeanPool(),
    "attention": AttentionPool(attention=Attention(num_heads=2, head_dim=8), feedforward=FeedForward(hidden_dim=20)),
}


def encoder(pool: str, class_token: bool, depth: int, init: Init = LIVELY):
    """A ViT of 3 x 4 patches; the last row of pixels goes unused."""
    block = Block(mixer=Attention(num_heads=2, head_dim=8), feedforward=FeedForward(hidden_dim=20))
    embedding = PatchEmbedding(image_size=(10, 12), channels=1, patch_size=3, class_token=class_token)
    stack = Stack(width=16, blocks=(block,) * depth)
    return build_image_encoder(ImageEncoder(embedding=embedding, stack=stack, pool=POOLS[pool], init=init)).eval()


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(("pool", "class_token"), [("class_token", True), ("mean", True), ("attention", False)])
def test_maps_of_an_encoder(pool, class_token, depth):
    """Shares of what is looked at, of each picture by itself; the model stays as it was."""
    model, pictures = encoder(pool, class_token, depth), torch.randn(2, 1, 10, 12)
    maps = attention_maps(model, ImageBatch(pictures))
    assert maps is not None
    assert maps.layers == depth
    assert maps.seen == (9, 12)
    assert maps.last_BHW.shape == maps.rollout_BHW.shape == (2, 3, 4)
    assert not any(module._forward_pre_hooks for module in model.modules())
    for found in (maps.last_BHW, maps.rollout_BHW):
        assert found.min() >= 0
        assert found.sum((1, 2)).max() <= 1 + 1e-5
        assert (found.sum((1, 2)).min() > 1 - 1e-5) == (not class_token)  # the class token's own share is left out
    alone = [attention_maps(model, ImageBatch(pictures[row : row + 1])) for row in (0, 1)]
    torch.testing.assert_close(maps.rollout_BHW, torch.cat([one.rollout_BHW for one in alone]), atol=1e-6, rtol=0)


def test_the_last_map_of_a_class_token_is_its_row_of_the_last_layer():
    model, batch = encoder("class_token", True, 2), ImageBatch(torch.randn(1, 1, 10, 12))
    last = mean_weights([model.stack.blocks[1].mixer], lambda: model(batch))[0]
    assert torch.equal(attention_maps(model, batch).last_BHW.flatten(1), last[:, 0, 1:])


@pytest.mark.parametrize("place", [(0, 3), (2, 1)])
@pytest.mark.parametrize(("pool", "class_token"), [("class_token", True), ("mean", False)])
@torch.no_grad()
def test_a_map_lies_over_the_picture_as_the_model_sees_it(pool, class_token, place):
    """All queries are one that likes bright patches: a picture with one of them is looked at there."""
    model = encoder(pool, class_token, 1)
    for parameter in model.parameters():
        parameter.zero_()
    model.embedding.patch.weight[0] = 1.0
    mixer = model.stack.blocks[0].mixer
    model.stack.blocks[0].mixer_norm.weight.fill_(1.0)
    mixer.qkv.bias[[0, 8]] = 5.0
    mixer.qkv.weight[[16, 24], 0] = 1.0
    picture, (row, column) = torch.zeros(1, 1, 10, 12), place
    picture[..., 3 * row : 3 * row + 3, 3 * column : 3 * column + 3] = 1.0
    maps = attention_maps(model, ImageBatch(picture))
    assert maps.last_BHW[0, row, column] > 0.9
    assert maps.rollout_BHW[0, row, column] > 0.45  # half of it is each token's own


def towers(image) -> TwoTower:
    stack = Stack(width=16, blocks=(Block(mixer=Attention(**SIZES), feedforward=FeedForward(hidden_dim=20)),))
    text = TextTower(embedding=TokenEmbedding(vocab_size=11, context_length=5), stack=stack)
    return TwoTower(image=image, text=text, embed_dim=7, image_projection=Projection(bias=True))


def test_maps_of_towers_are_those_of_the_picture_alone():
    """An encoder with a pool, a CLIP residual network, BASIC's network and one of convolutions alone."""
    own = encoder("attention", False, 2)
    model, batch = build_two_tower(towers(own.spec)).eval(), ImageBatch(torch.randn(2, 1, 10, 12))
    model.image_tower.load_state_dict(own.state_dict())
    assert torch.equal(attention_maps(model, batch).rollout_BHW, attention_maps(own, batch).rollout_BHW)

    resnet = ModifiedResNet(image_size=(64, 96), channels=2, width=4, depths=(1, 1, 1, 1), head_dim=32, init=LIVELY)
    model, batch = build_two_tower(towers(resnet)).eval(), ImageBatch(torch.randn(2, 2, 64, 96))
    maps, (weights,) = attention_maps(model, batch), mean_weights([model.image_tower.pool], lambda: model.image(batch))
    assert maps.rollout_BHW is None
    assert maps.seen == (64, 96)
    assert torch.equal(maps.last_BHW, weights[:, 0, 1:].view(2, 2, 3))

    stages = (Stage(depth=1, width=16, block=MBConv()), Stage(depth=2, width=24, block=GridTransformer(head_dim=8)))
    coatnet = CoAtNet(image_size=(16, 24), channels=2, classes=None, stem=stem(8), stages=stages)
    model, batch = build_two_tower(towers(coatnet)).eval(), ImageBatch(torch.randn(2, 2, 16, 24))
    maps = attention_maps(model, batch)
    assert (maps.layers, maps.last_BHW.shape) == (2, (2, 2, 3))
    layers = [block.mixer for block in model.image_tower.stages[1]]
    first, second = mean_weights(layers, lambda: model.image(batch))
    torch.testing.assert_close(maps.last_BHW.flatten(1), second.mean(1), atol=1e-6, rtol=0)
    eye = torch.eye(6)
    rolled = ((second + eye) / 2 @ ((first + eye) / 2)).mean(1)
    torch.testing.assert_close(maps.rollout_BHW.flatten(1), rolled, atol=1e-6, rtol=0)

    assert attention_maps(build_convnet(m3()).eval(), ImageBatch(torch.randn(1, 1, 28, 28))) is None
    other = coatnet.model_copy(update={"stages": stages[:1], "classes": 3})
    assert attention_maps(build_coatnet(other).eval(), batch) is None


def test_a_captioners_map_follows_both_of_its_pools():
    """The one query's weights of the findings, times theirs of the patches."""
    picture = PatchEmbedding(image_size=(9, 12), channels=2, patch_size=3, class_token=True)
    spec = coca(24, 3, (2, 40), (1, 28), vocab_size=11, picture=picture, queries=5)
    model, batch = (
        build_captioner(spec.model_copy(update={"init": LIVELY})).eval(),
        ImageBatch(torch.randn(2, 2, 9, 12)),
    )
    maps = attention_maps(model, batch)
    layers = [model.caption_pool.attention, model.contrast_pool.attention]
    found, chosen = mean_weights(layers, lambda: model.image(batch))
    assert (found.shape, chosen.shape) == ((2, 5, 12), (2, 1, 5))
    torch.testing.assert_close(maps.last_BHW.flatten(1), (chosen @ found)[:, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(maps.last_BHW.sum((1, 2)), torch.ones(2), atol=1e-5, rtol=0)
    assert maps.rollout_BHW.sum((1, 2)).max() < 1  # the class token has a share
