"""Check of the way out and in again: an exported model, imported, is the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from corestone.core.errors import CheckpointError, DataError, Disagreement
from corestone.interop.incoming import import_huggingface
from corestone.interop.incoming_pairs import import_pairs
from corestone.interop.incoming_pictures import import_pictures
from corestone.interop.outgoing import export_huggingface
from corestone.interop.outgoing_pairs import export_pairs
from corestone.interop.outgoing_pictures import export_pictures, kind_of, reads_pictures
from corestone.interop.weights import BY_TOKEN
from corestone.models.spec import GeneratorDiscriminator
from corestone.recipes.checks.context import Changes, Context, train_steps
from corestone.recipes.checks.finding import Finding, failed, judged, skipped
from corestone.train.archive import WEIGHTS
from corestone.train.checkpoint import read_tensors
from corestone.train.state import State

LIBRARIES = ("huggingface", "timm", "open_clip")


def export(ctx: Context) -> Finding:
    """Export, then import: the same tensors, bit for bit; the exporter itself compares logits, with the other library's
    too where that is installed (design, promise 6)."""
    built = ctx.build()
    train_steps(built, 2, Changes(clip_norm=built.run.training.clip_norm))
    source, out, again = (ctx.folder / name for name in ("to-export", "exported", "imported"))
    built.save(source, State())
    compared = "tensors before an export and after its import"
    try:
        library, checks = _exported(source, out)
    except Disagreement as error:
        return failed(compared, str(error))
    except (CheckpointError, DataError) as error:
        return skipped(f"no library can hold it ({error})")
    _importing(source)(out, again)
    found = read_tensors(again / WEIGHTS)
    ours = read_tensors(source / WEIGHTS)
    if isinstance(ctx.run.model, GeneratorDiscriminator):  # the discriminator alone is written
        part = built.model.discriminator
        ours = {name: parameter.detach() for name, parameter in part.named_parameters()}
    missing = sorted(ours.keys() ^ found.keys())
    if missing:
        return failed(compared, f"{missing[0]} is on one side only")
    gaps = {name: float((tensor - _rows(name, ours[name], len(tensor))).abs().max()) for name, tensor in found.items()}
    name = max(gaps, key=lambda one: gaps[one])
    note = f"{library}; {'; '.join(checks)}"
    return judged(compared, gaps[name], 0.0, note)


def _rows(name: str, tensor: Tensor, rows: int) -> Tensor:
    """Without the padding of the token table."""
    return tensor[:rows] if name in BY_TOKEN else tensor


def _exported(source: Path, out: Path) -> tuple[str, list[str]]:
    """Write a checkpoint for the first library that can hold it: its name, and what the exporter checked."""
    if not reads_pictures(source):
        return LIBRARIES[0], export_huggingface(source, out).checks
    write = export_pairs if kind_of(source) == "two_tower" else export_pictures
    reasons = []
    for library in LIBRARIES:
        try:
            return library, write(source, out, library).checks
        except Disagreement:
            raise
        except CheckpointError as error:
            reasons.append(str(error).removeprefix(f"{source}: "))
    raise CheckpointError("; ".join(dict.fromkeys(reasons)))


def _importing(source: Path) -> Callable[[Path, Path], object]:
    if not reads_pictures(source):
        return import_huggingface
    return import_pairs if kind_of(source) == "two_tower" else import_pictures
