"""Where text comes from: one stream of documents, whatever the source.

`documents` is deterministic, streams in bounded memory, and counts whatever it does not give.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from corestone.core.errors import DataError, nearest, unknown
from corestone.core.paths import expanded
from corestone.core.spec import fingerprint, parse, plain
from corestone.data.catalogue import CatalogueEntry, catalogue
from corestone.data.document import Counts, Document, Problem, counted, side
from corestone.data.embedded import READERS, corpus_sha256, embedded_fingerprint, read_embedded, text_entry
from corestone.data.files import files_fingerprint, missing, name_text_key, read_files
from corestone.data.spec import Embedded, Files, Hub, OnBad, Source

__all__ = [
    "Counts",
    "Document",
    "Problem",
    "card",
    "documents",
    "own_files",
    "parse_source",
    "register",
    "source_fingerprint",
]


def documents(source: Source, on_bad: OnBad, counts: Counts) -> Iterator[Document]:
    """Read a source.

    Args:
        on_bad: `stop` raises at the first input that cannot be read; `skip` counts it and goes on.
        counts: filled while reading.

    Raises:
        DataError: an input that cannot be read under `stop`, or nothing at all that could be.
    """
    return counted(_read(source), on_bad, counts, describe(source), "document", hint="")


def _read(source: Source) -> Iterator[Document | Problem]:
    if isinstance(source, Embedded):
        return read_embedded(text_entry(source.name))
    if isinstance(source, Files):
        return read_files(source)
    return _read_hub(source)


def source_fingerprint(source: Source) -> str:
    """Name a source's content in 16 hex digits: another input, split or text key gives another fingerprint.

    Files count by name, size, time of change and first bytes; a catalogue entry by the hash of its wheel; a hub data
    set by the revision the hub names.
    """
    if isinstance(source, Embedded):
        return fingerprint(embedded_fingerprint(text_entry(source.name)))
    if isinstance(source, Files):
        content: Any = files_fingerprint(source)
        return fingerprint([content, source.text_key, source.validation_percent])
    return fingerprint([plain(source), _hub_revision(source)])


def card(source: Source) -> dict[str, Any]:
    """What a report says about a source: what it is, its licence where known, its split and what that leaves open."""
    if isinstance(source, Embedded):
        item = text_entry(source.name)
        facts = {**plain(item), "source": item.source, "split": item.split}
        return facts if item.wheel else {**facts, "corpus_sha256": corpus_sha256()}
    group = "file (text) or row (JSON lines, Parquet)" if isinstance(source, Files) else "row"
    return {
        "name": describe(source),
        "title": "own files" if isinstance(source, Files) else "Hugging Face data set",
        "source": plain(source),
        "licence": "not stated",
        "split": f"by {group}, {source.validation_percent:g} % validation",
        "not_controlled": "Related texts may stand on both sides; only exact repeats are dropped in preparation.",
    }


def register(item: CatalogueEntry, reader: Callable[[CatalogueEntry], Iterator[Document | Problem]]) -> None:
    """Add a data set to the catalogue of this process: its card, and how its wheel is read.

    Raises:
        DataError: the name is taken, or the entry names no wheel (own files need no entry: give their path).
    """
    if item.name in catalogue():
        raise DataError(f"data set '{item.name}' is in the catalogue already; choose another name")
    if item.wheel is None:
        raise DataError(f"data set '{item.name}' names no wheel; for own files give their path instead")
    catalogue()[item.name] = item
    READERS[item.name] = reader


def describe(source: Source) -> str:
    """A source in a few words, for messages."""
    if isinstance(source, Embedded):
        return source.name
    return ", ".join(source.paths) if isinstance(source, Files) else f"hf://{source.path}"


def parse_source(text: str) -> Source:
    """Read a source from the command line.

    A catalogue name (`shakespeare`), a path or glob (`texts/`, `texts/**/*.jsonl.gz`; `./shakespeare` where a path has
    the name of a data set) or `-` for standard input, both as `own_files` reads them, or
    `hf://owner/name?config=...&split=...&text_key=...`.

    Raises:
        DataError: nothing of this name.
    """
    if text.startswith("hf://"):
        parts = urlsplit(text)
        path = parts.netloc + parts.path
        if not path.strip("/"):
            raise DataError(f"'{text}': a Hugging Face data set is written hf://owner/name")
        return parse(Hub, {**dict(parse_qsl(parts.query)), "path": path.rstrip("/")}, text)
    if text in catalogue():
        return Embedded(name=text_entry(text).name)
    files = own_files(text)
    (path,) = files.paths
    if path != "-" and not glob.has_magic(path) and not os.path.exists(expanded(path)):
        if os.sep not in path and not Path(path).suffix:
            raise DataError(f"{unknown('data set', path, catalogue())}; and no file or folder has this name")
        raise DataError(missing(expanded(path)))
    return files


def own_files(text: str) -> Files:
    """A path on the command line, with `?text_key=NAME` behind it where rows hold their text under another key."""
    path, marked, key = text.partition("?text_key=")
    return Files(paths=(path,), text_key=key) if marked else Files(paths=(path,))


# -- Hugging Face hub ---------------------------------------------------------------------------------------------


def _read_hub(source: Hub) -> Iterator[Document | Problem]:
    """Stream the rows of a hub data set; ids are `split:row`."""
    try:
        import datasets  # optional: the `hf` extra
    except ImportError:
        raise _no_extra(source) from None
    name = describe(source)
    row = 0
    try:
        rows = datasets.load_dataset(source.path, source.config, split=source.split, streaming=True)
        for record in rows:
            row += 1
            yield _hub_document(record, row, name, source)
    except DataError:
        raise
    except Exception as error:  # the library raises many unrelated types for a wrong name or a failing network
        place = f", after row {row}" if row else ""
        raise _hub_error(f"{name}{place}", error) from None


def _hub_document(record: dict[str, Any], row: int, name: str, source: Hub) -> Document | Problem:
    where = f"{name}, row {row}"
    if source.text_key not in record:
        cure = name_text_key(name, nearest(source.text_key, record))
        raise DataError(f"{where}: {unknown('column', source.text_key, record)}; {cure}")
    value = record[source.text_key]
    if not isinstance(value, str):
        return Problem("text is not a string", f"{where}: '{source.text_key}' is not a string")
    key = f"{source.split}:{row}"
    return Document(key, value, side(key, source.validation_percent), name)


def _hub_revision(source: Hub) -> Any:
    """The commit of the data set on the hub, or the state of a local folder."""
    if Path(source.path).exists():
        found = [(str(path), path.stat()) for path in sorted(Path(source.path).rglob("*"))]
        return [[path, stat.st_size, stat.st_mtime_ns] for path, stat in found]
    try:
        from huggingface_hub import HfApi  # optional: the `hf` extra
    except ImportError:
        raise _no_extra(source) from None
    try:
        return HfApi().dataset_info(source.path).sha
    except Exception as error:  # see _read_hub
        raise _hub_error(describe(source), error) from None


def _hub_error(where: str, error: Exception) -> DataError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"{where}: the data set cannot be read ({reason}); check its name and the network")


def _no_extra(source: Hub) -> DataError:
    return DataError(f"{describe(source)}: needs the Hugging Face libraries; run: pip install 'corestone[hf]'")
