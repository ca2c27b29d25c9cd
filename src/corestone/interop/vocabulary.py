"""Tokenizers of Hugging Face folders, in and out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from corestone.core.errors import DataError
from corestone.data.spec import TokenizerFile
from corestone.data.tokenizer import Tokenizer, build_tokenizer
from corestone.interop.families import OPENAI_GPT, Family
from corestone.interop.files import read_json

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
PARTS = ("vocab.json", "merges.txt")
END_OF_TEXT = "<|endoftext|>"


def read_tokenizer(folder: Path, family: Family, config: Mapping[str, Any]) -> tuple[Tokenizer, list[str]]:
    """The tokenizer of a Hugging Face folder: tokenizer.json, or vocab.json with merges.txt.

    Args:
        config: the folder's config.json, where the end-of-text id may stand.

    Returns:
        The tokenizer, and notes on what had to be decided.

    Raises:
        DataError: no tokenizer files, unreadable ones, or no token that could separate documents.
    """
    given = folder / TOKENIZER
    if given.is_file():
        raw = _load(given)
        separator, notes = _separator(folder, raw, config)
        return build_tokenizer(TokenizerFile(path=str(given), end_of_document=separator), ()), notes
    if not all((folder / name).is_file() for name in PARTS):
        raise DataError(
            f"{folder}: has no tokenizer (looked for {TOKENIZER}, and for {' with '.join(PARTS)}); save it there with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
        )
    raw = _from_parts(folder, family)
    separator, notes = _separator(folder, raw, config)
    raw.add_special_tokens([separator])
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / TOKENIZER
        raw.save(str(made))
        tokenizer = build_tokenizer(TokenizerFile(path=str(made), end_of_document=separator), ())
    return tokenizer, [*notes, f"{TOKENIZER} was made from {' and '.join(PARTS)}"]


def tokenizer_texts(tokenizer: Tokenizer, context_length: int, where: str) -> dict[str, str]:
    """The files, by name, from which `AutoTokenizer.from_pretrained` makes the same tokenizer.

    Raises DataError where the tokenizer is none that the `tokenizers` library can read.
    """
    text = tokenizer.files()[TOKENIZER]
    raw = _parse(text, where)
    separator = raw.id_to_token(tokenizer.manifest.separator)
    if separator is None:
        raise DataError(f"{where}: its {TOKENIZER} does not know the separator, id {tokenizer.manifest.separator}")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": separator,
        "eos_token": separator,
        "unk_token": separator,
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    return {TOKENIZER: text, TOKENIZER_CONFIG: json.dumps(settings, indent=2, ensure_ascii=False) + "\n"}


def _load(path: Path) -> Any:
    try:
        return _parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def _parse(text: str, where: str) -> Any:
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{where}: its tokenizer is none that the tokenizers library can read ({error})") from None


def _from_parts(folder: Path, family: Family) -> Any:
    """Put vocab.json and merges.txt together the way the family's own tokenizer does."""
    vocab, merges = (str(folder / name) for name in PARTS)
    try:
        if family is OPENAI_GPT:  # words in lower case, the last piece of each marked
            raw = tokenizers.Tokenizer(
                models.BPE.from_file(vocab, merges, unk_token="<unk>", end_of_word_suffix="</w>")
            )
            raw.normalizer = normalizers.BertNormalizer(lowercase=True)
            raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            raw.decoder = decoders.BPEDecoder(suffix="</w>")
        else:
            raw = tokenizers.Tokenizer(models.BPE.from_file(vocab, merges))
            raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            raw.decoder = decoders.ByteLevel()
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{folder}: {' and '.join(PARTS)} do not make a tokenizer ({error})") from None
    return raw


def _separator(folder: Path, raw: Any, config: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The token that ends a document: as the folder says, else the usual name, else the unknown token (with a note)."""
    settings: dict[str, Any] = {}
    for name in (SPECIAL_TOKENS, TOKENIZER_CONFIG):
        if (folder / name).is_file():
            settings.update(read_json(folder / name))
    ids = config.get("eos_token_id")
    first = ids[0] if isinstance(ids, list) and ids else ids
    by_id = raw.id_to_token(first) if isinstance(first, int) and not isinstance(first, bool) and first >= 0 else None
    for token in (_content(settings.get("eos_token")), by_id, END_OF_TEXT):
        if token is not None and raw.token_to_id(token) is not None:
            return token, []
    for token in (_content(settings.get("unk_token")), "<unk>"):
        if token is not None and raw.token_to_id(token) is not None:
            return token, [f"the tokenizer has no end-of-text token; '{token}' separates documents instead"]
    raise DataError(
        f"{folder}: its tokenizer has no end-of-text token (looked at eos_token of {TOKENIZER_CONFIG} and "
        f"{SPECIAL_TOKENS}, eos_token_id of config.json, {END_OF_TEXT} and <unk>); name one as eos_token in "
        f"{TOKENIZER_CONFIG}"
    )


def _content(token: Any) -> str | None:
    """A special token's text: settings hold it bare or as a record."""
    value = token.get("content") if isinstance(token, Mapping) else token
    return value if isinstance(value, str) else None
