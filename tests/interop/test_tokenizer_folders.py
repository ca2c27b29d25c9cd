"""Folders of BERT's and T5's tokenizers, in and out. (With `transformers`: tests/parity.)"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers

from corestone.core.errors import DataError
from corestone.data.spec import BytePair, Tokenizer, Unigram, WordPiece
from corestone.data.tokenizer import build_tokenizer
from corestone.interop.families import GPT2
from corestone.interop.vocabulary import read_tokenizer, tokenizer_texts

TEXTS = ["a stone wall stands where the stones were cut", "cornerstone, keystone: 12 Stones\n"] * 20
SENTENCE = "Corner stones, 12 of them; Ünïcode  <extra_id_0>"


def write(folder: Path, spec: Tokenizer) -> tuple[Path, dict[str, object]]:
    """What export writes of a tokenizer, and its settings."""
    folder.mkdir()
    for name, text in tokenizer_texts(build_tokenizer(spec, TEXTS), 64, "test").items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder, json.loads((folder / "tokenizer_config.json").read_text())


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("without", ["vocab.txt", "tokenizer.json"])
def test_bert_by_either_file(tmp_path: Path, lowercase: bool, without: str) -> None:
    spec = WordPiece(vocab_size=150, lowercase=lowercase)
    folder, settings = write(tmp_path / "out", spec)
    assert (settings["tokenizer_class"], settings["do_lower_case"]) == ("BertTokenizer", lowercase)
    assert (settings["mask_token"], settings["cls_token"], settings["model_max_length"]) == ("[MASK]", "[CLS]", 64)
    (folder / without).unlink()
    again, notes = read_tokenizer(folder, GPT2, {})
    assert notes == ([] if without == "vocab.txt" else ["tokenizer.json was made from vocab.txt"])
    assert again.encode(SENTENCE) == build_tokenizer(spec, TEXTS).encode(SENTENCE)
    facts = again.manifest
    assert (facts.pad, facts.unknown, facts.classify, facts.separator, facts.mask) == (0, 1, 2, 3, 4)


def test_vocab_txt_without_settings_is_uncased(tmp_path: Path) -> None:
    folder, _ = write(tmp_path / "out", WordPiece(vocab_size=150))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert read_tokenizer(folder, GPT2, {})[0].decode(read_tokenizer(folder, GPT2, {})[0].encode("STONE")) == "stone"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[PAD]\n[UNK]\nstone\n", r"lacks \[CLS\], \[SEP\], \[MASK\]"),
        ("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\n", "names a word piece twice"),
        ("\udcff", "cannot be read"),
    ],
)
def test_a_vocab_txt_that_is_none_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "vocab.txt").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(DataError, match=f"vocab.txt: {words}"):
        read_tokenizer(tmp_path, GPT2, {})


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (Unigram(vocab_size=250, normalizer="none"), "T5Tokenizer"),
        (Unigram(vocab_size=250), "PreTrainedTokenizerFast"),
        (Unigram(vocab_size=520, normalizer="none", byte_fallback=True), "PreTrainedTokenizerFast"),
    ],
)
def test_t5(tmp_path: Path, spec: Unigram, name: str) -> None:
    """T5's class would leave normaliser and bytes out: it makes a tokenizer of its own from the vocabulary."""
    folder, settings = write(tmp_path / "out", spec)
    assert settings["tokenizer_class"] == name
    assert (settings["eos_token"], settings["unk_token"], settings["pad_token"]) == ("</s>", "<unk>", "<pad>")
    assert settings["additional_special_tokens"][:2] == ["<extra_id_0>", "<extra_id_1>"]
    again, notes = read_tokenizer(folder, GPT2, {"eos_token_id": 1})
    assert notes == []
    first, facts = build_tokenizer(spec, TEXTS), again.manifest
    assert again.encode(SENTENCE) == first.encode(SENTENCE)
    assert (facts.pad, facts.separator, facts.unknown) == (0, 1, 2)
    assert facts.sentinels == first.manifest.sentinels == tuple(range(facts.vocab_size - 1, facts.vocab_size - 101, -1))


def test_what_cuts_text_another_way_is_not_called_bert_or_t5(tmp_path: Path) -> None:
    """Their classes take the vocabulary alone out of tokenizer.json."""
    for name, spec in (("bert", WordPiece(vocab_size=150)), ("t5", Unigram(vocab_size=250, normalizer="none"))):
        tokenizer = build_tokenizer(spec, TEXTS)
        library = tokenizers.Tokenizer.from_str(tokenizer.files()["tokenizer.json"])
        library.pre_tokenizer = tokenizers.pre_tokenizers.Digits()
        library.save(str(tmp_path / "tokenizer.json"))
        changed, _ = read_tokenizer(tmp_path, GPT2, {"eos_token_id": 1})
        settings = json.loads(tokenizer_texts(changed, 64, "test")["tokenizer_config.json"])
        assert settings["tokenizer_class"] == "PreTrainedTokenizerFast", name
        assert settings["unk_token"] in ("[UNK]", "<unk>")


def test_byte_pairs_name_their_further_special_tokens(tmp_path: Path) -> None:
    _, settings = write(tmp_path / "out", BytePair(vocab_size=300, special=("mask", "pad"), sentinels=2))
    assert settings == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
        "pad_token": "<|pad|>",
        "additional_special_tokens": ["<extra_id_0>", "<extra_id_1>"],
        "model_max_length": 64,
        "clean_up_tokenization_spaces": False,
    }
