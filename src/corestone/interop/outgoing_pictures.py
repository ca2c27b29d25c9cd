"""A run or checkpoint on pictures becomes a folder of another library, once it computes the same from pixels on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor

from corestone.core.errors import CheckpointError, CorestoneError, Disagreement
from corestone.core.spec import differing, from_yaml, parse, plain
from corestone.data.images.augment_spec import Augmentation
from corestone.interop.family import Tree
from corestone.interop.files import read_json
from corestone.interop.huggingface_pictures import HUGGINGFACE_VIT
from corestone.interop.incoming import refuse_existing
from corestone.interop.incoming_pictures import read_pictures_folder
from corestone.interop.outgoing import appearing, json_text, write_folder
from corestone.interop.picture_agreement import (
    Seen,
    check_transformers,
    compare,
    logits_of,
    ours,
    picture_model,
    some_pictures,
)
from corestone.interop.pictured import Format, Pictured, Pixels
from corestone.interop.timm_pictures import TIMM_COATNET, TIMM_VIT
from corestone.models.picture_spec import CoAtNet, ImageEncoder
from corestone.train.archive import MODEL, PICTURES, locate, read_model_files

FORMATS = (HUGGINGFACE_VIT, TIMM_VIT, TIMM_COATNET)

_RECORDS: Mapping[str, type[Pictured]] = {"image_encoder": ImageEncoder, "coatnet": CoAtNet}
_TRAINING = ("dropout", "drop_path")
"""Fields of records that do nothing outside of training."""


@dataclass(frozen=True)
class ExportedPictures:
    """What was written where, what it does not say, and one line per check with its measured value."""

    folder: Path
    architecture: str
    loading: str
    notes: list[str]
    checks: list[str]


def reads_pictures(source: Path) -> bool:
    """Whether a run's newest whole checkpoint, or a checkpoint, is that of a model that reads pictures."""
    return (locate(source) / PICTURES).is_file()


def kind_of(source: Path) -> str:
    """The kind of the model of a run's newest whole checkpoint, or of a checkpoint, as its record says it."""
    return _kind((locate(source) / MODEL).read_text(encoding="utf-8"))


def _kind(text: str) -> str:
    try:
        return str(yaml.safe_load(text)["kind"])
    except (yaml.YAMLError, KeyError, TypeError):
        return "image_encoder"  # from_yaml says what is wrong, and where


def export_pictures(source: Path, out: Path, library: str) -> ExportedPictures:
    """Write a run's newest whole checkpoint, or a checkpoint, as a folder that another library loads.

    The folder is written under a temporary name and read back: record, class names and preprocessing must be the same,
    tensors bit for bit, and from uint8 pictures on, preprocessed as the library documents it, so must the logits. Where
    the `transformers` library is installed, it computes those of its folders too. Only then is it renamed to `out`.

    Args:
        library: that of a format in `FORMATS`.

    Raises:
        CheckpointError: the source is unusable, model or preprocessing cannot be expressed there, a check failed, or
            the disk is full; in each case nothing is left behind.
    """
    out, where = refuse_existing(out), str(source)
    files = read_model_files(source, (PICTURES,))
    spec = _read_spec(files.model_yaml, f"{where}: {MODEL}")
    kind = _format(library, spec, where)
    classes, seen = read_pictures(files.tokenizer_folder / PICTURES)
    _check_classes(spec, classes, where)
    notes = kind.lost(seen, where)
    texts = kind.files(spec, classes, seen)
    notes += _unsaid(kind, spec, texts, source)
    model, pictures = picture_model(spec, files.tensors, where), some_pictures(seen)
    mine = ours(model, seen, pictures)
    with appearing(out) as partial:
        theirs = {name: tensor.contiguous() for name, tensor in kind.to_theirs(spec, files.tensors).items()}
        write_folder(partial, theirs, {name: json_text(tree) for name, tree in texts.items()})
        checks = [f"re-imported: all {len(theirs)} tensors equal bit for bit"]
        checks += _check_own(partial, files.tensors, mine, (classes, seen, pictures), where)
        if library == "huggingface":
            checks += check_transformers(partial, mine, seen, pictures, where)
        else:
            checks.append(f"{library}: not loaded; it was compared by what it documents of its preprocessing alone")
    return ExportedPictures(out, kind.architecture, kind.loading, notes, checks)


def read_pictures(path: Path) -> tuple[tuple[str, ...], Augmentation]:
    """Class names and augmentation of a checkpoint's pictures.json."""
    tree = read_json(path)
    classes = tree.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise CheckpointError(f"{path}: 'classes' must be a list of names")
    return tuple(classes), parse(Augmentation, tree.get("augmentation"), f"{path}: augmentation")


def _read_spec(text: str, where: str) -> Pictured:
    kind = _kind(text)
    if kind == "captioner":
        raise CheckpointError(
            f"{where}: a captioner has no counterpart in another library known here: open_clip's CoCa pools pictures, "
            "builds its captioning layers and reads a text's vector otherwise"
        )
    if kind not in _RECORDS:
        raise CheckpointError(
            f"{where}: a model of kind '{kind}' has no counterpart in another library known here (those of kind "
            f"{', '.join(_RECORDS)} have)"
        )
    return from_yaml(_RECORDS[kind], text, where)


def _format(library: str, spec: Pictured, where: str) -> Format:
    found = [kind for kind in FORMATS if kind.library == library and kind.record is type(spec)]
    if not found:
        others = [kind.library for kind in FORMATS if kind.record is type(spec)]
        raise CheckpointError(
            f"{where}: a model of kind '{spec.kind}' cannot be written for {library}; --format {others[0]} can"
        )
    return found[0]


def _check_classes(spec: Pictured, classes: Sequence[str], where: str) -> None:
    count = spec.classes if isinstance(spec, CoAtNet) else spec.head.classes if spec.head is not None else 0
    if not count:
        raise CheckpointError(f"{where}: the model has no head, so it tells no classes apart; export a classifier")
    if count != len(classes):
        raise CheckpointError(f"{where}: the model names {count} classes and its {PICTURES} {len(classes)}")


def _unsaid(kind: Format, spec: Pictured, texts: Mapping[str, Tree], source: Path) -> list[str]:
    """What of a record the files do not say, as notes; CheckpointError where it matters outside of training."""
    refused = f"{source}: refused, nothing was written: {kind.architecture} of {kind.library}"
    try:
        again = kind.read(texts, source).spec
    except CorestoneError as error:
        raise CheckpointError(f"{refused} cannot express it ({error})") from None
    paths = differing(plain(spec), plain(again), "model")
    return refuse_lost([path for path in paths if not path.startswith("model.init")], refused)


def refuse_lost(paths: Sequence[str], refused: str) -> list[str]:
    """A note of what of a record is not said, where it matters in training alone; else CheckpointError that names it.

    Args:
        refused: beginning of the error.
    """
    lost = [path for path in paths if path.rsplit(".", 1)[1] not in _TRAINING]
    if lost:
        shown = ", ".join(lost[:4]) + (f" and {len(lost) - 4} more" if len(lost) > 4 else "")
        raise CheckpointError(f"{refused} cannot say {shown}")
    return [f"{path} is not kept; it matters only in training" for path in paths[:1]]


def _check_own(
    folder: Path,
    tensors: Mapping[str, Tensor],
    mine: Seen,
    given: tuple[tuple[str, ...], Augmentation, list[Pixels]],
    where: str,
) -> list[str]:
    """Import what was written and demand the same bits, classes, preprocessing and logits."""
    told, read, kind = read_pictures_folder(folder)
    classes, seen, pictures = given
    same = read.keys() == tensors.keys() and all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    if not same or told.classes != classes or told.augmentation != kind.said(seen):
        raise Disagreement(f"{where}: refused, nothing was written: importing the export gives another model")
    files = {path.name: read_json(path) for path in folder.glob("*.json")}
    pixels = torch.stack([kind.pixels(files, picture) for picture in pictures])
    theirs = Seen(pixels, logits_of(picture_model(told.spec, read, where)))
    return compare("as documented", mine, theirs, seen, where)
