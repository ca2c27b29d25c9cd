"""Tokenizers of Hugging Face folders, in and out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from corestone.core.errors import DataError
from corestone.data.spec import TokenizerFile
from corestone.data.tokenizer import Tokenizer, build_tokenizer
from corestone.data.train_tokenizer import BERT_SPECIAL, T5_SPECIAL, bert_library
from corestone.interop.families import OPENAI_GPT, Family
from corestone.interop.files import read_json

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
PARTS = ("vocab.json", "merges.txt")
WORD_PIECES = "vocab.txt"
END_OF_TEXT = "<|endoftext|>"


def read_tokenizer(folder: Path, family: Family, config: Mapping[str, Any]) -> tuple[Tokenizer, list[str]]:
    """The tokenizer of a Hugging Face folder: tokenizer.json, or BERT's vocab.txt, or vocab.json with merges.txt.

    Args:
        config: the folder's config.json, where the end-of-text id may stand.

    Returns:
        The tokenizer, and notes on what had to be decided.

    Raises:
        DataError: no tokenizer files, unreadable ones, or no token that could separate documents.
    """
    given = folder / TOKENIZER
    settings = settings_of(folder)
    if given.is_file():
        separator, notes = _separator(folder, _load(given), config, settings)
        return build_tokenizer(TokenizerFile(path=str(given), end_of_document=separator), ()), notes
    if (folder / WORD_PIECES).is_file():
        raw, made_of = _from_word_pieces(folder, settings), WORD_PIECES
    elif all((folder / name).is_file() for name in PARTS):
        raw, made_of = _from_parts(folder, family), " and ".join(PARTS)
    else:
        raise DataError(
            f"{folder}: has no tokenizer (looked for {TOKENIZER}, {WORD_PIECES}, and for {' with '.join(PARTS)}); save "
            "it there with AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
        )
    separator, notes = _separator(folder, raw, config, settings)
    raw.add_special_tokens([separator])
    if settings.get("add_bos_token") and content_of(settings.get("bos_token")) == separator:  # OPT
        ids = [(separator, raw.token_to_id(separator))]
        raw.post_processor = processors.TemplateProcessing(single=f"{separator} $A", special_tokens=ids)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / TOKENIZER
        raw.save(str(made))
        tokenizer = build_tokenizer(TokenizerFile(path=str(made), end_of_document=separator), ())
    return tokenizer, [*notes, f"{TOKENIZER} was made from {made_of}"]


def tokenizer_texts(tokenizer: Tokenizer, context_length: int, where: str) -> dict[str, str]:
    """The files, by name, from which `AutoTokenizer.from_pretrained` makes the same tokenizer.

    Tokenizers that cut text as BERT's or T5's do are named as theirs, BERT's with the vocab.txt that older readers
    want; all others are read from tokenizer.json alone.

    Raises DataError where the tokenizer is none that the `tokenizers` library can read.
    """
    text = tokenizer.files()[TOKENIZER]
    raw = library_of(text, where)
    if raw.id_to_token(tokenizer.manifest.separator) is None:
        raise DataError(f"{where}: its {TOKENIZER} does not know the separator, id {tokenizer.manifest.separator}")
    tree = json.loads(text)
    more: dict[str, str] = {}
    if _cuts_like_bert(tree):
        settings = _bert_settings(tree)
        words = sorted(raw.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
        more[WORD_PIECES] = "".join(f"{name}\n" for name, _ in words)
    elif _cuts_like_t5(tree):
        settings = _t5_settings(tokenizer, raw)
    else:
        settings = _general_settings(tokenizer, raw)
    settings |= {"model_max_length": context_length, "clean_up_tokenization_spaces": False}
    return {TOKENIZER: text, TOKENIZER_CONFIG: json.dumps(settings, indent=2, ensure_ascii=False) + "\n", **more}


def _general_settings(tokenizer: Tokenizer, raw: Any) -> dict[str, Any]:
    facts = tokenizer.manifest
    separator = raw.id_to_token(facts.separator)
    roles = {"mask_token": facts.mask, "pad_token": facts.pad, "cls_token": facts.classify}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": separator,
        "eos_token": separator,
        "unk_token": separator if facts.unknown is None else raw.id_to_token(facts.unknown),
        **{name: raw.id_to_token(token) for name, token in roles.items() if token is not None},
    }
    if facts.sentinels:
        settings["additional_special_tokens"] = [raw.id_to_token(token) for token in facts.sentinels]
    return settings


def _cuts_like_bert(tree: Mapping[str, Any]) -> bool:
    """Whether `BertTokenizer`, which takes the vocabulary alone out of tokenizer.json, gives the same ids."""
    model, kinds = tree["model"], [(tree.get(part) or {}).get("type") for part in ("normalizer", "pre_tokenizer")]
    return (
        model.get("type") == "WordPiece"
        and kinds == ["BertNormalizer", "BertPreTokenizer"]
        and tree["normalizer"]["clean_text"]
        and (model["unk_token"], model["continuing_subword_prefix"]) == ("[UNK]", "##")
        and model["max_input_chars_per_word"] == 100
        and {token["content"] for token in tree["added_tokens"]} == set(BERT_SPECIAL) <= model["vocab"].keys()
    )


def _bert_settings(tree: Mapping[str, Any]) -> dict[str, Any]:
    normalizer, (pad, unknown, classify, separator, mask) = tree["normalizer"], BERT_SPECIAL
    return {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": normalizer["lowercase"],
        "strip_accents": normalizer["strip_accents"],
        "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
        "pad_token": pad,
        "unk_token": unknown,
        "cls_token": classify,
        "sep_token": separator,
        "mask_token": mask,
    }


def _cuts_like_t5(tree: Mapping[str, Any]) -> bool:
    """Whether `T5Tokenizer`, which takes the vocabulary alone out of tokenizer.json, gives the same ids."""
    model = tree["model"]
    parts = [part.get("type") for part in (tree.get("pre_tokenizer") or {}).get("pretokenizers", [])]
    return (
        model.get("type") == "Unigram"
        and (tree.get("normalizer") or {}).get("type", "Precompiled") == "Precompiled"
        and parts == ["WhitespaceSplit", "Metaspace"]
        and (model["unk_id"], model.get("byte_fallback", False)) == (T5_SPECIAL.index("<unk>"), False)
        and tuple(name for name, _ in model["vocab"][: len(T5_SPECIAL)]) == T5_SPECIAL
        and {token["content"] for token in tree["added_tokens"]} <= {name for name, _ in model["vocab"]}
    )


def _t5_settings(tokenizer: Tokenizer, raw: Any) -> dict[str, Any]:
    (pad, end, unknown), sentinels = T5_SPECIAL, tokenizer.manifest.sentinels
    return {
        "tokenizer_class": "T5Tokenizer",
        "eos_token": end,
        "unk_token": unknown,
        "pad_token": pad,
        "extra_ids": len(sentinels),
        "additional_special_tokens": [raw.id_to_token(token) for token in sentinels],
    }


def _load(path: Path) -> Any:
    try:
        return library_of(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def library_of(text: str, where: str) -> Any:
    """The `tokenizers` library's own, of a tokenizer.json."""
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


def _from_word_pieces(folder: Path, settings: Mapping[str, Any]) -> Any:
    """BERT's vocab.txt, one word piece a line, with the options that tokenizer_config.json sets."""
    path = folder / WORD_PIECES
    try:
        names = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    vocab = {name.rstrip("\r"): token for token, name in enumerate(names)}
    missing = [name for name in BERT_SPECIAL if name not in vocab]
    if missing or len(vocab) != len(names):
        wrong = f"lacks {', '.join(missing)}" if missing else "names a word piece twice"
        raise DataError(f"{path}: {wrong}, so it is no vocabulary of BERT's kind")
    return bert_library(
        vocab,
        lowercase=bool(settings.get("do_lower_case", True)),
        chinese=bool(settings.get("tokenize_chinese_chars", True)),
        accents=settings.get("strip_accents"),
    )


def settings_of(folder: Path) -> dict[str, Any]:
    """What special_tokens_map.json and tokenizer_config.json say of a folder's tokenizer."""
    settings: dict[str, Any] = {}
    for name in (SPECIAL_TOKENS, TOKENIZER_CONFIG):
        if (folder / name).is_file():
            settings.update(read_json(folder / name))
    return settings


def _separator(folder: Path, raw: Any, config: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The token that ends a document: as the folder says, else the usual name, else the unknown token (with a note)."""
    ids = config.get("eos_token_id")
    first = ids[0] if isinstance(ids, list) and ids else ids
    by_id = raw.id_to_token(first) if isinstance(first, int) and not isinstance(first, bool) and first >= 0 else None
    for token in (
        content_of(settings.get("eos_token")),
        by_id,
        END_OF_TEXT,
        content_of(settings.get("sep_token")),
        "[SEP]",
    ):
        if token is not None and raw.token_to_id(token) is not None:
            return token, []
    for token in (content_of(settings.get("unk_token")), "<unk>"):
        if token is not None and raw.token_to_id(token) is not None:
            return token, [f"the tokenizer has no end-of-text token; '{token}' separates documents instead"]
    raise DataError(
        f"{folder}: its tokenizer has no end-of-text token (looked at eos_token and sep_token of {TOKENIZER_CONFIG} "
        f"and {SPECIAL_TOKENS}, eos_token_id of config.json, {END_OF_TEXT}, [SEP] and <unk>); name one as eos_token in "
        f"{TOKENIZER_CONFIG}"
    )


def content_of(token: Any) -> str | None:
    """A special token's text: settings hold it bare or as a record."""
    value = token.get("content") if isinstance(token, Mapping) else token
    return value if isinstance(value, str) else None
