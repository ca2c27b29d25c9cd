"""A model's record as a Hugging Face config.json, and back. What a side cannot say is refused, not dropped."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from corestone.core.errors import CheckpointError, CorestoneError
from corestone.core.spec import differing, parse, plain
from corestone.core.vocabulary import Vocabulary
from corestone.interop.families import FAMILIES
from corestone.interop.family import Exchanged, Family, Settings, Tree, stacks_of
from corestone.models.spec import EncoderDecoder
from corestone.nn.spec import Attention, Buckets, Rotary


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
    if len(classes) > 1 and told and not (isinstance(told, list) and any(name in classes for name in told)):
        raise CheckpointError(
            f"{where}: architectures={told!r} cannot be expressed here; known for {model_type}: {', '.join(classes)}"
        )
    return found


OPTIONAL_SIZES = ("hidden_dim", "embedding_width", "context_length", "decoder_depth", "buckets", "max_distance")
"""Settings that must be positive whole numbers where they are told."""


def to_spec(family: Family, config: Mapping[str, Any], where: str, stored: Collection[str] = ()) -> Exchanged:
    """Read a record out of config.json.

    The initialisation becomes what the library would use (`initializer_range` for all tables); it matters only to
    someone who starts afresh from the record.

    Args:
        stored: names of the tensors beside it, which some classes' words depend on.

    Raises:
        CheckpointError: a size is missing or no positive whole number, or a setting asks for arithmetic that cannot be
            expressed here.
        SpecError: a value is out of range.
    """
    rules = family.settings
    config = rules.plainly(config, stored)
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
    for name in OPTIONAL_SIZES:
        if settings.get(name) is not None and not _positive(settings[name]):
            key = rules.keys[name]
            raise CheckpointError(f"{where}: '{key}' must be a positive whole number (got {settings[name]!r})")
    if "head_dim" not in settings and settings["width"] % settings["num_heads"]:
        raise CheckpointError(
            f"{where}: {rules.keys['width']}={settings['width']} is no multiple of "
            f"{rules.keys['num_heads']}={settings['num_heads']}"
        )
    settings["gated"] = settings.get("activation") in rules.gated
    settings["activation"] = _activation(rules, settings.get("activation"), where)
    return parse(family.record, _tree(family, settings), where)


def _activation(rules: Settings, told: Any, where: str) -> str:
    """Our name of the activation; a family that names none has one."""
    if "activation" not in rules.keys:
        return next(iter(rules.activations))
    for ours, theirs in rules.activations.items():
        if told in theirs:
            return ours
    known = ", ".join(name for theirs in rules.activations.values() for name in theirs)
    raise CheckpointError(f"{where}: {rules.keys['activation']}={told!r} cannot be expressed here; known: {known}")


def _tree(family: Family, told: Tree) -> Tree:
    """A record's tree from settings by our names and the family's own shape."""
    rules, shape, width = family.settings, family.settings.shape, told["width"]
    norm = {"eps": told.get("eps", 1e-5), **shape.get("norm", {})}
    block = _block(shape, told, norm)
    stack = {
        "width": width,
        "blocks": [block] * told["depth"],
        "final_norm": norm if told.get("pre_norm", True) and shape.get("final_norm", True) else None,
        "dropout": told.get("final_dropout", 0.0),
    }
    inner, std = told.get("embedding_width"), told.get("std", 0.02)
    tree = {
        "embedding": {
            "vocab_size": told["vocab_size"],
            "context_length": told["context_length"],
            "types": told.get("types"),
            "width": None if inner == width else inner,
            "norm": norm if shape.get("embedding_norm", False) else None,
            "dropout": told.get("embedding_dropout", 0.0),
            **shape.get("embedding", {}),
        },
        "init": {"std": std, "position_std": std, **shape.get("init", {})},
        **rules.parts({**told, "norm": norm}),
    }
    if family.record is not EncoderDecoder:
        return {**tree, "stack": stack}
    crossing = {**block, "cross": {**block["mixer"], "position": None}}
    return {
        **tree,
        "encoder": stack,
        "decoder": {**stack, "blocks": [crossing] * (told["decoder_depth"] or told["depth"])},
    }


def _block(shape: Mapping[str, Any], told: Tree, norm: Tree) -> Tree:
    """A layer's tree."""
    width, heads = told["width"], told["num_heads"]
    head_dim = told.get("head_dim") or width // heads
    mixer = {"kind": "attention", "num_heads": heads, "head_dim": head_dim, "dropout": told["attention_dropout"]}
    if "rotary_dims" in told:
        mixer["position"] = {"kind": "rotary", "dims": told["rotary_dims"], **shape.get("rotary", {})}
    if "buckets" in told:
        mixer["position"] = {"kind": "buckets", "num": told["buckets"], "max_distance": told["max_distance"]}
    return {
        "norm": norm,
        "norm_at": "in" if told.get("pre_norm", True) else "after",
        "mixer": {**mixer, **shape.get("mixer", {})},
        "feedforward": {
            "hidden_dim": told.get("hidden_dim") or 4 * width,
            "activation": told["activation"],
            "gated": told["gated"],
            "dropout": told.get("hidden_dropout", 0.0),
            **shape.get("feedforward", {}),
        },
        "dropout": told["dropout"],
        **shape.get("block", {}),
    }


def family_of_spec(spec: Exchanged, where: str) -> Family:
    """The family that can express a record: the one whose config.json reads back as the same record.

    Raises CheckpointError that says where the nearest family's would differ.
    """
    for name, stack in stacks_of(spec).items():
        for layer, block in enumerate(stack.blocks):
            if not isinstance(block.mixer, Attention):
                raise CheckpointError(
                    f"{where}: model.{name}.blocks.{layer}.mixer: '{block.mixer.kind}' has no counterpart in Hugging "
                    "Face known here; only models whose every layer attends can be exported"
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


def to_config(family: Family, spec: Exchanged, vocabulary: Vocabulary) -> dict[str, Any]:
    """The config.json of a record, cut to the vocabulary's size; what it cannot say is left out."""
    rules = family.settings
    told = {**_told(spec, rules), "vocab_size": vocabulary.size}
    ids: dict[str, Any] = {"eos_token_id": vocabulary.separator, "pad_token_id": vocabulary.pad}
    if isinstance(spec, EncoderDecoder):
        ids["decoder_start_token_id"] = vocabulary.start
    else:
        ids["bos_token_id"] = vocabulary.separator
    config: dict[str, Any] = {
        "model_type": family.model_type,
        "architectures": [family.architecture],
        **{theirs: told[ours] for ours, theirs in rules.keys.items()},
        **ids,
        "dtype": "float32",
    }
    config.update({key: values[0] for key, values in rules.only.items() if isinstance(values[0], bool)})
    return {**config, **rules.afresh}


def _told(spec: Exchanged, rules: Settings) -> Tree:
    """A record's settings by our names, of its first layer where they are a layer's."""
    stacks = stacks_of(spec)
    stack = next(iter(stacks.values()))
    block, mixer, embedding = stack.blocks[0], stack.attention[0], spec.embedding
    position, activations = mixer.position, rules.activations.get(block.feedforward.activation, ())
    named = (name for name in activations if (name in rules.gated) == block.feedforward.gated)
    return {
        "vocab_size": embedding.vocab_size,
        "context_length": embedding.context_length,
        "types": embedding.types,
        "width": stack.width,
        "depth": len(stack.blocks),
        "decoder_depth": len(stacks.get("decoder", stack).blocks),
        "num_heads": mixer.num_heads,
        "head_dim": mixer.head_dim,
        "hidden_dim": block.feedforward.hidden_dim,
        "embedding_width": embedding.width or stack.width,
        "pre_norm": block.norm_at == "in",
        "rotary_dims": position.dims if isinstance(position, Rotary) else None,
        "buckets": position.num if isinstance(position, Buckets) else None,
        "max_distance": position.max_distance if isinstance(position, Buckets) else None,
        "eps": block.norm.eps,
        "std": 0.02 if spec.init.std is None else spec.init.std,
        "embedding_dropout": embedding.dropout,
        "dropout": block.dropout,
        "attention_dropout": mixer.dropout,
        "hidden_dropout": block.feedforward.dropout,
        "final_dropout": stack.dropout,
        "activation": next(named, None),
        "tied": spec.head is not None and spec.head.tied,
        "scaled": spec.head is not None and spec.head.scale != 1.0,
    }


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
