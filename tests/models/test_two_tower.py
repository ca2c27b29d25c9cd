"""Models of pictures and texts: unit vectors, what a text's vector depends on, precision, operations, gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from corestone.core.batch import ImageBatch, ImageTextBatch, TextBatch, plain_batch
from corestone.core.errors import SpecError
from corestone.core.mask import Mask
from corestone.core.spec import from_yaml, override, parse, plain, to_yaml
from corestone.models.coatnet import CoAtNetModel, build_coatnet
from corestone.models.convnet import ConvNetModel, build_convnet
from corestone.models.picture_spec import (
    CoAtNet,
    ConvNet,
    ImageEncoder,
    ModifiedResNet,
    Projection,
    Similarity,
    Stage,
    TextTower,
    TwoTower,
)
from corestone.models.resnet import ModifiedResNetModel
from corestone.models.similarity import LOG_SCALE
from corestone.models.two_tower import TwoTowerModel, build_two_tower
from corestone.nn.batch_norm import recompute_statistics
from corestone.nn.bottleneck import BottleneckBlock
from corestone.nn.modes import freeze
from corestone.nn.spec import (
    Attention,
    AttentionPool,
    Block,
    ClassTokenPool,
    ConvLayer,
    FeedForward,
    GridTransformer,
    Init,
    LastTokenPool,
    MBConv,
    MeanPool,
    Norm,
    PatchEmbedding,
    Stack,
    TextPool,
    TokenEmbedding,
)
from corestone.objectives.contrastive import ContrastiveObjective
from corestone.objectives.spec import Contrastive
from corestone.parallel.precision import MasterWeights
from corestone.zoo.coatnet import stem

LIVELY = Init(std=None, token_std=1.0, position_std=0.5)
ATTENTION = Attention(num_heads=2, head_dim=10)
FEEDFORWARD = FeedForward(hidden_dim=36, activation="quick_gelu")
POOLS: dict[str, TextPool] = {"last": LastTokenPool(), "first": ClassTokenPool(), "mean": MeanPool()}
CONTEXT = 11


def stack(depth: int = 2) -> Stack:
    return Stack(width=20, blocks=(Block(mixer=ATTENTION, feedforward=FEEDFORWARD),) * depth)


def text_tower(causal: bool = True, pool: str = "last") -> TextTower:
    embedding = TokenEmbedding(vocab_size=31, context_length=CONTEXT)
    return TextTower(embedding=embedding, stack=stack(3), causal=causal, pool=POOLS[pool], init=LIVELY)


def clip(text: TextTower | None = None) -> TwoTower:
    """CLIP's towers."""
    embedding = PatchEmbedding(image_size=(8, 12), channels=2, patch_size=4, bias=False, norm=Norm())
    image = ImageEncoder(embedding=embedding, stack=stack(), init=LIVELY)
    return TwoTower(image=image, text=text or text_tower(), embed_dim=7)


def siglip() -> TwoTower:
    """SigLIP's: no map behind the picture's attention, a bias."""
    image = ImageEncoder(
        embedding=PatchEmbedding(image_size=(8, 12), channels=2, patch_size=4, class_token=False),
        stack=stack(),
        pool=AttentionPool(attention=ATTENTION, feedforward=FEEDFORWARD),
        init=LIVELY,
    )
    return TwoTower(
        image=image,
        text=text_tower(causal=False),
        embed_dim=20,
        image_projection=None,
        text_projection=Projection(bias=True),
        similarity=Similarity(scale=10.0, scale_most=None, bias=-10.0),
    )


def resnet() -> TwoTower:
    image = ModifiedResNet(image_size=(32, 64), channels=2, width=8, depths=(2, 1, 1, 2), head_dim=32, init=LIVELY)
    return TwoTower(image=image, text=text_tower(), embed_dim=7, image_projection=Projection(bias=True))


def coatnet() -> TwoTower:
    """BASIC's: convolutions and attention, texts read by their mean."""
    attention = GridTransformer(head_dim=8)
    stages = (Stage(depth=2, width=16, block=MBConv()), Stage(depth=2, width=24, block=attention))
    image = CoAtNet(image_size=(16, 24), channels=2, classes=None, stem=stem(8), stages=stages)
    return TwoTower(image=image, text=text_tower(False, "mean"), embed_dim=20, text_projection=None)


def convnet() -> TwoTower:
    """Convolutions alone, whose last map's every value is projected."""
    layers = (ConvLayer(channels=8, kernel=3, stride=2, padding=1), ConvLayer(channels=12, kernel=3, stride=2))
    image = ConvNet(image_size=(8, 12), channels=2, classes=None, layers=layers)
    return TwoTower(image=image, text=text_tower(), embed_dim=7)


SPECS = {"clip": clip, "siglip": siglip, "resnet": resnet, "coatnet": coatnet, "convnet": convnet}


def pictures(model: TwoTowerModel, rows: int, seed: int = 0) -> ImageBatch:
    """Noise on colours that differ."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randn(rows, model.channels, 1, 1, generator=generator)
    return ImageBatch(colours + torch.randn(rows, model.channels, *model.image_size, generator=generator))


def texts(rows: int, length: int = CONTEXT, seed: int = 0) -> TextBatch:
    return plain_batch(torch.randint(31, (rows, length), generator=torch.Generator().manual_seed(seed)))


def filled_up(batch: TextBatch, length: int, fill: int = 0) -> TextBatch:
    """The same texts with something behind them, in a segment of its own."""
    B, T = batch.tokens_BT.shape
    tokens_BT = torch.cat((batch.tokens_BT, torch.full((B, length - T), fill)), dim=1)
    segments_BT = (torch.arange(length) < T).int().expand(B, length)
    return replace(plain_batch(tokens_BT), mask=Mask(causal=False, segments_BT=segments_BT))


def pairs(model: TwoTowerModel, rows: int, seed: int = 0) -> ImageTextBatch:
    return ImageTextBatch(pictures(model, rows, seed), texts(rows, seed=seed))


def seen(model: TwoTowerModel) -> TwoTowerModel:
    """With branches that say something and running statistics of its pictures, in evaluation."""
    for module in model.modules():
        if isinstance(module, BottleneckBlock):
            torch.nn.init.ones_(module.third.norm.weight)
    recompute_statistics(model, [pairs(model, 64, seed=9)])
    return model.eval()


@pytest.mark.parametrize("name", SPECS)
def test_both_towers_give_float32_unit_vectors(name):
    model = seen(build_two_tower(SPECS[name]()))
    batch = pairs(model, 6)
    with torch.no_grad():
        images, captions, out = model.image(batch.images), model.text(batch.texts), model(batch)
    for vectors in (images, captions):
        assert vectors.shape == (6, model.spec.embed_dim)
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(6), atol=1e-6, rtol=0)
        assert float((vectors - vectors.roll(1, 0)).norm(dim=1).min()) > 0.01  # they tell rows apart
    assert torch.equal(out.hidden, images)
    assert torch.equal(out.intermediates["texts"], captions)


def test_what_a_model_says_of_itself():
    model = build_two_tower(clip())
    assert (model.image_size, model.channels, model.vocab_size, model.context_length) == ((8, 12), 2, 31, CONTEXT)
    assert model.generates == "nothing"
    assert model.log_scale is dict(model.named_parameters())[LOG_SCALE]
    assert (model.log_scale.item(), model.bias) == (pytest.approx(2.6593, abs=1e-4), None)
    other = build_two_tower(siglip())
    assert other.bias is not None
    assert (other.log_scale.item(), other.bias.item()) == (pytest.approx(math.log(10)), -10)


@settings(deadline=None, max_examples=25)
@given(
    length=st.integers(1, CONTEXT - 1),
    more=st.integers(1, CONTEXT),
    fill=st.integers(0, 30),
    kind=st.sampled_from([(True, "last"), (True, "mean"), (False, "last"), (False, "first"), (False, "mean")]),
)
def test_what_fills_up_a_row_does_not_change_a_texts_vector(length, more, fill, kind):
    """Worst of 500: 1.0e-6."""
    model = build_two_tower(clip(text_tower(*kind)))
    short = texts(3, length)
    with torch.no_grad():
        wanted = model.text(short)
        found = model.text(filled_up(short, min(CONTEXT, length + more), fill))
    torch.testing.assert_close(found, wanted, atol=5e-6, rtol=0)


def test_texts_of_different_lengths_are_read_at_their_own_ends():
    """A batch cut to its longest gives what each text gives alone."""
    for causal in (True, False):
        model = build_two_tower(clip(text_tower(causal)))
        alone = [texts(1, length, seed=length) for length in (2, 7, 4)]
        tokens_BT = torch.cat([filled_up(one, 7).tokens_BT for one in alone])
        segments_BT = torch.cat([filled_up(one, 7).mask.segments_BT for one in alone])
        batch = replace(plain_batch(tokens_BT), mask=Mask(causal=False, segments_BT=segments_BT))
        with torch.no_grad():
            wanted = torch.cat([model.text(one) for one in alone])
            torch.testing.assert_close(model.text(batch), wanted, atol=5e-6, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
def test_a_token_sees_later_ones_only_where_the_record_says_so(causal):
    """Whatever the batch's mask says of it."""
    tower = build_two_tower(clip(text_tower(causal))).text_tower
    batch = texts(3)
    changed = batch.tokens_BT.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 31
    for mask in (Mask(causal=True), Mask(causal=False)):
        with torch.no_grad():
            before = tower(replace(batch, mask=mask)).intermediates["tokens"]
            after = tower(replace(batch, tokens_BT=changed, mask=mask)).intermediates["tokens"]
        moved = (before - after).abs().amax(dim=(0, 2)) > 1e-4
        assert moved.tolist() == [not causal or place >= 6 for place in range(CONTEXT)]


def test_a_text_is_its_last_its_first_or_its_mean_token():
    hidden = build_two_tower(clip(text_tower(False))).text_tower(texts(2)).intermediates["tokens"]
    for name, wanted in (("last", hidden[:, -1]), ("first", hidden[:, 0]), ("mean", hidden.mean(1))):
        tower = build_two_tower(clip(text_tower(False, name))).text_tower
        torch.testing.assert_close(tower(texts(2)).hidden, wanted)


LAYER_COUNT = 4 * 20 * 20 + 4 * 20 + 2 * 20 * 36 + 36 + 20 + 4 * 20
TEXT_COUNT = 31 * 20 + 11 * 20 + 3 * LAYER_COUNT + 2 * 20


def test_parameters_by_hand():
    def count(spec: TwoTower) -> int:
        return sum(p.numel() for p in build_two_tower(spec, device="meta").parameters())

    image = 2 * 4 * 4 * 20 + 20 + 7 * 20 + 2 * 20 + 2 * LAYER_COUNT + 2 * 20
    assert count(clip()) == image + TEXT_COUNT + 2 * 7 * 20 + 1
    # Three convolutions with their norms; then blocks of three, of which a stage's first has a shortcut.
    stem = 9 * (2 * 4 + 4 * 4 + 4 * 8) + 2 * (4 + 4 + 8)
    blocks, inputs = 0, 8
    for stage, depth in enumerate((2, 1, 1, 2)):
        width = 8 * 2**stage
        for block in range(depth):
            blocks += inputs * width + 9 * width**2 + 4 * width**2 + 2 * (2 * width + 4 * width)
            blocks += inputs * 4 * width + 8 * width if block == 0 else 0
            inputs = 4 * width
    attention = 3 * 256 + 3 * (256 * 256 + 256)
    assert count(resnet()) == stem + blocks + attention + 256 * 7 + 7 + TEXT_COUNT + 7 * 20 + 1


def test_training_flops_of_a_coatnet_tower():
    """Three times what torch counts forward, without the gradient of pictures: backward it counts depthwise
    convolutions as if they were full ones."""
    model = build_two_tower(coatnet())
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(pairs(model, 4))
    unneeded = 2 * 8 * 12 * 9 * 2 * 8
    assert 3 * counter.get_total_flops() == 4 * (model.training_flops() + unneeded)


@pytest.mark.parametrize("name", [name for name in SPECS if name != "coatnet"])
def test_training_flops_count_every_product(name):
    """By torch's own counter, forward and backward; it does not know the fused kernel of CPUs. Causal attention is
    counted over the keys that are seen, and torch counts all."""
    spec = SPECS[name]()
    spec = spec.model_copy(update={"text": text_tower(causal=False)})
    model = build_two_tower(spec)
    for tokens in (5, CONTEXT):
        batch = ImageTextBatch(pictures(model, 4), texts(4, tokens))
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            (model.image(batch.images).sum() + model.text(batch.texts).sum()).backward()
        assert counter.get_total_flops() == pytest.approx(4 * model.training_flops(tokens), rel=1e-9)
    assert model.training_flops() == model.training_flops(CONTEXT)
    causal = build_two_tower(spec.model_copy(update={"text": text_tower()}))
    unseen = 3 * 12 * 20 * CONTEXT * (CONTEXT - 1) / 2
    assert model.training_flops() - causal.training_flops() == pytest.approx(unseen)


@pytest.mark.parametrize("name", SPECS)
def test_bfloat16_keeps_the_scale_exact_and_stays_near_float32(name):
    """Root-mean-square error of vectors, in their deviation over rows. Worst of 15 seeds: CLIP 0.015, SigLIP 0.010,
    CoAtNet 0.021, the residual network, whose vectors lie close together, 0.104."""
    model = seen(build_two_tower(SPECS[name](), seed=3))
    batch = pairs(model, 24)
    with torch.no_grad():
        full = model.image(batch.images), model.text(batch.texts)
        scale = float(model.log_scale)
        model.to(torch.bfloat16)
        low = model.image(batch.images), model.text(batch.texts)
    assert float(model.log_scale) == scale
    exact = {n for n, p in model.named_parameters() if p.dtype == torch.float32 and "norm" not in n}
    assert exact == {LOG_SCALE} | ({"similarity.bias"} if model.bias is not None else set())
    for one, other in zip(full, low, strict=True):
        assert other.dtype == torch.float32
        error = float((one - other).square().mean().sqrt() / one.std(dim=0).square().mean().sqrt())
        assert 0 < error < (0.2 if name == "resnet" else 0.05)


def test_the_scale_is_brought_back_after_an_update_and_not_before():
    """By the optimiser's own weights too, where those are copies."""
    for dtype in (torch.float32, torch.bfloat16):
        model = build_two_tower(clip())
        weights = MasterWeights(model, dtype)
        for value, wanted in ((4.7, math.log(100)), (-3.0, -3.0)):
            with torch.no_grad():
                weights.masters[LOG_SCALE].fill_(value)
            weights.publish()
            assert float(model.log_scale) == pytest.approx(value)
            model.after_update(weights.masters)
            weights.publish()
            assert float(model.log_scale) == pytest.approx(wanted)
            assert float(weights.masters[LOG_SCALE]) == pytest.approx(wanted)
    free = build_two_tower(siglip())
    with torch.no_grad():
        free.log_scale.fill_(6.0)
    free.after_update()
    assert float(free.log_scale) == 6


def gradients(
    model: TwoTowerModel, loss: str, parts: list[ImageTextBatch] | None, whole: ImageTextBatch
) -> list[Tensor]:
    model.zero_grad()
    objective = ContrastiveObjective(Contrastive(loss=loss))
    if parts is None:
        objective.loss(model, whole).total.backward()
    else:
        objective.gradients(model, parts, range(len(parts)))
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize(("name", "loss"), [("clip", "softmax"), ("siglip", "sigmoid"), ("resnet", "softmax")])
def test_the_gradient_in_two_passes_is_that_of_the_whole_batch(name, loss):
    """Of every parameter, scale and bias included; in parts of its largest value, 6.9e-6 at most over 15 seeds. Batch
    norms are in evaluation: in training they would see micro-batches."""
    model = seen(build_two_tower(SPECS[name]()))
    whole = pairs(model, 10)
    one = gradients(model, loss, None, whole)
    two = gradients(model, loss, [whole.rows(0, 4), whole.rows(4, 5), whole.rows(5, 10)], whole)
    assert len(one) == len(two) == len(list(model.parameters()))
    for (name, _), a, b in zip(model.named_parameters(), one, two, strict=True):
        assert a.any(), name
        assert float((a - b).abs().max()) <= 3e-5 * float(a.abs().max()) + 1e-6, name


def test_a_frozen_towers_norms_do_not_see_the_micro_batches():
    """In training the gradient in two passes is that of the whole batch, of the text tower, the projection and the
    scale; the image tower has none. In parts of a gradient's largest value, 1.7e-6 at most over 15 seeds."""
    model = seen(build_two_tower(coatnet()))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    freeze(model, {name for name, _ in model.named_parameters() if name.startswith("image_tower.")})
    assert model.training
    whole = pairs(model, 10)
    one = gradients(model, "softmax", None, whole)
    two = gradients(model, "softmax", [whole.rows(0, 4), whole.rows(4, 5), whole.rows(5, 10)], whole)
    trained = [name for name, parameter in model.named_parameters() if not name.startswith("image_tower.")]
    assert len(one) == len(two) == len(trained)
    for name, a, b in zip(trained, one, two, strict=True):
        assert float((a - b).abs().max()) <= 3e-5 * float(a.abs().max()) + 1e-6, name
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def test_a_frozen_image_tower_costs_its_forward_pass():
    """What torch counts of both passes; but for the first map, which makes 0.3 % here."""
    model = build_two_tower(siglip())
    free = model.training_flops(CONTEXT)
    freeze(model, {name for name, _ in model.named_parameters() if name.startswith("image_tower.")})
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        (model.image(pictures(model, 4)).sum() + model.text(texts(4)).sum()).backward()
    assert model.training_flops(CONTEXT) < free
    assert counter.get_total_flops() == pytest.approx(4 * model.training_flops(CONTEXT), rel=0.01)


def test_it_starts_from_seed_and_name_alone_and_towers_differ():
    one, same, other = (build_two_tower(siglip(), seed) for seed in (3, 3, 4))
    for (name, a), b, c in zip(one.named_parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert torch.equal(a, c) == (a.ndim < 2), name
    image, text = (tower.stack.blocks[0].mixer.qkv.weight for tower in (one.image_tower, one.text_tower))
    assert abs(float(torch.corrcoef(torch.stack((image.flatten(), text.flatten())))[0, 1])) < 0.1
    wide = build_two_tower(clip().model_copy(update={"embed_dim": 400}))
    assert float(wide.text_projection.weight.std()) == pytest.approx(20**-0.5, rel=0.03)


def test_a_residual_networks_blocks_start_as_their_shortcuts():
    model = build_two_tower(resnet()).image_tower
    assert isinstance(model, ModifiedResNetModel)
    batch = torch.randn(4, 256, 1, 2)
    torch.testing.assert_close(model.stages[3][1](batch.relu()), batch.relu())


def test_a_coatnet_tower_is_the_classifier_without_its_head():
    """The same values of the same weights; its record without classes has no head."""
    tower = build_two_tower(coatnet()).image_tower
    assert isinstance(tower, CoAtNetModel)
    classifier = build_coatnet(tower.spec.model_copy(update={"classes": 3}), seed=1)
    own = classifier.state_dict()
    assert own.keys() - tower.state_dict().keys() == {
        f"head.{n}" for n in ("weight", "bias", "dense.weight", "dense.bias")
    }
    tower.load_state_dict({name: own[name] for name in tower.state_dict()})
    batch = ImageBatch(torch.randn(5, 2, 16, 24, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        assert torch.equal(tower.eval()(batch).hidden, classifier.eval()(batch).hidden)
    assert (tower.classes, classifier.classes) == (0, 3)
    assert classifier.training_flops() - tower.training_flops() == 6 * (24 * 24 + 24 * 3)


def test_a_convnet_tower_is_the_classifier_without_its_head():
    tower = build_two_tower(convnet()).image_tower
    assert isinstance(tower, ConvNetModel)
    classifier = build_convnet(tower.spec.model_copy(update={"classes": 3}), seed=1)
    own = classifier.state_dict()
    classifier_only = own.keys() - tower.state_dict().keys()
    assert {name.split(".")[0] for name in classifier_only} == {"head"}
    tower.load_state_dict({name: own[name] for name in tower.state_dict()})
    batch = ImageBatch(torch.randn(5, 2, 8, 12, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        assert torch.equal(tower.eval()(batch).hidden, classifier.eval()(batch).hidden)
    assert tower(batch).hidden.shape == (5, tower.spec.outputs) == (5, 1 * 2 * 12)
    assert (tower.classes, classifier.classes) == (0, 3)
    assert classifier.training_flops() - tower.training_flops() == 6 * 24 * 3


def test_a_texts_mean_is_of_its_own_tokens_alone():
    """By a loop over the rows. Worst of 20 seeds: 2.4e-7."""
    tower = build_two_tower(coatnet(), seed=2).text_tower
    batch = filled_up(texts(3, 5), 8)
    ends_B = torch.tensor([5, 2, 5])
    mask = Mask(causal=False, segments_BT=(torch.arange(8) < ends_B[:, None]).int())
    out = tower(replace(batch, mask=mask))
    for row, length in enumerate(ends_B.tolist()):
        total = torch.zeros(20)
        for place in range(length):
            total = total + out.intermediates["tokens"][row, place]
        torch.testing.assert_close(out.hidden[row], total / length, atol=1e-6, rtol=0)


def test_a_residual_networks_maps_halve_five_times():
    model = build_two_tower(resnet()).image_tower
    out = model(ImageBatch(torch.randn(3, 2, 32, 64)))
    assert out.intermediates["map"].shape == (3, 256, 1, 2)
    assert (out.intermediates["map"] >= 0).all()
    assert out.hidden.shape == (3, 256)
    with pytest.raises(SpecError, match=r"pictures of 2x64x32 reach a model for 2x32x64"):
        model(ImageBatch(torch.zeros(1, 2, 64, 32)))


@pytest.mark.parametrize("name", SPECS)
def test_a_record_is_its_text(name):
    assert from_yaml(TwoTower, to_yaml(SPECS[name]()), "model") == SPECS[name]()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("image.head", {"classes": 3}, "image.head: a tower makes vectors"),
        ("image_projection", None, "image_projection=null needs a tower of embed_dim=7, and the image tower's"),
        ("text_projection", None, "text_projection=null needs a tower of embed_dim=7, and the text tower's"),
        ("text.pool", {"kind": "class_token"}, "blind in a causal text; set causal=false"),
        ("text.pool", {"kind": "last"}, "last_token"),
        ("image.kind", "resnet", "modified_resnet"),
        ("similarity.scal", 3, "did you mean 'scale'"),
    ],
)
def test_records_that_cannot_be_are_refused(path, value, message):
    tree = plain(clip())
    *parents, last = path.split(".")
    place = tree
    for parent in parents:
        place = place[parent]
    place[last] = value
    with pytest.raises(SpecError, match=message):
        parse(TwoTower, tree, "model")


@pytest.mark.parametrize("spec", [coatnet, convnet])
def test_a_tower_with_classes_is_refused(spec):
    with pytest.raises(SpecError, match=r"image.classes: a tower makes vectors, no logits; set classes=null"):
        override(spec(), ["image.classes=3"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": [48, 64]}, "image_size=48x64 is halved five times; give multiples of 32"),
        ({"depths": [1, 0, 1, 1]}, "each stage has at least one bottleneck"),
        ({"head_dim": 48}, r"32 \* width = 256 is no multiple of head_dim=48"),
    ],
)
def test_residual_networks_that_cannot_be_are_refused(changes, message):
    with pytest.raises(SpecError, match=message):
        parse(ModifiedResNet, {**plain(resnet().image), **changes}, "model.image")
