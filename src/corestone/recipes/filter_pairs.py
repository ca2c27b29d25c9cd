"""Keep the pictures whose captions a model of pairs finds fitting, as LAION's sets were made (Schuhmann et al. 2022).

    folder/SIDE-00000.tar ...    what is kept, as webdataset shards
    folder/source.yaml           the source record that reads them: what stands under `data.source` of a recipe
    folder/manifest.json         rules, model, counts by reason

Scores are kept while the folder is made: a run that was killed reads its input again, and scores only what is new.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from corestone.core.batch import ImageBatch
from corestone.core.errors import CheckpointError, DataError
from corestone.core.spec import fingerprint, plain, to_yaml
from corestone.data.document import Counts, Problem, refuse_or_count
from corestone.data.images.augment import evaluation_picture, normalise
from corestone.data.images.augment_spec import Augmentation
from corestone.data.images.decode import Rules
from corestone.data.images.jpeg import part_of
from corestone.data.images.near import NearDuplicates, perceptual_hash
from corestone.data.images.pair_shards import PairShards, source_of
from corestone.data.images.picture import Picture, whole
from corestone.data.images.sources import describe, images_fingerprint, pictures
from corestone.data.images.spec import FilterPairs, ImageSource
from corestone.data.prepare.writer import alone, disk_errors, sync_folder, write_durably
from corestone.models.two_tower import TwoTowerModel
from corestone.parallel.allocator import keep_freed_memory
from corestone.parallel.precision import Precision
from corestone.recipes.kept import about_checkpoint
from corestone.recipes.picture_model import PictureModel, load_picture_model

MANIFEST = "manifest.json"
SCORE = np.dtype([("pair", "<u8"), ("cosine", "<f4")])


def open_scorer(path: Path, precision: Precision) -> PictureModel:
    """The model of a run on pairs or of one of its checkpoints. Raises CheckpointError for another one."""
    pictured = load_picture_model(path, precision)
    if not isinstance(pictured.model, TwoTowerModel):
        raise CheckpointError(f"{path}: compares no pictures with captions; give a run with two towers (CLIP, SigLIP)")
    if pictured.tokenizer is None:
        raise CheckpointError(f"{path}: holds no tokenizer for captions; give a run of corestone pretrain on pairs")
    return pictured


@torch.inference_mode()
def cosines_of(
    pictured: PictureModel, images: Sequence[Tensor], captions: Sequence[Sequence[str]]
) -> list[list[float]]:
    """Of each picture, made ready by `_ready`, and each of its captions."""
    model, tokenizer = pictured.model, pictured.tokenizer
    assert tokenizer is not None  # open_scorer sees to it
    texts = pictured.captions([tokenizer.encode(caption) for some in captions for caption in some])
    device = texts.tokens_BT.device
    owner_T = torch.repeat_interleave(torch.tensor([len(some) for some in captions])).to(device)
    images_BE = model.image(ImageBatch(torch.stack(list(images))).to(device))
    found_T = (images_BE[owner_T] * model.text(texts)).sum(dim=1)
    parts = found_T.float().cpu().split([len(some) for some in captions])
    return [part.tolist() for part in parts]


def filter_pairs(
    path: Path,
    source: ImageSource,
    rules: FilterPairs,
    out: Path,
    precision: Precision = "auto",
    batch_size: int = 256,
    console: Console | None = None,
) -> dict[str, Any]:
    """Filter a source's pictures with captions by a model into a folder of shards.

    Args:
        path: a run with two towers, or one of its checkpoints.
        batch_size: pictures that are held and scored at a time.

    Returns:
        The manifest. A folder that was made by the same model, rules and input is found done.

    Raises:
        DataError: input that cannot be read under `stop`, nothing kept, a folder of something else in the way.
    """
    keep_freed_memory()
    weights = about_checkpoint(path)["weights"]
    name = fingerprint([plain(source), images_fingerprint(source), plain(rules), weights, precision])
    with disk_errors(out), alone(out, lambda message: None):
        if out.exists():
            manifest = _made_before(out, name)
        else:
            work = out.with_name(out.name + ".partial")
            work.mkdir(exist_ok=True)
            for old in work.glob("*.tar"):
                old.unlink()
            with _Scores(work / f"{name}.scores") as scores:
                manifest = _fill(open_scorer(path, precision), scores, source, rules, work, out, batch_size)
            manifest = {"fingerprint": name, "weights": weights, **manifest}
            write_durably(work / MANIFEST, (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())
            for old in work.glob("*.scores"):
                old.unlink()
            work.rename(out)
            sync_folder(out.parent)
    _tell(console or Console(), manifest, out)
    return manifest


def _made_before(out: Path, name: str) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((out / MANIFEST).read_bytes())
    except (OSError, ValueError):
        raise DataError(f"{out}: exists and is no filtered set; choose another folder for --out") from None
    if manifest.get("fingerprint") != name:
        raise DataError(f"{out}: was made by another model, rules or input; delete it or choose another folder")
    return manifest


def _fill(
    scorer: PictureModel,
    scores: _Scores,
    source: ImageSource,
    rules: FilterPairs,
    work: Path,
    out: Path,
    batch_size: int,
) -> dict[str, Any]:
    """Write the shards and the source record; returns the manifest but for what names it."""
    counts, captions, seen = Counts(), Counter[str](), NearDuplicates(rules.near or 0)
    shards = PairShards(work, rules.shard_bytes)
    given = worth_decoding(pictures(source, rules.on_bad, counts), rules, counts, captions)
    try:
        while some := list(islice(given, batch_size)):
            for picture, cosines, look in _scored(scorer, scores, some, rules, counts):
                fitting = [place for place, cosine in enumerate(cosines) if cosine >= rules.similarity]
                where = f"{picture.source}, {picture.id}"
                captions["below the similarity"] += len(cosines) - len(fitting)
                if not fitting:
                    counts.drop(f"similarity below {rules.similarity:g}", f"{where}: {max(cosines):.3f}")
                elif rules.near is not None and seen.seen(look):
                    captions["of near duplicates"] += len(fitting)
                    counts.drop(f"near duplicate (at most {rules.near} of 64 bits)", where)
                else:
                    seen.add(look)
                    captions["kept"] += len(fitting)
                    chosen = tuple(picture.captions[place] for place in fitting)
                    shards.add(replace(picture, captions=chosen), [cosines[place] for place in fitting])
    finally:
        shards.close()
    if not shards.shards:
        dropped = ", ".join(f"{n:,} {reason}" for reason, n in sorted(counts.dropped.items()))
        raise DataError(f"{describe(source)}: no picture is kept of {counts.read:,} (dropped: {dropped})")
    (work / "source.yaml").write_text(
        to_yaml(source_of(out.resolve(), shards.shards, shards.several)), encoding="utf-8"
    )
    return {
        "source": plain(source),
        "rules": plain(rules),
        "splits": dict(sorted(shards.pictures.items())),
        "captions": dict(captions),
        "scored": {"now": scores.fresh, "before": scores.reused},
        "counts": {
            "read": counts.read,
            "kept": counts.kept,
            "dropped": dict(sorted(counts.dropped.items())),
            "examples": dict(sorted(counts.examples.items())),
        },
    }


def worth_decoding(
    found: Iterator[Picture], rules: FilterPairs, counts: Counts, captions: Counter[str]
) -> Iterator[Picture]:
    """The pictures whose file and captions are long enough, with those captions."""
    for picture in found:
        where = f"{picture.source}, {picture.id}"
        long = tuple(caption for caption in picture.captions if len(caption) >= rules.characters)
        captions["read"] += len(picture.captions)
        captions["too short"] += len(picture.captions) - len(long)
        if not picture.captions or not isinstance(picture.content, bytes):
            counts.drop("no caption" if not picture.captions else "array of pixels", where)
        elif not long:
            counts.drop(f"caption shorter than {rules.characters} characters", where)
        elif len(picture.content) < rules.file_bytes:
            captions["of small files"] += len(long)
            counts.drop(f"file smaller than {rules.file_bytes:,} bytes", where)
        else:
            yield replace(picture, captions=long)


def _scored(
    scorer: PictureModel, scores: _Scores, some: list[Picture], rules: FilterPairs, counts: Counts
) -> Iterator[tuple[Picture, list[float], int]]:
    """The pictures that can be decoded, each with its captions' cosines and its perceptual hash."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = list(pool.map(partial(_ready, seen=scorer.augmentation, max_pixels=rules.max_pixels), some))
    usable = []
    for picture, one in zip(some, made, strict=True):
        if isinstance(one, str):
            where = f"{picture.source}, {picture.id}"
            refuse_or_count(Problem(one, f"{where}: {one}; mend or remove it"), rules.on_bad, counts)
        else:
            usable.append((picture, *one))
    if usable:
        cosines = scores.of([picture for picture, _, _ in usable])
        if cosines is None:
            captions = [picture.captions for picture, _, _ in usable]
            cosines = cosines_of(scorer, [image for _, image, _ in usable], captions)
            scores.add([picture for picture, _, _ in usable], cosines)
        for (picture, _, look), found in zip(usable, cosines, strict=True):
            yield picture, found, look


def _ready(picture: Picture, seen: Augmentation, max_pixels: int) -> tuple[Tensor, int] | str:
    """A picture as the model sees it and its perceptual hash, or why it cannot be decoded."""
    assert isinstance(picture.content, bytes)
    pixels = part_of(picture.content, Rules(channels=seen.channels, max_pixels=max_pixels), whole)
    if isinstance(pixels, str):
        return pixels
    try:
        return normalise(seen, evaluation_picture(seen, pixels)), perceptual_hash(pixels)
    except DataError as error:
        raise DataError(f"{picture.source}, {picture.id}: {error}") from None


class _Scores:
    """Cosines of an unfinished folder, in the order in which they were asked for; a torn end is cut off."""

    def __init__(self, path: Path) -> None:
        self.reused, self.fresh = 0, 0
        held = path.read_bytes() if path.exists() else b""
        self._known = np.frombuffer(held[: len(held) // SCORE.itemsize * SCORE.itemsize], SCORE)
        self._file: BinaryIO = path.open("r+b" if path.exists() else "w+b")

    def __enter__(self) -> _Scores:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def of(self, some: Sequence[Picture]) -> list[list[float]] | None:
        """The cosines of these pictures' captions, where a run before got as far; None where they are to be scored."""
        keys = _keys(some)
        found = self._known[self.reused : self.reused + len(keys)]
        if self.fresh or not np.array_equal(found["pair"], keys):
            return None
        self.reused += len(keys)
        values, ends = found["cosine"], np.cumsum([len(picture.captions) for picture in some])[:-1]
        return [part.tolist() for part in np.split(values, ends)]

    def add(self, some: Sequence[Picture], cosines: list[list[float]]) -> None:
        """Keep fresh scores behind those that were used again."""
        rows = np.zeros(sum(map(len, cosines)), SCORE)
        rows["pair"], rows["cosine"] = _keys(some), np.concatenate(cosines)
        self._file.seek((self.reused + self.fresh) * SCORE.itemsize)
        self._file.truncate()
        self._file.write(rows.tobytes())
        self._file.flush()
        self.fresh += len(rows)


def _keys(some: Sequence[Picture]) -> np.ndarray:
    """A number for each pair."""
    texts = [picture.sha256 + caption for picture in some for caption in picture.captions]
    digests = [hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), "<u8")


def _tell(console: Console, manifest: dict[str, Any], folder: Path) -> None:
    counts, captions = manifest["counts"], manifest["captions"]
    console.print(f"[bold]{folder}[/]", highlight=False, soft_wrap=True)
    console.print(f"pictures   {counts['read']:,} read, {counts['kept']:,} kept", highlight=False)
    for reason, number in counts["dropped"].items():
        console.print(f"dropped    {number:,} {reason}", highlight=False)
    told = ", ".join(f"{number:,} {what}" for what, number in captions.items())
    console.print(f"captions   {told}", highlight=False)
    for side, number in manifest["splits"].items():
        console.print(f"{side:<10} {number:,} pictures", highlight=False)
    console.print(f"source     {folder / 'source.yaml'} stands under data.source of a recipe", highlight=False)
