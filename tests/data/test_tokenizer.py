"""Any text survives, the separator is never spelt by text, and the fast way gives the ids of the reference."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from corestone.core.errors import DataError
from corestone.data import fast_encode
from corestone.data.spec import BytePair, Bytes, TokenizerFile
from corestone.data.tokenizer import build_tokenizer, check_same, load_tokenizer
from corestone.data.train_tokenizer import SEPARATOR, sample_texts

VALID = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def real_texts() -> list[str]:
    """A megabyte of the interpreter's own source."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    paths = [*sorted((folder / "email").glob("*.py")), *sorted(folder.glob("[a-d]*.py"))]
    return [path.read_text(encoding="utf-8", errors="replace") for path in paths]


TEXTS = real_texts()


@pytest.fixture(scope="module")
def trained():
    return build_tokenizer(BytePair(vocab_size=2000), TEXTS)


@pytest.fixture(scope="module")
def plain_bytes():
    return build_tokenizer(Bytes(), ())


@given(text=VALID)
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back(trained, plain_bytes, text):
    for tokenizer in (trained, plain_bytes):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert b"".join(tokenizer.token_bytes(i) for i in ids) == text.encode()


@given(
    texts=st.lists(VALID | st.sampled_from(["", " \n\t ", SEPARATOR, "\x00end of document", "\x00end of document\x00"]))
)
@settings(max_examples=300, deadline=None)
def test_batches_give_the_ids_of_single_texts(trained, plain_bytes, texts):
    for tokenizer in (trained, plain_bytes):
        singles = [tokenizer.encode(text) for text in texts]
        for threads in (1, 3):
            assert [ids.tolist() for ids in tokenizer.encode_batch(texts, threads)] == singles
        assert [ids.tolist() for ids in tokenizer.encode_plainly(texts)] == singles


def test_real_text_is_encoded_the_same_both_ways(trained):
    assert trained.encoder == "tiktoken"
    assert sum(map(len, TEXTS)) > 1_000_000
    fast, plain = trained.encode_batch(TEXTS), trained.encode_plainly(TEXTS)
    assert all(np.array_equal(a, b) for a, b in zip(fast, plain, strict=True))
    assert trained.difference(TEXTS[:5]) is None


def code_points(every: bool) -> list[str]:
    """All characters, or all but the long runs of one class, of which each 50th."""
    known = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    runs = ("Cn", "Co", "Lo")
    return [c for n, c in enumerate(known) if every or unicodedata.category(c) not in runs or n < 0x3400 or n % 50 == 0]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_code_points_are_split_alike_by_both(every):
    """The two libraries carry Unicode tables of their own; a merge with a neighbour shows the class of a character."""
    characters = code_points(every)
    assert len(characters) == (1_112_064 if every else len(characters)) > 30_000
    vocab = {fast_encode.BYTE_TO_CHAR[byte]: byte for byte in range(256)}
    merges = []
    for neighbour in "a1! \n":
        for byte in range(256):
            pair = (fast_encode.from_bytes(neighbour.encode()), fast_encode.BYTE_TO_CHAR[byte])
            if "".join(pair) not in vocab:
                vocab["".join(pair)] = len(vocab)
                merges.append(pair)
    library = tokenizers.Tokenizer(models.BPE(vocab, merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast, _ = fast_encode.fast_encoding(json.loads(library.to_str()))
    assert fast is not None
    for neighbour in "a1! \n":
        texts = [
            "".join(neighbour + c + neighbour for c in characters[n : n + 100]) for n in range(0, len(characters), 100)
        ]
        expected = [encoding.ids for encoding in library.encode_batch_fast(texts)]
        assert [ids.tolist() for ids in fast.encode(texts)] == expected


def test_text_that_spells_the_separator_stays_text(trained, plain_bytes):
    text = f"one{SEPARATOR}two {SEPARATOR}{SEPARATOR}"
    for tokenizer in (trained, plain_bytes):
        separator = tokenizer.manifest.separator
        assert separator not in tokenizer.encode(text)
        assert separator not in tokenizer.encode_batch([text, "x"])[0]
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode([separator]) == SEPARATOR


def test_white_space_too_long_for_the_fast_way_falls_back(trained):
    """tiktoken's regex engine refuses runs of about a million blanks before a letter."""
    text = " " * 1_500_000 + "x"
    assert trained.encode_batch([text])[0].tolist() == trained.encode(text)


def test_manifest(trained, plain_bytes):
    manifest = trained.manifest
    assert (manifest.kind, manifest.vocab_size, manifest.padded_vocab_size) == ("byte_pair", 2000, 2048)
    assert manifest.special == {SEPARATOR: manifest.separator}
    tokens = sum(len(ids) for ids in trained.encode_batch(TEXTS))
    # Both are of the same text, so they differ by rounding to four digits alone.
    assert manifest.bytes_per_token == pytest.approx(sum(len(t.encode()) for t in TEXTS) / tokens, abs=1e-4)
    assert (plain_bytes.manifest.vocab_size, plain_bytes.manifest.padded_vocab_size) == (257, 320)
    assert plain_bytes.encode("aé") == [97, 0xC3, 0xA9]


def test_the_same_corpus_gives_the_same_tokenizer_in_another_process(trained):
    script = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from test_tokenizer import TEXTS; from corestone.data.spec import BytePair\n"
        "from corestone.data.tokenizer import build_tokenizer\n"
        "print(build_tokenizer(BytePair(vocab_size=2000), TEXTS).manifest.sha256)"
    )
    root = Path(__file__).parents[2]
    environment = {"PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script, str(root / "src"), str(Path(__file__).parent)],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    assert done.stdout.strip() == trained.manifest.sha256


@given(sizes=st.lists(st.integers(0, 50), max_size=200), budget=st.integers(10, 500))
def test_sample_is_bounded_whole_and_in_order(sizes, budget):
    texts = [f"{n:03d}" * size for n, size in enumerate(sizes)]
    sample = sample_texts(iter(texts), budget)
    assert sum(len(text) for text in sample) <= budget
    places = [next(n for n, text in enumerate(texts) if text.startswith(part) and part) for part in sample if part]
    assert places == sorted(places)
    if sum(map(len, texts)) <= budget:
        assert sample == texts
    if any(texts):
        assert sample


def test_sample_spreads_over_the_stream():
    places = [int(text) for text in sample_texts((f"{n:06d}" for n in range(10_000)), 6 * 500)]
    assert len(places) == 500
    quarters = np.bincount(np.array(places) // 2500, minlength=4)
    assert quarters.min() > 90  # 125 expected in each; measured 106 to 142


def test_save_and_load(trained, tmp_path):
    trained.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.manifest == trained.manifest
    assert loaded.files() == trained.files()
    assert loaded.encode("def main():") == trained.encode("def main():")


def test_a_changed_file_is_refused(trained, tmp_path):
    trained.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text().replace("ByteLevel", "ByteLevel ", 1))
    with pytest.raises(
        DataError, match=f"tokenizer.json.*expected sha256 {trained.manifest.sha256}, found [0-9a-f]{{64}}"
    ):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer-manifest.json"])
def test_a_missing_or_broken_file_is_named(trained, tmp_path, name):
    trained.save(tmp_path)
    (tmp_path / name).write_bytes(b"{\xff")
    with pytest.raises(DataError, match=f"{name}.*not UTF-8"):
        load_tokenizer(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"{name}.*No such file"):
        load_tokenizer(tmp_path)


def test_check_same_names_both(trained, plain_bytes):
    check_same(trained.manifest, trained.manifest.model_copy(update={"bytes_per_token": None}), "here")
    with pytest.raises(DataError, match=r"^checkpoint x: .*byte_pair .*2000 tokens.*bytes .*257 tokens"):
        check_same(trained.manifest, plain_bytes.manifest, "checkpoint x")


def test_ids_outside_the_vocabulary(trained):
    assert trained.decode([2047]) == "�"  # pads the table
    with pytest.raises(DataError, match="2048 is outside the vocabulary of 2000"):
        trained.token_bytes(2048)


def test_half_a_surrogate_is_an_error_with_its_place(trained, plain_bytes):
    for tokenizer in (trained, plain_bytes):
        with pytest.raises(DataError, match="at character 2"):
            tokenizer.encode("ab\ud800")
        with pytest.raises(DataError, match="at character 2"):
            tokenizer.encode_batch(["fine", "ab\ud800"])


def test_nothing_to_train_on():
    with pytest.raises(DataError, match="no text to train on"):
        build_tokenizer(BytePair(vocab_size=300), [])


# -- files of others ----------------------------------------------------------------------------------------------


def saved(tmp_path: Path, library: tokenizers.Tokenizer) -> str:
    path = tmp_path / "theirs.json"
    library.save(str(path))
    return str(path)


def word_pieces() -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer()
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    library.train_from_iterator(TEXTS[:5], trainer)
    return library


def unigram() -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0)] + [
        (chr(c), -3.0) for c in range(33, 127)], unk_id=0, byte_fallback=False))  # fmt: skip
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    library.add_special_tokens(["</s>"])
    return library


def byte_pairs(**changes) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer.from_str(
        build_tokenizer(BytePair(vocab_size=400), TEXTS[:5]).files()["tokenizer.json"]
    )
    for name, value in changes.items():
        setattr(library, name, value)
    return library


def test_a_file_is_taken_as_it_is(tmp_path):
    path = saved(tmp_path, byte_pairs())
    tokenizer = build_tokenizer(TokenizerFile(path=path), ())
    assert tokenizer.files()["tokenizer.json"] == Path(path).read_text()
    assert (tokenizer.manifest.kind, tokenizer.manifest.separator) == ("file", 0)
    assert tokenizer.encoder == "tiktoken"


def test_word_pieces_use_their_own_separator_and_library(tmp_path):
    tokenizer = build_tokenizer(TokenizerFile(path=saved(tmp_path, word_pieces())), ())
    assert tokenizer.manifest.separator == 2
    assert tokenizer.encoder == "tokenizers"
    assert "WordPiece" in tokenizer.encoder_reason
    ids = tokenizer.encode("import the module")
    assert b"".join(tokenizer.token_bytes(i) for i in ids) == b" import the module"
    assert 2 not in tokenizer.encode("a [SEP] b")


def test_a_model_that_would_spell_the_separator_is_kept_from_it(tmp_path):
    library = unigram()
    tokenizer = build_tokenizer(TokenizerFile(path=saved(tmp_path, library)), ())
    library.encode_special_tokens = True
    assert 1 in library.encode("a</s>b").ids  # the library alone would
    for ids in (tokenizer.encode("a</s>b"), tokenizer.encode_batch(["a</s>b"])[0].tolist()):
        assert 1 not in ids
        assert "</s>" in b"".join(tokenizer.token_bytes(i) for i in ids).decode().replace(" ", "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"normalizer": normalizers.Lowercase()}, "normalises"),
        ({"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)}, "GPT-2"),
        ({"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)}, "GPT-2"),
        ({"pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()])}, "GPT-2"),
    ],
)
def test_what_the_fast_way_cannot_express_is_left_to_the_library(tmp_path, changes, reason):
    library = byte_pairs(**changes)
    tokenizer = build_tokenizer(TokenizerFile(path=saved(tmp_path, library)), ())
    assert tokenizer.encoder == "tokenizers"
    assert reason in tokenizer.encoder_reason
    expected = [encoding.ids for encoding in library.encode_batch(TEXTS[:3])]
    assert [ids.tolist() for ids in tokenizer.encode_batch(TEXTS[:3])] == expected


def test_stored_limits_lose_no_text(tmp_path):
    library = byte_pairs()
    library.enable_truncation(8)
    library.enable_padding(length=16)
    tokenizer = build_tokenizer(TokenizerFile(path=saved(tmp_path, library)), ())
    assert tokenizer.decode(tokenizer.encode(TEXTS[0])) == TEXTS[0]


def test_shuffled_ids_and_unreachable_tokens_are_encoded_alike(tmp_path):
    """Vocabulary order need not be merge order, and a vocabulary may hold tokens that no merge makes."""
    tree = json.loads(byte_pairs().to_str())
    order = np.random.default_rng(0).permutation(400)
    separator = int(order[0])
    tree["model"]["vocab"] = {token: int(order[i]) for token, i in tree["model"]["vocab"].items()}
    tree["model"]["vocab"] |= {"selfish": 400, "impor": 401}
    tree["added_tokens"][0]["id"] = separator
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(tree))
    tokenizer = build_tokenizer(TokenizerFile(path=str(path)), ())
    assert (tokenizer.encoder, tokenizer.manifest.separator) == ("tiktoken", separator)
    texts = [*TEXTS[:10], "selfish import impor"]
    for fast, plain in zip(tokenizer.encode_batch(texts), tokenizer.encode_plainly(texts), strict=True):
        assert fast.tolist() == plain.tolist()


@given(seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_merges_that_no_training_would_give_are_encoded_alike(seed):
    """Random merges over two letters: tokens made in several ways, ranks out of order, tokens never reached."""
    rng = np.random.default_rng(seed)
    vocab = {fast_encode.BYTE_TO_CHAR[byte]: byte for byte in range(256)}
    pieces, merges = ["a", "b"], []
    for _ in range(12):
        pair = (str(rng.choice(pieces)), str(rng.choice(pieces)))
        if pair in merges or len("".join(pair)) > 8:
            continue
        merges.append(pair)
        if "".join(pair) not in vocab:
            vocab["".join(pair)] = len(vocab)
            pieces.append("".join(pair))
    merges = [merges[i] for i in rng.permutation(len(merges))]
    library = tokenizers.Tokenizer(models.BPE(vocab, merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast, why = fast_encode.fast_encoding(json.loads(library.to_str()))
    assert fast is not None, why
    texts = ["".join(rng.choice(["a", "b"], size=int(n))) for n in rng.integers(1, 40, size=20)]
    assert [ids.tolist() for ids in fast.encode(texts)] == [library.encode(text).ids for text in texts]


def test_separator_by_name_and_clear_errors(tmp_path):
    library = byte_pairs()
    library.add_special_tokens(["<stop>"])
    path = saved(tmp_path, library)
    assert build_tokenizer(TokenizerFile(path=path, end_of_document="<stop>"), ()).manifest.separator == 400
    with pytest.raises(DataError, match="unknown token '<stopp>': did you mean '<stop>'"):
        build_tokenizer(TokenizerFile(path=path, end_of_document="<stopp>"), ())
    bare = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    with pytest.raises(DataError, match=r"no token that could separate documents.*end_of_document"):
        build_tokenizer(TokenizerFile(path=saved(tmp_path, bare)), ())
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(DataError, match=r"no\.json: no tokenizer that the tokenizers library can read"):
        build_tokenizer(TokenizerFile(path=str(tmp_path / "no.json")), ())
    with pytest.raises(DataError, match=r"gone\.json: cannot be read \(No such file"):
        build_tokenizer(TokenizerFile(path=str(tmp_path / "gone.json")), ())
