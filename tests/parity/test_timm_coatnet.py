"""CoAtNet beside timm's MaxxVit of the same shape and weights, in training and in evaluation.

Both strides of the inverted bottleneck are compared: that of the paper, and the depthwise one. Pools are maxima of two
by two. The measured worst cases stand beside the tolerances.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from corestone.core.batch import ImageBatch
from corestone.core.errors import CheckpointError
from corestone.interop.convolutional import COUNTERS, coatnet_from_timm, coatnet_to_timm
from corestone.models.coatnet import CoAtNetModel, build_coatnet
from corestone.models.picture_spec import CoAtNet, Stage
from corestone.nn.batch_norm import BatchNorm
from corestone.nn.spec import GridTransformer, MBConv
from corestone.zoo.coatnet import entries, stem

pytestmark = pytest.mark.parity

STRIDES = {"expand": "1x1", "depthwise": "dw"}
DEPTHS, WIDTHS, STEM = (2, 1, 2, 2), (32, 64, 96, 128), 32
SIZE = (64, 96)
"""Maps of 4 x 6 and 2 x 3 for attention: height and width cannot be mistaken for one another."""


def record(stride_at: str, classes: int = 7) -> CoAtNet:
    blocks = (MBConv(stride_at=stride_at), MBConv(stride_at=stride_at), GridTransformer(), GridTransformer())
    stages = tuple(Stage(depth=d, width=w, block=b) for d, w, b in zip(DEPTHS, WIDTHS, blocks, strict=True))
    return CoAtNet(image_size=SIZE, classes=classes, stem=stem(STEM), stages=stages)


def timms(stride_at: str, classes: int = 7) -> Any:
    """Theirs, every parameter and statistic away from where it starts."""
    from timm.models.maxxvit import MaxxVit, MaxxVitCfg, MaxxVitConvCfg, MaxxVitTransformerCfg

    torch.manual_seed(0)
    cfg = MaxxVitCfg(
        embed_dim=WIDTHS,
        depths=DEPTHS,
        stem_width=STEM,
        head_hidden_size=WIDTHS[-1],
        conv_cfg=MaxxVitConvCfg(stride_mode=STRIDES[stride_at], pool_type="max2"),
        transformer_cfg=MaxxVitTransformerCfg(pool_type="max2"),
    )
    model = MaxxVit(cfg, img_size=SIZE, num_classes=classes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                size = 0.3 if "table" in name or tensor.ndim == 1 else 0.05
                spread = torch.rand(tensor.shape, generator=generator) - (0 if name.endswith("running_var") else 0.5)
                tensor.add_(size * spread)
    return model


def pair(stride_at: str, dtype: torch.dtype) -> tuple[CoAtNetModel, Any]:
    theirs = timms(stride_at)
    ours = build_coatnet(record(stride_at))
    ours.load_state_dict(coatnet_from_timm(ours.spec, theirs.state_dict(), "timm"))
    return ours.to(dtype), theirs.to(dtype)


def pictures(dtype: torch.dtype, rows: int = 4) -> Tensor:
    return torch.randn(rows, 3, *SIZE, generator=torch.Generator().manual_seed(2)).to(dtype)


def logits(model: CoAtNetModel, x: Tensor) -> Tensor:
    return model.head(model(ImageBatch(x)).hidden)


def relative(mine: Tensor, other: Tensor) -> float:
    """The largest difference, in the largest value."""
    return float((mine - other).detach().abs().max() / other.detach().abs().max())


@pytest.mark.parametrize("stride_at", STRIDES)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["f64", "f32"])
def test_outputs_gradients_and_statistics_are_timms(stride_at, training, dtype, tolerance):
    """Of the largest value: in float64 logits differ by 1e-15, pictures' gradients by 3e-15, parameters' by 2.4e-14 and
    statistics by 6e-16 at most; in float32 by 7.8e-7, 2.6e-6, 2.3e-5 (gains between two convolutions) and 1.4e-6."""
    ours, theirs = (model.train(training) for model in pair(stride_at, dtype))
    x = pictures(dtype)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, wanted = logits(ours, a), theirs(b)
    assert float(wanted.detach().std()) > 0.1  # logits that hardly differ would prove nothing
    probe = torch.randn(wanted.shape, dtype=dtype, generator=torch.Generator().manual_seed(3))
    (found * probe).sum().backward()
    (wanted * probe).sum().backward()
    gradients = coatnet_to_timm(ours.spec, {name: p.grad for name, p in ours.named_parameters()})
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    assert gradients.keys() == expected.keys()
    # What is added to all values of a channel in front of a batch norm in training changes nothing behind it: such a
    # gradient is nothing but rounding.
    alive = [name for name in expected if float(expected[name].abs().max()) > 1e-6]
    state, reference = coatnet_to_timm(ours.spec, ours.state_dict()), theirs.state_dict()
    statistics = [name for name in reference if "running" in name]
    assert len(statistics) == 2 * sum(isinstance(module, BatchNorm) for module in ours.modules()) == 20
    worst = {
        "logits": relative(found, wanted),
        "pictures": relative(a.grad, b.grad),
        "gradients": max(relative(gradients[name], expected[name]) for name in alive),
        "statistics": max(relative(state[name], reference[name]) for name in statistics),
    }
    assert len(expected) - len(alive) == (3 if training else 0)  # the first norm of each inverted bottleneck
    assert worst.pop("gradients") <= 5 * tolerance
    assert all(value <= tolerance for value in worst.values()), worst


def test_there_and_back_every_tensor_is_the_same():
    theirs = timms("expand")
    state = theirs.state_dict()
    ours = coatnet_from_timm(record("expand"), state, "timm")
    back = coatnet_to_timm(record("expand"), ours)
    assert back.keys() == {name for name in state if not name.endswith(COUNTERS)}
    assert all(torch.equal(tensor, state[name]) for name, tensor in back.items())
    theirs.load_state_dict(back, strict=False)


def test_tensors_that_do_not_fit_are_refused_by_name():
    state = dict(timms("expand").state_dict())
    with pytest.raises(CheckpointError, match=r"file: tensor 'head.fc.weight' has shape \[7, 128\], the record asks"):
        coatnet_from_timm(record("expand", classes=8), state, "file")
    with pytest.raises(CheckpointError, match=r"has no tensor 'stem.conv1.weight'"):
        coatnet_from_timm(record("expand"), {n: t for n, t in state.items() if n != "stem.conv1.weight"}, "file")
    with pytest.raises(CheckpointError, match="tensor 'more' belongs to no part"):
        coatnet_from_timm(record("expand"), {**state, "more": state["head.fc.bias"]}, "file")
    with pytest.raises(CheckpointError, match="tensor 'other' has no name in the library"):
        coatnet_to_timm(record("expand"), {"head.weight": state["head.fc.weight"], "other": state["head.fc.bias"]})


@pytest.mark.parametrize("number", range(6))
def test_the_zoos_counts_are_timms(number):
    """With heads of 32, which the library has in all sizes."""
    import timm

    with torch.device("meta"):
        theirs = timm.create_model(f"coatnet_{number}_224")
    spec = entries()[number].spec
    stages = tuple(
        stage.model_copy(update={"block": GridTransformer()}) if stage.block.kind == "transformer" else stage
        for stage in spec.stages
    )
    ours = build_coatnet(spec.model_copy(update={"stages": stages}), device="meta")
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
