"""The field's file formats: small excerpts of our own making, counted by hand, and wrong files refused by the line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from corestone.core.errors import DataError
from corestone.evaluate.last_word import Passage
from corestone.evaluate.text_sets import read_lambada, read_treebank, read_treebank_characters, read_wikitext

WIKITEXT = [
    " ",
    " = Stone walls = ",
    " ",
    " A wall of field stones , 1 @,@ 000 of them , stood by the <unk> . ",
    " = = Building = = ",
    " It was dry @-@ built . ",
    " ",
]
WIKITEXT_WORDS = 0 + 4 + 0 + 17 + 5 + 6 + 0 + 7  # words of each line, and one end of line for each


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    def written(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8", newline="")
        return str(path)

    return written


def table(path: Path, texts: list[str], column: str = "text") -> str:
    pyarrow.parquet.write_table(pyarrow.table({column: texts}), path)
    return str(path)


@pytest.mark.parametrize("name", ["wiki.test.tokens", "wiki.test.raw", "wiki.txt"])
def test_wikitext_counts_words_and_ends_of_lines(write: Callable[[str, str], str], name: str) -> None:
    corpus = read_wikitext(write(name, "".join(line + "\n" for line in WIKITEXT)))
    assert (corpus.unit, corpus.units) == ("word", WIKITEXT_WORDS)
    assert corpus.text == "".join(line + "\n" for line in WIKITEXT)
    assert "one end of line per line" in corpus.convention


def test_wikitext_in_parquet_is_the_same_text(write: Callable[[str, str], str], tmp_path: Path) -> None:
    """The hub's form: a row per line with its line end, blank lines as empty rows; or a row per article."""
    plain = read_wikitext(write("wiki.test.tokens", "".join(line + "\n" for line in WIKITEXT)))
    lines = read_wikitext(table(tmp_path / "a.parquet", [line + "\n" if line.strip() else "" for line in WIKITEXT]))
    assert lines.units == plain.units
    assert lines.text.split() == plain.text.split()
    assert lines.text.count("\n") == plain.text.count("\n")
    articles = read_wikitext(table(tmp_path / "b.parquet", ["".join(line + "\n" for line in WIKITEXT)]))
    assert (articles.text, articles.units) == (plain.text, plain.units)


def test_wikitext_put_together_keeps_the_original_count(write: Callable[[str, str], str]) -> None:
    corpus = read_wikitext(write("wiki.test.tokens", "".join(line + "\n" for line in WIKITEXT)), natural=True)
    assert corpus.units == WIKITEXT_WORDS
    assert corpus.text.splitlines()[3] == "A wall of field stones, 1,000 of them, stood by the <unk>."
    assert corpus.text.splitlines()[4] == "== Building =="
    assert "100.0% of the lines come back exactly" in corpus.convention


def test_treebank_by_words(write: Callable[[str, str], str]) -> None:
    corpus = read_treebank(write("ptb.test.txt", " the <unk> rose N points \n no it was n't a monday \n"))
    assert (corpus.unit, corpus.units) == ("word", 5 + 1 + 6 + 1)
    assert corpus.text == "the <unk> rose N points\nno it was n't a monday\n"


def test_treebank_by_characters(write: Callable[[str, str], str]) -> None:
    corpus = read_treebank_characters(write("ptb.char.test.txt", "n o _ i t\n< u n k > _ N\n"))
    assert corpus.text == "no it\n<unk> N\n"
    assert (corpus.unit, corpus.units) == ("character", len("no it") + 1 + len("<unk> N") + 1)


def test_lambada_in_its_forms(write: Callable[[str, str], str], tmp_path: Path) -> None:
    texts = ['The mason looked up.\n\n"It wants another stone', "She asked Ann for the key, and Ann gave her the key"]
    wanted = [
        Passage('The mason looked up.\n\n"It wants another', "stone"),
        Passage("She asked Ann for the key, and Ann gave her the", "key"),
    ]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    assert read_lambada(write("lambada_test.jsonl", lines), lower_case=False) == wanted
    assert read_lambada(table(tmp_path / "test.parquet", texts), lower_case=False) == wanted
    plain = write("lambada_test_plain_text.txt", "she asked ann for the key , and ann gave her the key\n")
    assert read_lambada(plain, lower_case=True) == [Passage("she asked ann for the key , and ann gave her the", "key")]


@pytest.mark.parametrize(
    ("read", "name", "text", "message"),
    [
        (read_wikitext, "x.tokens", "no heading here\nnone here\n", r"none of its 2 lines is a heading .* give wiki"),
        (read_wikitext, "x.tokens", "", "x.tokens: the file is empty"),
        (read_treebank, "x.txt", "the wall\nThe wall\n", r"x.txt, line 2: 'The' has capital letters.*give ptb.test"),
        (read_treebank, "x.txt", "t h e _ w\n", "single characters between spaces; use --task ptb_char"),
        (read_treebank_characters, "x.txt", "t h e\nt he\n", r"x.txt, line 2: 'he' is more than one .* --task ptb"),
        (lambda path: read_lambada(path, True), "x.txt", "a b\nA b\n", r"line 2: 'A' has .* --task lambada_openai"),
        (lambda path: read_lambada(path, False), "x.txt", "a b\nb c\n", r"2 passages, .* --task lambada_standard"),
        (lambda path: read_lambada(path, False), "x.txt", "A b\n\nc d\n", r"x.txt, line 2: a passage needs words"),
        (lambda path: read_lambada(path, False), "x.jsonl", '{"text": "A b"}\n{"text": "A"}\n', "row 2: a passage"),
        (lambda path: read_lambada(path, False), "x.jsonl", '{"text": "A b"}\n{"txt": "A b"}\n', "did you mean 'txt'"),
        (lambda path: read_lambada(path, False), "x.jsonl", '{"text": "A b"}\n{"text":\n', "line 2, column"),
        (read_wikitext, "x.csv", "a", r"files of this type \(.csv\) are not read"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line_and_the_cure(
    write: Callable[[str, str], str], read: Callable[[str], object], name: str, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(write(name, text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_several_files_are_refused(write: Callable[[str, str], str], tmp_path: Path) -> None:
    write("wiki.valid.tokens", "\n = A = \n")
    write("wiki.test.tokens", "\n = B = \n")
    with pytest.raises(DataError, match=r"did you mean .*wiki\.test\.tokens"):
        read_wikitext(str(tmp_path / "wiki.tset.tokens"))
    with pytest.raises(DataError, match=r"several files .*; give one of them"):
        read_wikitext(str(tmp_path))
