"""The convolutional classifier: counts, layout, operations, precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from corestone.core.batch import ImageBatch
from corestone.core.errors import SpecError
from corestone.core.spec import from_yaml, parse, to_yaml
from corestone.models.convnet import ConvNetModel, build_convnet
from corestone.models.picture_spec import ConvNet
from corestone.nn.batch_norm import BatchNorm
from corestone.nn.spec import ConvLayer
from corestone.parallel.precision import MasterWeights
from corestone.zoo.mnist_cnn import entries

LAYERS = (
    ConvLayer(channels=4, kernel=3),
    ConvLayer(channels=6, kernel=3, stride=2, padding=1, activation="gelu"),
    ConvLayer(channels=5, kernel=2, norm=None, activation=None),
)
SPEC = ConvNet(image_size=(12, 9), channels=2, classes=3, layers=LAYERS)


def batch(rows: int = 3, spec: ConvNet = SPEC) -> ImageBatch:
    generator = torch.Generator().manual_seed(0)
    return ImageBatch(torch.randn(rows, spec.channels, *spec.image_size, generator=generator))


def stirred(model: ConvNetModel) -> ConvNetModel:
    """With gains, biases and statistics that are no longer 1 and 0."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, BatchNorm):
                for tensor in (*module.parameters(), *module.buffers()):
                    tensor.add_(0.5 * torch.rand(tensor.shape, generator=generator))
    return model


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_the_zoos_counts_are_those_of_the_authors_code(entry):
    """By layer too: weights and two values per channel; the head's matrix and two values per class."""
    model = build_convnet(entry.spec, device="meta")
    assert sum(p.numel() for p in model.parameters()) == entry.published
    assert {"mnist-m3": 11264, "mnist-m5": 10240, "mnist-m7": 3072}[entry.name] == model.head.in_features
    inputs, total = 1, model.head.in_features * 10 + 20
    for layer in entry.spec.layers:
        total += layer.kernel**2 * inputs * layer.channels + 2 * layer.channels
        inputs = layer.channels
    assert total == entry.published
    assert (model.image_size, model.channels, model.classes) == ((28, 28), 1, 10)


@pytest.mark.parametrize("training", [True, False])
def test_it_computes_what_torchs_own_layers_do(training):
    """The flattened map holds the channels of a place together, as the authors' code does. Exact in float64."""
    model = stirred(build_convnet(SPEC, seed=1)).double().train(training)
    x = batch().images_BCHW.double()
    norms = []

    def norm(module: BatchNorm) -> nn.BatchNorm2d:
        made = nn.BatchNorm2d(len(module.weight)).double().train(training)
        state = {"running_mean": module.mean, "running_var": module.variance}
        made.load_state_dict({"weight": module.weight, "bias": module.bias, **state}, strict=False)
        norms.append((module, made))
        return made

    first, second, third = (layer.convolution.weight for layer in model.layers)
    h = F.relu(norm(model.layers[0].norm)(F.conv2d(x, first)))
    h = F.gelu(norm(model.layers[1].norm)(F.conv2d(h, second, stride=2, padding=1)))
    h = F.conv2d(h, third)
    assert h.shape[1:] == (5, *SPEC.maps[-1])
    rows = torch.stack([h[:, :, i, j] for i in range(h.shape[2]) for j in range(h.shape[3])], dim=1).flatten(1)
    logits = norm(model.head.norm)(F.linear(rows, model.head.weight)[:, :, None, None])[:, :, 0, 0]
    out = model(ImageBatch(x))
    found = model.head(out.hidden)
    assert torch.allclose(out.hidden, rows, rtol=0, atol=1e-13)
    assert torch.allclose(found, logits, rtol=0, atol=1e-12)
    for mine, other in norms:
        assert torch.allclose(mine.mean, other.running_mean, rtol=0, atol=1e-13)
        assert torch.allclose(mine.variance, other.running_var, rtol=0, atol=1e-13)


@pytest.mark.parametrize("spec", [SPEC, *(entry.spec for entry in entries())], ids=["tiny", "m3", "m5", "m7"])
def test_operations_are_those_that_torch_counts(spec):
    """Of a training step, exactly."""
    model = build_convnet(spec)
    counter = FlopCounterMode(display=False)
    with counter:
        model.head(model(batch(2, spec)).hidden).sum().backward()
    assert 2 * model.training_flops() == counter.get_total_flops()


def test_bfloat16_keeps_the_norms_and_stays_near_float32():
    """Root-mean-square error of logits, in their standard deviations: 0.007 measured (0.2 would be a wrong digit)."""
    model = stirred(build_convnet(SPEC, seed=1)).eval()
    with torch.no_grad():
        wanted = model.head(model(batch(64)).hidden)
        model.to(torch.bfloat16)
        found = model.head(model(batch(64)).hidden)
    low = {name for name, p in model.named_parameters() if p.dtype == torch.bfloat16}
    assert low == {"layers.0.convolution.weight", "layers.1.convolution.weight", "layers.2.convolution.weight"} | {
        "head.weight"
    }
    assert all(buffer.dtype == torch.float32 for buffer in model.buffers())
    assert 0 < float((found.float() - wanted).square().mean().sqrt() / wanted.std()) < 0.02


def test_low_precision_gradients_reach_float32_masters():
    """Relative distance to float32's gradient, 0.03 at most; of statistics behind four steps: 0.0034."""
    found, statistics = [], []
    for dtype in (torch.float32, torch.bfloat16):
        model = stirred(build_convnet(SPEC, seed=1))
        weights = MasterWeights(model, dtype)
        for _ in range(4):
            weights.clear()
            logits = model.head(model(batch(64)).hidden).float()
            (logits * torch.linspace(-1, 1, 192).view(64, 3)).sum().backward()
        found.append(dict(zip(weights.masters, weights.gradients(), strict=True)))
        statistics.append(dict(model.named_buffers()))
    for group in (found, statistics):
        for name, exact in group[0].items():
            other = group[1][name]
            assert other.dtype == torch.float32
            assert 0 < float((other - exact).norm() / exact.norm()) < 0.06, name


def test_it_starts_from_seed_and_name_alone():
    one, same, other = build_convnet(SPEC, 3), build_convnet(SPEC, 3), build_convnet(SPEC, 4)
    for (name, a), b, c in zip(one.named_parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c) == ("norm" in name)
    assert all(
        torch.equal(norm.mean, torch.zeros_like(norm.mean)) for norm in one.modules() if isinstance(norm, BatchNorm)
    )
    m7 = build_convnet(entries()[2].spec)
    m7.requires_grad_(False)
    assert float(m7.layers[1].convolution.weight.std()) == pytest.approx((48 * 49) ** -0.5, rel=0.01)
    assert float(m7.head.weight.std()) == pytest.approx(3072**-0.5, rel=0.02)


def test_it_learns_which_corner_is_bright():
    """Four classes, 40 steps of batch 32: at least 95 % of held-out pictures (guessing: 25 %; measured 99.8 %)."""
    spec = ConvNet(image_size=(8, 8), channels=1, classes=4, layers=(ConvLayer(channels=8, kernel=3),) * 2)
    model, generator = build_convnet(spec), torch.Generator().manual_seed(0)

    def draw(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        corner = torch.randint(4, (rows,), generator=generator)
        x = 0.5 * torch.randn(rows, 1, 8, 8, generator=generator)
        for row, c in enumerate(corner.tolist()):
            x[row, 0, 4 * (c // 2) : 4 * (c // 2) + 4, 4 * (c % 2) : 4 * (c % 2) + 4] += 0.7
        return x, corner

    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        x, corner = draw(32)
        optimiser.zero_grad()
        F.cross_entropy(model.head(model(ImageBatch(x)).hidden), corner).backward()
        optimiser.step()
    x, corner = draw(400)
    model.eval()
    with torch.no_grad():
        right = model.head(model(ImageBatch(x)).hidden).argmax(1) == corner
    assert float(right.float().mean()) > 0.95


def test_a_record_reads_back_and_a_map_that_vanishes_is_refused():
    assert from_yaml(ConvNet, to_yaml(SPEC), "test") == SPEC
    with pytest.raises(SpecError, match=r"layers.1: kernel=7 exceeds its map of \(3, 3\)"):
        parse(
            ConvNet, {"image_size": [5, 5], "classes": 2, "layers": [{"channels": 2, "kernel": k} for k in (3, 7)]}, "x"
        )
