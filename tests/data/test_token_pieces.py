"""Tokenizers that others made: their models spell no special token either, and their ids stay what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from corestone.data.spec import TokenizerFile
from corestone.data.token_pieces import plain_text_tree
from corestone.data.tokenizer import Tokenizer, build_tokenizer


def from_library(tmp_path: Path, library: Any, separator: str) -> Tokenizer:
    path = tmp_path / "theirs.json"
    library.save(str(path))
    return build_tokenizer(TokenizerFile(path=str(path), end_of_document=separator), ())


def characters_and_merges(ignore_merges: bool) -> tokenizers.Tokenizer:
    """A byte-pair model whose merges make the separator out of its characters."""
    vocab = {char: n for n, char in enumerate("</s>ab")}
    merges = [("<", "/"), ("</", "s"), ("</s", ">"), ("</s>", "a"), ("a", "b")]
    if ignore_merges:
        merges = [("a", "b")]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    vocab.setdefault("</s>", len(vocab))
    library = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=ignore_merges))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    library.add_special_tokens(["</s>"])
    return library


@pytest.mark.parametrize("ignore_merges", [False, True])
def test_merges_that_make_a_special_token_are_not_used(tmp_path, ignore_merges):
    library = characters_and_merges(ignore_merges)
    tokenizer = from_library(tmp_path, library, "</s>")
    library.encode_special_tokens = True
    separator = tokenizer.manifest.separator
    assert separator in library.encode("</s>").ids  # the library alone would
    for text in ("</s>", "</s> ab", "a</s>a", "</s></s>"):
        ids = tokenizer.encode(text)
        assert separator not in ids
        assert "".join(library.id_to_token(token) for token in ids) == text.replace(" ", "")
    assert tokenizer.encode("ab ba") == library.encode("ab ba").ids


def test_words_that_are_special_tokens_are_unknown_words(tmp_path):
    library = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "stop": 1, "a": 2}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    library.add_special_tokens(["stop", "[UNK]", "<late>"])
    tokenizer = from_library(tmp_path, library, "stop")
    assert tokenizer.encode("a stop b") == [2, 0, 0]
    assert tokenizer.vocabulary.special == (0, 1, 3)
    assert tokenizer.encode("a <late>") == [2, 0]


def test_ordinary_added_tokens_are_still_found(tmp_path):
    """Ids behind the vocabulary do not move when a special token's name is hidden."""
    library = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "stop": 1, "a": 2}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    library.add_special_tokens(["stop", "<late>"])
    library.add_tokens(["New York"])
    tokenizer = from_library(tmp_path, library, "stop")
    assert tokenizer.encode("a New York stop") == [2, 4, 0] == [2, library.token_to_id("New York"), 0]


def test_a_vocabulary_without_special_words_is_encoded_as_it_is():
    library = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "</s>": 3}, [("a", "b")]))
    library.add_special_tokens(["</s>"])
    tree = json.loads(library.to_str())
    assert plain_text_tree(tree) is tree


def test_marked_ends_of_words_do_not_tell_where_words_start(tmp_path):
    """GPT-1's vocabulary."""
    vocab = {"<unk>": 0, "a": 1, "a</w>": 2, "b": 3, "b</w>": 4}
    library = tokenizers.Tokenizer(models.BPE(vocab, [], unk_token="<unk>", end_of_word_suffix="</w>"))
    library.normalizer, library.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.BPEDecoder(suffix="</w>")
    tokenizer = from_library(tmp_path, library, "<unk>")
    assert tokenizer.vocabulary.starts_word is None
    assert not tokenizer.lossless
    assert tokenizer.decode(tokenizer.encode("ab ba")) == "ab ba"
