"""Exported tokenizers give the ids of the `transformers` library's classes, and what it saves gives the same here."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import pytest
import tokenizers

from corestone.data.spec import BytePair, Unigram, WordPiece
from corestone.data.spec import Tokenizer as TokenizerSpec
from corestone.data.tokenizer import Tokenizer, build_tokenizer
from corestone.interop.families import GPT2
from corestone.interop.vocabulary import read_tokenizer, tokenizer_texts

pytestmark = pytest.mark.parity

TEXTS = [path.read_text("utf-8") for path in sorted((Path(sysconfig.get_paths()["stdlib"]) / "email").glob("*.py"))]
PROBES = [
    "Hello  World, don't stop! naïve Größe 北京 é ﬁ 🙂\u00a0x",
    "a\tb\nc  ", "", " ", "x" * 101, "[mask] < extra_id_0 >", "ｗｉｄｅ² <0x41>a<0x0A> \x07\u200b\ufeff",
    *(text[:3000] for text in TEXTS),
]  # fmt: skip
KINDS = {
    "uncased": (WordPiece(vocab_size=1000), "bert", "BertTokenizerFast"),
    "cased": (WordPiece(vocab_size=1000, lowercase=False), "electra", "BertTokenizerFast"),
    "plain": (Unigram(vocab_size=800, normalizer="none"), "t5", "T5TokenizerFast"),
    "unigram": (Unigram(vocab_size=800), "t5", None),
    "bytes": (Unigram(vocab_size=1100, byte_fallback=True), "t5", None),
    "plain_bytes": (Unigram(vocab_size=1100, normalizer="none", byte_fallback=True), "t5", None),
    "byte_pair": (BytePair(vocab_size=700, special=("mask", "pad", "classify"), sentinels=7), "gpt2", None),
}


def same_ids(ours: Tokenizer, theirs: object) -> None:
    for text in PROBES:
        assert theirs.encode(text, add_special_tokens=False) == ours.encode(text), text


@pytest.fixture(params=KINDS)
def exported(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Tokenizer, TokenizerSpec, str | None]:
    """A folder as `export` writes it, without weights."""
    spec, model_type, class_name = KINDS[request.param]
    tokenizer, folder = build_tokenizer(spec, TEXTS), tmp_path / "out"
    folder.mkdir()
    for name, text in tokenizer_texts(tokenizer, 4096, "test").items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder, tokenizer, spec, class_name


def test_exported_folders(exported) -> None:
    import transformers

    folder, ours, spec, class_name = exported
    facts = ours.manifest
    loaded = [transformers.AutoTokenizer] + ([getattr(transformers, class_name)] if class_name else [])
    for theirs in (kind.from_pretrained(folder) for kind in loaded):
        same_ids(ours, theirs)
        assert len(theirs) == facts.vocab_size
        assert (theirs.mask_token_id, theirs.pad_token_id) == (facts.mask, facts.pad)
        names = [f"<extra_id_{n}>" for n in range(len(facts.sentinels))]
        assert tuple(theirs.convert_tokens_to_ids(names)) == facts.sentinels
    if isinstance(spec, WordPiece):
        assert theirs.encode("a")[::2] == [facts.classify, facts.separator]
    if isinstance(spec, Unigram):
        assert theirs.encode("a")[-1] == facts.separator


def test_what_the_library_saves_is_read_with_the_same_ids(exported, tmp_path: Path) -> None:
    import transformers

    folder, ours, _, class_name = exported
    theirs = getattr(transformers, class_name or "AutoTokenizer").from_pretrained(folder)
    theirs.save_pretrained(tmp_path / "saved")
    again, notes = read_tokenizer(tmp_path / "saved", GPT2, {})
    assert notes == []
    same_ids(again, theirs)
    roles = ("separator", "mask", "pad", "classify", "unknown", "sentinels", "vocab_size")
    changed = {role for role in roles if getattr(again.manifest, role) != getattr(ours.manifest, role)}
    assert not changed


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_vocab_txt_in_the_published_order(tmp_path: Path, lowercase: bool) -> None:
    """[PAD] first, reserved entries, then [UNK] [CLS] [SEP] [MASK] at 100 to 103, as in the released BERT."""
    import transformers

    trained = build_tokenizer(WordPiece(vocab_size=800, lowercase=lowercase), TEXTS)
    vocab = tokenizers.Tokenizer.from_str(trained.files()["tokenizer.json"]).get_vocab()
    pieces = [name for name, _ in sorted(vocab.items(), key=lambda item: item[1])][5:]
    reserved = [f"[unused{n}]" for n in range(99)]
    names = ["[PAD]", *reserved, "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
    (tmp_path / "vocab.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lowercase}))
    ours, _ = read_tokenizer(tmp_path, GPT2, {})
    same_ids(ours, transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"), do_lower_case=lowercase))
    facts = ours.manifest
    assert (facts.pad, facts.unknown, facts.classify, facts.separator, facts.mask) == (0, 100, 101, 102, 103)


def test_t5_made_by_the_library(tmp_path: Path) -> None:
    """Its own defaults: sentinels stand in the unigram model's vocabulary, with the best of all scores."""
    import transformers

    letters = [("▁", -2.0), *((chr(n), -3.0 - n / 100) for n in range(97, 123)), ("▁the", -4.0), ("er", -4.5)]
    sentinels = [(f"<extra_id_{n}>", 0.0) for n in range(99, -1, -1)]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters, *sentinels]
    theirs = transformers.T5TokenizerFast(vocab=vocab)
    theirs.save_pretrained(tmp_path)
    ours, _ = read_tokenizer(tmp_path, GPT2, {"eos_token_id": 1})
    same_ids(ours, theirs)
    assert ours.manifest.sentinels == tuple(theirs.convert_tokens_to_ids([f"<extra_id_{n}>" for n in range(100)]))
    spelt = "the <extra_id_0> other </s>"
    assert {len(vocab) - 1, 1} <= set(theirs.encode(spelt, add_special_tokens=False))
    assert not set(ours.encode(spelt)) & set(ours.vocabulary.special) - {2}
