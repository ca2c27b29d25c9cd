"""Parity of models of pictures and texts with open_clip and Hugging Face's CLIP and SigLIP, by the tables of
`interop/two_tower.py`: vectors, losses, gradients and batch norms' statistics.

Differences are in parts of a tensor's largest value, or of 1 where that is smaller.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from corestone.core.batch import ImageBatch, ImageTextBatch, TextBatch, plain_batch
from corestone.core.mask import Mask
from corestone.interop.two_tower import (
    HUGGINGFACE_CLIP,
    HUGGINGFACE_SIGLIP,
    OPEN_CLIP,
    OPEN_CLIP_RESNET,
    NamedTowers,
    two_tower_from,
    two_tower_to,
)
from corestone.interop.weights import build_with
from corestone.models.picture_spec import ImageEncoder, ModifiedResNet, Projection, Similarity, TextTower, TwoTower
from corestone.models.two_tower import TwoTowerModel, build_two_tower
from corestone.nn.spec import (
    Attention,
    AttentionPool,
    Block,
    ClassTokenPool,
    FeedForward,
    LastTokenPool,
    Norm,
    PatchEmbedding,
    Stack,
    TokenEmbedding,
)
from corestone.objectives.contrastive import ContrastiveObjective
from corestone.objectives.spec import Contrastive
from corestone.zoo.catalogue import find
from corestone.zoo.clip import entries

pytestmark = pytest.mark.parity
TOLERANCE = 1e-5
ROWS = 5
ALIKE = 0.02
"""Vectors that are nearer to each other would prove little."""

# Every size differs from every other within a case wherever it may, so that a swapped axis cannot go unnoticed.
TEXT: dict[str, Any] = {"width": 24, "heads": 3, "layers": 2, "context_length": 9, "vocab_size": 41}


def stack(width: int, heads: int, depth: int, hidden_dim: int, activation: str, eps: float = 1e-5) -> Stack:
    block = Block(
        norm=Norm(eps=eps),
        mixer=Attention(num_heads=heads, head_dim=width // heads),
        feedforward=FeedForward(hidden_dim=hidden_dim, activation=activation),
    )
    return Stack(width=width, blocks=(block,) * depth, final_norm=Norm(eps=eps))


def embedding(case: dict[str, Any]) -> TokenEmbedding:
    return TokenEmbedding(vocab_size=case["vocab_size"], context_length=case["context_length"])


def lively(model: nn.Module, size: float = 0.3) -> Any:
    """No gain 1, no bias 0, no statistics of nothing, and vectors that every part moves."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            drawn = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(drawn.abs() + 0.5)
            elif name in ("logit_scale", "logit_bias"):
                tensor.copy_(0.7 + 0.1 * drawn)
            elif tensor.ndim == 4:
                tensor.copy_(drawn * (2 / tensor[0].numel()) ** 0.5)
            else:
                tensor.copy_(drawn * size + (1.0 if tensor.ndim == 1 and name.endswith("weight") else 0.0))
    return model.eval()


def pictures(spec: TwoTower, rows: int = ROWS, size: float = 1.0) -> Tensor:
    image = spec.image.embedding if isinstance(spec.image, ImageEncoder) else spec.image
    return size * torch.randn(rows, image.channels, *image.image_size, generator=torch.Generator().manual_seed(2))


def captions(case: dict[str, Any], rows: int = ROWS) -> list[list[int]]:
    """Of different lengths, the last token with the highest id; none as long as the context."""
    generator, longest = torch.Generator().manual_seed(3), case["context_length"] - 2
    lengths = torch.randint(2, longest + 1, (rows,), generator=generator).tolist()
    assert len(set(lengths)) > 2
    end = case["vocab_size"] - 1
    return [[*torch.randint(1, end, (n - 1,), generator=generator).tolist(), end] for n in lengths]


def filled(texts: list[list[int]], length: int) -> Tensor:
    return torch.tensor([text + [0] * (length - len(text)) for text in texts])


def cut(texts: list[list[int]]) -> TextBatch:
    """As our data has them: as long as the longest, a segment for what fills up."""
    tokens_BT = filled(texts, max(map(len, texts)))
    segments = filled([[1] * len(text) for text in texts], tokens_BT.shape[1])
    whole = plain_batch(tokens_BT)
    return TextBatch(tokens_BT, whole.targets_BT, whole.positions_BT, Mask(causal=False, segments_BT=segments.int()))


def close(found: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    assert found.shape == expected.shape, what
    scale = max(1.0, float(expected.detach().abs().max()))
    worst = float((found - expected).detach().abs().max()) / scale
    print(f"WORST {what.split(' ')[0]} {worst:.2g}   {what}")
    assert worst <= tolerance, what


def converted(family: NamedTowers, spec: TwoTower, theirs: dict[str, Tensor]) -> TwoTowerModel:
    """There and back every tensor is the same."""
    ours = two_tower_from(family, spec, theirs, "reference")
    back = two_tower_to(family, spec, ours)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in back.items())
    assert theirs.keys() - back.keys() == {name for name in theirs if "num_batches" in name}
    return build_with(spec, ours, "reference")


def same_gradients(
    ours: TwoTowerModel, family: NamedTowers, theirs: dict[str, Tensor], factor: float, tolerance: float = TOLERANCE
) -> None:
    """Of every parameter, under their names."""
    found = {name: p.grad for name, p in ours.named_parameters()}
    buffers = dict(ours.named_buffers())
    gradients = two_tower_to(family, ours.spec, found | buffers)
    assert theirs.keys() <= gradients.keys()
    assert len(gradients) >= len(theirs) + len(buffers)
    dead = [name for name, gradient in theirs.items() if not gradient.any()]
    assert all("k_proj.bias" in name for name in dead), dead  # a bias of keys changes no attention
    for name, gradient in theirs.items():
        close(gradients[name] * factor, gradient, f"gradient of {name}", tolerance)


def check(
    ours: TwoTowerModel,
    batch: ImageTextBatch,
    images: Tensor,
    texts: Tensor,
    loss: Tensor,
    tolerance: float = TOLERANCE,
) -> None:
    """Vectors and mean loss; leaves our gradient of the summed loss."""
    assert float((images - images.roll(1, 0)).detach().norm(dim=1).min()) > ALIKE
    assert float((texts - texts.roll(1, 0)).detach().norm(dim=1).min()) > ALIKE
    close(ours.image(batch.images), images, "vectors of pictures", tolerance)
    close(ours.text(batch.texts), texts, "vectors of texts", tolerance)
    found = ContrastiveObjective(Contrastive(loss="softmax" if ours.bias is None else "sigmoid")).loss(ours, batch)
    close(found.total / found.weight, loss, "loss", tolerance)
    found.total.backward()


# ---------------------------------------------------------------------------------------------------- open_clip

VIT: dict[str, Any] = {"width": 32, "head_width": 8, "layers": 3, "image_size": (12, 20), "patch_size": 4,
                       "mlp_ratio": 2.0}  # fmt: skip
OPEN_CLIP_CASES: dict[str, dict[str, Any]] = {
    "published activation": {"quick": True},
    "published shape": {"quick": True, "vision": {"image_size": (16, 16), "mlp_ratio": 4.0}},
    "one layer, pixels left over": {"vision": {"layers": 1, "image_size": (14, 23), "head_width": 32}},
    "deeper text than image": {"quick": True, "text": {"layers": 4, "width": 18, "heads": 2, "context_length": 12}},
    "sigmoid": {"bias": -10.0},
    "first token, both ways": {"text": {"pool_type": "first", "no_causal_mask": True}},
    "last token, both ways": {"text": {"pool_type": "last", "no_causal_mask": True}, "quick": True},
}


def open_clip_spec(case: dict[str, Any], vision: dict[str, Any], text: dict[str, Any]) -> TwoTower:
    """What open_clip's arguments say, as a record."""
    activation = "quick_gelu" if case.get("quick") else "gelu"
    width = vision["width"]
    hidden = int(width * vision["mlp_ratio"])
    image = ImageEncoder(
        embedding=PatchEmbedding(
            image_size=vision["image_size"], patch_size=vision["patch_size"], bias=False, norm=Norm()
        ),
        stack=stack(width, width // vision["head_width"], vision["layers"], hidden, activation),
    )
    bias = case.get("bias")
    pool = ClassTokenPool() if text.get("pool_type") == "first" else LastTokenPool()
    return TwoTower(
        image=image,
        text=TextTower(
            embedding=embedding(text),
            stack=stack(text["width"], text["heads"], text["layers"], 4 * text["width"], activation),
            causal=not text.get("no_causal_mask", False),
            pool=pool,
        ),
        embed_dim=14,
        similarity=Similarity(bias=bias),
    )


def open_clips_loss(theirs: Any, images: Tensor, texts: Tensor) -> Tensor:
    from open_clip.loss import ClipLoss, SigLipLoss

    scale = theirs.logit_scale.exp()
    if theirs.logit_bias is None:
        return ClipLoss()(images, texts, scale)
    return SigLipLoss()(images, texts, scale, theirs.logit_bias)


@pytest.mark.parametrize("name", OPEN_CLIP_CASES)
def test_open_clip(name: str) -> None:
    """Measured worst case: 9.5e-7 of vectors, 2.4e-7 of losses, 3.0e-6 of gradients."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    case = OPEN_CLIP_CASES[name]
    vision, text = VIT | case.get("vision", {}), TEXT | case.get("text", {})
    towers, quick = (CLIPVisionCfg(**vision), CLIPTextCfg(**text)), case.get("quick", False)
    theirs = lively(CLIP(14, *towers, quick, init_logit_bias=case.get("bias")))
    spec = open_clip_spec(case, vision, text)
    ours = converted(OPEN_CLIP, spec, theirs.state_dict())
    images, texts = pictures(spec), captions(text)
    tokens = filled(texts, text["context_length"])
    # Where they see both ways they see what fills up too.
    batch = ImageTextBatch(ImageBatch(images), cut(texts) if spec.text.causal else plain_batch(tokens))
    a, b = theirs.encode_image(images, normalize=True), theirs.encode_text(tokens, normalize=True)
    loss = open_clips_loss(theirs, a, b)
    loss.backward()
    check(ours, batch, a, b, loss)
    same_gradients(ours, OPEN_CLIP, {key: p.grad for key, p in theirs.named_parameters()}, 1 / ROWS)


RESNETS: dict[str, dict[str, Any]] = {
    "square": {"width": 8, "layers": (1, 2, 1, 2), "image_size": (64, 64), "head_width": 16},
    "wide": {"width": 6, "layers": (2, 1, 3, 1), "image_size": (64, 96), "head_width": 64},
    "one place": {"width": 2, "layers": (1, 1, 1, 1), "image_size": (32, 32), "head_width": 32},
}


def resnet_pair(case: dict[str, Any], dtype: torch.dtype) -> tuple[TwoTowerModel, Any]:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    height, width = case["image_size"]
    vision = CLIPVisionCfg(**case | {"layers": list(case["layers"]), "image_size": height})
    theirs = CLIP(14, vision, CLIPTextCfg(**TEXT), quick_gelu=True)
    places = (height // 32) * (width // 32)
    theirs.visual.attnpool.positional_embedding = nn.Parameter(torch.empty(places + 1, 32 * case["width"]))
    theirs = lively(theirs, 0.2)
    spec = TwoTower(
        image=ModifiedResNet(
            image_size=case["image_size"], width=case["width"], depths=case["layers"], head_dim=case["head_width"]
        ),
        text=TextTower(embedding=embedding(TEXT), stack=stack(24, 3, 2, 96, "quick_gelu")),
        embed_dim=14,
        image_projection=Projection(bias=True),
    )
    return converted(OPEN_CLIP_RESNET, spec, theirs.state_dict()).to(dtype), theirs.to(dtype)


@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize(
    ("training", "dtype", "tolerance"),
    [(False, torch.float64, 1e-11), (True, torch.float64, 1e-11), (False, torch.float32, TOLERANCE)],
    ids=["f64-evaluation", "f64-training", "f32-evaluation"],
)
def test_open_clips_residual_networks(name: str, training: bool, dtype: torch.dtype, tolerance: float) -> None:
    """Measured worst case: in float64 1.6e-14 of vectors, 2.6e-12 of gradients, 2.4e-16 of statistics; in float32
    2.1e-6 of vectors, 7.4e-8 of losses, 7.2e-6 of gradients.

    In training the comparison is in float64 alone. On CPU, torch's batch norm of maps whose channels are together, as
    ours are, has ten times the rounding error of that of other maps, and so do our vectors in float32 (6.7e-5 here);
    with so few rows some activation changes its sign.
    """
    rows, exact = 24, dtype == torch.float64
    ours, theirs = (model.train(training) for model in resnet_pair(RESNETS[name], dtype))
    images, texts = pictures(ours.spec, rows, 3.0).to(dtype), captions(TEXT, rows)
    a = theirs.encode_image(images, normalize=True)
    b = theirs.encode_text(filled(texts, TEXT["context_length"]), normalize=True)
    batch = ImageTextBatch(ImageBatch(images), cut(texts))
    state = {key: value.clone() for key, value in ours.state_dict().items()}
    if exact:  # losses are float32 here
        c, d, probe = (
            ours.image(batch.images),
            ours.text(batch.texts),
            torch.randn(2, *a.shape, dtype=dtype, generator=torch.Generator().manual_seed(0)),
        )
        close(c, a, "vectors of pictures", tolerance)
        close(d, b, "vectors of texts", tolerance)
        ((torch.stack((a, b)) * probe).sum() + theirs.logit_scale).backward()
        ((torch.stack((c, d)) * probe).sum() + ours.log_scale).backward()
    else:
        loss = open_clips_loss(theirs, a, b)
        loss.backward()
        check(ours, batch, a, b, loss, tolerance)
    # Gradients of tables are summed in float32.
    expected = {key: p.grad for key, p in theirs.named_parameters() if not exact or "embedding" not in key}
    same_gradients(ours, OPEN_CLIP_RESNET, expected, 1.0 if exact else 1 / rows, tolerance)
    # Statistics of one batch, from where both started.
    ours.load_state_dict(state)
    ours.image(batch.images)
    found, expected = two_tower_to(OPEN_CLIP_RESNET, ours.spec, ours.state_dict()), theirs.state_dict()
    running = [key for key in expected if "running" in key]
    assert len(running) == 2 * (3 + 3 * sum(RESNETS[name]["layers"]) + 4)
    for key in running:
        close(found[key], expected[key], f"statistics {key}", tolerance)


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_published_models_have_open_clips_tensors(entry: Any) -> None:
    """All names and shapes."""
    import open_clip
    from open_clip.model import CLIP

    short = entry.name.removeprefix("clip-")
    name = {"vit-b32": "ViT-B-32", "vit-b16": "ViT-B-16", "vit-l14": "ViT-L-14", "vit-l14-336": "ViT-L-14-336"}.get(
        short, short.upper().replace("X", "x")
    )
    with torch.device("meta"):
        theirs = CLIP(**open_clip.get_model_config(name))
    ours = build_two_tower(entry.spec, device="meta")
    family = OPEN_CLIP if "vit" in short else OPEN_CLIP_RESNET
    named = two_tower_to(family, entry.spec, dict(ours.named_parameters()) | dict(ours.named_buffers()))
    expected = {key: value.shape for key, value in theirs.state_dict().items() if "num_batches" not in key}
    assert {key: value.shape for key, value in named.items()} == expected


# ------------------------------------------------------------------------------------------------- Hugging Face


def saved(model: Any, folder: Any) -> dict[str, Tensor]:
    """Tensors by the names in the library's folders."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def huggingface(library: str, text: dict[str, Any], vision: dict[str, Any]) -> Any:
    import transformers

    towers = {
        "text_config": {
            "hidden_size": text["width"],
            "num_attention_heads": text["heads"],
            "num_hidden_layers": text["layers"],
            "intermediate_size": text["hidden"],
            "max_position_embeddings": text["context_length"],
            "vocab_size": text["vocab_size"],
            "eos_token_id": text["vocab_size"] - 1,
            "bos_token_id": 1,
            "pad_token_id": 0,
            "projection_size": text["width"],
        },
        "vision_config": {
            "hidden_size": vision["width"],
            "num_attention_heads": vision["heads"],
            "num_hidden_layers": vision["layers"],
            "intermediate_size": vision["hidden"],
            "image_size": vision["image_size"][0],
            "patch_size": vision["patch_size"],
            "num_channels": vision["channels"],
        },
    }
    if library == "clip":
        return transformers.CLIPModel(transformers.CLIPConfig(**towers, projection_dim=14))
    return transformers.SiglipModel(transformers.SiglipConfig(**towers))


HF_TEXT = TEXT | {"hidden": 40}
HF_VISION: dict[str, Any] = {"width": 24, "heads": 4, "layers": 3, "hidden": 56, "image_size": (16, 16),
                             "patch_size": 4, "channels": 3}  # fmt: skip
HUGGINGFACE_CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "grey pictures": ({"layers": 3, "heads": 12}, {"channels": 1, "image_size": (20, 20), "layers": 1}),
    "four patches": ({"context_length": 13, "heads": 1}, {"image_size": (8, 8), "heads": 8}),
}


def image_tower(vision: dict[str, Any], activation: str, eps: float, clip: bool) -> ImageEncoder:
    made = stack(vision["width"], vision["heads"], vision["layers"], vision["hidden"], activation, eps)
    block = made.blocks[0]
    pool = AttentionPool(attention=block.mixer, norm=Norm(eps=eps), feedforward=block.feedforward)
    return ImageEncoder(
        embedding=PatchEmbedding(
            image_size=vision["image_size"],
            channels=vision["channels"],
            patch_size=vision["patch_size"],
            bias=not clip,
            class_token=clip,
            norm=Norm() if clip else None,
        ),
        stack=made,
        pool=ClassTokenPool() if clip else pool,
    )


def huggingface_pair(library: str, name: str, folder: Any) -> tuple[TwoTowerModel, Any, NamedTowers]:
    text, vision = HF_TEXT | HUGGINGFACE_CASES[name][0], HF_VISION | HUGGINGFACE_CASES[name][1]
    clip = library == "clip"
    eps, activation = (1e-5, "quick_gelu") if clip else (1e-6, "gelu_tanh")
    family = HUGGINGFACE_CLIP if clip else HUGGINGFACE_SIGLIP
    spec = TwoTower(
        image=image_tower(vision, activation, eps, clip),
        text=TextTower(
            embedding=embedding(text),
            stack=stack(text["width"], text["heads"], text["layers"], text["hidden"], activation, eps),
            causal=clip,
        ),
        embed_dim=14 if clip else 24,
        image_projection=Projection() if clip else None,
        text_projection=Projection(bias=not clip),
        similarity=Similarity(bias=None if clip else -10.0),
    )
    theirs = lively(huggingface(library, text, vision))
    return converted(family, spec, saved(theirs, folder)), theirs, family


@pytest.mark.parametrize("name", HUGGINGFACE_CASES)
@pytest.mark.parametrize("library", ["clip", "siglip"])
def test_huggingface(library: str, name: str, tmp_path: Any) -> None:
    """Measured worst case: 3.4e-7 of vectors, 1.3e-7 of losses, 5.9e-7 of gradients."""
    ours, theirs, family = huggingface_pair(library, name, tmp_path)
    texts = captions(HF_TEXT | HUGGINGFACE_CASES[name][0])
    images, tokens = pictures(ours.spec), filled(texts, ours.context_length)
    batch = ImageTextBatch(ImageBatch(images), cut(texts) if library == "clip" else plain_batch(tokens))
    out = theirs(pixel_values=images, input_ids=tokens, return_loss=True)
    out.loss.backward()
    check(ours, batch, out.image_embeds, out.text_embeds, out.loss)
    with torch.no_grad():
        for parameter in theirs.parameters():  # so that they are written under the folder's names
            parameter.copy_(parameter.grad)
    same_gradients(ours, family, saved(theirs, tmp_path), 1 / ROWS)


def test_published_models_have_huggingfaces_tensors(tmp_path: Any) -> None:
    """Names and shapes of CLIP's ViT-B/32 and SigLIP's B/16, which are the library's defaults."""
    import transformers

    for name, family, made in (
        ("clip-vit-b32", HUGGINGFACE_CLIP, transformers.CLIPModel(transformers.CLIPConfig())),
        ("siglip-b16-224", HUGGINGFACE_SIGLIP, transformers.SiglipModel(transformers.SiglipConfig())),
    ):
        spec = find(name).spec
        assert isinstance(spec, TwoTower)
        ours = two_tower_to(family, spec, dict(build_two_tower(spec, device="meta").named_parameters()))
        expected = {key: value.shape for key, value in made.state_dict().items()}
        assert {key: value.shape for key, value in ours.items()} == expected
