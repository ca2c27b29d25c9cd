"""`ViTForImageClassification` of `transformers`: config.json, preprocessor_config.json, and what they mean here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from corestone.core.errors import CheckpointError
from corestone.core.spec import parse
from corestone.data.images.augment_spec import Augmentation
from corestone.interop.family import ACTIVATIONS, ANY_FAMILY, Tree
from corestone.interop.huggingface_processor import augmentation_in, lost_in_processor, pixels_by, processor_of
from corestone.interop.pictured import (
    CONFIG,
    PROCESSOR,
    Format,
    Told,
    heads_fit,
    of_evaluation,
    one_of,
    pair_of,
    refuse_others,
    share_of,
    size_of,
    square,
    stack_of,
)
from corestone.interop.vision import HUGGINGFACE
from corestone.interop.weights import to_ours, to_theirs
from corestone.models.picture_spec import ImageEncoder

_ACTIVATIONS = {"gelu": ("gelu",), **ACTIVATIONS}

_SILENT = (
    "_name_or_path", "architectures", "chunk_size_feed_forward", "dtype", "encoder_stride", "finetuning_task",
    "id2label", "initializer_range", "label2id", "model_type", "num_labels", "output_attentions",
    "output_hidden_states", "pooler_act", "pooler_output_size", "problem_type", "return_dict", "torch_dtype",
    "transformers_version",
)  # fmt: skip
"""Settings of config.json that change nothing that a classifier computes."""

_READ = (
    "attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "hidden_size", "image_size",
    "intermediate_size", "layer_norm_eps", "num_attention_heads", "num_channels", "num_hidden_layers", "patch_size",
    "qkv_bias",
)  # fmt: skip


def _files(spec: ImageEncoder, classes: Sequence[str], seen: Augmentation) -> dict[str, Tree]:
    return {CONFIG: _config(spec, classes), PROCESSOR: processor_of(seen, "ViTImageProcessor")}


def _config(spec: ImageEncoder, classes: Sequence[str]) -> Tree:
    """What it cannot say is left out; the reader then gives another record."""
    block, mixer, embedding = spec.stack.blocks[0], spec.stack.attention[0], spec.embedding
    return {
        "model_type": "vit",
        "architectures": [HUGGINGFACE.architecture],
        "hidden_size": spec.stack.width,
        "num_hidden_layers": len(spec.stack.blocks),
        "num_attention_heads": mixer.num_heads,
        "intermediate_size": block.feedforward.hidden_dim,
        "hidden_act": _ACTIVATIONS.get(block.feedforward.activation, ("gelu",))[0],
        "hidden_dropout_prob": block.dropout,
        "attention_probs_dropout_prob": mixer.dropout,
        "initializer_range": 0.02 if spec.init.std is None else spec.init.std,
        "layer_norm_eps": block.norm.eps,
        "image_size": square(embedding.image_size),
        "patch_size": embedding.patch_size,
        "num_channels": embedding.channels,
        "qkv_bias": mixer.bias_in,
        "id2label": {str(number): name for number, name in enumerate(classes)},
        "label2id": {name: number for number, name in enumerate(classes)},
        "dtype": "float32",
    }


def _read(files: Mapping[str, Tree], folder: Path) -> Told:
    config, where = files[CONFIG], f"{folder / CONFIG}"
    told = config.get("architectures")
    if told and HUGGINGFACE.architecture not in told:
        raise CheckpointError(
            f"{where}: architectures={told!r} cannot be expressed here; known for vit: {HUGGINGFACE.architecture}"
        )
    classes = _classes(config, where)
    spec = _spec(config, len(classes), where)
    path = folder / PROCESSOR
    if PROCESSOR not in files:
        raise CheckpointError(f"{path}: no such file; without it nothing says how pictures are resized and scaled")
    embedding = spec.embedding
    seen = augmentation_in(files[PROCESSOR], embedding.image_size, embedding.channels, f"{path}", "ViTImageProcessor")
    notes = [
        f"{CONFIG}: {key}={config[key]!r} is not known here and was not taken over"
        for key in config
        if key not in (*_SILENT, *_READ, *ANY_FAMILY)
    ]
    return Told(spec, classes, seen, notes)


def _classes(config: Tree, where: str) -> tuple[str, ...]:
    """Names in the order of the logits; numbers where the folder names none, which are two then as in the library."""
    told = config.get("id2label")
    if told is None:
        return tuple(str(number) for number in range(size_of(config, "num_labels", where, 2)))
    numbers = sorted(int(key) for key in told if str(key).isdigit()) if isinstance(told, dict) else []
    if not numbers or numbers != list(range(len(told))) or not all(isinstance(name, str) for name in told.values()):
        raise CheckpointError(f"{where}: 'id2label' must name the classes 0, 1, 2 and so on (got {str(told)[:60]})")
    return tuple(told[str(number)] for number in numbers)


def _spec(config: Tree, classes: int, where: str) -> ImageEncoder:
    refuse_others(config, {**ANY_FAMILY, "qkv_bias": (True, False)}, where)
    width, heads = size_of(config, "hidden_size", where), size_of(config, "num_attention_heads", where)
    heads_fit(width, heads, ("hidden_size", "num_attention_heads"), where)
    patch = pair_of(config, "patch_size", where, 16)
    if patch[0] != patch[1]:
        raise CheckpointError(f"{where}: patch_size={list(patch)} cannot be expressed here, only square patches can")
    dropout, std = share_of(config, "hidden_dropout_prob", where), config.get("initializer_range", 0.02)
    stack = stack_of(
        width,
        heads,
        size_of(config, "num_hidden_layers", where),
        norm={"eps": config.get("layer_norm_eps", 1e-12)},
        feedforward={
            "hidden_dim": size_of(config, "intermediate_size", where),
            "activation": one_of(config.get("hidden_act", "gelu"), "hidden_act", _ACTIVATIONS, where),
        },
        mixer={
            "bias_in": config.get("qkv_bias", True),
            "dropout": share_of(config, "attention_probs_dropout_prob", where),
        },
        dropout=dropout,
    )
    embedding = {
        "image_size": pair_of(config, "image_size", where, 224),
        "channels": size_of(config, "num_channels", where, 3),
        "patch_size": patch[0],
        "dropout": dropout,
    }
    init = {"std": std, "position_std": std}
    tree = {"embedding": embedding, "stack": stack, "head": {"classes": classes}, "init": init}
    return parse(ImageEncoder, tree, where)


HUGGINGFACE_VIT = Format(
    library="huggingface",
    architecture=HUGGINGFACE.architecture,
    record=ImageEncoder,
    loading="AutoModelForImageClassification.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)",
    files=_files,
    read=_read,
    to_theirs=lambda spec, ours: to_theirs(HUGGINGFACE, spec, ours, spec.head.classes),
    to_ours=lambda spec, theirs, where: to_ours(HUGGINGFACE, spec, theirs, where),
    pixels=lambda files, picture: pixels_by(files[PROCESSOR], picture),
    lost=lost_in_processor,
    said=of_evaluation,
)
