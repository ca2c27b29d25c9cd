"""A model's record as a Hugging Face config.json, and back. What a side cannot say is refused, not dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corestone.core.errors import CheckpointError, CorestoneError
from corestone.core.spec import differing, parse, plain
from corestone.core.vocabulary import Vocabulary
from corestone.interop.families import FAMILIES
from corestone.interop.family import Family, Settings, Tree
from corestone.models.spec import Decoder, Encoder
from corestone.nn.spec import Attention, Rotary


def families_of_config(config: Mapping[str, Any], where: str) -> list[Family]:
    """The classes of the model_type that config.json names, which differ in their heads.

    Raises CheckpointError where there is none here, or where config.json names another class of several.
    """
    model_type = config.get("model_type")
    found = [family for family in FAMILIES if family.model_type == model_type]
    if not found:
        known = sorted({family.model_type for family in FAMILIES})
        raise CheckpointError(f"{where}: model_type {model_type!r} cannot be expressed here; known: {', '.join(known)}")
    classes, told = sorted({family.architecture for family in found}), config.get("architectures")
    if len(classes) > 1 and told and not set(told) & set(classes):
        raise CheckpointError(
            f"{where}: architectures={told!r} cannot be expressed here; known for {model_type}: {', '.join(classes)}"
        )
    return found


def to_spec(family: Family, config: Mapping[str, Any], where: str) -> Decoder | Encoder:
    """Read a record out of config.json.

    The initialisation becomes what the library would use (`initializer_range` for all tables); it matters only to
    someone who starts afresh from the record.

    Raises:
        CheckpointError: a size is missing or no positive whole number, or a setting asks for arithmetic that cannot be
            expressed here.
        SpecError: a value is out of range.
    """
    rules = family.settings
    told = {**rules.defaults, **config}
    for key in rules.needed:
        if not _positive(told.get(key)):
            raise CheckpointError(f"{where}: '{key}' must be a positive whole number (got {told.get(key)!r})")
    for key, allowed in rules.only.items():
        if key in config and config[key] not in allowed:
            raise CheckpointError(
                f"{where}: {key}={config[key]!r} cannot be expressed here (only {key}={allowed[0]!r} can)"
            )
    settings = {ours: told[theirs] for ours, theirs in rules.keys.items()}
    for name in ("hidden_dim", "embedding_width", "context_length"):
        if settings.get(name) is not None and not _positive(settings[name]):
            key = rules.keys[name]
            raise CheckpointError(f"{where}: '{key}' must be a positive whole number (got {settings[name]!r})")
    if settings["width"] % settings["num_heads"]:
        raise CheckpointError(
            f"{where}: {rules.keys['width']}={settings['width']} is no multiple of "
            f"{rules.keys['num_heads']}={settings['num_heads']}"
        )
    settings["activation"] = _activation(rules, settings.get("activation"), where)
    return parse(family.record, _tree(rules, settings), where)


def _activation(rules: Settings, told: Any, where: str) -> str:
    """Our name of the activation; a family that names none has one."""
    if "activation" not in rules.keys:
        return next(iter(rules.activations))
    for ours, theirs in rules.activations.items():
        if told in theirs:
            return ours
    known = ", ".join(name for theirs in rules.activations.values() for name in theirs)
    raise CheckpointError(f"{where}: {rules.keys['activation']}={told!r} cannot be expressed here; known: {known}")


def _tree(rules: Settings, told: Mapping[str, Any]) -> Tree:
    """A record's tree from settings by our names and the family's own shape."""
    shape = rules.shape
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
            "types": told.get("types"),
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
        "init": {"std": told["std"], "position_std": told["std"], **shape.get("init", {})},
        **rules.parts(norm),
    }


def family_of_spec(spec: Decoder | Encoder, where: str) -> Family:
    """The family that can express a record: the one whose config.json reads back as the same record.

    Raises CheckpointError that says where the nearest family's would differ.
    """
    for layer, block in enumerate(spec.stack.blocks):
        if not isinstance(block.mixer, Attention):
            raise CheckpointError(
                f"{where}: model.stack.blocks.{layer}.mixer: '{block.mixer.kind}' has no counterpart in Hugging Face "
                "known here; only models whose every layer attends can be exported"
            )
    nearest: tuple[int, str, list[str]] | None = None
    vocabulary = Vocabulary(size=spec.embedding.vocab_size, separator=0)
    for family in FAMILIES:
        if family.record is not type(spec):
            continue
        try:
            again = to_spec(family, to_config(family, spec, vocabulary), where)
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


def to_config(family: Family, spec: Decoder | Encoder, vocabulary: Vocabulary) -> dict[str, Any]:
    """The config.json of a record, cut to the vocabulary's size; what it cannot say is left out."""
    rules, block, mixer = family.settings, spec.stack.blocks[0], spec.stack.attention[0]
    position = mixer.position
    told = {
        "vocab_size": vocabulary.size,
        "context_length": spec.embedding.context_length,
        "types": spec.embedding.types,
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
        "activation": next(iter(rules.activations.get(block.feedforward.activation, ())), None),
    }
    config: dict[str, Any] = {
        "model_type": family.model_type,
        "architectures": [family.architecture],
        **{theirs: told[ours] for ours, theirs in rules.keys.items()},
        "bos_token_id": vocabulary.separator,
        "eos_token_id": vocabulary.separator,
        "pad_token_id": vocabulary.pad,
        "dtype": "float32",
    }
    config.update({key: values[0] for key, values in rules.only.items() if isinstance(values[0], bool)})
    return config


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
