"""A role that is missing is named, with who needs it and what to do."""

from __future__ import annotations

import pytest

from corestone.core.errors import SpecError
from corestone.core.vocabulary import Vocabulary


def test_roles_are_given_or_named():
    vocabulary = Vocabulary(size=10, separator=0, mask=3, sentinels=(9, 8))
    assert vocabulary.require("mask", "an objective") == 3
    assert vocabulary.require_sentinels(1, "an objective") == (9,)
    with pytest.raises(SpecError, match=r"^objective masked_token needs a pad token .*word_piece.*special=\[pad\]"):
        vocabulary.require("pad", "objective masked_token")
    with pytest.raises(SpecError, match=r"needs 3 sentinel tokens .* has 2; set data.tokenizer.sentinels=3"):
        vocabulary.require_sentinels(3, "objective span_corruption")
