"""WikiText's spaced-out words as ordinary text, and back.

WikiText stands in words with spaces around every mark, and `@-@`, `@,@`, `@.@` where a mark stood inside a word. Models
trained on ordinary text are scored on ordinary text (Radford et al. 2019, section 3.1: "invertible de-tokenizers"), and
the likelihood is divided by the words of the original. That is only fair as far as the way back exists, so `share`
measures on the file how many lines come back exactly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_INNER = {"@-@": "-", "@,@": ",", "@.@": "."}
_CLOSING = {",", ".", ";", ":", "!", "?", ")", "]", "}", "%"}
_OPENING = {"(", "[", "{", "$", "£", "€"}
_SUFFIX = re.compile(r"'[a-zA-Z]{1,2}")

_WAY_BACK = (
    (re.compile(r"(?<=\d),(?=\d)"), " @,@ "),
    (re.compile(r"(?<=\d)\.(?=\d)"), " @.@ "),
    (re.compile(r"(?<=\w)-(?=\w)"), " @-@ "),
    (re.compile(r"(?<=\S)('[a-zA-Z]{1,2})(?!\w)"), r" \1"),
    (re.compile(r"([(\[{$£€\"])(?=\S)"), r"\1 "),
    (re.compile(r"(?<=[^\s@])([)\]}%\",;:!?])"), r" \1"),
    (re.compile(r"(?<=[^\s.@])(?<!\.\w)(\.)(?=[\s\"]|$)"), r" \1"),
)


def detokenise(line: str) -> str:
    """One line of WikiText as ordinary text; words keep their order and spelling."""
    words = line.split()
    heading = re.fullmatch(r"((?:= )+)(.+?)((?: =)+)", " ".join(words))
    if heading is not None and len(heading[1]) == len(heading[3]):
        bars = "=" * heading[1].count("=")
        return f"{bars} {detokenise(heading[2])} {bars}"
    text, glued, quoted = "", True, False
    for word in words:
        closes = word in _CLOSING or _SUFFIX.fullmatch(word) is not None or word in _INNER or (word == '"' and quoted)
        text += ("" if glued or closes else " ") + _INNER.get(word, word)
        quoted ^= word == '"'
        glued = word in _OPENING or word in _INNER or (word == '"' and quoted)
    return text


def retokenise(line: str) -> str:
    """The inverse of `detokenise`, as far as there is one: words with single spaces between."""
    heading = re.fullmatch(r"(=+) (.+) (=+)", line)
    if heading is not None and heading[1] == heading[3]:
        bars = " ".join(heading[1])
        return f"{bars} {retokenise(heading[2])} {bars}"
    for pattern, replacement in _WAY_BACK:
        line = pattern.sub(replacement, line)
    return " ".join(line.split())


def share(lines: Sequence[str]) -> float:
    """Which part of the lines with words comes back exactly."""
    filled = [line for line in lines if line.strip()]
    same = sum(retokenise(detokenise(line)) == " ".join(line.split()) for line in filled)
    return same / max(1, len(filled))
