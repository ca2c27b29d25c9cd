"""CoAtNet: published counts and operations, shape of computation, precision, refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from corestone.core.batch import ImageBatch
from corestone.core.errors import SpecError
from corestone.core.spec import from_yaml, parse, plain, to_yaml
from corestone.models.coatnet import CoAtNetModel, build_coatnet
from corestone.models.picture_spec import CoAtNet, Stage
from corestone.nn.batch_norm import BatchNorm
from corestone.nn.drop_path import DropPath
from corestone.nn.grid_transformer import GridTransformerBlock
from corestone.nn.spec import GridTransformer, MBConv
from corestone.zoo.coatnet import coatnet, entries, mixed, stem

EXACT = {
    "coatnet-0": 25_036_820,
    "coatnet-1": 42_225_776,
    "coatnet-2": 74_684_744,
    "coatnet-3": 166_966_264,
    "coatnet-4": 275_425_288,
    "coatnet-5": 687_052_952,
    "coatnet-6": 1_348_435_040,
    "coatnet-7": 2_441_972_728,
}
"""0 to 4 are timm's own counts."""

LARGE = (256, 512, 1280, 2048)


def tiny(stride_at: str = "expand", **changes: object) -> CoAtNet:
    """Every kind of stage: halving or not, as wide as the one before or not."""
    conv, attention = MBConv(stride_at=stride_at), GridTransformer(head_dim=8)
    stages = (
        Stage(depth=2, width=16, block=conv),
        Stage(depth=1, width=24, block=conv, halve=False),
        Stage(depth=2, width=32, block=attention, halve=False),
        Stage(depth=2, width=32, block=attention),
    )
    spec = CoAtNet(image_size=(16, 24), channels=2, classes=3, stem=stem(16), stages=stages)
    return spec.model_copy(update=changes)


def batch(rows: int = 2, spec: CoAtNet | None = None) -> ImageBatch:
    spec = spec or tiny()
    size = (rows, spec.channels, *spec.image_size)
    return ImageBatch(torch.randn(size, generator=torch.Generator().manual_seed(0)))


def count(spec: CoAtNet) -> int:
    return sum(p.numel() for p in build_coatnet(spec, device="meta").parameters())


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_the_zoos_counts(entry):
    """The paper rounds to three digits; of CoAtNet-6 it prints another number than its sizes give."""
    assert count(entry.spec) == EXACT[entry.name]
    if entry.name != "coatnet-6":
        assert EXACT[entry.name] == pytest.approx(entry.published, rel=0.007)
    assert entry.doubt


def test_counts_where_sources_differ():
    """timm's CoAtNet-5 has heads of 32; ours of 64 have half as many columns of the tables of positions. CoAtNet-6 and
    7 by the formula of the fact sheet are 1.344 B and 2.4325 B without the head's hidden layer. A last stage of 3072
    would give CoAtNet-6 the number that is printed."""
    assert count(coatnet(192, (2, 12, 28, 2), LARGE)) == 687_472_008
    assert 687_472_008 - EXACT["coatnet-5"] == 28 * 27**2 * 20 + 2 * 13**2 * 32 == 419_056
    for name, width, wanted in (("coatnet-6", 2048, 1.344e9), ("coatnet-7", 3072, 2.4325e9)):
        assert EXACT[name] - (width**2 + width) == pytest.approx(wanted, rel=2e-4)
    assert round(count(mixed((192, 384, 768, 1536, 3072))) / 1e9, 2) == 1.47


def test_coatnet_7_takes_the_published_operations():
    """2586 B multiplications and additions, as one, of a picture of 512 pixels forward; ours are 1.8 % fewer, since
    norms, activations and pools are not counted."""
    spec = mixed((256, 512, 1024, 2048, 3072), image_size=512)
    assert build_coatnet(spec, device="meta").training_flops() / 6 == pytest.approx(2586e9, rel=0.02)


@pytest.mark.parametrize("stride_at", ["expand", "depthwise"])
def test_operations_are_those_that_torch_counts(stride_at):
    """Exactly: three times those of forward, without the gradient of pictures. (Backward, torch counts depthwise
    convolutions as if they were full ones.)"""
    spec = tiny(stride_at)
    model, counter = build_coatnet(spec), FlopCounterMode(display=False)
    with counter:
        model.head(model(batch()).hidden)
    unneeded = 2 * 8 * 12 * 9 * 2 * 16
    assert model.training_flops() == 3 * counter.get_total_flops() / 2 - unneeded


def test_maps_and_blocks_are_as_the_record_says():
    model = build_coatnet(tiny())
    assert model.spec.maps == ((4, 6), (4, 6), (4, 6), (2, 3))
    assert model(batch()).hidden.shape == (2, 32)
    assert model.head(model(batch()).hidden).shape == (2, 3)
    assert (model.image_size, model.channels, model.classes) == ((16, 24), 2, 3)
    blocks = [block for stage in model.stages for block in stage]
    assert [block.halve for block in blocks] == [True, False, False, False, False, True, False]
    assert [block.shortcut is not None for block in blocks] == [False, False, True, True, False, False, False]
    tables = [block.mixer.position.weight.shape for block in blocks if isinstance(block, GridTransformerBlock)]
    assert tables == [(7 * 11, 4)] * 2 + [(3 * 5, 4)] * 2


def test_stochastic_depth_grows_from_the_first_block_to_the_last():
    model = build_coatnet(tiny(drop_path=0.6))
    rates = [module.rate for module in model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    torch.manual_seed(0)
    one, other = (model(batch()).hidden for _ in range(2))
    assert not torch.equal(one, other)
    model.eval()
    assert torch.equal(model(batch()).hidden, model(batch()).hidden)


def test_it_starts_from_seed_and_name_alone():
    one, same, other = (build_coatnet(tiny(), seed) for seed in (3, 3, 4))
    constant = set()
    for (name, a), b, c in zip(one.named_parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        if torch.equal(a, c):
            constant.add(name)
    assert constant == {n for n, _ in one.named_parameters() if n.endswith("bias") or "norm" in n}
    wide = build_coatnet(coatnet(64, (1, 1, 1, 1), (96, 192, 384, 768))).requires_grad_(False)
    first, last = wide.stages[0][0], wide.stages[3][0]
    assert float(first.depthwise.weight.std()) == pytest.approx(1 / 3, rel=0.05)
    assert float(first.expand.weight.std()) == pytest.approx(64**-0.5, rel=0.02)
    assert float(last.mixer.qkv.weight.std()) == pytest.approx(384**-0.5, rel=0.01)
    assert float(wide.stages[2][0].mixer.position.weight.std()) == pytest.approx(0.02, rel=0.05)


def trained(spec: CoAtNet) -> tuple[CoAtNetModel, ImageBatch]:
    """With running statistics of its pictures."""
    model, pictures = build_coatnet(spec, seed=1), batch(32, spec)
    with torch.no_grad():
        for _ in range(30):
            model(pictures)
    return model.eval(), pictures


def test_bfloat16_keeps_the_batch_norms_and_stays_near_float32():
    """Root-mean-square error of logits, in their standard deviations: 0.0124 measured."""
    model, pictures = trained(tiny())
    with torch.no_grad():
        wanted = model.head(model(pictures).hidden)
        model.to(torch.bfloat16)
        found = model.head(model(pictures).hidden)
    assert found.dtype == torch.bfloat16
    norms = {
        f"{name}.{part}" for name, m in model.named_modules() if isinstance(m, BatchNorm) for part in ("weight", "bias")
    }
    assert {name for name, p in model.named_parameters() if p.dtype == torch.float32} == norms
    assert all(buffer.dtype == torch.float32 for buffer in model.buffers())
    error = float((found.float() - wanted).square().mean().sqrt() / wanted.std())
    assert 0 < error < 0.03


def test_evaluated_rows_are_independent():
    model, pictures = trained(tiny())
    with torch.no_grad():
        together, alone = model(pictures).hidden[3:5], model(pictures.rows(3, 5)).hidden
    assert torch.allclose(together, alone, atol=1e-5)


def test_it_learns_where_a_bright_spot_is():
    """Which quarter of the picture, in 80 steps of batch 32: at least 95 % of held-out pictures (guessing: 25 %).
    Four runs with two seeds and both strides reach 100 %."""
    model, generator = build_coatnet(tiny(classes=4)), torch.Generator().manual_seed(0)

    def draw(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        quarter = torch.randint(4, (rows,), generator=generator)
        x = 0.5 * torch.randn(rows, 2, 16, 24, generator=generator)
        for row, q in enumerate(quarter.tolist()):
            x[row, :, 8 * (q // 2) + 2 : 8 * (q // 2) + 6, 12 * (q % 2) + 4 : 12 * (q % 2) + 8] += 1.5
        return x, quarter

    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        x, quarter = draw(32)
        optimiser.zero_grad()
        F.cross_entropy(model.head(model(ImageBatch(x)).hidden), quarter).backward()
        optimiser.step()
    x, quarter = draw(200)
    model.eval()
    with torch.no_grad():
        right = model.head(model(ImageBatch(x)).hidden).argmax(1) == quarter
    assert float(right.float().mean()) > 0.95


def test_a_record_reads_back_and_what_cannot_be_is_refused():
    assert from_yaml(CoAtNet, to_yaml(tiny()), "test") == tiny()
    tree = plain(tiny())
    with pytest.raises(SpecError, match=r"stages.3: a map of 5x6 cannot be halved"):
        parse(CoAtNet, {**tree, "image_size": [20, 24]}, "x")
    with pytest.raises(SpecError, match=r"width=32 is no multiple of block.head_dim=24"):
        parse(Stage, {"depth": 1, "width": 32, "block": {"kind": "transformer", "head_dim": 24}}, "x")
    with pytest.raises(SpecError, match=r"unknown key 'stride'; did you mean 'stride_at'"):
        parse(Stage, {"depth": 1, "width": 32, "block": {"kind": "mbconv", "stride": "expand"}}, "x")
