"""What objectives and generation need to know of a vocabulary: which ids play which role, and where words start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from corestone.core.errors import SpecError


@dataclass(frozen=True)
class Vocabulary:
    """The ids below `size` and the roles of some of them; None (or empty) where no token has the role.

    Attributes:
        size: highest id + 1; a model's table may have more rows.
        separator: stands at the start of each stored document and at the end of the stream.
        mask: replaces what is to be guessed (BERT's [MASK]).
        pad: fills up rows; begins the decoder's input of T5.
        classify: stands before a sequence that is classified (BERT's [CLS]).
        unknown: stands for text that the vocabulary cannot write.
        sentinels: mark cut spans, in the order of their use: <extra_id_0>, <extra_id_1>, ...
        special: all ids of special tokens, ascending, the separator's among them; of these plain text gives at most
            the unknown one.
        starts_word: bool (size,): whether a token starts a word. Special tokens do, so that no word reaches over one.
            None where a token does not tell, as in vocabularies that mark the end of a word instead.
    """

    size: int
    separator: int
    mask: int | None = None
    pad: int | None = None
    classify: int | None = None
    unknown: int | None = None
    sentinels: tuple[int, ...] = ()
    special: tuple[int, ...] = ()
    starts_word: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)

    @property
    def start(self) -> int:
        """What the input of a decoder beside an encoder begins with (Raffel et al. 2020, code): the padding token, or
        the separator where there is none."""
        return self.separator if self.pad is None else self.pad

    def require(self, role: Literal["mask", "pad", "classify"], who: str) -> int:
        """The id that plays a role. Raises SpecError that names who needs it, and a cure."""
        found = {"mask": self.mask, "pad": self.pad, "classify": self.classify}[role]
        if found is None:
            raise SpecError(
                f"{who} needs a {role} token and the tokenizer has none; take data.tokenizer kind word_piece, "
                f"or byte_pair with special=[{role}]"
            )
        return found

    def require_sentinels(self, count: int, who: str) -> tuple[int, ...]:
        """The first sentinels, so many. Raises SpecError that names who needs them, and a cure."""
        if len(self.sentinels) < count:
            raise SpecError(
                f"{who} needs {count} sentinel tokens and the tokenizer has {len(self.sentinels)}; set "
                f"data.tokenizer.sentinels={count} (kinds unigram and byte_pair)"
            )
        return self.sentinels[:count]
