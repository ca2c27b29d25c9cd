"""The beginning of a large source as a small one, so that a rehearsal prepares it within seconds."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from corestone.core.format import si
from corestone.data.document import Counts
from corestone.data.images.picture import Picture, Pixels
from corestone.data.images.sources import describe as describe_pictures
from corestone.data.images.sources import pictures
from corestone.data.images.spec import Images, ImageTable, Pairs, Side, Together
from corestone.data.sources import describe as describe_text
from corestone.data.sources import documents
from corestone.data.spec import Files, OnBad, Source

TEXT_BYTES, PIECE_CHARACTERS = 20_000_000, 200_000
"""How much of a source of text is read, and into pieces of what length longer documents are cut."""
PICTURES = 2000
"""How many pictures of a source are read."""
HELD_OUT = 20
"""One in so many is held out where the beginning of a source has hardly any."""
SIDES: tuple[Side, ...] = ("train", "validation", "test")


def beginning_of_text(source: Source, on_bad: OnBad, file: Path) -> tuple[Files, str]:
    """Write the first documents of a source as JSON lines; and what they are and what was left out, in words."""
    file.parent.mkdir(parents=True, exist_ok=True)
    size, counts = 0, Counts()
    with file.open("w", encoding="utf-8") as lines:
        for text in _pieces(source, on_bad, counts):
            lines.write(json.dumps({"text": text}) + "\n")
            size += len(text.encode())
            if size >= TEXT_BYTES:
                break
    told = f"the first {si(size, 'B')} of {describe_text(source)}{_left_out(counts.dropped)}, as {file.name}"
    return Files(paths=(str(file.resolve()),), validation_percent=100 / HELD_OUT), told


def _left_out(counts: Mapping[str, int]) -> str:
    """What was left out, by reason, in words that follow a source's name; "" of nothing."""
    why = ", ".join(f"{count:,} x {reason}" for reason, count in counts.items())
    return why and f" (left out: {why})"


def _pieces(source: Source, on_bad: OnBad, counts: Counts) -> Iterator[str]:
    for document in documents(source, on_bad, counts):
        for start in range(0, len(document.text), PIECE_CHARACTERS):
            yield document.text[start : start + PIECE_CHARACTERS]


def beginning_of_pictures(data: Images | Pairs, folder: Path) -> tuple[Together, str] | None:
    """Write the first pictures of a source, as they are, as tables; and what they are and what was left out, in words.
    None where the source has no more than these."""
    counts = Counts()
    read = pictures(data.source, data.prepare.on_bad, counts)
    found, useless = list(islice(read, PICTURES)), Counter(counts.dropped)
    if next(read, None) is None:
        return None
    rows: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for picture in found:
        why = _useless(picture, data)
        if why:
            useless[why] += 1
        else:
            rows[picture.split].append(_row(picture, data))
    if len(rows["validation"]) < len(rows["train"]) // (2 * HELD_OUT):
        rows["validation"] += rows["train"][::HELD_OUT]
        del rows["train"][::HELD_OUT]
    folder.mkdir(parents=True, exist_ok=True)
    parts = [_table(data, folder, side, rows[side]) for side in SIDES if rows[side]]
    told = f"the first {PICTURES:,} pictures of {describe_pictures(data.source)}{_left_out(useless)}"
    return Together(parts=tuple(parts)), told


def _useless(picture: Picture, data: Images | Pairs) -> str:
    """Why a picture has nothing to learn from; "" where it has."""
    if picture.split not in SIDES:
        return "unlabelled"
    if isinstance(data, Pairs):
        return "" if picture.captions else "without caption"
    return "without class" if picture.label is None else ""


def _row(picture: Picture, data: Images | Pairs) -> dict[str, Any]:
    row: dict[str, Any] = {"image": base64.b64encode(_encoded(picture.content)).decode("ascii")}
    if isinstance(data, Pairs):
        return row | {"captions": list(picture.captions)}
    return row | {"label": list(picture.label) if isinstance(picture.label, tuple) else picture.label}


def _encoded(content: bytes | Pixels) -> bytes:
    """The bytes of an image file; of pixels those of a PNG, which loses nothing."""
    if isinstance(content, bytes):
        return content
    made = io.BytesIO()
    Image.fromarray(content[:, :, 0] if content.shape[2] == 1 else content).save(made, "PNG")
    return made.getvalue()


def _table(data: Images | Pairs, folder: Path, side: Side, rows: list[dict[str, Any]]) -> ImageTable:
    path = folder / f"{side}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return ImageTable(
        paths=(str(path.resolve()),),
        encoding="base64",
        label_key="label" if isinstance(data, Images) else None,
        label_list=isinstance(rows[0].get("label"), list),
        caption_key="captions" if isinstance(data, Pairs) else None,
        side=side,
    )
