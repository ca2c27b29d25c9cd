"""A second, faster way to the same ids: tiktoken fed with a tokenizer.json's vocabulary and merges.

The `tokenizers` library stays the reference. It merges a *pair* by the pair's rank; tiktoken merges two neighbours when
their joined bytes are a token, lowest token rank first. The two agree on every text exactly when

1. each token that tiktoken knows is what the reference makes of the token's own bytes, and
2. tokens are ranked by the last merge on that way.

Why: say tiktoken joins l and r into t somewhere in a text where both had gone the same way so far. Nothing crossed t's
borders, so the inside of t went the way t's bytes go alone, and that way passes through one state of two tokens only:
its last merge. By (1) it ends in t, so (l, r) is that merge, and by (2) it has the same rank on both sides.
`fast_encoding` builds the ranks by this rule (unreachable tokens are left out, ranks are by merge, ids are mapped back)
or says why a tokenizer cannot be expressed. Preparation still compares the two on a sample of every batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
"""The GPT-2 split (Radford et al. 2019), written with possessive repeats, which match the same and never back up.

The last two branches equal GPT-2's `\\s+(?!\\S)|\\s+`: where `\\s+(?!\\S)` fails, the run has one character.
"""

_MARK = "\x00end of document"  # no part of it begins like the whole, so joined texts cannot spell one by accident


class FastEncoding:
    """tiktoken with the merges of a tokenizer.json. Made by `fast_encoding`."""

    def __init__(self, encoding: tiktoken.Encoding, mark_rank: int, id_of_rank: NDArray[np.uint32]) -> None:
        self._encoding = encoding
        self._mark_rank = mark_rank
        self._id_of_rank = id_of_rank

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]] | None:
        """Encode documents in one call that holds no Python lock; None where this way cannot take these texts.

        One call for many documents, because a call for each costs more than the encoding of a short one. The mark
        that joins them is a special token to tiktoken, which encodes what stands between specials on its own.
        """
        if not texts:
            return []
        joined = _MARK.join(texts)
        if joined.count(_MARK) != len(texts) - 1:
            return None
        try:
            stream = self._encoding.encode_to_numpy(joined, allowed_special={_MARK})
        except ValueError:  # its regex engine gives up on white space of a million characters
            return None
        ends = np.flatnonzero(stream == self._mark_rank)
        ids = self._id_of_rank[stream]
        starts = [0, *(ends + 1).tolist()]
        return [ids[start:end] for start, end in zip(starts, [*ends.tolist(), len(ids)], strict=True)]


def fast_encoding(tree: dict[str, Any]) -> tuple[FastEncoding | None, str]:
    """Build the fast way of a tokenizer, or say why there is none.

    Args:
        tree: the tokenizer.json.

    Returns:
        The encoding (or None), and a sentence for manifests and people.
    """
    obstacle = _obstacle(tree)
    if obstacle is not None:
        return None, obstacle
    merge_rank, missing = _merge_ranks(tree["model"])
    if missing:
        return None, f"its vocabulary has no token for {missing} of the 256 bytes"
    whole_words = set(tree["model"]["vocab"]) - set(merge_rank) - {token["content"] for token in tree["added_tokens"]}
    if tree["model"].get("ignore_merges") and whole_words:
        return None, "it takes whole words from the vocabulary that its merges do not reach"
    by_rank = sorted(merge_rank.items(), key=lambda item: item[1])
    vocab = tree["model"]["vocab"]
    id_of_rank = np.array([vocab[token] for token, _ in by_rank] + [0], dtype=np.uint32)
    ranks = {to_bytes(token): rank for rank, (token, _) in enumerate(by_rank)}
    if len(ranks) != len(by_rank):
        return None, "two of its tokens are the same bytes"
    mark_rank = len(ranks)
    encoding = tiktoken.Encoding(
        "corestone", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={_MARK: mark_rank}
    )
    return FastEncoding(encoding, mark_rank, id_of_rank), "tiktoken with the same merges; equal by construction"


def _obstacle(tree: dict[str, Any]) -> str | None:
    """What in a tokenizer.json tiktoken cannot express, or None."""
    model, split = tree["model"], tree.get("pre_tokenizer")
    if model.get("type") != "BPE":
        return f"its model is {model.get('type')}, not BPE"
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            return f"its BPE model uses {key}"
    if tree.get("normalizer") is not None:
        return "it normalises text first"
    if not _splits_like_gpt2(split):
        return "its pre-tokenizer is not the plain GPT-2 one"
    if any(not token["special"] for token in tree.get("added_tokens", [])):
        return "it has added tokens that are ordinary text"
    return None


def _splits_like_gpt2(split: dict[str, Any] | None) -> bool:
    return (
        split is not None
        and split.get("type") == "ByteLevel"
        and not split.get("add_prefix_space", True)
        and bool(split.get("use_regex", True))
    )


def _merge_ranks(model: dict[str, Any]) -> tuple[dict[str, int], int]:
    """Rank every token that the merges reach from its own bytes by the last merge on that way.

    Returns the ranks (single bytes first) and how many of the 256 bytes have no token.
    """
    vocab: dict[str, int] = model["vocab"]
    merges = [tuple(pair.split(" ", 1) if isinstance(pair, str) else pair) for pair in model["merges"]]
    rank_of_pair = {pair: index for index, pair in enumerate(merges)}
    ranks = {char: byte for byte, char in BYTE_TO_CHAR.items() if char in vocab}
    missing = 256 - len(ranks)
    for token in {left + right for left, right in merges}:
        last = _last_merge(token, rank_of_pair)
        if last is not None:
            ranks[token] = 256 + last
    return ranks, missing


def _last_merge(token: str, rank_of_pair: dict[tuple[str, ...], int]) -> int | None:
    """Replay byte-pair encoding on one token's bytes: the rank of its last merge, or None if it does not end in one."""
    parts = list(token)
    rank = None
    while len(parts) > 1:
        found = [(rank_of_pair.get(pair), at) for at, pair in enumerate(pairwise(parts))]
        known = [(rank, at) for rank, at in found if rank is not None]
        if not known:
            return None
        rank, at = min(known)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return rank


def _byte_to_char() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte: itself where printable, else the next code point from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


BYTE_TO_CHAR = _byte_to_char()
_CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}


def to_bytes(token: str) -> bytes:
    """The bytes that a token of a byte-level vocabulary stands for.

    Raises KeyError where it holds a character that stands for no byte.
    """
    return bytes(_CHAR_TO_BYTE[char] for char in token)


def from_bytes(data: bytes) -> str:
    """How a byte-level vocabulary writes some bytes."""
    return "".join(BYTE_TO_CHAR[byte] for byte in data)
