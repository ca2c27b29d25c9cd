"""Tokenizers of folders of models of pictures and texts: what they put around a text, in and out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import processors

from corestone.core.errors import CheckpointError, DataError
from corestone.data.images.spec import CaptionRows
from corestone.data.spec import TokenizerFile
from corestone.data.tokenizer import Tokenizer, build_tokenizer
from corestone.interop.vocabulary import TOKENIZER, TOKENIZER_CONFIG, content_of, library_of, settings_of

_CLASSES = (
    "CLIPTokenizer", "CLIPTokenizerFast", "GPT2TokenizerFast", "GemmaTokenizer", "GemmaTokenizerFast",
    "PreTrainedTokenizerFast", "TokenizersBackend",
)  # fmt: skip
"""Of `transformers`: those that do to a text what tokenizer.json says, and nothing beside it. (SigLIP's lowers it and
takes punctuation out first.)"""

CLOSING = "<|endofcaption|>"
_UNLIMITED = 1_000_000
"""A greater `model_max_length` is the library's word for none."""


@dataclass(frozen=True)
class Template:
    """What a folder's tokenizer puts around a text.

    Attributes:
        start, end: ids in front (None: none) and behind.
        pad: id that fills up; None: the folder names none.
        longest: tokens beyond which it cuts texts; None: it does not.
        highest: the highest id.
        inputs: what it gives the model; None: the folder does not say.
    """

    start: int | None
    end: int
    pad: int | None
    longest: int | None
    highest: int
    inputs: tuple[str, ...] | None = None


def read_pair_tokenizer(folder: Path) -> tuple[Tokenizer, Template]:
    """The tokenizer.json of a folder and what it puts around a text.

    Raises:
        CheckpointError: a tokenizer that does more than its tokenizer.json says, or stands otherwise around a text than
            one token in front, or none, and one behind.
        DataError: no tokenizer.json, or an unreadable one.
    """
    path, settings = folder / TOKENIZER, settings_of(folder)
    if not path.is_file():
        raise DataError(f"{folder}: has no {TOKENIZER}; save it there with a fast tokenizer's save_pretrained(folder)")
    named, where = settings.get("tokenizer_class"), f"{folder / TOKENIZER_CONFIG}"
    if named is not None and named not in _CLASSES:
        raise CheckpointError(
            f"{where}: tokenizer_class={named!r} cannot be expressed here, as it may do to texts what {TOKENIZER} does "
            f"not say; where it says it all, write PreTrainedTokenizerFast there (known: {', '.join(_CLASSES)})"
        )
    for key, only in (("padding_side", "right"), ("truncation_side", "right")):
        if settings.get(key, only) != only:
            raise CheckpointError(f"{where}: {key}={settings[key]!r} cannot be expressed here (only {only!r} can)")
    raw = library_of(path.read_text(encoding="utf-8"), str(path))
    front, behind = around(raw)
    if len(front) > 1 or len(behind) != 1:
        raise CheckpointError(
            f"{path}: puts {list(front)} in front of a text and {list(behind)} behind it; at most one token in front "
            "and exactly one behind can be expressed here"
        )
    for key, found in (("add_bos_token", front), ("add_eos_token", behind)):
        if settings.get(key) not in (None, bool(found)):
            raise CheckpointError(f"{where}: {key}={settings[key]!r} contradicts {TOKENIZER}; make them agree")
    pad, longest = content_of(settings.get("pad_token")), settings.get("model_max_length")
    inputs = settings.get("model_input_names")
    template = Template(
        start=front[0] if front else None,
        end=behind[0],
        pad=None if pad is None else raw.token_to_id(pad),
        longest=int(longest) if isinstance(longest, int | float) and longest < _UNLIMITED else None,
        highest=max(raw.get_vocab(with_added_tokens=True).values()),
        inputs=tuple(inputs) if isinstance(inputs, list) else None,
    )
    separator = raw.id_to_token(template.end)
    return build_tokenizer(TokenizerFile(path=str(path), end_of_document=separator), ()), template


def around(raw: Any) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer of the `tokenizers` library puts in front of a text and behind it."""
    raw.no_truncation()
    raw.no_padding()
    encoding = raw.encode("a")
    marks = encoding.special_tokens_mask
    front = next((place for place, mark in enumerate(marks) if not mark), len(marks))
    last = next((place for place, mark in enumerate(reversed(marks)) if not mark), 0)
    ids = list(encoding.ids)
    return ids[:front], ids[len(ids) - last :]


def with_closing(text: str, where: str) -> tuple[str, int]:
    """A tokenizer.json with one more special token, and its id, the highest."""
    raw = library_of(text, where)
    if raw.token_to_id(CLOSING) is not None:
        raise DataError(f"{where}: its {TOKENIZER} has a token {CLOSING} already, which no export here wrote")
    raw.add_special_tokens([CLOSING])
    return raw.to_str(pretty=False), raw.token_to_id(CLOSING)


def pair_tokenizer_texts(
    text: str, rows: CaptionRows, context_length: int, inputs: Sequence[str], where: str
) -> dict[str, str]:
    """The files, by name, from which `AutoTokenizer.from_pretrained` makes a tokenizer of such rows.

    Args:
        text: the tokenizer.json.
        inputs: what it gives the model.
    """
    raw = library_of(text, where)
    names = {name: raw.id_to_token(token) for name, token in (("end", rows.end), ("fill", rows.fill))}
    lacking = [name for name, token in names.items() if token is None]
    if lacking:
        raise DataError(f"{where}: its {TOKENIZER} does not know the id of rows.{lacking[0]}")
    if around(raw) != ([] if rows.start is None else [rows.start], [rows.end]):
        pieces = [(names["end"], rows.end)]
        template = f"$A {names['end']}"
        if rows.start is not None:
            pieces.append((raw.id_to_token(rows.start), rows.start))
            template = f"{raw.id_to_token(rows.start)} {template}"
        raw.post_processor = processors.TemplateProcessing(single=template, special_tokens=pieces)
        text = raw.to_str(pretty=False)
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": names["end"],
        "pad_token": names["fill"],
        "unk_token": names["end"],
        "model_max_length": context_length,
        "model_input_names": list(inputs),
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
    }
    if rows.start is not None:
        settings["bos_token"] = raw.id_to_token(rows.start)
    return {TOKENIZER: text, TOKENIZER_CONFIG: json.dumps(settings, indent=2, ensure_ascii=False) + "\n"}
