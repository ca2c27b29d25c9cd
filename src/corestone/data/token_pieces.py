"""What the entries of a tokenizer.json stand for, and a way to encode in which none of them is special.

A tokenizer.json is a tree: `model` (with its `vocab`), `added_tokens`, `normalizer`, `pre_tokenizer`, `decoder`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corestone.data.fast_encode import to_bytes

META_SPACE = "\u2581"
"""How SentencePiece vocabularies write the blank before a word."""


def mentions(part: Any, kind: str) -> bool:
    """Whether a part of a tokenizer.json, or one of a sequence of parts, is of a kind."""
    if not isinstance(part, dict):
        return False
    inner = [*part.get("decoders", []), *part.get("pretokenizers", [])]
    return part.get("type") == kind or any(mentions(item, kind) for item in inner)


def leads_with_blank(tree: Mapping[str, Any]) -> bool:
    """Whether the bytes of a text's first token begin with a blank that the text has not."""
    decoder = tree.get("decoder") or {}
    for part in decoder.get("decoders", [decoder]):
        if part.get("type") == "Metaspace":
            return bool(part.get("prepend_scheme", "always") != "never")
    return bool(decoder.get("type") == "WordPiece" and tree["model"].get("type") == "WordPiece")


def bytes_of_tokens(tree: Mapping[str, Any], vocab: Mapping[str, int]) -> dict[int, bytes]:
    """The bytes of every token by its id; a special token's are its name's.

    Args:
        vocab: ids by name, those of added tokens too.
    """
    added = {token["id"] for token in tree["added_tokens"]}
    before = " " if tree["model"].get("type") == "WordPiece" else ""
    return {
        token: (before + name).encode("utf-8", "replace") if token in added else _piece_bytes(tree, name)
        for name, token in vocab.items()
    }


def _piece_bytes(tree: Mapping[str, Any], name: str) -> bytes:
    if mentions(tree.get("decoder"), "ByteLevel"):
        try:
            return to_bytes(name)
        except KeyError:
            return name.encode()
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        return bytes.fromhex(name[3:5])
    suffix = tree["model"].get("end_of_word_suffix")
    if suffix:
        return (name.removesuffix(suffix) + " " if name.endswith(suffix) else name).encode()
    if tree["model"].get("type") == "WordPiece":
        prefix = tree["model"]["continuing_subword_prefix"]
        return (name.removeprefix(prefix) if name.startswith(prefix) else " " + name).encode()
    return name.replace(META_SPACE, " ").encode()


def starts_of_words(
    tree: Mapping[str, Any], bytes_of: Mapping[int, bytes], special: Collection[int], size: int
) -> NDArray[np.bool_] | None:
    """Bool (size,): the tokens whose bytes begin with white space, and the special ones.

    None where the vocabulary marks the end of a word, so that its beginning shows in the token before.
    """
    if tree["model"].get("end_of_word_suffix"):
        return None
    starts = np.zeros(size, dtype=np.bool_)
    starts[[token for token, data in bytes_of.items() if data[:1].isspace()]] = True
    starts[list(special)] = True
    return starts


def plain_text_tree(tree: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer.json by which text is encoded: the given one where its model can spell no special token.

    The `tokenizers` library can be told not to look for special tokens in a text. But where one is an entry of the
    model's own vocabulary too, as T5's sentinels are, with the best of all scores, the model finds it by itself. Here
    such an entry has a name that no text gives: it holds a blank, at which every such model cuts first, between two
    code points that are no characters. All ids stay what they are.
    """
    model = tree["model"]
    special = {token["content"] for token in tree["added_tokens"] if token["special"]}
    own = {entry[0] for entry in model["vocab"]} if isinstance(model["vocab"], list) else model["vocab"].keys()
    spelled = special & own
    merges = model.get("merges", [])
    if model.get("type") == "BPE" and not model.get("ignore_merges"):
        spelled &= {"".join(pair) if not isinstance(pair, str) else pair.replace(" ", "", 1) for pair in merges}
    spelled = {name for name in spelled if len(name) > 1}  # of a single character text would be lost
    if not spelled:
        return tree

    def renamed(name: str) -> str:
        return f"\ufdd0 {name}\ufdd0" if name in spelled else name

    changed = dict(model)
    if isinstance(model["vocab"], list):
        changed["vocab"] = [[renamed(name), score] for name, score in model["vocab"]]
    else:
        changed["vocab"] = {renamed(name): token for name, token in model["vocab"].items()}
    if model.get("unk_token"):
        changed["unk_token"] = renamed(model["unk_token"])
    if merges:
        pairs = [pair.split(" ", 1) if isinstance(pair, str) else list(pair) for pair in merges]
        changed["merges"] = [pair for pair in pairs if not spelled & {*pair, "".join(pair)}]
    added = [token for token in tree["added_tokens"] if token["content"] not in spelled]
    return {**tree, "model": changed, "added_tokens": added, "post_processor": None}
