"""A model of pictures and texts becomes a folder of another library, once it computes the same from pixels and strings
on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from corestone.core.errors import CheckpointError, CorestoneError, Disagreement
from corestone.core.spec import differing, from_yaml, parse, plain
from corestone.data.images.augment_spec import Augmentation
from corestone.data.images.caption_rows import caption_rows
from corestone.data.images.spec import CaptionRows
from corestone.data.tokenizer import Tokenizer, load_tokenizer
from corestone.interop.files import read_json
from corestone.interop.huggingface_pairs import HUGGINGFACE_CLIP_MODEL, HUGGINGFACE_SIGLIP_MODEL
from corestone.interop.incoming import check_vocabulary, refuse_existing
from corestone.interop.incoming_pairs import read_pairs_folder
from corestone.interop.open_clip_pairs import OPEN_CLIP_MODEL
from corestone.interop.outgoing import appearing, json_text, write_folder
from corestone.interop.outgoing_pictures import ExportedPictures, refuse_lost
from corestone.interop.pair_agreement import check_pair_library, ours_of_pairs, own_pair_logits
from corestone.interop.pair_tokenizer import CLOSING, Template, pair_tokenizer_texts, with_closing
from corestone.interop.paired import PairFormat, PairTold
from corestone.interop.picture_agreement import Seen, compare, some_pictures
from corestone.interop.pictured import Pixels
from corestone.interop.two_tower import two_tower_to
from corestone.interop.vocabulary import TOKENIZER
from corestone.interop.weights import build_with
from corestone.models.picture_spec import CoAtNet, ConvNet, TwoTower
from corestone.train.archive import MODEL, PICTURES, TOKENIZER_FILES, read_model_files

TOKENS = "text_tower.embedding.token.weight"
_FIRST = ("model.similarity.scale", "model.similarity.scale_most")
"""What was learnt, and bounded, by now."""


def export_pairs(source: Path, out: Path, library: str) -> ExportedPictures:
    """Write a run's newest whole checkpoint, or a checkpoint, of two towers as a folder that another library loads.

    The folder is written under a temporary name and read back: record, rows of texts and preprocessing must be the
    same, tensors bit for bit, and from uint8 pictures and text strings on so must the logits: with pictures
    preprocessed as the library documents it, and where it is installed, by the library itself. Only then is it renamed
    to `out`.

    Where the same token stands in front of a text and behind it, which no other library can tell apart, the folder has
    one more token for the end, whose row in the table is a copy.

    Args:
        library: huggingface or open_clip.

    Raises:
        CheckpointError: the source is unusable, model, texts or preprocessing cannot be expressed there, a check
            failed, or the disk is full; in each case nothing is left behind.
        DataError: the tokenizer cannot be expressed there.
    """
    out, where = refuse_existing(out), str(source)
    files = read_model_files(source, (PICTURES, *TOKENIZER_FILES))
    spec, tokenizer = from_yaml(TwoTower, files.model_yaml, f"{where}: {MODEL}"), load_tokenizer(files.tokenizer_folder)
    check_vocabulary(spec.text.embedding.vocab_size, tokenizer, where)
    told = read_pairs_json(files.tokenizer_folder / PICTURES, spec, tokenizer)
    kind = _format(library, spec, where)
    pictures = some_pictures(told.augmentation)
    mine = ours_of_pairs(build_with(spec, files.tensors, where), told, tokenizer, pictures)
    notes = kind.lost(told, where)
    told, tensors, text, more = _closed(told, files.tensors, tokenizer, where)
    notes += more
    trees = _said(kind, told, where)
    notes += _unsaid(kind, told, trees, source)
    texts = {name: json_text(tree) for name, tree in trees.items()}
    texts |= pair_tokenizer_texts(text, told.rows, told.context_length, kind.inputs, where)
    with appearing(out) as partial:
        theirs = two_tower_to(kind.names(told.spec), told.spec, tensors)
        write_folder(partial, theirs, texts, kind.weights[0])
        checks = [f"re-imported: all {len(theirs)} tensors equal bit for bit"]
        checks += _check_own(partial, kind, told, tensors, mine, pictures, where)
        checks += check_pair_library(kind, partial, mine, told, pictures, where)
    return ExportedPictures(out, kind.architecture, kind.loading, notes, checks)


def read_pairs_json(path: Path, spec: TwoTower, tokenizer: Tokenizer) -> PairTold:
    """What a checkpoint's pictures.json says of pictures and texts; of before, rows are the vocabulary's."""
    tree = read_json(path)
    rows, context = tree.get("rows"), tree.get("context_length")
    if not isinstance(context, int) or not 0 < context <= spec.text.embedding.context_length:
        raise CheckpointError(f"{path}: 'context_length' must be a number of tokens that the model has positions for")
    given = None if rows is None else parse(CaptionRows, rows, f"{path}: rows")
    seen = parse(Augmentation, tree.get("augmentation"), f"{path}: augmentation")
    return PairTold(spec, seen, caption_rows(given, tokenizer.vocabulary), context)


def _format(library: str, spec: TwoTower, where: str) -> PairFormat:
    if isinstance(spec.image, CoAtNet | ConvNet):
        kind = spec.image.kind
        raise CheckpointError(f"{where}: an image tower of kind '{kind}' cannot be written for other libraries")
    if library == "open_clip":
        return OPEN_CLIP_MODEL
    if library == "huggingface":
        return HUGGINGFACE_CLIP_MODEL if spec.text.causal else HUGGINGFACE_SIGLIP_MODEL
    raise CheckpointError(
        f"{where}: a model of kind 'two_tower' cannot be written for {library}; --format huggingface and --format "
        "open_clip can"
    )


def _closed(
    told: PairTold, tensors: Mapping[str, Tensor], tokenizer: Tokenizer, where: str
) -> tuple[PairTold, dict[str, Tensor], str, list[str]]:
    """What other libraries can find the end of a text in: record, tensors, tokenizer.json, and what was done."""
    text, rows = tokenizer.files()[TOKENIZER], told.rows
    if not told.spec.text.causal or rows.start != rows.end:
        return told, dict(tensors), text, []
    text, closing = with_closing(text, where)
    table = torch.cat((tensors[TOKENS][:closing], tensors[TOKENS][rows.end : rows.end + 1]))
    embedding = told.spec.text.embedding.model_copy(update={"vocab_size": closing + 1})
    spec = told.spec.model_copy(update={"text": told.spec.text.model_copy(update={"embedding": embedding})})
    note = (
        f"the same token stands in front of texts and behind them; there the one behind is {CLOSING}, id {closing}, "
        "whose row in the table is a copy"
    )
    closed = replace(told, spec=spec, rows=rows.model_copy(update={"end": closing}))
    return closed, {**tensors, TOKENS: table}, text, [note]


def _said(kind: PairFormat, told: PairTold, where: str) -> dict[str, dict[str, object]]:
    try:
        return kind.files(told)
    except CheckpointError as error:
        raise CheckpointError(
            f"{where}: refused, nothing was written: {kind.architecture} of {kind.library} cannot express it ({error})"
        ) from None


def _unsaid(kind: PairFormat, told: PairTold, trees: Mapping[str, dict[str, object]], source: Path) -> list[str]:
    """What of a record the files do not say, as notes; CheckpointError where it matters outside of training."""
    refused = f"{source}: refused, nothing was written: {kind.architecture} of {kind.library}"
    rows = told.rows
    highest = told.spec.text.embedding.vocab_size - 1
    template = Template(rows.start, rows.end, rows.fill, told.context_length, highest, kind.inputs)
    try:
        again = kind.read(trees, source, template)
    except CorestoneError as error:
        raise CheckpointError(f"{refused} cannot express it ({error})") from None
    paths = differing(plain(told.spec), plain(again.spec), "model")
    paths = [path for path in paths if ".init" not in path and path not in _FIRST]
    if again.spec.similarity.bias is not None and told.spec.similarity.bias is not None:
        paths = [path for path in paths if path != "model.similarity.bias"]
    return refuse_lost([*paths, *differing(plain(rows), plain(again.rows), "data.rows")], refused)


def _check_own(
    folder: Path,
    kind: PairFormat,
    told: PairTold,
    tensors: Mapping[str, Tensor],
    mine: Seen,
    pictures: list[Pixels],
    where: str,
) -> list[str]:
    """Import what was written and demand the same bits, rows, preprocessing and logits."""
    again, read, tokenizer, found = read_pairs_folder(folder)
    same = found is kind and read.keys() == tensors.keys()
    same = same and all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    same = same and (again.rows, again.context_length) == (told.rows, told.context_length)
    if not same or again.augmentation != kind.said(told.augmentation):
        raise Disagreement(f"{where}: refused, nothing was written: importing the export gives another model")
    files = {path.name: read_json(path) for path in folder.glob("*.json")}
    pixels = torch.stack([kind.pixels(files, picture) for picture in pictures])
    theirs = Seen(pixels, own_pair_logits(build_with(again.spec, read, where), again, tokenizer))
    return compare("as documented", mine, theirs, told.augmentation, where)
