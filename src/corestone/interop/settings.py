"""A Decoder's record as a Hugging Face config.json, and back. What a side cannot say is refused, not dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corestone.core.errors import CheckpointError
from corestone.core.spec import parse
from corestone.interop.families import DEFAULTS, FAMILIES, SHAPE_KEYS, Family
from corestone.models.spec import Decoder


def family_of_config(config: Mapping[str, Any], where: str) -> Family:
    """The family that config.json names; CheckpointError where there is none here."""
    known = {family.model_type: family for family in FAMILIES}
    model_type = config.get("model_type")
    if model_type not in known:
        raise CheckpointError(
            f"{where}: model_type {model_type!r} cannot be expressed here; known: {', '.join(sorted(known))}"
        )
    return known[model_type]


def to_spec(family: Family, config: Mapping[str, Any], where: str) -> Decoder:
    """Read a Decoder out of config.json.

    The initialisation becomes what the library would use (`initializer_range` for both tables); it matters only to
    someone who starts afresh from the record.

    Raises:
        CheckpointError: a size is missing or no positive whole number, or a setting asks for arithmetic that a Decoder
            cannot do.
        SpecError: a value is out of range.
    """
    for key in SHAPE_KEYS:
        if not _positive(config.get(key)):
            raise CheckpointError(f"{where}: '{key}' must be a positive whole number (got {config.get(key)!r})")
    for key, allowed in family.only.items():
        if key in config and config[key] not in allowed:
            raise CheckpointError(
                f"{where}: {key}={config[key]!r} cannot be expressed here (only {key}={allowed[0]!r} can)"
            )
    activation = config.get(family.activation_key, family.activations[0])
    if activation not in family.activations:
        raise CheckpointError(
            f"{where}: {family.activation_key}={activation!r} cannot be expressed here; known: "
            + ", ".join(family.activations)
        )
    width, heads = config["n_embd"], config["n_head"]
    if width % heads:
        raise CheckpointError(f"{where}: n_embd={width} is no multiple of n_head={heads}")
    return parse(Decoder, _tree(family, {**DEFAULTS, **config}, where), where)


def _tree(family: Family, config: Mapping[str, Any], where: str) -> dict[str, Any]:
    width, heads = config["n_embd"], config["n_head"]
    hidden = config.get(family.hidden_key) if family.hidden_key else None
    if hidden is not None and not _positive(hidden):
        raise CheckpointError(f"{where}: '{family.hidden_key}' must be a positive whole number (got {hidden!r})")
    norm = {"eps": config["layer_norm_epsilon"]}
    block = {
        "norm": norm,
        "norm_at": family.norm_at,
        "mixer": {"num_heads": heads, "head_dim": width // heads, "dropout": config["attn_pdrop"]},
        "feedforward": {"hidden_dim": hidden or 4 * width},
        "dropout": config["resid_pdrop"],
    }
    std = config["initializer_range"]
    return {
        "embedding": {
            "vocab_size": config["vocab_size"],
            "context_length": config["n_positions"],
            "dropout": config["embd_pdrop"],
        },
        "stack": {
            "width": width,
            "blocks": [block] * config["n_layer"],
            "final_norm": norm if family.final_norm else None,
        },
        "init": {"std": std, "position_std": std, "scale_residual": family.scale_residual},
    }


def family_of_spec(spec: Decoder, where: str) -> Family:
    """The family that can express a Decoder; CheckpointError says what none can."""
    first = spec.stack.blocks[0]
    for layer, block in enumerate(spec.stack.blocks):
        if block.mixer.window is not None:
            raise CheckpointError(
                f"{where}: layer {layer} attends within a window of {block.mixer.window} tokens (as GPT-3's banded "
                "layers do), which no model class of Hugging Face known here can express; it cannot be exported"
            )
        if block != first:
            raise CheckpointError(
                f"{where}: layer {layer} differs from layer 0; Hugging Face has one set of settings for all layers, so "
                "it cannot be exported"
            )
    final = spec.stack.final_norm
    families = [f for f in FAMILIES if f.norm_at == first.norm_at and f.final_norm == (final is not None)]
    if not families:
        raise CheckpointError(
            f"{where}: norm_at={first.norm_at} {'with' if final else 'without'} a final norm is neither GPT-2's shape "
            "nor GPT-1's; it cannot be exported"
        )
    if final is not None and final != first.norm:
        raise CheckpointError(f"{where}: the final norm differs from the layers' norms; it cannot be exported")
    if first.mixer.num_heads * first.mixer.head_dim != spec.stack.width:
        raise CheckpointError(
            f"{where}: {first.mixer.num_heads} heads of {first.mixer.head_dim} do not make the width "
            f"{spec.stack.width}, as they must in Hugging Face's classes; it cannot be exported"
        )
    family = families[0]
    if family.hidden_key is None and first.feedforward.hidden_dim != 4 * spec.stack.width:
        raise CheckpointError(
            f"{where}: hidden_dim={first.feedforward.hidden_dim} is not 4 x width, the only size that "
            f"{family.architecture} has; it cannot be exported"
        )
    return family


def to_config(family: Family, spec: Decoder, vocab_size: int, separator: int) -> dict[str, Any]:
    """The config.json of a Decoder, with its vocabulary cut to `vocab_size` entries."""
    block = spec.stack.blocks[0]
    config: dict[str, Any] = {
        "model_type": family.model_type,
        "architectures": [family.architecture],
        "vocab_size": vocab_size,
        "n_positions": spec.embedding.context_length,
        "n_embd": spec.stack.width,
        "n_layer": len(spec.stack.blocks),
        "n_head": block.mixer.num_heads,
        family.activation_key: family.activations[0],
        "embd_pdrop": spec.embedding.dropout,
        "resid_pdrop": block.dropout,
        "attn_pdrop": block.mixer.dropout,
        "layer_norm_epsilon": block.norm.eps,
        "initializer_range": spec.init.std,
        "bos_token_id": separator,
        "eos_token_id": separator,
        "dtype": "float32",
    }
    if family.hidden_key is not None:
        config[family.hidden_key] = block.feedforward.hidden_dim
    config.update({key: values[0] for key, values in family.only.items() if isinstance(values[0], bool)})
    return config


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
