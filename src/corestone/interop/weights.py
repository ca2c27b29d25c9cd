"""A Decoder's parameters under another library's names, and back, by a family's table.

Both directions are total: a tensor that is missing, unexpected or misshaped is refused by name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from corestone.core.batch import plain_batch
from corestone.core.errors import CheckpointError
from corestone.interop.families import Family
from corestone.models.decoder import DecoderModel, build_decoder
from corestone.models.spec import Decoder
from corestone.nn.head import TiedHead

HEAD = "lm_head.weight"
_EXACT = (torch.float32, torch.bfloat16, torch.float16)
_SHOWN = 4


def to_ours(family: Family, spec: Decoder, theirs: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Rename, transpose and widen to float32 (which is exact from bfloat16 and float16).

    Args:
        theirs: tensors of a saved model, with or without the family's prefix; a tied head may be stored again.
        where: names the folder in errors.

    Raises:
        CheckpointError: tensors missing, unexpected, misshaped, of a type that float32 cannot hold, or not finite; a
            head that differs from the token table.
    """
    body = _body(family, spec, theirs, where)
    shapes = parameter_shapes(spec)
    ours: dict[str, Tensor] = {}
    for our_name, their_name, transposed in renamed(family, spec):
        tensor, shape = body[their_name], shapes[our_name]
        wanted = shape[::-1] if transposed else shape
        if tuple(tensor.shape) != wanted:
            raise CheckpointError(
                f"{where}: tensor '{their_name}' has shape {list(tensor.shape)}, config.json asks for {list(wanted)}"
            )
        if tensor.dtype not in _EXACT:
            raise CheckpointError(
                f"{where}: tensor '{their_name}' is stored as {str(tensor.dtype).removeprefix('torch.')}; only "
                "float32, bfloat16 and float16 weights are taken: save the model in one of them"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{where}: tensor '{their_name}' holds values that are not finite")
        ours[our_name] = (tensor.T if transposed else tensor).to(torch.float32).contiguous()
    return ours


def to_theirs(family: Family, spec: Decoder, ours: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Rename and transpose, with the family's prefix, the tied head once, and the token table cut to `rows` rows."""
    theirs: dict[str, Tensor] = {}
    for our_name, their_name, transposed in renamed(family, spec):
        tensor = ours[our_name]
        if our_name == "embedding.token.weight":
            tensor = tensor[:rows]
        theirs[family.prefix + their_name] = (tensor.T if transposed else tensor).contiguous()
    return theirs


def renamed(family: Family, spec: Decoder) -> Iterator[tuple[str, str, bool]]:
    """Every parameter's name here, its name there without prefix, and whether it is transposed."""
    for name in family.names:
        for layer in range(len(spec.stack.blocks)) if "{layer}" in name.ours else (0,):
            yield name.ours.format(layer=layer), name.theirs.format(layer=layer), name.transposed


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
    model.head = TiedHead(model.embedding.token)
    return model.eval()


@torch.no_grad()
def logits_of(model: DecoderModel, tokens_BT: Tensor) -> Tensor:
    """Float32 logits (batch, tokens, vocabulary) of whole causal rows."""
    out: Tensor = model.head(model(plain_batch(tokens_BT)).hidden)
    return out


def _body(family: Family, spec: Decoder, theirs: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Their tensors without prefix, buffers and repeated head, of exactly the expected names."""
    expected = {their_name for _, their_name, _ in renamed(family, spec)}
    layers = range(len(spec.stack.blocks))
    buffers = {name.format(layer=layer) for name in family.buffers for layer in layers}
    prefixed = any(name.startswith(family.prefix) for name in theirs)
    body = {}
    for name, tensor in theirs.items():
        short = name.removeprefix(family.prefix) if prefixed else name
        if short not in buffers and name != HEAD:
            body[short if name.startswith(family.prefix) or not prefixed else f"{name} (without prefix)"] = tensor
    _same_names(expected, body.keys(), where, "config.json")
    table = body[family.names[0].theirs]
    if HEAD in theirs and not torch.equal(theirs[HEAD], table):
        raise CheckpointError(
            f"{where}: '{HEAD}' differs from '{family.names[0].theirs}', but config.json says they are tied; a model "
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
