"""A Decoder's record as a Hugging Face config.json, and back. What a side cannot say is refused, not dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corestone.core.errors import CheckpointError, CorestoneError
from corestone.core.spec import differing, parse, plain
from corestone.interop.families import FAMILIES, Family, Tree
from corestone.models.spec import Decoder
from corestone.nn.spec import Attention, Rotary


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

    The initialisation becomes what the library would use (`initializer_range` for all tables); it matters only to
    someone who starts afresh from the record.

    Raises:
        CheckpointError: a size is missing or no positive whole number, or a setting asks for arithmetic that a Decoder
            cannot do.
        SpecError: a value is out of range.
    """
    for key in family.needed:
        if not _positive(config.get(key)):
            raise CheckpointError(f"{where}: '{key}' must be a positive whole number (got {config.get(key)!r})")
    for key, allowed in family.only.items():
        if key in config and config[key] not in allowed:
            raise CheckpointError(
                f"{where}: {key}={config[key]!r} cannot be expressed here (only {key}={allowed[0]!r} can)"
            )
    told = {**family.defaults, **config}
    settings = {ours: told[theirs] for ours, theirs in family.keys.items()}
    for name in ("hidden_dim", "embedding_width", "context_length"):
        if settings.get(name) is not None and not _positive(settings[name]):
            key = family.keys[name]
            raise CheckpointError(f"{where}: '{key}' must be a positive whole number (got {settings[name]!r})")
    if settings["width"] % settings["num_heads"]:
        raise CheckpointError(
            f"{where}: {family.keys['width']}={settings['width']} is no multiple of "
            f"{family.keys['num_heads']}={settings['num_heads']}"
        )
    settings["activation"] = _activation(family, settings.get("activation"), where)
    return parse(Decoder, _tree(family, settings), where)


def _activation(family: Family, told: Any, where: str) -> str:
    """Our name of the activation; a family that names none has one."""
    if "activation" not in family.keys:
        return next(iter(family.activations))
    for ours, theirs in family.activations.items():
        if told in theirs:
            return ours
    known = ", ".join(name for theirs in family.activations.values() for name in theirs)
    raise CheckpointError(f"{where}: {family.keys['activation']}={told!r} cannot be expressed here; known: {known}")


def _tree(family: Family, told: Mapping[str, Any]) -> Tree:
    """A Decoder's tree from settings by our names and the family's own shape."""
    shape = family.shape
    width, heads, pre_norm = told["width"], told["num_heads"], told.get("pre_norm", True)
    norm = {"eps": told.get("eps", 1e-5)}
    mixer = {"kind": "attention", "num_heads": heads, "head_dim": width // heads, "dropout": told["attention_dropout"]}
    if "rotary_dims" in told:
        mixer["position"] = {"kind": "rotary", "dims": told["rotary_dims"], **shape.get("rotary", {})}
    block = {
        "norm": norm,
        "norm_at": "in" if pre_norm else "after",
        "mixer": {**mixer, **shape.get("mixer", {})},
        "feedforward": {"hidden_dim": told.get("hidden_dim") or 4 * width, "activation": told["activation"]},
        "dropout": told["dropout"],
        **shape.get("block", {}),
    }
    inner = told.get("embedding_width")
    return {
        "embedding": {
            "vocab_size": told["vocab_size"],
            "context_length": told["context_length"],
            "width": None if inner == width else inner,
            "norm": norm if shape.get("embedding_norm", False) else None,
            "dropout": told.get("embedding_dropout", 0.0),
            **shape.get("embedding", {}),
        },
        "stack": {
            "width": width,
            "blocks": [block] * told["depth"],
            "final_norm": norm if pre_norm and shape.get("final_norm", True) else None,
        },
        "head": shape.get("head", {}),
        "init": {"std": told["std"], "position_std": told["std"], **shape.get("init", {})},
    }


def family_of_spec(spec: Decoder, where: str) -> Family:
    """The family that can express a Decoder: the one whose config.json reads back as the same record.

    Raises CheckpointError that says where the nearest family's would differ.
    """
    for layer, block in enumerate(spec.stack.blocks):
        if not isinstance(block.mixer, Attention):
            raise CheckpointError(
                f"{where}: model.stack.blocks.{layer}.mixer: '{block.mixer.kind}' has no counterpart in Hugging Face "
                "known here; only models whose every layer attends can be exported"
            )
    nearest: tuple[int, str, list[str]] | None = None
    for family in FAMILIES:
        try:
            again = to_spec(family, to_config(family, spec, spec.embedding.vocab_size, 0), where)
        except CorestoneError:
            continue  # a value that this family has no word for
        paths = [p for p in differing(plain(spec), plain(again), "model") if not p.startswith("model.init")]
        if not paths:
            return family
        if nearest is None or len(paths) < nearest[0]:
            nearest = (len(paths), family.architecture, paths)
    if nearest is None:
        raise CheckpointError(f"{where}: no model class of Hugging Face known here can express it")
    shown = ", ".join(nearest[2][:4]) + (f" and {nearest[0] - 4} more" if nearest[0] > 4 else "")
    raise CheckpointError(
        f"{where}: no model class of Hugging Face known here can express it; {nearest[1]} comes nearest and cannot say "
        f"{shown}"
    )


def to_config(family: Family, spec: Decoder, vocab_size: int, separator: int) -> dict[str, Any]:
    """The config.json of a Decoder, with its vocabulary cut to `vocab_size` entries; what it cannot say is left out."""
    block, mixer = spec.stack.blocks[0], spec.stack.attention[0]
    position = mixer.position
    told = {
        "vocab_size": vocab_size,
        "context_length": spec.embedding.context_length,
        "width": spec.stack.width,
        "depth": len(spec.stack.blocks),
        "num_heads": mixer.num_heads,
        "hidden_dim": block.feedforward.hidden_dim,
        "embedding_width": spec.embedding.width or spec.stack.width,
        "pre_norm": block.norm_at == "in",
        "rotary_dims": position.dims if isinstance(position, Rotary) else None,
        "eps": block.norm.eps,
        "std": 0.02 if spec.init.std is None else spec.init.std,
        "embedding_dropout": spec.embedding.dropout,
        "dropout": block.dropout,
        "attention_dropout": mixer.dropout,
        "activation": next(iter(family.activations.get(block.feedforward.activation, ())), None),
    }
    config: dict[str, Any] = {
        "model_type": family.model_type,
        "architectures": [family.architecture],
        **{theirs: told[ours] for ours, theirs in family.keys.items()},
        "bos_token_id": separator,
        "eos_token_id": separator,
        "dtype": "float32",
    }
    config.update({key: values[0] for key, values in family.only.items() if isinstance(values[0], bool)})
    return config


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
