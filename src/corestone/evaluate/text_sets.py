"""The field's own test files, as the user has them: WikiText-103, Penn Treebank by words and by characters, LAMBADA.

Every reader refuses a file of another kind, naming the line and what to do; no file is fetched from anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from corestone.core.errors import DataError
from corestone.data.document import Counts
from corestone.data.sources import documents, own_files
from corestone.evaluate.detokenise import detokenise, share
from corestone.evaluate.last_word import Passage
from corestone.evaluate.rolling import Corpus

_TABLE = re.compile(r":(\d+)$")


class Entry(NamedTuple):
    """A line of a plain file, or the text of one row of a table, and where it stands."""

    where: str
    text: str


def read_entries(path: str) -> list[Entry]:
    """The lines of a plain file, or the rows of a JSON-lines or Parquet file.

    Raises:
        DataError: it cannot be read, or more than one file has this name (a folder, a glob).
    """
    found: list[Entry] = []
    sources: set[str] = set()
    for document in documents(own_files(path), "stop", Counts()):
        sources.add(document.source)
        if len(sources) > 1:
            raise DataError(f"{path}: several files ({', '.join(sorted(sources))}, ...); give one of them")
        row = _TABLE.search(document.id)
        if row is not None:
            found.append(Entry(f"{document.source}, row {row[1]}", document.text))
        else:
            lines = document.text.removesuffix("\n").split("\n")
            found += [Entry(f"{document.source}, line {n}", line) for n, line in enumerate(lines, start=1)]
    return found


def read_wikitext(path: str, natural: bool = False) -> Corpus:
    """WikiText-103 (or -2): wiki.*.tokens, wiki.*.raw, or Parquet with a column `text` of one line per row.

    Args:
        natural: score the text with its words put together again (`detokenise`).
    """
    # A row of a table is a line with or without its line end, or an article of several lines.
    texts = [line for _, text in read_entries(path) for line in text.removesuffix("\n").split("\n")]
    if not any(re.match(r"\s*= .+ =\s*$", text) for text in texts):
        raise DataError(
            f"{path}: none of its {len(texts):,} lines is a heading such as ' = Title = ', so it is no WikiText file; "
            "give wiki.test.tokens, wiki.test.raw or their Parquet form"
        )
    words = sum(len(text.split()) + 1 for text in texts)
    convention = "exp(nats / words between spaces in the original file, with one end of line per line)"
    if natural:
        convention += f"; words were put together again, {share(texts):.1%} of the lines come back exactly"
        texts = [detokenise(text) for text in texts]
    else:
        convention += "; the text is scored as it stands in the file"
    return Corpus("".join(text + "\n" for text in texts), "word", words, convention)


def read_treebank(path: str) -> Corpus:
    """Penn Treebank by words: ptb.*.txt as preprocessed by Mikolov et al. (2010), lower case, numbers as N."""
    texts = []
    for where, text in read_entries(path):
        odd = next((word for word in text.split() if word != "N" and word != word.lower()), None)
        if odd is not None:
            raise DataError(
                f"{where}: '{odd}' has capital letters, so it is no preprocessed Penn Treebank (lower case, numbers "
                "as N); give ptb.test.txt or ptb.valid.txt"
            )
        texts.append(text.strip())
    if all(len(word) == 1 for text in texts for word in text.split()):
        raise DataError(f"{path}: holds single characters between spaces; use --task ptb_char")
    words = sum(len(text.split()) + 1 for text in texts)
    convention = (
        "exp(nats / words between spaces, with one end of line per line), on the preprocessed text as it stands"
    )
    return Corpus("".join(text + "\n" for text in texts), "word", words, convention)


def read_treebank_characters(path: str) -> Corpus:
    """Penn Treebank by characters: ptb.char.*.txt, characters between spaces and `_` for a space."""
    texts = []
    for where, text in read_entries(path):
        symbols = text.split()
        odd = next((symbol for symbol in symbols if len(symbol) > 1), None)
        if odd is not None:
            raise DataError(
                f"{where}: '{odd}' is more than one character; ptb.char.*.txt has a space behind each character (for "
                "whole words use --task ptb)"
            )
        texts.append("".join(symbols).replace("_", " "))
    characters = sum(len(text) + 1 for text in texts)
    convention = "nats / ln 2 / characters, with one end of line per line; `_` is read as a space"
    return Corpus("".join(text + "\n" for text in texts), "character", characters, convention)


def read_lambada(path: str, lower_case: bool) -> list[Passage]:
    """LAMBADA: JSON lines or Parquet with `text`, or one passage per line.

    Args:
        lower_case: the file is the original, lower-cased and spaced-out text (Paperno et al. 2016), not the form
            with its case kept that GPT-2 and GPT-3 were scored on.
    """
    entries = read_entries(path)
    for where, text in entries if lower_case else ():
        odd = next((word for word in text.split() if word != word.lower()), None)
        if odd is not None:
            raise DataError(
                f"{where}: '{odd}' has capital letters, so this is not the original lower-cased text; use --task "
                "lambada_openai"
            )
    if not lower_case and all(text == text.lower() for _, text in entries):
        raise DataError(
            f"{path}: no capital letter in {len(entries):,} passages, so this is the original lower-cased text; use "
            "--task lambada_standard"
        )
    return list(_passages(entries))


def _passages(entries: Sequence[Entry]) -> Iterator[Passage]:
    for where, text in entries:
        context, _, word = text.rstrip().rpartition(" ")
        if not context.strip() or not word:
            raise DataError(f"{where}: a passage needs words before its last one; mend the line or leave it out")
        yield Passage(context, word)
