"""A prepared split as one long stream of ids, memory-mapped.

A document is `[separator, token, token, ...]` and the stream ends with one more separator, so each token is predicted
once and a document's last token predicts the next separator.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corestone.core.errors import DataError, unknown
from corestone.core.spec import parse
from corestone.data.prepare.opened import MANIFEST, MetadataLines, check_file, check_keys, manifest_tree
from corestone.data.tokenizer import TokenizerManifest

VERSION = 1
_DTYPES = {"uint16": "<u2", "uint32": "<u4"}
_CURE = "delete the folder and prepare the data again"


class TokenSet:
    """One split of a prepared set. Made by `open_token_set`; nothing of it is read before it is used.

    Attributes:
        manifest: that of the whole set.
        fingerprint: names the set's content.
        tokenizer: what its ids mean.
        shards: the token files in order, all but the last of equal length.
        starts: int64 (n_documents + 1,): place of each document's separator and, last, of the closing separator.
        document_bytes: int64 (n_documents,): UTF-8 bytes of each document's text.
    """

    def __init__(self, folder: Path, split: str, manifest: dict[str, Any]) -> None:
        facts = manifest["splits"][split]
        self.folder, self.split, self.manifest = folder, split, manifest
        self.fingerprint: str = manifest["fingerprint"]
        self.tokenizer = parse(TokenizerManifest, manifest["tokenizer"], f"{folder / MANIFEST}: tokenizer")
        self.n_tokens: int = facts["tokens"]
        self.n_documents: int = facts["documents"]
        dtype = _DTYPES[manifest["dtype"]]
        # Plain arrays over the maps: slicing a memmap object costs microseconds more.
        self.shards: Sequence[npt.NDArray[Any]] = [
            np.memmap(folder / shard["file"], dtype=dtype, mode="r").view(np.ndarray) for shard in facts["shards"]
        ]
        self._shard_tokens = len(self.shards[0])
        index = np.load(folder / facts["index"]["file"], mmap_mode="r", allow_pickle=False)
        if index.shape != (self.n_documents, 2):
            raise DataError(f"{folder / facts['index']['file']}: {index.shape} rows, not {self.n_documents}; {_CURE}")
        self.starts: npt.NDArray[np.int64] = np.append(index[:, 0], self.n_tokens - 1).astype(np.int64)
        self._metadata = MetadataLines(folder / facts["metadata"]["file"], self.n_documents, "document")
        self.document_bytes: npt.NDArray[np.int64] = np.array(index[:, 1], dtype=np.int64)

    def slice(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """The ids of places start to stop, int64, across shards. Raises IndexError outside the stream."""
        if not 0 <= start <= stop <= self.n_tokens:
            raise IndexError(f"places {start} to {stop} are outside a stream of {self.n_tokens} tokens")
        first, begin = divmod(start, self._shard_tokens)
        if stop - start <= self._shard_tokens - begin and first < len(self.shards):
            return self.shards[first][begin : begin + stop - start].astype(np.int64)
        parts = [
            shard[max(0, start - offset) : max(0, stop - offset)]
            for offset, shard in zip(range(0, self.n_tokens, self._shard_tokens), self.shards, strict=True)
        ]
        return np.concatenate(parts).astype(np.int64)

    def document_id(self, i: int) -> str:
        """The id of a document."""
        return str(self.document_metadata(i)["id"])

    def document_metadata(self, i: int) -> dict[str, Any]:
        """The id of a document and where it was read. Raises IndexError where there is none of number i."""
        return self._metadata[i]


def open_token_set(folder: Path, split: str, verify: bool = False) -> TokenSet:
    """Open a split of a prepared set.

    Args:
        verify: hash every file of the split; without it only their sizes are compared.

    Raises:
        DataError: no prepared set, another version's, a split without documents, or a file that is missing, of the
            wrong size or content.
    """
    manifest = read_manifest(folder)
    if split not in manifest["splits"]:
        raise DataError(f"{folder}: {unknown('split', split, manifest['splits'])}")
    facts = manifest["splits"][split]
    if not facts["documents"]:
        raise DataError(
            f"{folder}: no document on the {split} side of {manifest['counts']['kept']:,}; give more documents or set "
            "validation_percent"
        )
    width = np.dtype(_DTYPES[manifest["dtype"]]).itemsize
    for shard in facts["shards"]:
        check_file(folder / shard["file"], shard["tokens"] * width, shard["sha256"] if verify else None, _CURE)
    for part in (facts["index"], facts["metadata"]):
        check_file(folder / part["file"], part["bytes"], part["sha256"] if verify else None, _CURE)
    return TokenSet(folder, split, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared set. Raises DataError where there is none that this version reads."""
    path = folder / MANIFEST
    absent = f"no prepared set (it has no {MANIFEST}); run: corestone prepare"
    manifest: dict[str, Any] = manifest_tree(folder, absent, _CURE)
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        found = manifest.get("version") if isinstance(manifest, dict) else None
        raise DataError(f"{path}: version {found}, this Corestone reads version {VERSION}; {_CURE}")
    check_keys(path, manifest, {"fingerprint", "splits", "dtype", "tokenizer"}, _CURE)
    return manifest
