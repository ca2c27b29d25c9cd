"""Readers of tables that name or hold pictures: CSV, TSV, JSON lines, Parquet."""

from __future__ import annotations

import base64
import binascii
import codecs
import csv
import glob
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from corestone.core.errors import DataError, unknown
from corestone.core.paths import expanded
from corestone.data.document import Problem
from corestone.data.files import MAX_LINE_BYTES, missing
from corestone.data.images.arrays import own_side
from corestone.data.images.files import read_file, shown
from corestone.data.images.picture import Picture, bytes_sha256, several
from corestone.data.images.spec import ImageTable

_PARQUET_ROWS = 64
TABLE_FORMS = (".csv", ".tsv", ".jsonl", ".parquet")


def read_table(source: ImageTable) -> Iterator[Picture | Problem]:
    """One picture per row, or per run of rows that name the same picture; ids are `file:row`, rows count from 1."""
    for path in table_paths(source):
        if isinstance(path, Problem):
            yield path
            continue
        try:
            yield from _merged(_pictures(source, path))
        except OSError as error:
            yield Problem("cannot be read", f"{shown(path)}: cannot be read ({error.strerror or error})")


def table_paths(source: ImageTable) -> Iterator[Path | Problem]:
    """The files of a table source, in the order given and by name within globs."""
    for given in source.paths:
        path = expanded(given)
        found = sorted(map(Path, glob.glob(str(path), recursive=True))) if glob.has_magic(given) else [path]
        if not found:
            yield Problem("missing file", f"{given}: no file matches this pattern")
        for one in found:
            if not one.is_file():
                yield Problem("missing file", missing(one) if not one.exists() else f"{one}: is not a file")
            elif one.suffix.lower() not in TABLE_FORMS:
                yield Problem("file type not read", f"{one}: not a table that is read; known: {' '.join(TABLE_FORMS)}")
            else:
                yield one


Row = tuple[int, dict[str, Any] | Problem]


def _pictures(source: ImageTable, path: Path) -> Iterator[tuple[str | None, Picture | Problem]]:
    """Pictures with what names them in the table (None where nothing does)."""
    reader = {".jsonl": _json_rows, ".parquet": _parquet_rows}.get(path.suffix.lower())
    rows = reader(source, path) if reader else _text_rows(source, path)
    number = 0
    for number, row in rows:
        where = f"{shown(path)}, row {number}"
        yield (None, row) if isinstance(row, Problem) else _picture(source, path, row, where, f"{path.name}:{number}")
    if not number:
        yield None, Problem("empty file", f"{shown(path)}: no row in it; remove it from the source")


def _picture(
    source: ImageTable, path: Path, row: dict[str, Any], where: str, name: str
) -> tuple[str | None, Picture | Problem]:
    for key in (source.image_key, source.label_key, source.caption_key, source.group_key):
        if key is not None and key not in row:
            return None, Problem("no such column", f"{where}: {unknown('column', key, map(str, row))}")
    reference, data = _content(source, path, row[source.image_key], where)
    if isinstance(data, Problem):
        return reference, data
    captions = _captions(source, row, where)
    if isinstance(captions, Problem):
        return reference, captions
    label = None if source.label_key is None else _label(source, row[source.label_key], where)
    if isinstance(label, Problem):
        return reference, label
    group = reference or bytes_sha256(data)
    if source.group_key is not None:
        group = str(row[source.group_key])
    side = own_side(source, group)
    return reference, Picture(name, data, side, shown(path), label, captions)


def _content(source: ImageTable, path: Path, value: Any, where: str) -> tuple[str | None, bytes | Problem]:
    """What names a picture, and its bytes."""
    if isinstance(value, dict):  # the form of the library `datasets`: {"bytes": ..., "path": ...}
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        return None, value
    if not isinstance(value, str) or not value:
        return None, Problem("no picture", f"{where}: '{source.image_key}' is {value!r:.40}, where a picture belongs")
    if source.encoding == "base64":
        try:
            return None, base64.b64decode(value, validate=True)
        except binascii.Error as error:
            return None, Problem("invalid base64", f"{where}: '{source.image_key}' is not base64 ({error})")
    root = path.parent if source.root is None else expanded(source.root)
    if "\0" in value:
        return None, Problem("no picture", f"{where}: '{source.image_key}' holds a zero byte, which no path has")
    return value, read_file(root / value, where)


def _label(source: ImageTable, value: Any, where: str) -> str | tuple[str, ...] | Problem:
    """The class of a row, or all that apply."""
    if source.label_list:
        found = several(value.split(source.label_separator) if isinstance(value, str) else value)
        if found is not None:
            return found
    elif value is not None and not isinstance(value, (dict, list, float)) and value != "":
        return str(value)
    wanted = "a list of classes" if source.label_list else "a class"
    return Problem("no class", f"{where}: '{source.label_key}' is {value!r:.80}, where {wanted} belongs")


def _captions(source: ImageTable, row: dict[str, Any], where: str) -> tuple[str, ...] | Problem:
    if source.caption_key is None:
        return ()
    value = row[source.caption_key]
    many = value if isinstance(value, list) else [value]
    captions = tuple(one.strip() for one in many if isinstance(one, str) and one.strip())
    if len(captions) < len(many) or not captions:
        return Problem("no caption", f"{where}: '{source.caption_key}' is {value!r:.40}, where a caption belongs")
    return captions


def _merged(found: Iterable[tuple[str | None, Picture | Problem]]) -> Iterator[Picture | Problem]:
    """Join rows that follow one another and name the same picture, class and side: their captions add up."""
    held: tuple[str, Picture] | None = None
    for reference, item in found:
        if isinstance(item, Picture) and held and held[0] == reference:
            before = held[1]
            if item.captions and (item.label, item.split) == (before.label, before.split):
                held = held[0], replace(before, captions=before.captions + item.captions)
                continue
        if held:
            yield held[1]
        held = None
        if isinstance(item, Picture) and reference:
            held = reference, item
        else:
            yield item
    if held:
        yield held[1]


# -- rows ---------------------------------------------------------------------------------------------------------


def _text_rows(source: ImageTable, path: Path) -> Iterator[Row]:
    """Rows of a .csv (quotes as in RFC 4180) or .tsv (no quotes: every tab ends a field)."""
    csv.field_size_limit(MAX_LINE_BYTES)  # the module has but one limit for the process, and 128 KiB cut base64
    tabs = path.suffix.lower() == ".tsv"
    number = 0
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(stream, strict=True)
        try:
            names = list(source.columns) or next(rows, [])
            for values in rows:
                if not values:
                    continue
                number += 1
                if len(values) == len(names):
                    yield number, dict(zip(names, values, strict=True))
                else:
                    where = f"{shown(path)}, row {number}"
                    message = f"{where}: {len(values)} fields where {len(names)} belong ({', '.join(names)[:200]})"
                    yield number, Problem("wrong number of fields", message)
        except (csv.Error, UnicodeDecodeError) as error:
            place = f"{shown(path)}, after row {number}"
            yield number + 1, Problem("corrupt table", f"{place}: not readable as UTF-8 text in fields ({error})")


def _json_rows(source: ImageTable, path: Path) -> Iterator[Row]:
    number = 0
    with path.open("rb") as stream:
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{shown(path)}, row {number}"
            if len(line) > MAX_LINE_BYTES:
                yield number, Problem("line too long", f"{where}: longer than {MAX_LINE_BYTES >> 20} MiB; cut it")
                return
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, Problem("invalid JSON", f"{where}: not valid JSON ({error}); mend the line")
                continue
            wrong = f"{where}: a JSON object belongs here; mend the line"
            yield number, row if isinstance(row, dict) else Problem("not a JSON object", wrong)


def _parquet_rows(source: ImageTable, path: Path) -> Iterator[Row]:
    wanted = [source.image_key, source.label_key, source.caption_key, source.group_key]
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as table:
            known = table.schema_arrow.names
            for key in wanted:
                if key is not None and key not in known:
                    raise DataError(f"{shown(path)}: {unknown('column', key, known)}")
            columns = list(dict.fromkeys(key for key in wanted if key is not None))
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
            if number != table.metadata.num_rows:
                raise pyarrow.ArrowInvalid(f"{number} rows were found where {table.metadata.num_rows} are announced")
    except DataError as error:
        yield 1, Problem("no such column", str(error))
    except (UnicodeDecodeError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        where = f"{shown(path)}, after row {number}"
        yield number + 1, Problem("corrupt table", f"{where}: the Parquet data is damaged ({reason}); fetch it again")
