"""Pictures to an immutable set: streaming, counted, complete or invisible.

    folder/manifest.json            classes, counts, hashes
    folder/SIDE.bin                 pixels, where all pictures are arrays of one shape
    folder/SIDE-00000.tar, ...      or encoded pictures as they were given, and
    folder/SIDE.index.npy           int64 (N, 3): shard, first byte, bytes
    folder/SIDE.labels.npy          int64 (N,): number of the class, -1 without one; where several may apply, (N, most
                                    of a picture), filled up with -1
    folder/SIDE.metadata.jsonl      id, source and captions of each picture

A run that was killed starts again from the beginning.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from corestone.core.errors import DataError
from corestone.core.spec import fingerprint, plain
from corestone.data.document import Counts, Problem, refuse_or_count
from corestone.data.images.decode import Rules, decode
from corestone.data.images.picture import Label, Picture, Pixels
from corestone.data.images.picture_set import VERSION, PictureSet, open_pictures, read_manifest
from corestone.data.images.sources import describe, images_fingerprint, pictures
from corestone.data.images.spec import ImageSource, PrepareImages
from corestone.data.images.writer import Kinds, Shape, SideWriter
from corestone.data.prepare.opened import MANIFEST
from corestone.data.prepare.writer import alone, disk_errors, sync_folder, write_durably

__all__ = ["PictureSet", "open_pictures", "prepare_images"]


def prepare_images(
    source: ImageSource, cache: Path, options: PrepareImages | None = None, threads: int | None = None
) -> Path:
    """Prepare a source in a cache folder, once for each content and options, or find it done.

    Args:
        threads: that decode, to see that every picture can be; None: as many as there are cores. The set does not
            depend on it.

    Returns:
        The folder of the set, for `open_pictures`.

    Raises:
        DataError: input that cannot be read, no picture at all, a damaged set in the way, a full disk.
    """
    options = options or PrepareImages()
    name = fingerprint([VERSION, plain(source), images_fingerprint(source), plain(options)])
    folder = cache / "pictures" / name
    with disk_errors(folder), alone(folder, lambda message: None):
        if folder.exists():
            read_manifest(folder)
            return folder
        partial = folder.with_name(name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        manifest = _fill(partial, source, options, threads or os.cpu_count() or 1)
        text = json.dumps({**manifest, "fingerprint": name}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        write_durably(partial / MANIFEST, text.encode("utf-8", "backslashreplace"))
        partial.rename(folder)
        sync_folder(folder.parent)
    return folder


def kept_pictures(
    source: ImageSource, options: PrepareImages, counts: Counts, changed: Counter[str], threads: int
) -> Iterator[Picture]:
    """The pictures of a source that can be decoded, each once.

    Args:
        counts: filled while reading.
        changed: counts what decoding changes (see `decode`), by what it was.
    """
    seen: dict[bytes, tuple[Label, str]] = {}
    for picture, done in _tried(source, options, counts, threads):
        where = f"{picture.source}, {picture.id}"
        if isinstance(done, str):
            refuse_or_count(Problem(done, f"{where}: {done}; mend or remove it"), options.on_bad, counts)
            continue
        changed.update(done)
        if options.deduplicate:
            key = bytes.fromhex(picture.sha256)[:16]
            if key in seen:
                label, split = seen[key]
                of = " of another class" if label != picture.label else ""
                on = " on another side" if split != picture.split else ""
                counts.drop(f"repeated picture{of}{on}", where)
                continue
            seen[key] = picture.label, picture.split
        yield picture


def _tried(
    source: ImageSource, options: PrepareImages, counts: Counts, threads: int
) -> Iterator[tuple[Picture, tuple[str, ...] | str]]:
    """The pictures of a source in their order, each with what decoding changes or why it cannot be decoded."""
    rules = Rules(channels=options.channels, max_pixels=options.max_pixels)
    waiting: deque[tuple[Picture, Future[tuple[str, ...] | str]]] = deque()
    failure: DataError | None = None
    with ThreadPoolExecutor(threads) as pool:
        try:
            for picture in pictures(source, options.on_bad, counts):
                waiting.append((picture, pool.submit(_changed, picture.content, rules)))
                if len(waiting) > 4 * threads:
                    first, done = waiting.popleft()
                    yield first, done.result()
        except DataError as error:  # what came before it comes first, however many threads there are
            failure = error
        for last, done in waiting:
            yield last, done.result()
    if failure:
        raise failure


def _changed(content: bytes | Pixels, rules: Rules) -> tuple[str, ...] | str:
    """What decoding changes, or the reason why it fails; the pixels are let go at once."""
    if not isinstance(content, bytes):
        return ()
    done = decode(content, rules)
    return done if isinstance(done, str) else done.changed


def _fill(folder: Path, source: ImageSource, options: PrepareImages, threads: int) -> dict[str, Any]:
    """Write the files of every side; returns the manifest, but for the fingerprint."""
    counts, changed, shape, kinds = Counts(), Counter[str](), Shape(), Kinds()
    names: dict[str, int] = {}
    writers: dict[str, SideWriter] = {}
    try:
        for picture in kept_pictures(source, options, counts, changed, threads):
            shape.check(picture)
            kinds.check(picture)
            if picture.split not in writers:
                writers[picture.split] = SideWriter(folder, picture.split, options.shard_bytes)
            given = (picture.label,) if isinstance(picture.label, str) else picture.label or ()
            writers[picture.split].add(picture, [names.setdefault(name, len(names)) for name in given])
        if not writers:
            dropped = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.dropped.items()))
            raise DataError(f"{describe(source)}: no picture is left of {counts.read} read (dropped: {dropped})")
        classes = in_order(names)
        order = np.array([classes.index(name) for name in names], dtype=np.int64)
        splits = {split: writers[split].finish(order) for split in sorted(writers)}
    finally:
        for writer in writers.values():
            writer.close()
    return {
        "version": VERSION,
        "content": "pictures",
        "source": plain(source),
        "options": plain(options),
        "shape": list(shape.found) if shape.found else None,
        "channels": shape.found[2] if shape.found else options.channels,
        "classes": classes,
        "splits": splits,
        "counts": {
            "read": counts.read,
            "kept": counts.kept,
            "dropped": dict(sorted(counts.dropped.items())),
            "changed": dict(sorted(changed.items())),
            "examples": {reason: names for reason, names in sorted(counts.examples.items()) if names},
        },
    }


def in_order(names: dict[str, int]) -> list[str]:
    """Class names in the order of their numbers: by name, or by value where all are whole numbers."""
    if all(name.isascii() and name.isdigit() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)
