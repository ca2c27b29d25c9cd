"""Word pieces, unigram and byte pairs with special tokens: ids, texts that come back, no special token out of text."""

from __future__ import annotations

import email
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from corestone.core.errors import DataError, SpecError
from corestone.core.spec import parse
from corestone.data.spec import BytePair, Unigram, WordPiece
from corestone.data.tokenizer import Tokenizer, TokenizerManifest, build_tokenizer, load_tokenizer
from corestone.data.train_tokenizer import sample_texts, sentinel

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZéàß"
MARKS = "0123456789.,;:!?'\"()[]<>|/_-"
TEXTS = [path.read_text(encoding="utf-8") for path in sorted(Path(email.__file__).parent.glob("*.py"))][:12] + [
    f"{LETTERS} {MARKS} {' '.join(LETTERS)} {' '.join(MARKS)} naïve Größe" for _ in range(40)
]
KINDS = {
    "word_piece": WordPiece(vocab_size=900),
    "cased": WordPiece(vocab_size=900, lowercase=False),
    "unigram": Unigram(vocab_size=900),
    "plain": Unigram(vocab_size=900, normalizer="none"),
    "bytes": Unigram(vocab_size=1200, byte_fallback=True),
    "plain_bytes": Unigram(vocab_size=1200, normalizer="none", byte_fallback=True),
    "byte_pair": BytePair(vocab_size=700, special=("mask", "pad", "classify"), sentinels=20),
}
BERT_NAMES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NAMES = [*BERT_NAMES, "<pad>", "</s>", "<unk>", sentinel(0), sentinel(19), "<|mask|>", "<|pad|>", "<|endoftext|>"]
BYTE_NAMES = ["<0x41>", "<0xFF>", "＜0x0A＞", "<0x0a>"]
UNIGRAMS = ["unigram", "plain", "bytes", "plain_bytes"]

VALID = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SPELLING = st.lists(
    VALID | st.sampled_from([*NAMES, *BYTE_NAMES, *(f"▁{name}" for name in NAMES), " "]), max_size=6
).map("".join)
KNOWN = st.text(LETTERS + MARKS + "   \n\t", max_size=60)


@pytest.fixture(scope="module")
def made() -> dict[str, Tokenizer]:
    return {name: build_tokenizer(spec, TEXTS) for name, spec in KINDS.items()}


# -- what is made ---------------------------------------------------------------------------------------------------


def test_bert_has_its_special_tokens_first(made):
    for name in ("word_piece", "cased"):
        facts, vocabulary = made[name].manifest, made[name].vocabulary
        assert facts.special == {token: n for n, token in enumerate(BERT_NAMES)}
        assert (facts.pad, facts.unknown, facts.classify, facts.separator, facts.mask) == (0, 1, 2, 3, 4)
        assert (facts.kind, facts.vocab_size, facts.sentinels) == ("word_piece", 900, ())
        assert (vocabulary.mask, vocabulary.classify, vocabulary.special) == (4, 2, (0, 1, 2, 3, 4))


def test_t5_has_sentinels_that_descend_from_the_top(made):
    facts, vocabulary = made["unigram"].manifest, made["unigram"].vocabulary
    assert (facts.pad, facts.separator, facts.unknown, facts.mask, facts.classify) == (0, 1, 2, None, None)
    assert facts.sentinels == vocabulary.sentinels == tuple(range(899, 799, -1))
    assert facts.special["<extra_id_0>"] == 899
    assert facts.vocab_size == vocabulary.size == 900
    assert vocabulary.special == (0, 1, 2, *range(800, 900))


def test_byte_pairs_take_special_tokens_at_the_top(made):
    facts = made["byte_pair"].manifest
    assert (facts.separator, facts.mask, facts.pad, facts.classify, facts.unknown) == (0, 677, 678, 679, None)
    assert facts.sentinels == tuple(range(699, 679, -1))
    assert facts.vocab_size == 700
    assert made["byte_pair"].encoder == "tiktoken"
    fewer = build_tokenizer(BytePair(vocab_size=677), TEXTS)
    assert fewer.encode(TEXTS[0]) == made["byte_pair"].encode(TEXTS[0])  # the pieces are those of a smaller one


def test_bytes_per_token_is_that_of_the_training_text(made):
    for tokenizer in made.values():
        tokens = sum(len(ids) for ids in tokenizer.encode_batch(TEXTS))
        size = sum(len(text.encode()) for text in TEXTS)
        assert tokenizer.manifest.bytes_per_token == pytest.approx(size / tokens, abs=1e-4)  # rounded to four digits


def test_save_and_load(made, tmp_path):
    for name, tokenizer in made.items():
        tokenizer.save(tmp_path / name)
        again = load_tokenizer(tmp_path / name)
        assert again.manifest == tokenizer.manifest
        assert again.encode(TEXTS[3]) == tokenizer.encode(TEXTS[3])


def test_a_manifest_without_roles_still_loads():
    """As written before there were any."""
    old = {"kind": "byte_pair", "sha256": "0", "vocab_size": 300, "padded_vocab_size": 320, "separator": 0}
    facts = parse(TokenizerManifest, {**old, "bytes_per_token": 3.5, "special": {"<|endoftext|>": 0}}, "old")
    assert (facts.mask, facts.pad, facts.classify, facts.unknown, facts.sentinels) == (None, None, None, None, ())


@pytest.mark.parametrize("name", ["word_piece", "unigram", "bytes"])
def test_the_same_corpus_gives_the_same_tokenizer_in_another_process(made, name):
    script = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from test_train_tokenizer import KINDS, TEXTS; from corestone.data.tokenizer import build_tokenizer\n"
        "print(build_tokenizer(KINDS[sys.argv[3]], TEXTS).manifest.sha256)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(root / "src"), str(Path(__file__).parent), name],
        capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "1", "PATH": ""},
    )  # fmt: skip
    assert done.stdout.strip() == made[name].manifest.sha256


# -- ids ------------------------------------------------------------------------------------------------------------


def test_word_pieces_are_the_longest_that_fit(made):
    """BERT's rule, by a plain loop: from the left, the longest piece of the vocabulary."""
    for name in ("word_piece", "cased"):
        tokenizer = made[name]
        vocab = tokenizers.Tokenizer.from_str(tokenizer.files()["tokenizer.json"]).get_vocab()
        text = "".join(char for char in TEXTS[2] if ord(char) < 128)[:4000]
        expected = []
        for word in re.findall(r"[A-Za-z0-9]+|[^\sA-Za-z0-9]", text.lower() if name == "word_piece" else text):
            start, pieces = 0, []
            while start < len(word):
                ends = [end for end in range(len(word), start, -1) if "##" * (start > 0) + word[start:end] in vocab]
                if not ends:
                    pieces = [1]
                    break
                pieces.append(vocab["##" * (start > 0) + word[start : ends[0]]])
                start = ends[0]
            expected += pieces
        assert len(expected) > 1000
        assert tokenizer.encode(text) == expected


@pytest.mark.parametrize("name", UNIGRAMS)
def test_unigram_pieces_are_the_likeliest(made, name):
    """Viterbi by a plain loop: no way to cut a word has a higher sum of scores."""
    library = tokenizers.Tokenizer.from_str(made[name].files()["tokenizer.json"])
    scores = dict(map(tuple, json.loads(library.to_str())["model"]["vocab"]))
    names = {token: name for name, token in library.get_vocab().items()}
    words = sorted(set(re.findall(r"[A-Za-z_]{2,20}", "".join(TEXTS))))[::7]
    assert len(words) > 200
    for word in words:
        marked = "▁" + word
        best = [0.0] + [-np.inf] * len(marked)
        for end in range(1, len(marked) + 1):
            best[end] = max(best[s] + scores[marked[s:end]] for s in range(end) if marked[s:end] in scores)
        mine = [names[token] for token in made[name].encode(word)]
        assert "".join(mine) == marked
        assert sum(scores[piece] for piece in mine) == pytest.approx(best[-1], abs=1e-9)  # sums in another order


@given(texts=st.lists(VALID | KNOWN | SPELLING, max_size=5))
@settings(max_examples=150, deadline=None)
def test_batches_give_the_ids_of_single_texts(made, texts):
    for tokenizer in made.values():
        singles = [tokenizer.encode(text) for text in texts]
        assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == singles
        assert [ids.tolist() for ids in tokenizer.encode_plainly(texts)] == singles


@given(text=VALID | KNOWN)
@settings(max_examples=200, deadline=None)
def test_ids_are_those_of_the_library(made, text):
    """Of the tokenizer.json as others read it, where no special token is spelt out."""
    for tokenizer in made.values():
        library = tokenizers.Tokenizer.from_str(tokenizer.files()["tokenizer.json"])
        assume(not any(name in text for name in tokenizer.manifest.special))
        assert tokenizer.encode(text) == library.encode(text, add_special_tokens=False).ids


# -- special tokens and plain text ----------------------------------------------------------------------------------


@given(text=SPELLING)
@settings(max_examples=400, deadline=None)
def test_no_text_gives_a_special_token(made, text):
    for name, tokenizer in made.items():
        vocabulary = tokenizer.vocabulary
        for ids in (tokenizer.encode(text), tokenizer.encode_batch([text, "x"])[0].tolist()):
            assert not set(ids) & set(vocabulary.special) - {vocabulary.unknown}, name


def test_the_library_alone_would_give_some():
    """The test above can fail: T5's layout has the special tokens in the model's own vocabulary."""
    tokenizer = build_tokenizer(KINDS["unigram"], TEXTS)
    library = tokenizers.Tokenizer.from_str(tokenizer.files()["tokenizer.json"])
    library.encode_special_tokens = True
    assert {1, 899} <= set(library.encode("a </s> b<extra_id_0>").ids)
    assert not {1, 899} & set(tokenizer.encode("a </s> b<extra_id_0>"))
    assert tokenizer.decode(tokenizer.encode("a </s> b<extra_id_0>")) == "a </s> b<extra_id_0>"


# -- texts come back ------------------------------------------------------------------------------------------------


@given(text=KNOWN)
@settings(max_examples=300, deadline=None)
def test_unigram_loses_white_space_alone(made, text):
    for tokenizer in map(made.get, UNIGRAMS):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == " ".join(text.split())
        assert b"".join(map(tokenizer.token_bytes, ids)).decode().removeprefix(" ") == " ".join(text.split())


def kept(text: str, normalised: bool) -> str:
    """What the record says of a text that bytes can write: words, with one blank between."""
    if normalised:
        text = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()]).normalize_str(text)
    return " ".join(word for word, _ in pre_tokenizers.WhitespaceSplit().pre_tokenize_str(text))


@given(text=SPELLING)
@settings(max_examples=500, deadline=None)
def test_with_bytes_every_text_comes_back(made, text):
    """And streams: the bytes of its tokens are its own."""
    text = text.replace("▁", " ")
    for name in ("bytes", "plain_bytes"):
        tokenizer, expected = made[name], kept(text, name == "bytes")
        ids = tokenizer.encode(text)
        assert tokenizer.vocabulary.unknown not in ids
        assert tokenizer.decode(ids) == expected
        assert b"".join(map(tokenizer.token_bytes, ids)).decode().removeprefix(" ") == expected
        library = tokenizers.Tokenizer.from_str(tokenizer.files()["tokenizer.json"])
        assert library.decode(ids, skip_special_tokens=False) == expected


def test_bytes_have_the_ids_behind_the_special_tokens(made):
    tokenizer = made["bytes"]
    assert [tokenizer.token_bytes(3 + byte) for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    assert tokenizer.encode("北")[-3:] == [3 + byte for byte in "北".encode()]
    assert tokenizer.manifest.special.keys() == made["unigram"].manifest.special.keys()
    assert made["unigram"].vocabulary.unknown in made["unigram"].encode("北")


def test_a_bytes_name_is_text(made):
    """Where some of its characters never stood in the training text, too."""
    tokenizer = build_tokenizer(Unigram(vocab_size=600, byte_fallback=True), ["only letters here"] * 20)
    for one in (tokenizer, made["bytes"], made["plain_bytes"]):
        for byte in range(256):
            text = f"e<0x{byte:02X}>n <0x{byte:02X}>"
            ids = one.encode(text)
            assert one.decode(ids) == text
            assert not {token - 3 for token in ids} & set(range(256))


def test_normalisation_is_that_of_sentencepiece(made):
    """As its rule nmt_nfkc has it; over all of Unicode the two differ for 175 code points, 169 of them newer than its
    tables (sentencepiece 0.2.3)."""
    for given_, expected in [("ﬁn ｘ²", "fin x2"), ("a\u200bb", "a b"), ("a\x07b", "ab"), ("a\ufeffb", "a b")]:
        assert made["bytes"].decode(made["bytes"].encode(given_)) == expected
        assert made["plain_bytes"].decode(made["plain_bytes"].encode(given_)) == given_


def test_bytes_per_token_are_of_the_text_as_given():
    """Not of the normalised one, which is a third as long here."""
    texts = ["ｓｔｏｎｅ ｗａｌｌ " * 50] * 4
    facts = build_tokenizer(Unigram(vocab_size=150), texts).manifest
    wide, plain = facts.bytes_per_token, build_tokenizer(Unigram(vocab_size=150), ["stone wall " * 50] * 4).manifest
    assert wide == pytest.approx(plain.bytes_per_token * (3 * 9 + 2) / 11, rel=1e-3)


@given(text=KNOWN)
@settings(max_examples=300, deadline=None)
def test_word_pieces_lose_white_space_and_case_alone(made, text):
    for name, lowercase in (("word_piece", True), ("cased", False)):
        normal = normalizers.BertNormalizer(lowercase=lowercase).normalize_str(text)
        words = [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(normal)]
        ids = made[name].encode(text)
        assert made[name].decode(ids) == " ".join(words)
        assert b"".join(map(made[name].token_bytes, ids)).decode().removeprefix(" ") == " ".join(words)


@given(text=VALID)
@settings(max_examples=200, deadline=None)
def test_byte_pairs_lose_nothing(made, text):
    assert made["byte_pair"].decode(made["byte_pair"].encode(text)) == text


def test_what_is_kept_is_known(made):
    assert {name: tokenizer.lossless for name, tokenizer in made.items()} == {
        **dict.fromkeys(["word_piece", "cased", *UNIGRAMS], False), "byte_pair": True,
    }  # fmt: skip


def test_special_tokens_are_shown_by_name(made):
    assert made["word_piece"].decode([2, *made["word_piece"].encode("a b"), 3]) == "[CLS] a b [SEP]"
    assert made["unigram"].decode([*made["unigram"].encode("a b"), 1]) == "a b</s>"
    assert made["unigram"].decode([899]) == "<extra_id_0>"


# -- words ----------------------------------------------------------------------------------------------------------


def words_of(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """A text's words by the vocabulary's own word."""
    words: list[bytes] = []
    for token in ids:
        if tokenizer.vocabulary.starts_word[token] or not words:
            words.append(b"")
        words[-1] += tokenizer.token_bytes(token)
    return [word.decode().strip() for word in words]


@given(text=KNOWN)
@settings(max_examples=200, deadline=None)
def test_words_start_where_the_vocabulary_says(made, text):
    for name in UNIGRAMS:
        assert words_of(made[name], made[name].encode(text)) == text.split()
    known = text.lower().translate(str.maketrans("éàß", "eas"))
    pieces = re.findall(r"[^\W_]+|[^\w\s]|_", known)
    assert words_of(made["word_piece"], made["word_piece"].encode(known)) == pieces
    plain = " ".join(text.split())
    assert [word for word in words_of(made["byte_pair"], made["byte_pair"].encode(plain)) if word] == plain.split()


def test_a_special_token_is_a_start(made):
    for tokenizer in made.values():
        vocabulary = tokenizer.vocabulary
        assert len(vocabulary.starts_word) == vocabulary.size
        assert all(vocabulary.starts_word[token] for token in vocabulary.special)
        assert 0.05 < vocabulary.starts_word.mean() < 0.95


# -- small vocabularies and odd corpora -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        WordPiece(vocab_size=100),
        Unigram(vocab_size=150),
        Unigram(vocab_size=16),
        Unigram(vocab_size=300, byte_fallback=True),
    ],
)
def test_a_vocabulary_too_small_for_the_characters_names_a_size_that_will_do(spec):
    with pytest.raises(DataError, match="kind=byte_pair") as refusal:
        build_tokenizer(spec, TEXTS)
    more = int(re.search(r"vocab_size higher by ([\d,]+)", str(refusal.value))[1].replace(",", ""))
    with pytest.raises(DataError, match="vocab_size higher by 1,"):
        build_tokenizer(spec.model_copy(update={"vocab_size": spec.vocab_size + more - 1}), TEXTS)
    larger = build_tokenizer(spec.model_copy(update={"vocab_size": spec.vocab_size + more}), TEXTS)
    assert larger.manifest.vocab_size == spec.vocab_size + more


def test_records_refuse_special_tokens_that_do_not_fit():
    with pytest.raises(SpecError, match="vocab_size=358 at least"):
        parse(BytePair, {"vocab_size": 300, "special": ["mask"], "sentinels": 100}, "recipe")
    with pytest.raises(SpecError, match="names a role twice"):
        parse(BytePair, {"vocab_size": 300, "special": ["mask", "mask"]}, "recipe")
    with pytest.raises(SpecError, match="special"):
        parse(BytePair, {"vocab_size": 300, "special": ["msk"]}, "recipe")


@pytest.mark.parametrize("spec", [WordPiece(vocab_size=100), Unigram(vocab_size=150), BytePair(vocab_size=300)])
def test_nothing_to_train_on(spec):
    for texts in ([], [""]):
        with pytest.raises(DataError, match="no text to train on"):
            build_tokenizer(spec, texts)
    if not isinstance(spec, BytePair):
        with pytest.raises(DataError, match="no text to train on"):
            build_tokenizer(spec, [" \n "])


@pytest.mark.parametrize(
    "spec", [WordPiece(vocab_size=100), Unigram(vocab_size=150), Unigram(vocab_size=500, byte_fallback=True)]
)
@pytest.mark.parametrize("text", ["a", "ab ab", "one two three"])
def test_very_little_text_will_do(spec, text):
    tokenizer = build_tokenizer(spec, [text])
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("spec", [WordPiece(vocab_size=600), Unigram(vocab_size=600)])
def test_rare_characters_are_left_out_and_become_unknown(spec):
    """Characters that occur once cannot all have a place; the text's own letters keep theirs."""
    rare = [chr(0x4E00 + n) for n in range(300)]
    texts = [*TEXTS * 8, *rare]
    tokenizer = build_tokenizer(spec, texts)
    unknown = [tokenizer.vocabulary.unknown in tokenizer.encode(char) for char in rare]
    assert tokenizer.manifest.vocab_size == 600
    assert 200 < sum(unknown) < 300
    assert tokenizer.vocabulary.unknown not in tokenizer.encode("email message header")


def test_text_full_of_special_names_teaches_no_piece_of_them():
    """Each name stands once in the vocabulary, at its place, and the vocabulary has the size that was asked for."""
    texts = [*TEXTS, *[f"{' '.join([*NAMES, '<0x41>'])} <extra_id_150>{'</s>' * 5}＜0x41＞"] * 400]
    for kind in UNIGRAMS:
        tokenizer, size = build_tokenizer(KINDS[kind], texts), KINDS[kind].vocab_size
        names = [name for name, _ in json.loads(tokenizer.files()["tokenizer.json"])["model"]["vocab"]]
        assert len(names) == len(set(names)) == tokenizer.manifest.vocab_size == size
        assert tokenizer.manifest.special["<extra_id_0>"] == size - 1
        assert tokenizer.decode(tokenizer.encode(texts[-1])) == kept(texts[-1], not kind.startswith("plain"))


def test_training_reads_a_bounded_sample():
    """The words of what the sample leaves out are not learnt whole."""
    spec = WordPiece(vocab_size=300, sample_bytes=20_000)
    texts = [f"{'abcdefgh' * 3}{n:04d} " * 20 for n in range(400)]
    kept = sample_texts(texts, spec.sample_bytes)
    assert len(kept) < 50
    assert build_tokenizer(spec, iter(texts)).manifest.sha256 == build_tokenizer(spec, kept).manifest.sha256
