"""Text to token ids and back, and the manifest by which two places know that they mean the same ids.

A tokenizer is the text of a `tokenizer.json` (Hugging Face `tokenizers`) plus a manifest. Every kind has that form,
plain bytes too, so that export and exchange need no second one. Documents are *text*: a document that spells out
`<|endoftext|>` is encoded as those characters, never as the separator; only whoever builds a stream puts separators in.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from pydantic import Field
from tokenizers import models

from corestone.core.errors import DataError, unknown
from corestone.core.paths import expanded
from corestone.core.spec import Spec, parse
from corestone.core.vocabulary import Vocabulary
from corestone.data.fast_encode import BYTE_TO_CHAR, FastEncoding, fast_encoding
from corestone.data.spec import Bytes, TokenizerFile, Trained
from corestone.data.spec import Tokenizer as TokenizerSpec
from corestone.data.token_pieces import bytes_of_tokens, leads_with_blank, mentions, plain_text_tree, starts_of_words
from corestone.data.train_tokenizer import SEPARATOR, byte_level, sample_texts, sentinel, train_library

TOKENIZER_FILE = "tokenizer.json"
MANIFEST_FILE = "tokenizer-manifest.json"
KNOWN_SEPARATORS = (SEPARATOR, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "[SEP]")
PADDING_MULTIPLE = 64
_MEASURED_BYTES = 4_000_000
_REPLACEMENT = "\ufffd".encode()
_PROBE = "  Two  blanks,\ttabs\n\nÉ ﬁ 北京 🙂\u00a0 [it's] <0x41>\x07 "
"""What normalisers, unknown tokens and cut white space lose."""

_ROLE_NAMES = {
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
    "pad": ("[PAD]", "<pad>", "<|pad|>"),
    "classify": ("[CLS]", "<cls>", "<|classify|>"),
}


class TokenizerManifest(Spec):
    """What identifies a tokenizer; it travels with token files and checkpoints.

    Attributes:
        sha256: of tokenizer.json.
        vocab_size: highest id + 1.
        padded_vocab_size: the next multiple of 64, a good number of rows for a model's table.
        separator: id of the token at the start of each document and at the end of a stream.
        bytes_per_token: of the text it was trained on; None where it was not trained here.
        special: special tokens and their ids.
        mask, pad, classify, unknown, sentinels: see `corestone.core.vocabulary.Vocabulary`.
    """

    kind: str
    sha256: str
    vocab_size: int
    padded_vocab_size: int
    separator: int
    bytes_per_token: float | None = None
    special: dict[str, int] = Field(default_factory=dict)
    mask: int | None = None
    pad: int | None = None
    classify: int | None = None
    unknown: int | None = None
    sentinels: tuple[int, ...] = ()


class Tokenizer:
    """Encodes and decodes. Made by `build_tokenizer` and `load_tokenizer`.

    Args:
        text: the tokenizer.json.
        fast: encode batches with tiktoken where it gives the same ids (see `fast_encode`).
    """

    def __init__(self, text: str, manifest: TokenizerManifest, fast: bool = True) -> None:
        self.manifest = manifest
        self._text = text
        self._allow_fast = fast
        self._library = _open_library(text, "tokenizer.json")
        self._tree: dict[str, Any] = json.loads(text)
        self._plain_tree = plain_text_tree(self._tree)
        same = self._plain_tree is self._tree
        self._encoder = self._library if same else _open_library(json.dumps(self._plain_tree), "tokenizer.json")
        self.unknown_id = _unknown_id(self._tree, self._library)

    # -- encoding ---------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without separators. Raises DataError where it is no valid Unicode."""
        try:
            if self.manifest.kind == "bytes":
                return list(text.encode("utf-8"))
            return self._ids(text)
        except (TypeError, UnicodeEncodeError):
            raise _not_unicode(text) from None

    def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[NDArray[np.uint32]]:
        """The ids of many texts, the fast way where there is one; the same ids as `encode`.

        Args:
            threads: None takes every core this process may use.
        """
        if self.manifest.kind == "bytes":
            return [np.frombuffer(_utf8(text), dtype=np.uint8).astype(np.uint32) for text in texts]
        if self._fast is None:
            return self.encode_plainly(texts)
        threads = threads or _cores()
        groups = _groups(texts, 4 * threads if threads > 1 else 1)
        if len(groups) == 1:
            return self._encode_group(groups[0])
        with ThreadPoolExecutor(threads) as pool:  # tiktoken lets go of the interpreter while it works
            return [ids for group in pool.map(self._encode_group, groups) for ids in group]

    def encode_plainly(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The ids of many texts by the `tokenizers` library alone: the reference for `encode_batch`."""
        try:
            encodings = self._encoder.encode_batch_fast(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            for text in texts:
                _utf8(text)
            raise
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def difference(self, texts: Sequence[str]) -> str | None:
        """Compare both ways of encoding on some texts; None where the ids are the same, else what differs where."""
        if self.encoder == "tokenizers":
            return None
        plain = [np.array(self._ids(text), np.uint32) for text in texts]
        for text, mine, reference in zip(texts, self.encode_batch(texts, threads=1), plain, strict=True):
            if not np.array_equal(mine, reference):
                same = min(len(mine), len(reference))
                at = int(np.flatnonzero(np.append(mine[:same] != reference[:same], True))[0])
                before = len(self.decode(reference[:at].tolist()))
                return f"token {at} differs, near {text[max(0, before - 10) : before + 20]!r}"
        return None

    @property
    def encoder(self) -> str:
        """What encodes batches: `bytes`, `tiktoken` or `tokenizers`."""
        if self.manifest.kind == "bytes":
            return "bytes"
        return "tokenizers" if self._fast is None else "tiktoken"

    @property
    def encoder_reason(self) -> str:
        """Why that one."""
        if self.manifest.kind == "bytes":
            return "a token is a byte"
        return self._fast_and_reason[1] if self._allow_fast else "the fast way was switched off"

    def without_fast(self) -> Tokenizer:
        """The same tokenizer with the fast way switched off."""
        return Tokenizer(self._text, self.manifest, fast=False)

    # -- decoding ---------------------------------------------------------------------------------------------------

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids. Special tokens appear as their names, cut characters as U+FFFD.

        It is what `token_bytes` gives, joined, without the blank that word pieces and SentencePiece vocabularies put
        before a first word. What encoding lost (see the records in `data/spec.py`) does not come back.
        """
        if self._joins:
            text = b"".join(self.token_bytes(token) for token in ids).decode("utf-8", "replace")
            return text.removeprefix(" ") if leads_with_blank(self._tree) else text
        return str(self._library.decode([token for token in ids if self._inside(token)], skip_special_tokens=False))

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token, for streaming: a character may be spread over several tokens.

        An id that only pads the model's table gives U+FFFD. Raises DataError for an id beyond that.
        """
        if not self._inside(token):
            return _REPLACEMENT
        return self._bytes_of[token]

    @cached_property
    def lossless(self) -> bool:
        """Whether any text comes back as it was: a text with all that is usually lost does."""
        return self.decode(self.encode(_PROBE)) == _PROBE

    @cached_property
    def begins_texts(self) -> bool:
        """Whether the tokenizer.json puts the separator before a text where others ask it for special tokens."""
        encoding = self._library.encode("a")
        return bool(encoding.ids[:1] == [self.manifest.separator] and encoding.special_tokens_mask[0])

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What objectives and generation need to know."""
        facts = self.manifest
        special = tuple(sorted({facts.separator, *facts.special.values()}))
        return Vocabulary(
            size=facts.vocab_size,
            separator=facts.separator,
            mask=facts.mask,
            pad=facts.pad,
            classify=facts.classify,
            unknown=facts.unknown,
            sentinels=facts.sentinels,
            special=special,
            starts_word=starts_of_words(self._tree, self._bytes_of, special, facts.vocab_size),
        )

    def _inside(self, token: int) -> bool:
        if not 0 <= token < self.manifest.padded_vocab_size:
            raise DataError(f"token id {token} is outside the vocabulary of {self.manifest.vocab_size} tokens")
        return token in self._bytes_of

    @cached_property
    def _joins(self) -> bool:
        """Whether a text is its tokens' bytes; other vocabularies leave decoding to the library."""
        return mentions(self._tree.get("decoder"), "ByteLevel") or leads_with_blank(self._tree)

    @cached_property
    def _bytes_of(self) -> dict[int, bytes]:
        return bytes_of_tokens(self._tree, self._library.get_vocab(with_added_tokens=True))

    # -- files ------------------------------------------------------------------------------------------------------

    def files(self) -> dict[str, str]:
        """The tokenizer as texts by file name: what `save` writes and `load_tokenizer` reads."""
        manifest = json.dumps(self.manifest.model_dump(), indent=1, sort_keys=True, ensure_ascii=False)
        return {TOKENIZER_FILE: self._text, MANIFEST_FILE: manifest + "\n"}

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and its manifest into a folder, which is made where missing."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.files().items():
            (folder / name).write_bytes(text.encode("utf-8"))

    # -- inside -----------------------------------------------------------------------------------------------------

    def _ids(self, text: str) -> list[int]:
        return list(self._encoder.encode(text, add_special_tokens=False).ids)

    def _encode_group(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        ids = None if self._fast is None else self._fast.encode(texts)
        return self.encode_plainly(texts) if ids is None else ids

    @property
    def _fast(self) -> FastEncoding | None:
        return self._fast_and_reason[0] if self._allow_fast else None

    @cached_property
    def _fast_and_reason(self) -> tuple[FastEncoding | None, str]:
        """Made when first needed: replaying a large vocabulary takes a second."""
        return fast_encoding(self._plain_tree)


def build_tokenizer(spec: TokenizerSpec, texts: Iterable[str]) -> Tokenizer:
    """Make the tokenizer of a record.

    Args:
        texts: the documents to train on, read once and in order; not read where nothing is trained.

    Raises:
        DataError: no text to train on, or a file that holds no usable tokenizer.
    """
    if isinstance(spec, Trained):
        return _train(spec, texts)
    if isinstance(spec, Bytes):
        library = byte_level(models.BPE({BYTE_TO_CHAR[byte]: byte for byte in range(256)}, []))
        library.add_special_tokens([SEPARATOR])
        return _described(library, library.to_str(pretty=False), "bytes", SEPARATOR, 1.0)
    return _from_file(spec)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Open what `Tokenizer.save` wrote. Raises DataError where a file is missing, unreadable or not the one named."""
    text = _read(folder / TOKENIZER_FILE)
    where = folder / MANIFEST_FILE
    try:
        tree = json.loads(_read(where))
    except json.JSONDecodeError as error:
        raise DataError(f"{where}, line {error.lineno}: not valid JSON; copy the tokenizer again") from None
    manifest = parse(TokenizerManifest, tree, str(where))
    found = _sha256(text)
    if found != manifest.sha256:
        raise DataError(
            f"{folder / TOKENIZER_FILE}: is not the tokenizer that {MANIFEST_FILE} names (expected sha256 "
            f"{manifest.sha256}, found {found}); copy both files again from where they came"
        )
    return Tokenizer(text, manifest)


def check_same(a: TokenizerManifest, b: TokenizerManifest, where: str) -> None:
    """Refuse to mix two tokenizers. Raises DataError that names both, and `where` they met."""
    if (a.sha256, a.vocab_size, a.separator) != (b.sha256, b.vocab_size, b.separator):
        raise DataError(
            f"{where}: tokenizers differ ({_shown(a)} and {_shown(b)}); ids of one mean nothing to the other: "
            "prepare the data again with the tokenizer of the model"
        )


def _train(spec: Trained, texts: Iterable[str]) -> Tokenizer:
    sample = sample_texts(texts, spec.sample_bytes)
    library = train_library(spec, sample)
    separator = {"byte_pair": SEPARATOR, "word_piece": "[SEP]", "unigram": "</s>"}[spec.kind]
    tokenizer = _described(library, library.to_str(pretty=False), spec.kind, separator, None)
    measured = sample_texts(sample, _MEASURED_BYTES)
    tokens = sum(len(ids) for ids in tokenizer.encode_batch(measured))
    ratio = sum(len(text.encode()) for text in measured) / max(1, tokens)
    manifest = tokenizer.manifest.model_copy(update={"bytes_per_token": round(ratio, 4)})
    return Tokenizer(tokenizer.files()[TOKENIZER_FILE], manifest)


def _from_file(spec: TokenizerFile) -> Tokenizer:
    path = expanded(spec.path)
    text = _read(path)
    library = _open_library(text, str(path))
    names = [spec.end_of_document] if spec.end_of_document else list(KNOWN_SEPARATORS)
    for name in names:
        if library.token_to_id(name) is not None:
            return _described(library, text, "file", name, None)
    special = _special(library)
    if spec.end_of_document:
        known = special or {name: 0 for name in KNOWN_SEPARATORS if library.token_to_id(name) is not None}
        raise DataError(f"{path}: {unknown('token', spec.end_of_document, known)}; set end_of_document")
    raise DataError(
        f"{path}: has no token that could separate documents (looked for {', '.join(KNOWN_SEPARATORS)}; its special "
        f"tokens are: {', '.join(special) or 'none'}); name one in end_of_document"
    )


def _described(library: Any, text: str, kind: str, separator: str, bytes_per_token: float | None) -> Tokenizer:
    size = max(library.get_vocab(with_added_tokens=True).values()) + 1
    special = _special(library)
    roles = {role: next((special[n] for n in names if n in special), None) for role, names in _ROLE_NAMES.items()}
    manifest = TokenizerManifest(
        kind=kind,
        sha256=_sha256(text),
        vocab_size=size,
        padded_vocab_size=-(-size // PADDING_MULTIPLE) * PADDING_MULTIPLE,
        separator=library.token_to_id(separator),
        bytes_per_token=bytes_per_token,
        special=special,
        unknown=_unknown_id(json.loads(text), library),
        sentinels=tuple(special[name] for name in takewhile(special.__contains__, map(sentinel, count()))),
        **roles,
    )
    return Tokenizer(text, manifest)


def _special(library: Any) -> dict[str, int]:
    added = library.get_added_tokens_decoder()
    return {token.content: number for number, token in sorted(added.items()) if token.special}


def _unknown_id(tree: dict[str, Any], library: Any) -> int | None:
    name = tree["model"].get("unk_token")
    if name is None and tree["model"].get("unk_id") is not None:
        return int(tree["model"]["unk_id"])
    return None if name is None else library.token_to_id(name)


def _open_library(text: str, where: str) -> Any:
    try:
        library = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{where}: no tokenizer that the tokenizers library can read ({error})") from None
    library.encode_special_tokens = True  # text that spells a special token is text
    library.no_truncation()  # a stored limit would lose the rest of a document silently
    library.no_padding()
    return library


def _groups(texts: Sequence[str], wanted: int) -> list[Sequence[str]]:
    """Cut a batch into runs of about equal length in characters."""
    goal = max(1, sum(map(len, texts)) // wanted)
    groups, start, size = [], 0, 0
    for place, text in enumerate(texts):
        size += len(text)
        if size >= goal:
            groups.append(texts[start : place + 1])
            start, size = place + 1, 0
    return [*groups, texts[start:]] if start < len(texts) or not groups else groups


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(f"{path}: cannot be read ({reason}); check the path of the tokenizer") from None


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise _not_unicode(text) from None


def _not_unicode(text: str) -> DataError:
    at = next((n for n, char in enumerate(text) if 0xD800 <= ord(char) <= 0xDFFF), 0)
    return DataError(f"text is no valid Unicode: half a surrogate pair at character {at}; mend or drop the text")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _shown(manifest: TokenizerManifest) -> str:
    return f"{manifest.kind} {manifest.sha256[:12]} with {manifest.vocab_size} tokens, separator {manifest.separator}"
