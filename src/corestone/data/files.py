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
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

from corestone.core.errors import DataError, nearest
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
    """A file to read: where it is, its name below what was given (group and id), and the form of its content."""

    path: Path
    name: str
    form: str


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
        # Standard input lies in a new file each time: its name, which is its hash, says everything.
        changed = 0 if item.name.startswith("stdin-") else stat.st_mtime_ns
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
                yield Problem("same file given twice", f"{item.path}: given twice; read once", fatal=False)
                continue
            seen.add(real)
            name = item.path.as_posix() if item.name in names else item.name
            names.add(name)
            yield Input(item.path, name, item.form)


def _expand(given: str) -> Iterator[Input | Problem]:
    """The files that one given path stands for."""
    if given == "-":
        yield standard_input()
        return
    path = Path(given).expanduser()
    if path.is_dir():
        yield from _walk(path, path)
    elif path.exists():
        yield _input(path, path.name, asked_for=True)
    elif glob.has_magic(given):
        matches = sorted(glob.glob(str(path), recursive=True))
        root = Path(*_before_magic(path))
        for match in map(Path, matches):
            if match.is_dir():
                # `**` also matches the folders on the way: their files match by themselves.
                if "**" not in given:
                    yield from _walk(match, root)
            else:
                yield _input(match, match.relative_to(root).as_posix(), asked_for=False)
        if not matches:
            yield Problem("missing file", f"{given}: no file matches this pattern")
    else:
        yield Problem("missing file", missing(path))


def missing(path: Path) -> str:
    """Phrase that a path does not exist, naming the nearest existing one."""
    parent = path.parent
    while not parent.is_dir():
        path, parent = parent, parent.parent
    try:
        guess = nearest(path.name, [item.name for item in parent.iterdir()])
    except OSError:
        guess = None
    hint = f"; did you mean {parent / guess}?" if guess else f" (looked in {parent.resolve()})"
    return f"{path}: no such file or folder{hint}"


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
    found = False
    for here, folders, files in os.walk(folder, followlinks=True, onerror=_reraise):
        real = Path(here).resolve()
        hidden = [name for name in folders + files if name.startswith(".")]
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(hidden):
            yield Problem("hidden file or folder", f"{Path(here) / name}: hidden; give its path to read it", fatal=False)
        for name in sorted(set(files) - set(hidden)):
            path = Path(here) / name
            found = True
            yield _input(path, path.relative_to(root).as_posix(), asked_for=False)
    if not found:
        yield Problem("empty folder", f"{folder}: the folder holds no files")


def _reraise(error: OSError) -> None:
    raise DataError(f"{error.filename}: the folder cannot be listed ({error.strerror}); check its permissions")


def _input(path: Path, name: str, asked_for: bool) -> Input | Problem:
    """Tell the form by the file's name. An unknown type that was asked for by name is refused, else only counted."""
    lower = path.name.lower()
    for ending, form in _FORMS.items():
        if lower.endswith(ending):
            return Input(path, name, form)
    ending = path.suffix or "no ending"
    message = f"{path}: files of this type ({ending}) are not read; known: {' '.join(_FORMS)}"
    return Problem(f"file type not read ({ending})", message, fatal=asked_for)


@cache
def standard_input() -> Input | Problem:
    """Spool standard input to a temporary file, once per process; it is removed when the process ends.

    Where the first character is `{` it is read as JSON lines, otherwise as one plain text. Its name carries the hash
    of its content, so that piping the same text again is the same source.
    """
    if sys.stdin is None or sys.stdin.isatty():
        return Problem("empty input", "-: nothing is piped into standard input; use: command < FILE")
    total, first = hashlib.sha256(), b""
    with tempfile.NamedTemporaryFile(prefix="corestone-stdin-", delete=False) as spool:
        path = Path(spool.name)
        atexit.register(_remove, path, os.getpid())
        while chunk := sys.stdin.buffer.read(1 << 20):
            total.update(chunk)
            first = first or chunk.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
            spool.write(chunk)
    return Input(path, f"stdin-{total.hexdigest()[:16]}", "json lines" if first == b"{" else "text")


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
        yield Problem("text too long", f"{item.path}: longer than {size} as one document; cut it into several files")
    elif not content.strip():
        yield Problem("empty file", f"{item.path}: the file is empty; remove it from the source")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            yield _not_utf8(f"{item.path}", content, error, 0)
        else:
            yield Document(item.name, text, side(item.name, source.validation_percent), str(item.path))


def _not_utf8(where: str, content: bytes, error: UnicodeDecodeError, offset: int) -> Problem:
    """Name the first wrong byte; `offset` is what the decoder did not count."""
    wide = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    cure = "it looks like UTF-16: convert it with iconv -f UTF-16 -t UTF-8" if wide else "convert it with iconv -t UTF-8"
    # utf-8-sig counts from after the byte order mark it took away.
    start = error.start + offset + (len(codecs.BOM_UTF8) if error.object is not content and _marked(content) else 0)
    value = error.object[error.start]
    return Problem("invalid UTF-8", f"{where}: byte {start} (0x{value:02x}) is not valid UTF-8 ({error.reason}); {cure}")


def _marked(content: bytes) -> bool:
    return content.startswith(codecs.BOM_UTF8)


# -- JSON lines ---------------------------------------------------------------------------------------------------


def _read_json_lines(item: Input, source: Files) -> Iterator[Document | Problem]:
    """One document per line that is not blank."""
    number, filled = 0, 0
    try:
        with item.path.open("rb") as raw, _decompressed(item, raw) as stream:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if not line.strip():
                    continue
                filled += 1
                if len(line) > MAX_LINE_BYTES:
                    yield _too_long(f"{item.path}, line {number}")
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(1 << 20)
                else:
                    yield _json_document(line, item, number, source)
    except _BROKEN as error:
        if item.form == "json lines":
            raise
        where = f"{item.path}, after line {number}" if number else f"{item.path}"
        yield Problem(
            f"corrupt {item.form}",
            f"{where}: the {item.form} data is damaged or cut short ({error}); fetch or compress the file again",
        )
    else:
        if not filled:
            yield Problem("empty file", f"{item.path}: no JSON line in it; remove it from the source")


_BROKEN = (OSError, EOFError, zlib.error, pyarrow.ArrowException)


def _decompressed(item: Input, raw: BinaryIO) -> BinaryIO:
    if item.form == "gzip":
        return gzip.open(raw)  # type: ignore[return-value]
    if item.form == "zstd":
        # pyarrow says where a stream is cut short; zstandard's reader takes a cut for the end.
        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), "zstd"))
    return raw


def _too_long(where: str) -> Problem:
    limit = f"{MAX_LINE_BYTES >> 20} MiB"
    return Problem(f"longer than {limit}", f"{where}: longer than {limit}; damaged data, or cut it into several documents")


def _json_document(line: bytes, item: Input, number: int, source: Files) -> Document | Problem:
    where = f"{item.path}, line {number}"
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return _not_utf8(where, line, error, 0)
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        return Problem("invalid JSON", f"{where}, column {error.colno}: not valid JSON ({error.msg}); mend the line")
    except (ValueError, RecursionError) as error:
        return Problem("invalid JSON", f"{where}: JSON that cannot be read ({error}); mend the line")
    if not isinstance(record, dict):
        return Problem("not a JSON object", f"{where}: a JSON {_kind(record)}, where an object with a text was expected")
    if source.text_key not in record:
        return Problem("no text key", f"{where}: {_no_key('key', source.text_key, list(record))}")
    return _document(record[source.text_key], where, f"{item.name}:{number}", item, source)


def _no_key(what: str, key: str, known: list[str]) -> str:
    guess = nearest(key, known)
    hint = f"did you mean '{guess}'? " if guess else ""
    shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return f"no {what} '{key}': {hint}it has: {shown or 'none'}; set text_key"


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
        return Problem(
            "invalid Unicode",
            f"{where}: character {error.start} of '{source.text_key}' is half of a surrogate pair ({half}); mend the text",
        )
    return Document(name, value, side(name, source.validation_percent), str(item.path))


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


# -- Parquet ------------------------------------------------------------------------------------------------------


def _read_parquet(item: Input, source: Files) -> Iterator[Document | Problem]:
    """One document per row, a few rows of one row group in memory at a time."""
    row = 0
    try:
        if item.path.stat().st_size == 0:
            yield Problem("empty file", f"{item.path}: the file is empty; remove it from the source")
            return
        with pyarrow.parquet.ParquetFile(item.path, page_checksum_verification=True) as table:
            if source.text_key not in table.schema_arrow.names:
                found = _no_key("column", source.text_key, table.schema_arrow.names)
                yield Problem("no text key", f"{item.path}: {found}")
                return
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=[source.text_key]):
                for value in batch.column(0):
                    row += 1
                    yield _parquet_document(value, item, row, source)
            if not row:
                yield Problem("empty file", f"{item.path}: no row in it; remove it from the source")
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        where = f"{item.path}, after row {row}" if row else f"{item.path}"
        yield Problem("corrupt parquet", f"{where}: the Parquet data is damaged ({reason}); fetch or write it again")


def _parquet_document(value: Any, item: Input, row: int, source: Files) -> Document | Problem:
    where = f"{item.path}, row {row}"
    try:
        text = value.as_py()
    except UnicodeDecodeError as error:
        return _not_utf8(where, b"", error, 0)
    return _document(text, where, f"{item.name}:{row}", item, source)


def _unreadable(path: Path, error: OSError) -> Problem:
    return Problem("cannot be read", f"{path}: cannot be read ({error.strerror or error}); check the file and its permissions")


_FORMS = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "json lines",
    ".jsonl.gz": "gzip",
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
