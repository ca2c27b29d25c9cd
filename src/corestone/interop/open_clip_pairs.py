"""CLIP of open_clip: open_clip_config.json, and what it means here.

Its CoCa is not our captioner, and is refused by the name of what differs (see `COCA`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from corestone.core.errors import CheckpointError, SpecError
from corestone.core.spec import parse
from corestone.data.images.augment_spec import Augmentation, Resize
from corestone.data.images.spec import CaptionRows
from corestone.interop.family import Tree
from corestone.interop.pair_tokenizer import Template
from corestone.interop.paired import PairFormat, PairTold
from corestone.interop.pictured import (
    INTERPOLATIONS,
    Pixels,
    augmentation_of,
    crops,
    heads_fit,
    of_evaluation,
    pair_of,
    refuse_order,
    refuse_others,
    resize_of,
    share_of,
    size_of,
    square,
    stack_of,
)
from corestone.interop.two_tower import open_clip_names
from corestone.models.picture_spec import ImageEncoder, ModifiedResNet, TwoTower

OPEN_CLIP_CONFIG = "open_clip_config.json"

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

COCA = (
    "is that of a CoCa, which a captioner here is not: a layer that sees the picture is two blocks there, each with a "
    "feed-forward and norms of its own (multimodal_cfg), and one block here; a text's own vector stands behind what "
    "fills the text up there (text_cfg.embed_cls), and behind its last token here; a picture's vector is what the "
    "first query of its one pool finds there, or a second pool without a norm (vision_cfg.attentional_pool), and a "
    "second pool with a norm here"
)

_BLOCKS: Mapping[str, tuple[Any, ...]] = {
    "ls_init_value": (None,), "block_type": (None, "default"), "qk_norm": (False,), "scaled_cosine_attn": (False,),
    "scale_heads": (False,), "scale_attn_inner": (False,), "scale_attn": (False,), "scale_fc": (False,),
    "output_tokens": (False,), "final_ln_after_pool": (False,),
}  # fmt: skip
_VISION_ONLY: Mapping[str, tuple[Any, ...]] = {
    **_BLOCKS, "timm_model_name": (None,), "attentional_pool": (False,), "pos_embed_type": ("learnable",),
    "pool_type": ("tok", "avg"),
}  # fmt: skip
_TEXT_ONLY: Mapping[str, tuple[Any, ...]] = {
    **_BLOCKS, "hf_model_name": (None,), "embed_cls": (False,), "proj_type": ("linear", "none"),
    "pool_type": ("argmax", "eos", "last", "first"), "tokenizer_mode": (None, ""),
}  # fmt: skip
_VISION_READ = (
    "layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "no_ln_pre", "act_kwargs", "norm_kwargs",
    "patch_dropout",
)  # fmt: skip
_TEXT_READ = (
    "context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "no_causal_mask", "proj_bias",
    "act_kwargs", "norm_kwargs", "pad_id", "eos_id", "hf_tokenizer_name", "tokenizer_kwargs",
)  # fmt: skip
_MODEL_ONLY: Mapping[str, tuple[Any, ...]] = {
    "nonscalar_logit_scale": (False,), "custom_text": (True, False)
}  # fmt: skip
_MODEL_READ = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale", "init_logit_bias")
_NOT_KEPT = (
    "patch_dropout", "attn_pooler_queries", "attn_pooler_heads", "timm_model_pretrained", "timm_pool", "timm_proj",
    "timm_proj_bias", "timm_drop", "timm_drop_path", "hf_model_pretrained",
)  # fmt: skip
"""What matters in training alone, or to towers that are refused."""


def _checked(told: Any, key: str, only: Mapping[str, tuple[Any, ...]], read: Sequence[str], where: str) -> Tree:
    """A part of the config; CheckpointError names an option that is unknown, or cannot be expressed here."""
    if not isinstance(told, dict):
        raise CheckpointError(f"{where}: '{key}' must be a JSON object (got {str(told)[:60]})")
    refuse_others(told, only, f"{where}: {key}")
    unknown = [name for name in told if name not in (*only, *read, *_NOT_KEPT)]
    if unknown:
        raise CheckpointError(f"{where}: {key}.{unknown[0]}={told[unknown[0]]!r} cannot be expressed here")
    return told


def refuse_captioner(whole: Tree, where: str) -> None:
    """CheckpointError where open_clip_config.json is that of a CoCa."""
    config = whole.get("model_cfg")
    if isinstance(config, dict) and "multimodal_cfg" in config:
        raise CheckpointError(f"{where}: {COCA}")


def _read(files: Mapping[str, Tree], folder: Path, template: Template) -> PairTold:
    where = f"{folder / OPEN_CLIP_CONFIG}"
    whole = files[OPEN_CLIP_CONFIG]
    config = _checked(whole.get("model_cfg"), "model_cfg", _MODEL_ONLY, _MODEL_READ, where)
    vision = _checked(config.get("vision_cfg"), "vision_cfg", _VISION_ONLY, _VISION_READ, where)
    text = _checked(config.get("text_cfg"), "text_cfg", _TEXT_ONLY, _TEXT_READ, where)
    quick, (image, biased) = bool(config.get("quick_gelu", False)), _image(vision, config, where)
    reads = _text(text, quick, f"{where}: text_cfg")
    bias = config.get("init_logit_bias")
    projection = None if text.get("proj_type") == "none" else {"bias": bool(text.get("proj_bias", False))}
    tree = {
        "image": image,
        "text": reads,
        "embed_dim": size_of(config, "embed_dim", where),
        "image_projection": {"bias": biased},
        "text_projection": projection,
        "similarity": {} if bias is None else {"scale": 10.0, "scale_most": None, "bias": bias},
    }
    try:
        spec = parse(TwoTower, tree, where)
    except SpecError as error:
        raise CheckpointError(str(error)) from None
    notes = [
        f"{OPEN_CLIP_CONFIG}: {key}={vision[key]!r} is not kept; it matters only in training"
        for key in ("patch_dropout",)
        if vision.get(key)
    ]
    context = spec.text.embedding.context_length
    given = whole.get("preprocess_cfg", {})
    if not isinstance(given, dict):
        raise CheckpointError(f"{where}: 'preprocess_cfg' must be a JSON object (got {str(given)[:60]})")
    size = image["embedding"]["image_size"] if "embedding" in image else image["image_size"]
    seen = _augmentation(given, size, where)
    notes.append(_cleaning(text))
    return PairTold(spec, seen, _rows(text, template, f"{where}: text_cfg"), context, notes)


def _cleaning(text: Tree) -> str:
    kind = (text.get("tokenizer_kwargs") or {}).get("clean", "whitespace")
    return (
        f"open_clip cleans texts before its tokenizer cuts them (clean={kind!r}: web entities, broken letters, white "
        "space); texts that this changes have other ids here"
    )


def _norm_and_activation(told: Tree, quick: bool, where: str) -> tuple[Tree, str]:
    norm, act = told.get("norm_kwargs") or {}, told.get("act_kwargs") or {}
    if not isinstance(norm, dict) or not norm.keys() <= {"eps"}:
        raise CheckpointError(f"{where}.norm_kwargs={norm!r} cannot be expressed here (only its eps can)")
    if act not in ({}, {"approximate": "none"}, {"approximate": "tanh"}) or (quick and act):
        raise CheckpointError(f"{where}.act_kwargs={act!r} cannot be expressed here (only approximate=tanh can)")
    exact = "gelu_tanh" if act.get("approximate") == "tanh" else "gelu"
    return {"eps": norm.get("eps", 1e-5)}, "quick_gelu" if quick else exact


def _stack(told: Tree, width: int, heads: int, quick: bool, where: str) -> Tree:
    norm, activation = _norm_and_activation(told, quick, where)
    hidden_dim = int(width * share_of(told, "mlp_ratio", where, 4.0))
    feedforward = {"hidden_dim": hidden_dim, "activation": activation}
    return stack_of(width, heads, size_of(told, "layers", where, 12), norm, feedforward)


def _image(vision: Tree, config: Tree, where: str) -> tuple[Tree, bool]:
    """The image tower, and whether its projection has a bias."""
    where = f"{where}: vision_cfg"
    width, head = size_of(vision, "width", where, 768), size_of(vision, "head_width", where, 64)
    size = pair_of(vision, "image_size", where, 224)
    if isinstance(vision.get("layers"), list):
        depths = vision["layers"]
        if size[0] != size[1]:
            raise CheckpointError(f"{where}: image_size={list(size)}: the library's residual networks read squares")
        tree = {"kind": "modified_resnet", "image_size": size, "width": width, "depths": depths, "head_dim": head}
        return tree, True
    heads_fit(width, head, ("width", "head_width"), where)
    stack = _stack(vision, width, width // head, bool(config.get("quick_gelu", False)), where)
    embedding = {
        "image_size": size,
        "patch_size": size_of(vision, "patch_size", where, 16),
        "bias": False,
        "norm": None if vision.get("no_ln_pre", False) else stack["final_norm"],
    }
    pool = {"kind": "mean" if vision.get("pool_type", "tok") == "avg" else "class_token"}
    return {"kind": "image_encoder", "embedding": embedding, "stack": stack, "pool": pool}, False


def _text(text: Tree, quick: bool, where: str) -> Tree:
    width, heads = size_of(text, "width", where, 512), size_of(text, "heads", where, 8)
    heads_fit(width, heads, ("width", "heads"), where)
    tokens = {
        "vocab_size": size_of(text, "vocab_size", where, 49408),
        "context_length": size_of(text, "context_length", where, 77),
    }
    pool = {"kind": "class_token" if text.get("pool_type") == "first" else "last_token"}
    causal = not text.get("no_causal_mask", False)
    if not causal and text.get("pool_type", "argmax") in ("argmax", "eos"):
        raise CheckpointError(
            f"{where}.pool_type={text.get('pool_type', 'argmax')!r} with no_causal_mask cannot be expressed here: its "
            "token sees what fills the text up"
        )
    if causal and text.get("pool_type") == "last":
        raise CheckpointError(
            f"{where}.pool_type='last' without no_causal_mask cannot be expressed here: the vector stands behind what "
            "fills the text up"
        )
    return {"embedding": tokens, "stack": _stack(text, width, heads, quick, where), "causal": causal, "pool": pool}


def _rows(text: Tree, template: Template, where: str) -> CaptionRows:
    """CheckpointError where the model would look for a text's vector elsewhere than at the token behind it."""
    pool, fill = text.get("pool_type", "argmax"), template.end if template.pad is None else template.pad
    if pool == "argmax" and (template.end != template.highest or template.start == template.end):
        raise CheckpointError(
            f"{where}.pool_type='argmax' reads a text's vector at the first of its highest ids, and the tokenizer puts "
            f"{template.end} behind a text (in front {template.start}, highest {template.highest}); take the tokenizer "
            "that belongs to the model"
        )
    if pool == "eos" and (text.get("eos_id", 2) != template.end or template.start == template.end):
        raise CheckpointError(
            f"{where}.pool_type='eos' reads a text's vector at eos_id={text.get('eos_id', 2)!r}, and the tokenizer "
            f"puts {template.end} behind a text (in front {template.start}); take the tokenizer that belongs to it"
        )
    return CaptionRows(start=template.start, end=template.end, fill=fill, whole=bool(text.get("no_causal_mask", False)))


def _augmentation(given: Tree, size: tuple[int, int], where: str) -> Augmentation:
    refuse_others(given, {"mode": ("RGB",)}, f"{where}: preprocess_cfg")
    known = ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color")
    unknown = [key for key in given if key not in known]
    if unknown:
        raise CheckpointError(f"{where}: preprocess_cfg.{unknown[0]}={given[unknown[0]]!r} cannot be expressed here")
    between, mode = given.get("interpolation", "bicubic"), given.get("resize_mode", "shortest")
    if between == "random":  # chance in training; the library evaluates bicubically then
        between = "bicubic"
    if between not in INTERPOLATIONS:
        raise CheckpointError(
            f"{where}: preprocess_cfg.interpolation={between!r} cannot be expressed here, only "
            f"{' and '.join(INTERPOLATIONS)} can"
        )
    if mode not in ("shortest", "squash") or (mode == "shortest" and size[0] != size[1]):
        raise CheckpointError(
            f"{where}: preprocess_cfg.resize_mode={mode!r} cannot be expressed here for {size[0]}x{size[1]} pixels "
            "(only squash can, and shortest for squares)"
        )
    steps: list[Tree] = [{"kind": "resize", "interpolation": between}]
    if mode == "shortest":
        steps = [{**steps[0], "shorter": size[0]}, {"kind": "center_crop"}]
    mean, std = (
        [value] * 3 if isinstance(value, int | float) else value
        for value in (given.get("mean", MEAN), given.get("std", STD))
    )
    return augmentation_of(size, 3, {"evaluation": steps, "mean": mean, "std": std}, where)


def _files(told: PairTold) -> dict[str, Tree]:
    """What they cannot say is left out; the reader then gives another record."""
    spec, stack, rows = told.spec, told.spec.text.stack, told.rows
    quick = stack.blocks[0].feedforward.activation == "quick_gelu"
    pool = "argmax" if spec.text.causal and rows.end == spec.text.embedding.vocab_size - 1 else "eos"
    text = {
        "context_length": spec.text.embedding.context_length,
        "vocab_size": spec.text.embedding.vocab_size,
        "width": stack.width,
        "heads": stack.attention[0].num_heads,
        "layers": len(stack.blocks),
        **_said_of(stack, quick),
        "hf_tokenizer_name": "local-dir",  # the library takes the folder's own tokenizer then
        "pad_id": rows.fill,
        "eos_id": rows.end,
        "no_causal_mask": not spec.text.causal,
        "pool_type": pool if spec.text.causal else "first" if spec.text.pool.kind == "class_token" else "last",
        "proj_type": "none" if spec.text_projection is None else "linear",
        "proj_bias": spec.text_projection is not None and spec.text_projection.bias,
    }
    config: Tree = {"embed_dim": spec.embed_dim, "quick_gelu": quick, "vision_cfg": _vision(spec, quick)}
    if spec.similarity.bias is not None:
        config["init_logit_bias"] = spec.similarity.bias
    resize, seen = resize_of(told.augmentation), told.augmentation
    shortest = resize is not None and resize.shorter is not None
    preprocess = {
        "mean": list(seen.mean),
        "std": list(seen.std),
        "interpolation": "bilinear" if resize is None else resize.interpolation,
        "resize_mode": "shortest" if shortest else "squash",
    }
    return {OPEN_CLIP_CONFIG: {"model_cfg": {**config, "text_cfg": text}, "preprocess_cfg": preprocess}}


def _vision(spec: TwoTower, quick: bool) -> Tree:
    image = spec.image
    if isinstance(image, ModifiedResNet):
        head, depths = image.head_dim, list(image.depths)
        return {"image_size": square(image.image_size), "width": image.width, "layers": depths, "head_width": head}
    assert isinstance(image, ImageEncoder)  # outgoing_pairs refuses others
    return {
        "image_size": square(image.embedding.image_size),
        "patch_size": image.embedding.patch_size,
        "width": image.stack.width,
        "layers": len(image.stack.blocks),
        "head_width": image.stack.attention[0].head_dim,
        **_said_of(image.stack, quick),
        "no_ln_pre": image.embedding.norm is None,
        "pool_type": "avg" if image.pool.kind == "mean" else "tok",
    }


def _said_of(stack: Any, quick: bool) -> Tree:
    """What both towers tell of their stacks in the same words."""
    feedforward, width = stack.blocks[0].feedforward, stack.width
    ratio = feedforward.hidden_dim / width
    tanh = feedforward.activation == "gelu_tanh" and not quick
    return {
        "mlp_ratio": ratio if int(width * ratio) == feedforward.hidden_dim else (feedforward.hidden_dim + 0.5) / width,
        "norm_kwargs": {"eps": stack.blocks[0].norm.eps},
        **({"act_kwargs": {"approximate": "tanh"}} if tanh else {}),
    }


def _pixels(files: Mapping[str, Tree], pixels: Pixels) -> Tensor:
    """As documented of the library's transform for evaluation: Pillow resizes, to the whole size or by the shorter
    side, the middle is cut out, and values by 255, less the mean, are divided by the deviation."""
    config, told = files[OPEN_CLIP_CONFIG]["model_cfg"], files[OPEN_CLIP_CONFIG]["preprocess_cfg"]
    size = config["vision_cfg"]["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    new = [height, width]
    if told["resize_mode"] == "shortest":
        longer = int(height * max(picture.size) / min(picture.size))
        new = [height, longer] if picture.height <= picture.width else [longer, height]
    resampling = Image.Resampling[told["interpolation"].upper()]
    cut = np.asarray(picture.resize((new[1], new[0]), resampling).convert("RGB"))
    top, left = round((new[0] - height) / 2), round((new[1] - width) / 2)
    chosen = torch.from_numpy(cut[top : top + height, left : left + width].copy()).permute(2, 0, 1).double()
    mean, std = (torch.tensor(told[key], dtype=torch.float64)[:, None, None] for key in ("mean", "std"))
    scaled: Tensor = (chosen / 255 - mean) / std
    return scaled


def _lost(told: PairTold, where: str) -> list[str]:
    seen, resize = told.augmentation, resize_of(told.augmentation)
    refuse_order(seen, "open_clip", where)
    cropped, most = crops(seen.evaluation), told.spec.text.embedding.context_length
    shortest = resize is not None and resize.shorter is not None
    square_of_it = shortest and cropped and seen.size == (resize.shorter, resize.shorter) if resize else False
    if (shortest or cropped) and not square_of_it:
        kinds = ", ".join(step.kind for step in seen.evaluation)
        raise CheckpointError(
            f"{where}: refused, nothing was written: open_clip cannot do data.augmentation.evaluation ({kinds}; size "
            f"{seen.size[0]}x{seen.size[1]}); it resizes to the size, or the shorter side to a square's and cuts it out"
        )
    if told.context_length != most:
        raise CheckpointError(
            f"{where}: refused, nothing was written: open_clip reads as many tokens as the model has positions "
            f"({most}), and captions had at most {told.context_length}; train with data.context_length={most}"
        )
    notes = [_cleaning({})]
    if resize is None:
        notes.append("open_clip resizes pictures of another size than the model's, which the run refuses")
    return notes


def _said(seen: Augmentation) -> Augmentation:
    """What its folders say of an augmentation: every picture is resized, if only to the size that it has."""
    resize, seen = resize_of(seen), of_evaluation(seen)
    return seen.model_copy(update={"evaluation": (Resize(),)}) if resize is None else seen


OPEN_CLIP_MODEL = PairFormat(
    library="open_clip",
    architecture="CLIP",
    config=OPEN_CLIP_CONFIG,
    weights=("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors"),
    loading="open_clip.create_model_from_pretrained('local-dir:FOLDER'), open_clip.get_tokenizer('local-dir:FOLDER')",
    names=open_clip_names,
    files=_files,
    read=_read,
    pixels=_pixels,
    lost=_lost,
    said=_said,
)
