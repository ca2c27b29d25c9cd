"""The last step: index, hashes and manifest, after which a folder is complete and never changes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from corestone.core.errors import DataError
from corestone.core.spec import plain
from corestone.data.document import Counts
from corestone.data.prepare.opened import MANIFEST
from corestone.data.prepare.writer import (
    JOURNAL,
    Journal,
    SplitState,
    file_sha256,
    index_name,
    index_parts_name,
    metadata_name,
    shard_name,
    sync_folder,
    write_durably,
)
from corestone.data.spec import Prepare, Source
from corestone.data.tokenizer import Tokenizer
from corestone.data.tokens import VERSION

SPLITS = ("train", "validation")


class EmptySetError(DataError):
    """A set with no document on one side."""


def check_not_empty(journal: Journal, counts: Counts, where: str) -> None:
    """Refuse a set without documents. Raises DataError that says where they went."""
    if any(journal.splits[split].documents for split in SPLITS):
        return
    dropped = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.dropped.items())) or "none"
    raise EmptySetError(f"{where}: no document is left of {counts.read} read (dropped: {dropped}); check the source")


def write_manifest(folder: Path, facts: dict[str, Any], tokenizer: Tokenizer, journal: Journal, shard: int) -> None:
    """Complete a folder whose token files are closed. No time stands in it, so equal input gives equal bytes."""
    tokenizer.save(folder)
    splits = {split: _split_facts(folder, split, journal.splits[split], shard) for split in SPLITS}
    text = json.dumps({**facts, "splits": splits}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    sync_folder(folder)
    write_durably(folder / MANIFEST, text.encode("utf-8", "backslashreplace"))


def clear_scaffold(folder: Path) -> None:
    """Remove what only an unfinished folder needs."""
    for name in (JOURNAL, *(index_parts_name(split) for split in SPLITS)):
        (folder / name).unlink(missing_ok=True)


def set_facts(
    fingerprint: str, source: Source, options: Prepare, tokenizer: Tokenizer, counts: Counts, encoder_note: str | None
) -> dict[str, Any]:
    """What a manifest says besides its splits."""
    return {
        "version": VERSION,
        "fingerprint": fingerprint,
        "source": plain(source),
        "options": plain(options),
        "tokenizer": tokenizer.manifest.model_dump(),
        "dtype": token_dtype(tokenizer).removeprefix("<").replace("u2", "uint16").replace("u4", "uint32"),
        "encoder": tokenizer.encoder,
        "encoder_reason": encoder_note or tokenizer.encoder_reason,
        "counts": {
            "read": counts.read,
            "kept": counts.kept,
            "dropped": dict(sorted(counts.dropped.items())),
            "examples": {reason: names for reason, names in sorted(counts.examples.items()) if names},
        },
    }


def token_dtype(tokenizer: Tokenizer) -> str:
    """The type of a token file: 16 bits where every id fits."""
    return "<u2" if tokenizer.manifest.vocab_size <= 1 << 16 else "<u4"


def _split_facts(folder: Path, split: str, state: SplitState, shard_tokens: int) -> dict[str, Any]:
    rows = np.fromfile(folder / index_parts_name(split), dtype="<i8").reshape(-1, 2)
    with (folder / index_name(split)).open("wb") as stream:
        np.save(stream, rows)
    shards = []
    for number, start in enumerate(range(0, state.tokens, shard_tokens)):
        name, tokens = shard_name(split, number), min(shard_tokens, state.tokens - start)
        shards.append({"file": name, "tokens": tokens, "sha256": file_sha256(folder / name)})
    facts = asdict(state)
    del facts["metadata_bytes"]
    return {
        **facts,
        "bytes_per_token": round(state.bytes / max(1, state.tokens - state.documents - 1), 4),
        "shards": shards,
        "index": _file_facts(folder / index_name(split)),
        "metadata": _file_facts(folder / metadata_name(split)),
    }


def _file_facts(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
