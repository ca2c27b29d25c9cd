"""Raw text to an immutable set of token files: streaming, counted, resumable, complete or invisible.

Documents flow from the source through the filters, in batches through the encoder, in order into the files of
`OUT.partial`; a journal says how much of them is safely on disk. The finished folder is renamed to OUT. A killed run
that is started again reads the source anew (so that duplicates are known), encodes nothing twice, and ends with the
bytes of an uninterrupted one.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corestone.core.errors import DataError
from corestone.core.spec import fingerprint, plain
from corestone.data.cache import cache_dir
from corestone.data.document import Counts
from corestone.data.prepare.estimate import total_bytes
from corestone.data.prepare.fill import Order, Progress, fill
from corestone.data.prepare.filters import kept_documents
from corestone.data.prepare.finish import clear_scaffold
from corestone.data.prepare.opened import MANIFEST
from corestone.data.prepare.writer import alone, disk_errors, sync_folder
from corestone.data.sources import source_fingerprint
from corestone.data.spec import Data, Prepare, Source, Trained
from corestone.data.tokenizer import Tokenizer, build_tokenizer, load_tokenizer
from corestone.data.tokens import VERSION, read_manifest

__all__ = ["Progress", "prepare", "prepare_data", "prepare_source", "prepare_tokenizer"]


class _Silent:
    """Shows nothing."""

    def start(self, what: str, total_bytes: int | None) -> None: ...

    def advance(self, n_bytes: int) -> None: ...

    def note(self, message: str) -> None: ...


def prepare(
    source: Source,
    tokenizer: Tokenizer,
    options: Prepare,
    out: Path,
    workers: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Prepare a source, or go on where a killed run stopped, or find it done.

    Args:
        out: the folder to make.
        workers: processes that encode; 0 encodes in this one, on all its cores. More need a main module that is safe
            to import (`if __name__ == "__main__":`).

    Returns:
        The manifest of the set.

    Raises:
        DataError: input that cannot be read, no document on one side, a folder in the way, a full disk.
    """
    name = _set_fingerprint(source, tokenizer, options)
    order = Order(name, source, tokenizer, options, workers, progress or _Silent())
    with disk_errors(out), alone(out, order.progress.note):
        if done := _finished(out, name):
            return done
        partial = out.with_name(out.name + ".partial")
        if not _only_to_rename(partial, name):
            fill(partial, order)
        clear_scaffold(partial)
        sync_folder(partial)
        partial.rename(out)
        sync_folder(out.parent)
        return read_manifest(out)


def prepare_source(
    source: Source,
    tokenizer: Tokenizer,
    options: Prepare,
    cache: Path | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Prepare a source in the cache, once for each content, tokenizer and options. Returns the folder."""
    folder = (cache or cache_dir()) / "prepared" / _set_fingerprint(source, tokenizer, options)
    prepare(source, tokenizer, options, folder, workers, progress)
    return folder


def prepare_data(
    spec: Data, cache: Path, workers: int = 0, progress: Progress | None = None
) -> tuple[Tokenizer, list[Path]]:
    """Make, or find in the cache, all that a run reads.

    Returns:
        The tokenizer, trained on the training side of all components where its kind is trained at all, and one
        prepared folder per component, in their order.
    """
    show = progress or _Silent()
    tokenizer = prepare_tokenizer(spec, cache, show)
    sources = [component.source for component in spec.components]
    return tokenizer, [prepare_source(one, tokenizer, spec.prepare, cache, workers, show) for one in sources]


def prepare_tokenizer(spec: Data, cache: Path, progress: Progress | None = None) -> Tokenizer:
    """The tokenizer of a run: trained on the training side of all components, once for each content; or as it is.

    Raises DataError where a source cannot be read or has no training text, or a file holds no usable tokenizer.
    """
    show = progress or _Silent()
    if not isinstance(spec.tokenizer, Trained):
        return build_tokenizer(spec.tokenizer, ())
    sources = [component.source for component in spec.components]
    content = [[plain(source), source_fingerprint(source)] for source in sources]
    key = fingerprint([VERSION, plain(spec.tokenizer), plain(spec.prepare), content])
    folder = cache / "tokenizers" / key
    with disk_errors(folder), alone(folder, show.note):
        if not folder.is_dir():
            show.start("training the tokenizer", total_bytes(sources))
            tokenizer = build_tokenizer(spec.tokenizer, _training_texts(spec, show))
            partial = folder.with_name(key + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            tokenizer.save(partial)
            partial.rename(folder)
        return load_tokenizer(folder)


def _set_fingerprint(source: Source, tokenizer: Tokenizer, options: Prepare) -> str:
    """Equal for sets that hold the same bytes: the same content, ids and options."""
    ids = [tokenizer.manifest.sha256, tokenizer.manifest.separator]
    return fingerprint([VERSION, plain(source), source_fingerprint(source), plain(options), ids])


def _training_texts(spec: Data, show: Progress) -> Iterator[str]:
    for component in spec.components:
        for document in kept_documents(component.source, spec.prepare, Counts()):
            show.advance(len(document.text.encode("utf-8", "replace")))
            if document.split == "train":
                yield document.text


def _finished(out: Path, name: str) -> dict[str, Any] | None:
    """The manifest of the set where it is done already; DataError where something else stands in its place."""
    if not out.exists():
        return None
    if (out / MANIFEST).is_file():
        manifest = read_manifest(out)
        if manifest["fingerprint"] == name:
            return manifest
        raise DataError(
            f"{out}: holds a set of another source, tokenizer or options; choose another folder or delete this one"
        )
    if not out.is_dir() or any(out.iterdir()):
        raise DataError(f"{out}: is neither empty nor a prepared set; choose another folder")
    out.rmdir()
    return None


def _only_to_rename(partial: Path, name: str) -> bool:
    """Whether a run was killed after its last write."""
    if not (partial / MANIFEST).is_file():
        return False
    try:
        return bool(read_manifest(partial)["fingerprint"] == name)
    except DataError:  # half of another version's set; `fill` starts again
        return False
