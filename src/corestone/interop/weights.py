"""A Decoder's parameters under another library's names, and back, by a family's table.

Both directions are total: a tensor that is missing, unexpected or misshaped is refused by name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from corestone.core.batch import plain_batch
from corestone.core.errors import CheckpointError
from corestone.interop.families import Family, Name
from corestone.models.decoder import DecoderModel, build_decoder
from corestone.models.spec import Decoder
from corestone.nn.head import TiedHead

HEAD = "lm_head.weight"
BY_TOKEN = ("embedding.token.weight", "head.weight", "head.bias")
"""Parameters with a row per token."""

_EXACT = (torch.float32, torch.bfloat16, torch.float16)
_SHOWN = 4


def to_ours(family: Family, spec: Decoder, theirs: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Rename, rearrange and widen to float32 (which is exact from bfloat16 and float16).

    Args:
        theirs: tensors of a saved model, with or without the family's prefix; a tied head may be stored again.
        where: names the folder in errors.

    Raises:
        CheckpointError: tensors missing, unexpected, misshaped, of a type that float32 cannot hold, or not finite; a
            head that differs from the token table.
    """
    body = _body(family, spec, theirs, where)
    shapes, heads = parameter_shapes(spec), spec.stack.attention[0].num_heads
    ours: dict[str, Tensor] = {}
    for name in renamed(family, spec):
        shape = shapes[name.ours]
        wanted = shape[::-1] if name.layout == "transposed" else (shape[0] // len(name.parts), *shape[1:])
        parts = [_checked(body[part], part, wanted, where) for part in name.parts]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        if name.layout == "transposed":
            tensor = tensor.T
        elif name.layout == "by_head":
            tensor = tensor.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
        ours[name.ours] = tensor.to(torch.float32).contiguous()
    return ours


def _checked(tensor: Tensor, name: str, wanted: tuple[int, ...], where: str) -> Tensor:
    """The tensor, if it can be taken."""
    if tuple(tensor.shape) != wanted:
        raise CheckpointError(
            f"{where}: tensor '{name}' has shape {list(tensor.shape)}, config.json asks for {list(wanted)}"
        )
    if tensor.dtype not in _EXACT:
        raise CheckpointError(
            f"{where}: tensor '{name}' is stored as {str(tensor.dtype).removeprefix('torch.')}; only "
            "float32, bfloat16 and float16 weights are taken: save the model in one of them"
        )
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{where}: tensor '{name}' holds values that are not finite")
    return tensor


def to_theirs(family: Family, spec: Decoder, ours: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Rename and rearrange, with the family's prefix, a tied head once, and tables by token cut to `rows` rows."""
    theirs: dict[str, Tensor] = {}
    heads = spec.stack.attention[0].num_heads
    for name in renamed(family, spec):
        tensor = ours[name.ours][:rows] if name.ours in BY_TOKEN else ours[name.ours]
        if name.layout == "transposed":
            tensor = tensor.T
        elif name.layout == "by_head":
            tensor = tensor.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)
        for part, value in zip(name.parts, tensor.chunk(len(name.parts)), strict=True):
            theirs[prefixed(family, part)] = value.contiguous()
    return theirs


def prefixed(family: Family, name: str) -> str:
    """Their whole name: the head is no part of the body."""
    return name if name.startswith("lm_head.") else family.prefix + name


def renamed(family: Family, spec: Decoder) -> Iterator[Name]:
    """Every parameter of a Decoder under both names, the layers' numbers filled in."""
    present = parameter_shapes(spec).keys()
    for name in family.names:
        for layer in range(len(spec.stack.blocks)) if "{layer}" in name.ours else (0,):
            ours = name.ours.format(layer=layer)
            if ours in present:
                yield replace(name, ours=ours, theirs=tuple(part.format(layer=layer) for part in name.parts))


def parameter_shapes(spec: Decoder) -> dict[str, tuple[int, ...]]:
    """Shapes by name of everything a Decoder learns, found without allocating it."""
    model = build_decoder(spec, device="meta")
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def build_with(spec: Decoder, tensors: Mapping[str, Tensor], where: str) -> DecoderModel:
    """A model in evaluation mode that holds exactly these weights, without copying them.

    Raises CheckpointError naming what is missing, unexpected or misshaped.
    """
    shapes = parameter_shapes(spec)
    _same_names(shapes.keys(), tensors.keys(), where, "its model.yaml")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(
                f"{where}: tensor '{name}' has shape {list(tensors[name].shape)}, its model.yaml asks for {list(shape)}"
            )
    model = build_decoder(spec, device="meta")
    model.load_state_dict(tensors, strict=False, assign=True)  # names are checked above; the tied head has none
    if spec.head.tied:
        model.head = TiedHead(model.embedding.token)
    return model.eval()


@torch.no_grad()
def logits_of(model: DecoderModel, tokens_BT: Tensor) -> Tensor:
    """Float32 logits (batch, tokens, vocabulary) of whole causal rows."""
    out: Tensor = model.head(model(plain_batch(tokens_BT)).hidden)
    return out


def _body(family: Family, spec: Decoder, theirs: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Their tensors without prefix, buffers and repeated head, of exactly the expected names."""
    expected = {part for name in renamed(family, spec) for part in name.parts}
    layers = range(len(spec.stack.blocks))
    buffers = {name.format(layer=layer) for name in family.buffers for layer in layers}
    whole = any(name.startswith(family.prefix) for name in theirs)
    body = {}
    for name, tensor in theirs.items():
        short = name.removeprefix(family.prefix) if whole else name
        if short in buffers or (name == HEAD and spec.head.tied):
            continue
        inside = not whole or name.startswith((family.prefix, "lm_head."))
        body[short if inside else f"{name} (without prefix)"] = tensor
    _same_names(expected, body.keys(), where, "config.json")
    table = body[family.names[0].parts[0]]
    if spec.head.tied and HEAD in theirs and not torch.equal(theirs[HEAD], table):
        raise CheckpointError(
            f"{where}: '{HEAD}' differs from '{family.names[0].parts[0]}', but config.json says they are tied; a model "
            "whose head is not tied to its token table cannot be expressed here"
        )
    return body


def _same_names(expected: Collection[str], found: Collection[str], where: str, by: str) -> None:
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unexpected:
        parts = [f"lack {_listed(missing)}"] * bool(missing) + [f"also hold {_listed(unexpected)}"] * bool(unexpected)
        raise CheckpointError(f"{where}: the weights do not fit {by}: they {' and '.join(parts)}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more
