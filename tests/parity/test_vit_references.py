"""Parity with timm's VisionTransformer and Hugging Face's ViT, fp32 on CPU, by the tables of `interop/vision.py`.

Measured worst case over all cases, in parts of a tensor's largest value (or of 1) as the tolerance of 1e-5 is: 6.0e-7
of outputs, 6.8e-6 of gradients (of the attention pool's query).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from corestone.core.batch import ImageBatch
from corestone.interop.family import Named
from corestone.interop.vision import HUGGINGFACE, HUGGINGFACE_POOLER, TIMM
from corestone.interop.weights import build_with, to_ours, to_theirs
from corestone.models.image_encoder import ImageEncoderModel
from corestone.models.picture_spec import ClassHead, ImageEncoder
from corestone.nn.patches import resized_positions
from corestone.nn.spec import (
    Attention,
    AttentionPool,
    Block,
    ClassTokenPool,
    FeedForward,
    LearnedGrid,
    MeanPool,
    Norm,
    PatchEmbedding,
    Stack,
)
from corestone.zoo.vit import entries, vit

pytestmark = pytest.mark.parity
TOLERANCE = 1e-5
NORM = Norm(eps=1e-6)

# Arguments of timm's class. Every size differs from every other within a case wherever it may, so that a swapped axis
# cannot go unnoticed.
SHAPE: dict[str, Any] = {"img_size": (12, 20), "patch_size": 4, "embed_dim": 18, "depth": 2, "num_heads": 3}
CASES: dict[str, dict[str, Any]] = {
    "class token": {},
    "mean": {"global_pool": "avg", "fc_norm": False, "in_chans": 2, "num_heads": 1},
    "mean without class token": {"global_pool": "avg", "fc_norm": False, "class_token": False, "embed_dim": 20,
                                 "num_heads": 5},
    "pixels left over": {"img_size": (14, 23), "depth": 3, "in_chans": 1},
    "one patch": {"img_size": (4, 4), "depth": 1},
    "attention": {"global_pool": "map", "class_token": False},
    "attention beside a class token": {"global_pool": "map", "img_size": (9, 6), "patch_size": 3, "embed_dim": 28,
                                       "num_heads": 7},
    "no positions": {"pos_embed": "none", "num_heads": 9},
    "no biases": {"qkv_bias": False, "no_patch_bias": True, "embed_dim": 15},
}  # fmt: skip


def attention(width: int, num_heads: int, bias: bool = True) -> Attention:
    return Attention(num_heads=num_heads, head_dim=width // num_heads, bias_in=bias)


def encoder(case: dict[str, Any], classes: int | None = 7, hidden: bool = False) -> ImageEncoder:
    """What timm's arguments say, as a record."""
    width, heads = case["embed_dim"], case["num_heads"]
    feedforward = FeedForward(hidden_dim=2 * width, activation="gelu")
    block = Block(norm=NORM, mixer=attention(width, heads, case.get("qkv_bias", True)), feedforward=feedforward)
    pools = {
        "token": ClassTokenPool(),
        "avg": MeanPool(),
        "map": AttentionPool(attention=attention(width, heads), norm=NORM, feedforward=feedforward),
    }
    return ImageEncoder(
        embedding=PatchEmbedding(
            image_size=case["img_size"],
            channels=case.get("in_chans", 3),
            patch_size=case["patch_size"],
            bias=not case.get("no_patch_bias", False),
            class_token=case.get("class_token", True),
            position=None if case.get("pos_embed") == "none" else LearnedGrid(),
        ),
        stack=Stack(width=width, blocks=(block,) * case["depth"], final_norm=NORM),
        pool=pools[case.get("global_pool", "token")],
        head=None if classes is None else ClassHead(classes=classes, hidden=hidden),
    )


def lively(model: torch.nn.Module) -> Any:
    """No gain 1, no bias 0, and logits that every part moves."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (1.0 if parameter.ndim == 1 else 0.0))
    return model.eval()


def timm_model(case: dict[str, Any]) -> Any:
    import timm

    given = {name: value for name, value in case.items() if name != "no_patch_bias"}
    if "no_patch_bias" in case:
        given["embed_layer"] = lambda **made: timm.layers.PatchEmbed(**made | {"bias": False})
    torch.manual_seed(1)
    return lively(timm.models.VisionTransformer(num_classes=7, mlp_ratio=2.0, **given))


def pictures(spec: ImageEncoder) -> Tensor:
    return torch.randn(
        3, spec.embedding.channels, *spec.embedding.image_size, generator=torch.Generator().manual_seed(2)
    )


def close(found: Tensor, expected: Tensor, what: str) -> None:
    assert found.shape == expected.shape, what
    scale = max(1.0, float(expected.detach().abs().max()))
    worst = float((found - expected).detach().abs().max())
    print(f"{what}: {worst:.2g} of {scale:.2g}")
    assert worst <= TOLERANCE * scale, what


def same_gradients(ours: ImageEncoderModel, family: Named, theirs: dict[str, Tensor], absent: int = 0) -> None:
    """Of every parameter, under their names."""
    found = {name: p.grad for name, p in ours.named_parameters()}
    gradients = to_theirs(family, ours.spec, found, ours.classes)  # type: ignore[arg-type]
    assert gradients.keys() == theirs.keys()
    for name, gradient in gradients.items():
        assert bool(theirs[name].any()) or "key.bias" in name, name
        close(gradient, theirs[name], name)


@pytest.mark.parametrize("name", CASES)
def test_timm(name: str) -> None:
    case = SHAPE | CASES[name]
    spec, theirs = encoder(case), timm_model(case)
    ours = build_with(spec, to_ours(TIMM, spec, theirs.state_dict(), name), name)
    images = pictures(spec)
    expected, out = theirs(images), ours(ImageBatch(images))
    logits = ours.head(out.hidden)
    assert expected.std() > 0.4  # logits that hardly differ would prove nothing
    close(logits, expected, "logits")
    close(out.intermediates["patches"], theirs.forward_features(images)[:, theirs.num_prefix_tokens :], "patches")
    probe = torch.randn(expected.shape)
    (expected * probe).sum().backward()
    (logits * probe).sum().backward()
    same_gradients(ours, TIMM, {key: p.grad for key, p in theirs.named_parameters()})


def saved(model: Any, folder: Any) -> dict[str, Tensor]:
    """Tensors by the names in the library's folders, which are not those in memory."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def vit_config(case: dict[str, Any]) -> Any:
    import transformers

    return transformers.ViTConfig(
        image_size=case["img_size"],
        patch_size=case["patch_size"],
        num_channels=case.get("in_chans", 3),
        hidden_size=case["embed_dim"],
        num_hidden_layers=case["depth"],
        num_attention_heads=case["num_heads"],
        intermediate_size=2 * case["embed_dim"],
        qkv_bias=case.get("qkv_bias", True),
        layer_norm_eps=NORM.eps,
        num_labels=7,
    )


HUGGINGFACE_CASES = {
    "plain": {},
    "pixels left over": {"img_size": (14, 23), "depth": 3, "num_heads": 9, "in_chans": 1},
    "no biases": {"qkv_bias": False, "embed_dim": 25, "num_heads": 5},
}


@pytest.mark.parametrize("name", HUGGINGFACE_CASES)
def test_huggingface_classifier(name: str, tmp_path: Any) -> None:
    import transformers

    case = SHAPE | HUGGINGFACE_CASES[name]
    spec, theirs = encoder(case), lively(transformers.ViTForImageClassification(vit_config(case)))
    ours = build_with(spec, to_ours(HUGGINGFACE, spec, saved(theirs, tmp_path), name), name)
    images = pictures(spec)
    expected, logits = theirs(images).logits, ours.head(ours(ImageBatch(images)).hidden)
    assert expected.std() > 0.4
    close(logits, expected, "logits")
    probe = torch.randn(expected.shape)
    (expected * probe).sum().backward()
    (logits * probe).sum().backward()
    with torch.no_grad():
        for parameter in theirs.parameters():  # so that they are written under the folder's names
            parameter.copy_(parameter.grad)
    same_gradients(ours, HUGGINGFACE, saved(theirs, tmp_path))


def test_huggingface_tanh_layer(tmp_path: Any) -> None:
    """The hidden layer of pretraining. The library keeps no logits behind it: those are zeros here."""
    import transformers

    spec, theirs = encoder(SHAPE, hidden=True), lively(transformers.ViTModel(vit_config(SHAPE)))
    weights = to_ours(HUGGINGFACE_POOLER, spec, saved(theirs, tmp_path), "pooler")
    logits = {"head.weight": torch.zeros(7, SHAPE["embed_dim"]), "head.bias": torch.zeros(7)}
    ours = build_with(spec, weights | logits, "pooler")
    images = pictures(spec)
    expected, out = theirs(images), ours(ImageBatch(images))
    close(ours.head.features(out.hidden), expected.pooler_output, "pooled")
    close(out.intermediates["patches"], expected.last_hidden_state[:, 1:], "patches")
    probe = torch.randn(expected.pooler_output.shape)
    (expected.pooler_output * probe).sum().backward()
    (ours.head.features(out.hidden) * probe).sum().backward()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(parameter.grad)
    same_gradients(ours, HUGGINGFACE_POOLER, saved(theirs, tmp_path))


@pytest.mark.parametrize(("size", "patch"), [("tiny", 16), ("small", 16), ("base", 32), ("base", 16), ("large", 32),
                                             ("large", 16), ("huge", 14), ("giant", 14), ("gigantic", 14)])  # fmt: skip
def test_published_sizes_have_timms_tensors(size: str, patch: int) -> None:
    """All names and shapes."""
    import timm

    short = {"tiny": "ti", "small": "s", "base": "b", "large": "l", "huge": "h", "giant": "g"}.get(size, size)
    (spec,) = [entry.spec for entry in entries() if entry.name == f"vit-{short}{patch}"]
    with torch.device("meta"):
        theirs = timm.create_model(f"vit_{size}_patch{patch}_224", num_classes=1000)
        from_ours = ImageEncoderModel(spec)  # type: ignore[arg-type]
    named = to_theirs(TIMM, spec, dict(from_ours.named_parameters()), 1000)  # type: ignore[arg-type]
    assert {name: p.shape for name, p in named.items()} == {name: p.shape for name, p in theirs.named_parameters()}


def test_positions_for_another_resolution_are_those_of_both_libraries() -> None:
    """No difference measured."""
    import timm
    import transformers

    case = SHAPE | {"img_size": (12, 12)}
    theirs = lively(transformers.ViTModel(vit_config(case))).embeddings
    table = theirs.position_embeddings[0]
    grown = resized_positions(table, (3, 3), (5, 8), class_token=True)
    close(grown, theirs.interpolate_pos_encoding(torch.zeros(1, 41, 18), 20, 32)[0], "Hugging Face")
    shrunk = resized_positions(table[1:7], (2, 3), (4, 2), class_token=False)
    resample = partial(timm.layers.resample_abs_pos_embed, num_prefix_tokens=0, antialias=False)
    close(shrunk, resample(table[None, 1:7], new_size=[4, 2], old_size=[2, 3])[0], "timm")


def test_a_published_model_of_huggingface_has_its_tensors(tmp_path: Any) -> None:
    """Names and shapes of ViT-B/16, which are the library's defaults."""
    import transformers

    config = transformers.ViTConfig(num_labels=1000)
    names = {}
    for depth in (1, 2):  # two depths: the layers' names, without writing 346 MB
        config.num_hidden_layers = depth
        names[depth] = saved(transformers.ViTForImageClassification(config), tmp_path)
    spec = vit(768, 2, 12, 16)
    with torch.device("meta"):
        ours = to_theirs(HUGGINGFACE, spec, dict(ImageEncoderModel(spec).named_parameters()), 1000)  # type: ignore[arg-type]
    assert {name: p.shape for name, p in ours.items()} == {name: p.shape for name, p in names[2].items()}
    assert len(names[2]) - len(names[1]) == 16
