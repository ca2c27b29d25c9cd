"""Readers of own text: plain files, JSON lines (plain, gzip, zstd), Parquet, standard input.

Every reader streams in bounded memory and turns what it cannot read into a Problem that names file and position; what
stood before it is still given.
"""

from __future__ import annotations

import atexit
import codecs
import glob
import gzip
import hashlib
import io
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

from corestone.core.errors import nearest
from corestone.core.paths import expanded
from corestone.data.document import Document, Problem, side
from corestone.data.spec import Files

MAX_TEXT_BYTES = 1 << 30
"""Longest plain text file, which is one document and stands in memory whole."""
MAX_LINE_BYTES = 64 << 20
"""Longest JSON line and longest Parquet value: what a damaged or hostile file can make the reader hold."""

_HEAD_BYTES = 1 << 16
_PARQUET_ROWS = 256


@dataclass(frozen=True)
class Input:
    """A file to read.

    Attributes:
        path: where it is.
        name: its path below what was given; the group of the split and the id.
        form: a key of `_READERS`.
        spooled: it is a copy of standard input, named by the hash of its content.
    """

    path: Path
    name: str
    form: str
    spooled: bool = False

    @property
    def shown(self) -> str:
        """The path for messages."""
        return "standard input" if self.spooled else _shown(self.path)


def _shown(path: Path) -> str:
    """A path as valid Unicode: bytes of a file name that are not UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_files(source: Files) -> Iterator[Document | Problem]:
    """Read every file of a source, in the order given and by name within folders and globs."""
    for item in inputs(source):
        if isinstance(item, Problem):
            yield item
        else:
            try:
                yield from _READERS[item.form](item, source)
            except OSError as error:
                yield _unreadable(item.path, error)


def files_fingerprint(source: Files) -> list[dict[str, object]]:
    """What identifies the files' content without reading them whole: names, sizes, times of change, first bytes."""
    found: list[dict[str, object]] = []
    for item in inputs(source):
        if isinstance(item, Problem):
            found.append({"problem": item.message})
            continue
        try:
            with item.path.open("rb") as stream:
                stat = os.fstat(stream.fileno())
                head = hashlib.sha256(stream.read(_HEAD_BYTES)).hexdigest()
        except OSError as error:
            found.append({"problem": _unreadable(item.path, error).message})
            continue
        changed = 0 if item.spooled else stat.st_mtime_ns
        found.append({"name": item.name, "size": stat.st_size, "changed": changed, "head": head})
    return found


# -- which files --------------------------------------------------------------------------------------------------


def inputs(source: Files) -> Iterator[Input | Problem]:
    """Find the files of a source: each once, hidden ones and unknown types counted, never silently left out."""
    seen: set[Path] = set()
    names: set[str] = set()
    for given in source.paths:
        for item in _expand(given):
            if isinstance(item, Problem):
                yield item
                continue
            real = item.path.resolve()
            if real in seen:
                yield Problem("same file given twice", f"{item.shown}: given twice; read once", fatal=False)
                continue
            seen.add(real)
            # Two folders may hold files of the same name: the later one goes by its whole path.
            name = item.shown if item.name in names else item.name
            names.add(name)
            yield replace(item, name=name)


def _expand(given: str) -> Iterator[Input | Problem]:
    """The files that one given path stands for."""
    if given == "-":
        yield standard_input()
        return
    path = expanded(given)
    if os.path.isdir(path):
        yield from _walk(path, path)
    elif os.path.exists(path):
        yield _input(path, Path(path.name), asked_for=True)
    elif glob.has_magic(given):
        matches = sorted(glob.glob(str(path), recursive=True))
        root = Path(*_before_magic(path))
        for match in map(Path, matches):
            if match.is_dir():
                # `**` also matches the folders on the way: their files match by themselves.
                if "**" not in given:
                    yield from _walk(match, root)
            else:
                yield _input(match, match.relative_to(root), asked_for=False)
        if not matches:
            yield Problem("missing file", f"{given}: no file matches this pattern")
    else:
        yield Problem("missing file", missing(path))


def missing(path: Path) -> str:
    """Phrase that a path does not exist, naming the nearest existing one."""
    parent = path.parent
    while not os.path.isdir(parent):
        path, parent = parent, parent.parent
    try:
        guess = nearest(path.name, [item.name for item in parent.iterdir()])
    except OSError:
        guess = None
    hint = f"; did you mean {_shown(parent / guess)}?" if guess else f" (looked in {parent.resolve()})"
    return f"{_shown(path)}: no such file or folder{hint}"


def _before_magic(path: Path) -> list[str]:
    parts: list[str] = []
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return parts


def _walk(folder: Path, root: Path) -> Iterator[Input | Problem]:
    """All files below a folder, by name; links to folders are followed, each folder once."""
    visited: set[Path] = set()
    errors: list[OSError] = []
    found = False
    for here, folders, files in os.walk(folder, followlinks=True, onerror=errors.append):
        real = Path(here).resolve()
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        for name in sorted(name for name in folders + files if name.startswith(".")):
            where = _shown(Path(here) / name)
            yield Problem("hidden file or folder", f"{where}: hidden; give its path to read it", fatal=False)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            path = Path(here) / name
            found = True
            yield _input(path, path.relative_to(root), asked_for=False)
    for error in errors:
        yield _unreadable(Path(error.filename), error)
    if not found and not errors:
        yield Problem("empty folder", f"{_shown(folder)}: the folder holds no files")


def _input(path: Path, name: Path, asked_for: bool) -> Input | Problem:
    """Tell the form by the file's name. An unknown type that was asked for by name is refused, else only counted."""
    lower = path.name.lower()
    if os.path.exists(path) and not os.path.isfile(path):
        return Problem("not a regular file", f"{_shown(path)}: not a regular file; use - for standard input")
    for ending, form in _FORMS.items():
        if lower.endswith(ending):
            return Input(path, _shown(Path(name.as_posix())), form)
    ending = path.suffix or "no ending"
    message = f"{_shown(path)}: files of this type ({ending}) are not read; known: {' '.join(_FORMS)}"
    return Problem(f"file type not read ({ending})", message, fatal=asked_for)


@cache
def standard_input() -> Input | Problem:
    """Spool standard input to a temporary file, once per process; it is removed when the process ends.

    Where the first character is `{` it is read as JSON lines, otherwise as one plain text. Its name carries the hash
    of its content, so that piping the same text again is the same source.
    """
    if sys.stdin is None or sys.stdin.isatty():
        return Problem("empty input", "standard input: nothing is piped into standard input; use: command < FILE")
    total, first = hashlib.sha256(), b""
    with tempfile.NamedTemporaryFile(prefix="corestone-stdin-", delete=False) as spool:
        path = Path(spool.name)
        atexit.register(_remove, path, os.getpid())
        while chunk := sys.stdin.buffer.read(1 << 20):
            total.update(chunk)
            first = first or chunk.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
            spool.write(chunk)
    return Input(path, f"stdin-{total.hexdigest()[:16]}", "json lines" if first == b"{" else "text", True)


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # not when a forked worker ends
        path.unlink(missing_ok=True)


# -- plain text ---------------------------------------------------------------------------------------------------


def _read_text(item: Input, source: Files) -> Iterator[Document | Problem]:
    """The file is one document; its bytes are decoded and otherwise left as they are (a byte order mark goes)."""
    with item.path.open("rb") as stream:
        content = stream.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        size = f"{MAX_TEXT_BYTES >> 20} MiB"
        yield Problem("text too long", f"{item.shown}: longer than {size} as one document; cut it into several files")
    elif not content.strip():
        yield Problem("empty file", f"{item.shown}: the file is empty; remove it from the source")
    else:
        mark = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
        try:
            text = content[mark:].decode("utf-8")
        except UnicodeDecodeError as error:
            yield _not_utf8(item.shown, error, mark)
        else:
            yield Document(item.name, text, side(item.name, source.validation_percent), item.shown)


def _not_utf8(where: str, error: UnicodeDecodeError, skipped: int = 0) -> Problem:
    """Name the first wrong byte, counted from 0; `skipped` is what stood before the decoded bytes."""
    wide = error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    cure = "it looks like UTF-16: convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)" if wide else "convert it to UTF-8"
    place = f"byte {error.start + skipped} (0x{error.object[error.start]:02x})"
    return Problem("invalid UTF-8", f"{where}: {place} is not valid UTF-8 ({error.reason}); {cure}")


# -- JSON lines ---------------------------------------------------------------------------------------------------


def _read_json_lines(item: Input, source: Files) -> Iterator[Document | Problem]:
    """One document per line that is not blank."""
    number, filled = 0, 0
    with item.path.open("rb") as raw:
        try:
            with decompressed(item, raw) as stream:
                while line := stream.readline(MAX_LINE_BYTES + 1):
                    number += 1
                    if number == 1:
                        line = line.removeprefix(codecs.BOM_UTF8)
                    if line.strip():
                        filled += 1
                        yield _json_document(line, item, number, source)
                    while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                        line = stream.readline(MAX_LINE_BYTES + 1)  # the rest of a line that was refused
        except BROKEN as error:
            where = f"{item.shown}, after line {number}" if number else item.shown
            what = f"the {item.form} data is damaged or cut short ({error}); fetch or compress the file again"
            yield Problem(f"corrupt {item.form}", f"{where}: {what}")
            return
    if not filled:
        yield Problem("empty file", f"{item.shown}: no JSON line in it; remove it from the source")


BROKEN = (OSError, EOFError, zlib.error, pyarrow.ArrowException)


def decompressed(item: Input, raw: BinaryIO) -> BinaryIO:
    """The bytes of a file of JSON lines, whichever way they are packed; damage raises one of BROKEN while reading."""
    if item.form == "gzip":
        return gzip.open(raw)  # type: ignore[return-value]
    if item.form == "zstd":
        # pyarrow says where a stream is cut short; zstandard's reader takes a cut for the end.
        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), "zstd"))
    return raw


def _too_long(where: str) -> Problem:
    limit = f"{MAX_LINE_BYTES >> 20} MiB"
    cure = "mend it, or cut it into several documents"
    return Problem(f"longer than {limit}", f"{where}: longer than {limit}; {cure}")


def _json_document(line: bytes, item: Input, number: int, source: Files) -> Document | Problem:
    where = f"{item.shown}, line {number}"
    if len(line) > MAX_LINE_BYTES:
        return _too_long(where)
    try:
        text = line.decode("utf-8").rstrip("\r\n")  # or a column at the end would be counted on the next line
    except UnicodeDecodeError as error:
        return _not_utf8(where, error)
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        return Problem("invalid JSON", f"{where}, column {error.colno}: not valid JSON ({error.msg}); mend the line")
    except (ValueError, RecursionError) as error:
        return Problem("invalid JSON", f"{where}: JSON that cannot be read ({error}); mend the line")
    if not isinstance(record, dict):
        kind = _kind(record)
        return Problem(
            "not a JSON object", f"{where}: a JSON {kind}, where an object with key '{source.text_key}' belongs"
        )
    if source.text_key not in record:
        return Problem("no text key", f"{where}: {_no_key('key', source.text_key, list(record))}")
    return _document(record[source.text_key], where, f"{item.name}:{number}", item, source)


def _no_key(what: str, key: str, known: list[str]) -> str:
    guess = nearest(key, known)
    hint = f"did you mean '{guess}'? " if guess else ""
    shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return f"no {what} '{key}': {hint}it has: {shown or 'none'}; {name_text_key('PATH', guess)}"


def name_text_key(path: str, guess: str | None) -> str:
    """What to do where the text has another key."""
    key = guess or "NAME"
    return f"write '{path}?text_key={key}', or where a recipe names it data.components.0.source.text_key={key}"


def _document(value: Any, where: str, name: str, item: Input, source: Files) -> Document | Problem:
    """Check one value of a table: a string that is valid Unicode and not beyond measure."""
    if not isinstance(value, str):
        kind = _kind(value)
        return Problem("text is not a string", f"{where}: '{source.text_key}' is a {kind}, where a string was expected")
    if len(value) > MAX_LINE_BYTES:
        return _too_long(where)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(value[error.start]):04x}"
        found = f"character {error.start} of '{source.text_key}' is half of a surrogate pair ({half})"
        return Problem("invalid Unicode", f"{where}: {found}; mend the text")
    return Document(name, value, side(name, source.validation_percent), item.shown)


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


# -- Parquet ------------------------------------------------------------------------------------------------------


def _read_parquet(item: Input, source: Files) -> Iterator[Document | Problem]:
    """One document per row, a few rows of one row group in memory at a time."""
    row = 0
    try:
        if item.path.stat().st_size == 0:
            yield Problem("empty file", f"{item.shown}: the file is empty; remove it from the source")
            return
        with pyarrow.parquet.ParquetFile(item.path, page_checksum_verification=True) as table:
            if source.text_key not in table.schema_arrow.names:
                found = _no_key("column", source.text_key, table.schema_arrow.names)
                yield Problem("no text key", f"{item.shown}: {found}")
                return
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=[source.text_key]):
                for value in batch.column(0):
                    row += 1
                    yield _parquet_document(value, item, row, source)
            if row != table.metadata.num_rows:
                # The footer has no checksum: a damaged one can hide rows without any other sign.
                raise pyarrow.ArrowInvalid(f"{row} rows were found where {table.metadata.num_rows} are announced")
            if not row:
                yield Problem("empty file", f"{item.shown}: no row in it; remove it from the source")
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        where = f"{item.shown}, after row {row}" if row else f"{item.shown}"
        yield Problem("corrupt parquet", f"{where}: the Parquet data is damaged ({reason}); fetch or write it again")


def _parquet_document(value: Any, item: Input, row: int, source: Files) -> Document | Problem:
    where = f"{item.shown}, row {row}"
    try:
        text = value.as_py()
    except UnicodeDecodeError as error:
        return _not_utf8(where, error)
    return _document(text, where, f"{item.name}:{row}", item, source)


def _unreadable(path: Path, error: OSError) -> Problem:
    reason = error.strerror or str(error)
    return Problem(
        "cannot be read", f"{_shown(path)}: cannot be read ({reason}); check that it is there and its permissions"
    )


_FORMS = {
    ".txt": "text",
    ".md": "text",
    ".tokens": "text",  # WikiText's two forms
    ".raw": "text",
    ".jsonl": "json lines",
    ".jsonl.gz": "gzip",
    ".json.gz": "gzip",  # C4's shards
    ".jsonl.zst": "zstd",
    ".parquet": "parquet",
}

_READERS: dict[str, Callable[[Input, Files], Iterator[Document | Problem]]] = {
    "text": _read_text,
    "json lines": _read_json_lines,
    "gzip": _read_json_lines,
    "zstd": _read_json_lines,
    "parquet": _read_parquet,
}
