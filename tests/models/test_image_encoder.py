"""Image encoders: what is computed where, invariants, precision, counted operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from corestone.core.batch import ImageBatch
from corestone.core.errors import SpecError
from corestone.core.spec import from_yaml, parse, to_yaml
from corestone.models.image_encoder import ImageEncoderModel, build_image_encoder
from corestone.models.picture_spec import ClassHead, ImageEncoder
from corestone.nn.spec import (
    Attention,
    AttentionPool,
    Block,
    ClassTokenPool,
    FeedForward,
    Init,
    LearnedGrid,
    MeanPool,
    PatchEmbedding,
    Stack,
)

ATTENTION = Attention(num_heads=3, head_dim=8)
FEEDFORWARD = FeedForward(hidden_dim=40, activation="gelu")
POOLS = {
    "class_token": ClassTokenPool(),
    "mean": MeanPool(),
    "attention": AttentionPool(attention=ATTENTION, feedforward=FEEDFORWARD),
}


def spec_of(pool: str, positions: bool = True, hidden: bool = False, depth: int = 2) -> ImageEncoder:
    """Every part shows in the logits."""
    return ImageEncoder(
        embedding=PatchEmbedding(
            image_size=(13, 22),
            patch_size=4,
            class_token=pool == "class_token",
            position=LearnedGrid() if positions else None,
        ),
        stack=Stack(width=24, blocks=(Block(mixer=ATTENTION, feedforward=FEEDFORWARD),) * depth),
        pool=POOLS[pool],
        head=ClassHead(classes=11, hidden=hidden),
        init=Init(std=0.2, position_std=0.4),
    )


def pictures(count: int = 3, seed: int = 0) -> ImageBatch:
    return ImageBatch(torch.randn(count, 3, 13, 22, generator=torch.Generator().manual_seed(seed)))


def logits(model: ImageEncoderModel, batch: ImageBatch) -> torch.Tensor:
    assert model.head is not None
    return model.head(model(batch).hidden)


@pytest.mark.parametrize("pool", POOLS)
def test_what_a_classifier_says_of_itself(pool):
    model = build_image_encoder(spec_of(pool)).eval()
    out = model(pictures())
    assert (model.image_size, model.channels, model.classes, model.generates) == ((13, 22), 3, 11, "nothing")
    assert out.hidden.shape == (3, 24)
    assert out.intermediates["patches"].shape == (3, 3 * 5, 24)
    assert (model.head.weight.shape, model.head.bias.shape) == ((11, 24), (11,))
    assert logits(model, pictures()).shape == (3, 11)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    headless = build_image_encoder(model.spec.model_copy(update={"head": None}))
    assert (headless.head, headless.classes) == (None, 0)


@pytest.mark.parametrize("hidden", [False, True])
def test_logits_are_the_matrix_times_the_heads_features(hidden):
    model = build_image_encoder(spec_of("class_token", hidden=hidden))
    pooled = model(pictures()).hidden
    features = model.head.features(pooled)
    torch.testing.assert_close(model.head(pooled), features @ model.head.weight.T + model.head.bias)
    if hidden:
        torch.testing.assert_close(features, (pooled @ model.head.dense.weight.T + model.head.dense.bias).tanh())
        assert features.abs().max() < 1
    else:
        assert features is pooled


def test_mean_pooling_is_the_mean_of_the_patches_that_are_handed_out():
    out = build_image_encoder(spec_of("mean"))(pictures())
    torch.testing.assert_close(out.hidden, out.intermediates["patches"].mean(dim=1))


def _rearranged(images: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """The 3 x 5 whole patches in another order."""
    moved = images.clone()
    squares = [
        images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] for row in range(3) for column in range(5)
    ]
    for place, number in enumerate(order.tolist()):
        row, column = divmod(place, 5)
        moved[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = squares[number]
    return moved


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 999), pool=st.sampled_from(sorted(POOLS)))
def test_without_positions_patches_may_stand_anywhere(seed, pool):
    """With positions they may not. Worst of 200 random orders: 1.7e-6 of logits to 4.0, and with
    positions at least 0.08."""
    order = torch.randperm(15, generator=torch.Generator().manual_seed(seed))
    batch = pictures(seed=seed)
    moved = ImageBatch(_rearranged(batch.images_BCHW, order))
    with torch.no_grad():
        blind, seeing = (build_image_encoder(spec_of(pool, positions), seed=seed) for positions in (False, True))
        one, other = blind(batch), blind(moved)
        torch.testing.assert_close(blind.head(one.hidden), blind.head(other.hidden), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            one.intermediates["patches"][:, order], other.intermediates["patches"], atol=1e-5, rtol=0
        )
        if not torch.equal(order, torch.arange(15)):
            assert (logits(seeing, batch) - logits(seeing, moved)).abs().max() > 0.02


def test_pixels_beyond_the_last_whole_patch_change_nothing_and_the_others_do():
    model = build_image_encoder(spec_of("class_token"))
    batch = pictures()
    with torch.no_grad():
        before = logits(model, batch)
        for row, column, same in ((12, 3, True), (3, 20, True), (11, 19, False)):
            images = batch.images_BCHW.clone()
            images[:, 1, row, column] += 3
            assert torch.equal(logits(model, ImageBatch(images)), before) == same


def test_a_picture_does_not_depend_on_its_neighbours():
    """Worst of 500 pictures: 1.1e-6."""
    model, batch = build_image_encoder(spec_of("attention")), pictures(5)
    with torch.no_grad():
        whole = logits(model, batch)
        for row in range(5):
            torch.testing.assert_close(logits(model, batch.rows(row, row + 1))[0], whole[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize("pool", POOLS)
def test_bfloat16_stays_within_its_bound(pool):
    """Root-mean-square error of logits in their standard deviations. Worst of 20 seeds: 0.012, of the class token."""
    model = build_image_encoder(spec_of(pool, hidden=True)).eval()
    with torch.no_grad():
        full = logits(model, pictures(16))
        low = logits(model.to(torch.bfloat16), pictures(16))
    assert low.dtype == torch.bfloat16
    assert 0 < float((low.float() - full).square().mean().sqrt() / full.std()) < 0.03


@pytest.mark.parametrize("pool", POOLS)
def test_training_flops_count_every_product(pool):
    """By torch's own counter, forward and backward; it does not know the fused kernel of CPUs."""
    model = build_image_encoder(spec_of(pool, hidden=True, depth=3))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        logits(model, pictures(4)).sum().backward()
    assert counter.get_total_flops() == pytest.approx(4 * model.training_flops(), rel=1e-9)


@pytest.mark.parametrize("pool", POOLS)
def test_compiled_equals_eager_forward_and_backward(pool):
    """Worst measured, relative to 1 + the value: 4.8e-6."""
    found = []
    for compiled in (False, True):
        model = build_image_encoder(spec_of(pool))
        call: Any = torch.compile(model, backend="aot_eager") if compiled else model
        values = model.head(call(pictures()).hidden)
        values.square().sum().backward()
        found.append([values.detach(), *(p.grad for p in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_recomputed_gradients_are_the_same():
    found = []
    for recompute in (False, True):
        model = build_image_encoder(spec_of("mean"))
        model.stack.recompute = recompute
        logits(model, pictures()).sum().backward()
        found.append([p.grad for p in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_initial_values():
    spec = spec_of("attention").model_copy(update={"init": Init(std=0.02, position_std=0.3)})
    wanted = {"embedding.patch.weight": 0.02, "embedding.position.weight": 0.3, "pool.probe.weight": 0.02}
    one, again, other = (build_image_encoder(spec, seed=seed) for seed in (1, 1, 2))
    for (name, a), b, c in zip(one.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c) == (a.ndim == 1), name
        if name in wanted:
            assert float(a.detach().std()) == pytest.approx(wanted[name], rel=0.35), name


def test_a_record_is_its_text():
    for pool in POOLS:
        assert from_yaml(ImageEncoder, to_yaml(spec_of(pool)), "model") == spec_of(pool)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding": {"image_size": [8, 8], "patch_size": 4, "class_token": False}}, "embedding.class_token=true"),
        ({"block": {"cross": {"num_heads": 1, "head_dim": 4}}}, "nothing to cross to"),
        ({"block": {"mixer": {"kind": "h3"}}}, "'h3' sees only earlier tokens"),
        ({"pool": {"kind": "class_tokn"}}, "class_token"),
        (
            {
                "pool": {
                    "kind": "attention",
                    "queries": 2,
                    "attention": {"num_heads": 1, "head_dim": 4},
                    "feedforward": None,
                }
            },
            "pool.queries=2: a picture as one vector needs one query",
        ),
        ({"head": {"clases": 5}}, "did you mean 'classes'"),
    ],
)
def test_records_that_cannot_be_are_refused(changes, message):
    block = {"mixer": {"num_heads": 1, "head_dim": 4}, "feedforward": {"hidden_dim": 8}} | changes.get("block", {})
    tree = {"embedding": {"image_size": [8, 8], "patch_size": 4}, "stack": {"width": 4, "blocks": [block]}}
    with pytest.raises(SpecError, match=message):
        parse(ImageEncoder, tree | {name: value for name, value in changes.items() if name != "block"}, "model")
