"""Check of the way out and in again: an exported model, imported, is the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import Tensor

from corestone.core.errors import CheckpointError, DataError, Disagreement
from corestone.data.tokenizer import load_tokenizer
from corestone.interop.incoming import import_huggingface
from corestone.interop.incoming_pairs import import_pairs
from corestone.interop.incoming_pictures import import_pictures
from corestone.interop.outgoing import export_huggingface
from corestone.interop.outgoing_pairs import export_pairs
from corestone.interop.outgoing_pictures import export_pictures, kind_of, reads_pictures
from corestone.interop.weights import BY_TOKEN
from corestone.models.spec import GeneratorDiscriminator
from corestone.recipes.build import build_model, load_weights, read_model_spec
from corestone.recipes.checks.apart import tensors_apart
from corestone.recipes.checks.context import Context
from corestone.recipes.checks.finding import Finding, failed, judged, skipped
from corestone.recipes.steps import train_steps
from corestone.train.archive import PICTURES, TOKENIZER_FILES, WEIGHTS, read_model_files
from corestone.train.checkpoint import read_tensors
from corestone.train.state import State

TOWER = "text_tower."
"""What the names of a two-tower model's tensors begin with that are its text tower's."""
LIBRARIES = ("huggingface", "timm", "open_clip")


def export(ctx: Context) -> Finding:
    """Export, then import: the same tensors, bit for bit; the exporter itself compares logits, with the other library's
    too where that is installed (design, promise 6)."""
    built = ctx.build()
    train_steps(built, 2)
    source, out, again = (ctx.folder / name for name in ("to-export", "exported", "imported"))
    built.save(source, State())
    compared = "tensors before an export and after its import"
    try:
        library, checks = exported(source, out)
    except Disagreement as error:
        return failed(compared, str(error))
    except (CheckpointError, DataError) as error:
        return skipped(f"no library can hold it ({error})")
    gap, where = imported_apart(source, out, again)
    return judged(compared, gap, 0.0, f"{library}; {'; '.join(checks)}; {where}")


def imported_apart(source: Path, out: Path, again: Path) -> tuple[float, str]:
    """Import what was exported of a checkpoint into a new folder: the largest difference of its tensors from those of
    the checkpoint, and where it is.

    Rows of the token table that one side alone has are left out where no token of the checkpoint's tokenizer is among
    them: the checkpoint's padding, and the row that CLIP's folders have for a token of their own that ends a text.
    """
    _importing(source)(out, again)
    ours, found = given_away(source), read_tensors(again / WEIGHTS)
    tokens = load_tokenizer(source).manifest.vocab_size if (source / TOKENIZER_FILES[0]).is_file() else None
    for name in ours.keys() & found.keys():
        if tokens is not None and name.removeprefix(TOWER) in BY_TOKEN:
            rows = min(len(ours[name]), len(found[name]))
            if rows >= tokens:  # fewer are a difference, which the shapes show
                ours[name], found[name] = ours[name][:rows], found[name][:rows]
    return tensors_apart(found, ours)


def given_away(source: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint that an export is of: of averaged weights these, of a generator and a discriminator
    the discriminator's alone."""
    files = read_model_files(source, (PICTURES,) if reads_pictures(source) else TOKENIZER_FILES)
    if yaml.safe_load(files.model_yaml)["kind"] != GeneratorDiscriminator.model_fields["kind"].default:
        return files.tensors
    model = build_model(read_model_spec(files.model_yaml, str(source)), 0, torch.device("cpu"))
    load_weights(dict(model.named_parameters()), files.tensors, str(source))
    return {name: parameter.detach() for name, parameter in model.discriminator.named_parameters()}


def exported(source: Path, out: Path) -> tuple[str, list[str]]:
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
