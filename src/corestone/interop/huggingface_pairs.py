"""`CLIPModel` and `SiglipModel` of `transformers`: config.json, preprocessor_config.json, and what they mean here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corestone.core.errors import CheckpointError, SpecError
from corestone.core.spec import parse
from corestone.data.images.spec import CaptionRows
from corestone.interop.family import ACTIVATIONS, Tree
from corestone.interop.files import WEIGHTS
from corestone.interop.huggingface_processor import augmentation_in, lost_in_processor, pixels_by, processor_of
from corestone.interop.pair_tokenizer import Template
from corestone.interop.paired import PairFormat, PairTold
from corestone.interop.pictured import (
    CONFIG,
    PROCESSOR,
    heads_fit,
    of_evaluation,
    one_of,
    refuse_others,
    share_of,
    size_of,
    stack_of,
)
from corestone.interop.two_tower import HUGGINGFACE_CLIP, HUGGINGFACE_SIGLIP
from corestone.models.picture_spec import ImageEncoder, TwoTower

_ACTIVATIONS = {"gelu": ("gelu",), "quick_gelu": ("quick_gelu",), **ACTIVATIONS}

_OF_ALL_MODELS = frozenset(
    (
        "_name_or_path", "architectures", "bad_words_ids", "begin_suppress_tokens", "bos_token_id",
        "chunk_size_feed_forward", "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty",
        "do_sample", "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty",
        "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "id2label", "is_decoder", "label2id",
        "length_penalty", "max_length", "min_length", "model_type", "no_repeat_ngram_size", "num_beam_groups",
        "num_beams", "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores",
        "pad_token_id", "prefix", "problem_type", "remove_invalid_values", "repetition_penalty", "return_dict",
        "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params", "temperature",
        "tf_legacy_loss", "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "top_k", "top_p",
        "torch_dtype", "torchscript", "transformers_version", "typical_p", "use_bfloat16",
    )
)  # fmt: skip
"""What the library writes of every model, and two towers never look at."""

_ONLY: Mapping[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,), "is_encoder_decoder": (False,), "pruned_heads": ({}, None),
    "quantization_config": (None,), "vision_use_head": (True,),
}  # fmt: skip

_TEXT: Tree = {
    "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    "attention_dropout": 0.0, "eos_token_id": 49407,
}  # fmt: skip
_VISION: Tree = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_channels": 3, "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    "attention_dropout": 0.0,
}  # fmt: skip
_SIGLIPS: Tree = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
DEFAULTS: Mapping[str, Mapping[str, Tree]] = {
    "clip": {"text": _TEXT, "vision": _VISION},
    "siglip": {
        "text": {
            **_TEXT, **_SIGLIPS, "vocab_size": 32000, "hidden_size": 768, "intermediate_size": 3072,
            "num_attention_heads": 12, "max_position_embeddings": 64, "projection_size": None,
        },
        "vision": {**_VISION, **_SIGLIPS, "patch_size": 16, "vision_use_head": True},
    },
}  # fmt: skip
"""What the library takes where config.json is silent, by model_type and tower."""

_ANEW = ("initializer_range", "initializer_factor", "dropout", "projection_dim")
"""Settings of a tower that matter to who starts from new weights, or to other classes, alone."""

LEGACY_END = 2
"""An `eos_token_id` that stands for "the highest id of a text" (the library's code; configs of before July 2023)."""


def _tower(config: Tree, tower: str, where: str) -> tuple[Tree, list[str]]:
    """A tower's settings with the library's defaults, and notes of what is not known."""
    defaults, key = DEFAULTS[config["model_type"]][tower], f"{tower}_config"
    # Where both are given the library lets the second one win, with defaults where it is silent.
    given = config.get(f"{key}_dict")
    given = config.get(key) if given is None else given
    if given is not None and not isinstance(given, dict):
        raise CheckpointError(f"{where}: '{key}' must be a JSON object (got {str(given)[:60]})")
    told = {**defaults, **(given or {})}
    refuse_others(told, _ONLY, f"{where}: {key}")
    known = {*defaults, *_OF_ALL_MODELS, *_ONLY, *_ANEW}
    unknown = [f"{name}={told[name]!r}" for name in told if name not in known]
    return told, [f"{CONFIG}: {key}.{name} is not known here and was not taken over" for name in unknown]


def _sizes(told: Tree, where: str) -> tuple[int, Tree]:
    """A tower's width and its stack, as a tree."""
    width, heads = size_of(told, "hidden_size", where), size_of(told, "num_attention_heads", where)
    heads_fit(width, heads, ("hidden_size", "num_attention_heads"), where)
    feedforward = {
        "hidden_dim": size_of(told, "intermediate_size", where),
        "activation": one_of(told["hidden_act"], "hidden_act", _ACTIVATIONS, where),
    }
    norm = {"eps": share_of(told, "layer_norm_eps", where)}
    mixer = {"dropout": share_of(told, "attention_dropout", where)}
    return width, stack_of(width, heads, size_of(told, "num_hidden_layers", where), norm, feedforward, mixer)


def _read(files: Mapping[str, Tree], folder: Path, template: Template, siglip: bool) -> PairTold:
    config, where = files[CONFIG], f"{folder / CONFIG}"
    architecture = "SiglipModel" if siglip else "CLIPModel"
    named = config.get("architectures")
    if named and architecture not in named:
        raise CheckpointError(f"{where}: architectures={named!r} cannot be expressed here; known: {architecture}")
    refuse_others(config, _ONLY, where)
    text, notes = _tower(config, "text", where)
    vision, more = _tower(config, "vision", where)
    outer = {*_OF_ALL_MODELS, *_ONLY, *_ANEW, "logit_scale_init_value"}
    outer |= {f"{tower}_config{end}" for tower in ("text", "vision") for end in ("", "_dict")}
    notes += more + [f"{CONFIG}: {key}={config[key]!r} is not known here and was not taken over"
                     for key in config if key not in outer]  # fmt: skip
    tree = (_siglip if siglip else _clip)(config, text, vision, where)
    try:
        spec = parse(TwoTower, tree, where)
    except SpecError as error:
        raise CheckpointError(str(error)) from None
    if PROCESSOR not in files:
        raise CheckpointError(
            f"{folder / PROCESSOR}: no such file; without it nothing says how pictures are resized and scaled"
        )
    assert isinstance(spec.image, ImageEncoder)
    image, kind = spec.image.embedding, "SiglipImageProcessor" if siglip else "CLIPImageProcessor"
    seen = augmentation_in(files[PROCESSOR], image.image_size, image.channels, f"{folder / PROCESSOR}", kind)
    rows = (_whole_rows if siglip else _clip_rows)(text, template, where)
    if siglip and (template.inputs is None or "attention_mask" in template.inputs):
        notes.append(
            "texts are read with what fills them up, as SigLIP's are; the folder's tokenizer gives an attention mask "
            "besides, which would hide that from SiglipModel"
        )
    most = spec.text.embedding.context_length
    return PairTold(spec, seen, rows, min(most, template.longest or most), notes)


def _both_towers(text: Tree, vision: Tree, where: str) -> tuple[Tree, Tree]:
    """What both classes have in common, as trees of an image encoder and a text tower."""
    _, seeing = _sizes(vision, f"{where}: vision_config")
    _, reading = _sizes(text, f"{where}: text_config")
    side = size_of(vision, "image_size", f"{where}: vision_config")
    embedding = {
        "image_size": (side, side),
        "channels": size_of(vision, "num_channels", f"{where}: vision_config"),
        "patch_size": size_of(vision, "patch_size", f"{where}: vision_config"),
    }
    tokens = {
        "vocab_size": size_of(text, "vocab_size", f"{where}: text_config"),
        "context_length": size_of(text, "max_position_embeddings", f"{where}: text_config"),
    }
    image = {"kind": "image_encoder", "embedding": embedding, "stack": seeing}
    return image, {"embedding": tokens, "stack": reading}


def _clip(config: Tree, text: Tree, vision: Tree, where: str) -> Tree:
    image, reads = _both_towers(text, vision, where)
    image["embedding"] |= {"bias": False, "norm": image["stack"]["final_norm"]}
    scale = share_of(config, "logit_scale_init_value", where, 2.6592)
    return {
        "image": image,
        "text": reads,
        "embed_dim": size_of(config, "projection_dim", where, 512),
        "similarity": {"scale": math.exp(scale)},
    }


def _siglip(config: Tree, text: Tree, vision: Tree, where: str) -> Tree:
    image, reads = _both_towers(text, vision, where)
    block, width = image["stack"]["blocks"][0], image["stack"]["width"]
    attention = {key: value for key, value in block["mixer"].items() if key != "dropout"}
    pool = {"kind": "attention", "attention": attention, "norm": block["norm"], "feedforward": block["feedforward"]}
    image["embedding"] |= {"class_token": False}
    told = text["projection_size"]
    projected = reads["stack"]["width"] if told is None else size_of(text, "projection_size", f"{where}: text_config")
    if projected != width:
        raise CheckpointError(
            f"{where}: text_config.projection_size={projected} and vision_config.hidden_size={width} must agree, as "
            "texts and pictures share a space"
        )
    return {
        "image": {**image, "pool": pool},
        "text": {**reads, "causal": False},
        "embed_dim": width,
        "image_projection": None,
        "text_projection": {"bias": True},
        "similarity": {"scale": 10.0, "scale_most": None, "bias": -10.0},
    }


def _clip_rows(text: Tree, template: Template, where: str) -> CaptionRows:
    """CheckpointError where the model would look for a text's vector elsewhere than at the token behind it."""
    told = text["eos_token_id"]
    highest = told == LEGACY_END and template.end == template.highest
    if not highest and (told != template.end or told == LEGACY_END):
        raise CheckpointError(
            f"{where}: text_config.eos_token_id={told!r} is where the model reads a text's vector, and the tokenizer "
            f"puts {template.end} behind a text (highest id {template.highest}); take the tokenizer that belongs to "
            "the model"
        )
    if template.start == template.end:
        raise CheckpointError(
            f"{where}: the tokenizer puts {template.end} in front of a text and behind it, and CLIPModel would read "
            "the text's vector in front; put another token in front"
        )
    return CaptionRows(start=template.start, end=template.end, fill=_pad(template, template.end))


def _whole_rows(text: Tree, template: Template, where: str) -> CaptionRows:
    if template.pad is None:
        raise CheckpointError(f"{where}: the folder's tokenizer names no pad_token, which fills up what SigLIP reads")
    return CaptionRows(start=template.start, end=template.end, fill=template.pad, whole=True)


def _pad(template: Template, otherwise: int) -> int:
    return otherwise if template.pad is None else template.pad


def _files(told: PairTold, siglip: bool) -> dict[str, Tree]:
    """What they cannot say is left out; the reader then gives another record."""
    spec, image = told.spec, told.spec.image
    if not isinstance(image, ImageEncoder):
        raise CheckpointError("it has Vision Transformers alone, and the image tower is of kind modified_resnet")
    text = {
        **_said_of(spec.text.stack),
        "vocab_size": spec.text.embedding.vocab_size,
        "max_position_embeddings": spec.text.embedding.context_length,
        "bos_token_id": told.rows.end if told.rows.start is None else told.rows.start,
        "eos_token_id": told.rows.end,
        "pad_token_id": told.rows.fill,
    }
    vision = {
        **_said_of(image.stack),
        "image_size": image.embedding.image_size[0],
        "patch_size": image.embedding.patch_size,
        "num_channels": image.embedding.channels,
    }
    config: Tree = {
        "architectures": ["SiglipModel" if siglip else "CLIPModel"],
        "model_type": "siglip" if siglip else "clip",
        "dtype": "float32",
    }
    if siglip:
        text |= {"model_type": "siglip_text_model", "projection_size": spec.embed_dim}
        vision |= {"model_type": "siglip_vision_model"}
    else:
        text |= {"model_type": "clip_text_model"}
        vision |= {"model_type": "clip_vision_model"}
        config |= {"projection_dim": spec.embed_dim, "logit_scale_init_value": math.log(spec.similarity.scale)}
    kind = "SiglipImageProcessor" if siglip else "CLIPImageProcessor"
    processor = processor_of(told.augmentation, kind)
    processor["processor_class"] = "SiglipProcessor" if siglip else "CLIPProcessor"
    if not siglip:
        processor.setdefault("do_center_crop", False)
    return {CONFIG: {**config, "text_config": text, "vision_config": vision}, PROCESSOR: processor}


def _said_of(stack: Any) -> Tree:
    block, mixer = stack.blocks[0], stack.attention[0]
    return {
        "hidden_size": stack.width,
        "intermediate_size": block.feedforward.hidden_dim,
        "num_hidden_layers": len(stack.blocks),
        "num_attention_heads": mixer.num_heads,
        "hidden_act": _ACTIVATIONS.get(block.feedforward.activation, ("gelu",))[-1],
        "layer_norm_eps": block.norm.eps,
        "attention_dropout": mixer.dropout,
    }


def _lost(told: PairTold, where: str) -> list[str]:
    return lost_in_processor(told.augmentation, where)


def _format(siglip: bool) -> PairFormat:
    name, family = ("SiglipModel", HUGGINGFACE_SIGLIP) if siglip else ("CLIPModel", HUGGINGFACE_CLIP)
    texts = "AutoProcessor.from_pretrained(folder)" + (" with padding='max_length'" if siglip else "")
    return PairFormat(
        library="huggingface",
        architecture=name,
        config=CONFIG,
        weights=(WEIGHTS,),
        loading=f"{name}.from_pretrained(folder), {texts}",
        names=lambda spec: family,
        files=lambda told: _files(told, siglip),
        read=lambda files, folder, template: _read(files, folder, template, siglip),
        pixels=lambda files, picture: pixels_by(files[PROCESSOR], picture),
        lost=_lost,
        said=of_evaluation,
        inputs=("input_ids",) if siglip else ("input_ids", "attention_mask"),
    )


HUGGINGFACE_CLIP_MODEL, HUGGINGFACE_SIGLIP_MODEL = _format(siglip=False), _format(siglip=True)
