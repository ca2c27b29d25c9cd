"""A model's parameters under another library's names, and back, by a family's table.

Both directions are total: a tensor that is missing, unexpected or misshaped is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from corestone.core.errors import CheckpointError
from corestone.interop.family import Exchanged, Family, Mapped, Name, Named, Tensors, stacks_of
from corestone.models.decoder import DecoderModel, build_decoder
from corestone.models.encoder import (
    EncoderModel,
    GeneratorDiscriminatorModel,
    build_encoder,
    build_generator_discriminator,
)
from corestone.models.encoder_decoder import EncoderDecoderModel, build_encoder_decoder
from corestone.models.image_encoder import ImageEncoderModel, build_image_encoder
from corestone.models.picture_spec import ImageEncoder, ModifiedResNet, TwoTower
from corestone.models.spec import Decoder, Encoder, EncoderDecoder, GeneratorDiscriminator
from corestone.models.two_tower import TwoTowerModel, build_two_tower

Record = Exchanged | GeneratorDiscriminator
"""What the export verb takes."""

Buildable = Record | ImageEncoder | TwoTower
"""What a folder of another library may hold."""

Model = (
    DecoderModel | EncoderModel | EncoderDecoderModel | GeneratorDiscriminatorModel | ImageEncoderModel | TwoTowerModel
)

BUILDERS: Mapping[type[Buildable], Callable[..., Model]] = {
    Decoder: build_decoder,
    Encoder: build_encoder,
    EncoderDecoder: build_encoder_decoder,
    GeneratorDiscriminator: build_generator_discriminator,
    ImageEncoder: build_image_encoder,
    TwoTower: build_two_tower,
}

BY_TOKEN = ("embedding.token.weight", "head.weight", "head.bias")
"""Parameters with a row per token."""

_EXACT = (torch.float32, torch.bfloat16, torch.float16)
_SHOWN = 4


def nearest(families: Sequence[Family], theirs: Iterable[str]) -> Family:
    """The class whose names outside of its layers fit a file's tensors best; of several the first."""
    theirs = list(theirs)

    def strange(family: Family) -> int:
        known = {part for name in family.tensors.names for part in name.parts if "{layer}" not in part}
        return len(known ^ (set(_short_names(family.tensors, theirs).values()) - set(family.tensors.repeats)))

    return min(families, key=strange)


def to_ours(family: Named, spec: Mapped, theirs: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Rename, rearrange and widen to float32 (which is exact from bfloat16 and float16).

    Args:
        theirs: tensors of a saved model, with or without the family's prefix; a tied head may be stored again.
        where: names the folder in errors.

    Raises:
        CheckpointError: tensors missing, unexpected, misshaped, of a type that float32 cannot hold, or not finite; a
            head that differs from the token table.
    """
    body = _body(family, spec, theirs, where)
    shapes, heads = parameter_shapes(spec), _heads(spec)
    ours: dict[str, Tensor] = {}
    for name in renamed(family, spec):
        shape = shapes[name.ours]
        part_shape = (shape[0] // len(name.parts), *shape[1:]) if shape else shape
        wanted = _their_shape(name, part_shape, spec)
        parts = [_checked(body[part], part, wanted, where) for part in name.parts]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        if name.layout == "transposed":
            tensor = tensor.T
        elif name.layout == "by_head":
            tensor = tensor.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
        elif name.layout in ("batched", "single", "kernel"):
            tensor = tensor.reshape(shape)
        ours[name.ours] = tensor.to(torch.float32).contiguous()
    return ours


def _their_shape(name: Name, shape: tuple[int, ...], spec: Mapped) -> tuple[int, ...]:
    """The shape that one of their tensors has for a part of a parameter of ours."""
    if name.layout == "transposed":
        return shape[::-1]
    if name.layout == "batched":
        return (1, *shape)
    if name.layout == "single":
        return shape[1:]
    image = spec.image if isinstance(spec, TwoTower) else spec
    if name.layout == "kernel" and isinstance(image, ImageEncoder):
        return (shape[0], image.embedding.channels, image.embedding.patch_size, image.embedding.patch_size)
    return shape


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


def to_theirs(family: Named, spec: Mapped, ours: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Rename and rearrange, with the family's prefix, a tied head once, and tables by token cut to `rows` rows."""
    theirs: dict[str, Tensor] = {}
    heads = _heads(spec)
    for name in renamed(family, spec):
        tensor = ours[name.ours][:rows] if name.ours in BY_TOKEN else ours[name.ours]
        if name.layout == "transposed":
            tensor = tensor.T
        elif name.layout == "by_head":
            tensor = tensor.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)
        elif name.layout in ("batched", "single", "kernel"):
            tensor = tensor.reshape(_their_shape(name, tuple(tensor.shape), spec))
        values = tensor.chunk(len(name.parts)) if len(name.parts) > 1 else (tensor,)
        for part, value in zip(name.parts, values, strict=True):
            whole = part if part.startswith(family.tensors.heads) else family.tensors.prefixes[0] + part
            theirs[whole] = value.contiguous()
    return theirs


def renamed(family: Named, spec: Mapped) -> Iterator[Name]:
    """Every parameter and kept buffer of a model under both names, the layers' numbers filled in."""
    present, gated = parameter_shapes(spec).keys(), _gated(spec)
    for name in family.tensors.names:
        for layer in range(_layers(spec)) if "{layer}" in name.ours else (0,):
            ours = name.ours.format(layer=layer)
            if ours in present and name.gated in (None, gated):
                yield replace(name, ours=ours, theirs=tuple(part.format(layer=layer) for part in name.parts))


def _layers(spec: Mapped) -> int:
    """Of the deepest stack, or stage of convolutions."""
    depths = [len(stack.blocks) for stack in stacks_of(spec).values()]
    if isinstance(spec, TwoTower) and isinstance(spec.image, ModifiedResNet):
        depths += spec.image.depths
    return max(depths)


def _heads(spec: Mapped) -> int:
    return next(iter(stacks_of(spec).values())).attention[0].num_heads


def _gated(spec: Mapped) -> bool:
    return next(iter(stacks_of(spec).values())).blocks[0].feedforward.gated


def parameter_shapes(spec: Buildable) -> dict[str, tuple[int, ...]]:
    """Shapes by name of everything a model learns, statistics of batch norms included, found without allocating it."""
    model = BUILDERS[type(spec)](spec, device="meta")
    kept = model.state_dict().keys()
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in kept]
    return {name: tuple(tensor.shape) for name, tensor in [*model.named_parameters(), *buffers]}


def build_with(spec: Buildable, tensors: Mapping[str, Tensor], where: str) -> Any:
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
    model = BUILDERS[type(spec)](spec, device="meta")
    held = {id(parameter): nn.Parameter(tensors[name]) for name, parameter in model.named_parameters()}
    for module in model.modules():  # what shares a parameter goes on sharing it
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, held[id(parameter)])
    for name in model.state_dict().keys() - dict(model.named_parameters(remove_duplicate=False)).keys():
        place, _, buffer = name.rpartition(".")
        model.get_submodule(place).register_buffer(buffer, tensors[name])
    return model.eval()


def _short_names(table: Tensors, theirs: Iterable[str]) -> dict[str, str]:
    """Names of a file's tensors, and what they are without prefix and with today's endings.

    Where the file has a prefix, a name without it that is no head's is marked.
    """
    theirs = list(theirs)
    prefix = next((p for p in table.prefixes if p and any(name.startswith(p) for name in theirs)), "")
    short = {}
    for whole in theirs:
        name = whole.removeprefix(prefix)
        for old, new in table.old_endings.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        inside = whole.startswith((prefix, *table.heads))
        short[whole] = name if inside else f"{name} (without prefix)"
    return short


def _body(family: Named, spec: Mapped, theirs: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Their tensors without prefix, buffers and repeated ones, of exactly the expected names."""
    table, layers = family.tensors, range(_layers(spec))
    expected = {part for name in renamed(family, spec) for part in name.parts}
    buffers = {name.format(layer=layer) for name in table.buffers for layer in layers}
    body: dict[str, Tensor] = {}
    for whole, name in _short_names(table, theirs).items():
        if name in body:
            raise CheckpointError(f"{where}: tensor '{name}' is stored twice, under an old and a new name")
        if name not in buffers:
            body[name] = theirs[whole]
    for name, first in table.repeats.items():
        if name not in body or name in expected:
            continue
        again = body.pop(name)
        if not torch.equal(again, body.setdefault(first, again)):
            raise CheckpointError(
                f"{where}: '{name}' differs from '{first}', but in the model that config.json describes they are one"
            )
    _same_names(expected, body.keys(), where, f"config.json, read as that of {family.architecture}")
    return body


def _same_names(expected: Collection[str], found: Collection[str], where: str, by: str) -> None:
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unexpected:
        parts = [f"lack {_listed(missing)}"] * bool(missing) + [f"also hold {_listed(unexpected)}"] * bool(unexpected)
        raise CheckpointError(f"{where}: the weights do not fit {by}: they {' and '.join(parts)}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more
