"""Batches of random text in packed rows, a vocabulary with every role, tiny models of every shape."""

from __future__ import annotations

import numpy as np
import torch

from corestone.core.batch import TextBatch
from corestone.core.mask import Mask
from corestone.core.vocabulary import Vocabulary
from corestone.data.packing import segments_and_positions
from corestone.models.decoder import build_decoder
from corestone.models.encoder import build_encoder, build_generator_discriminator
from corestone.models.encoder_decoder import build_encoder_decoder
from corestone.zoo.bert import bert
from corestone.zoo.electra import electra
from corestone.zoo.gpt import gpt2
from corestone.zoo.t5 import t5

SIZE, PAD, SEPARATOR, MASK, CLASSIFY, UNKNOWN = 90, 0, 1, 2, 3, 4
SENTINELS = tuple(range(89, 69, -1))
SPECIAL = (PAD, SEPARATOR, MASK, CLASSIFY, UNKNOWN, *sorted(SENTINELS))
FIRST_WORD, LAST_WORD = 5, 69
VOCABULARY = Vocabulary(
    size=SIZE,
    separator=SEPARATOR,
    mask=MASK,
    pad=PAD,
    classify=CLASSIFY,
    unknown=UNKNOWN,
    sentinels=SENTINELS,
    special=SPECIAL,
    starts_word=np.array([token in SPECIAL or token % 3 != 0 for token in range(SIZE)]),
)


def packed_text(rows: int, tokens: int, seed: int = 0, apart: bool = True) -> TextBatch:
    """Rows as the loader gives them: documents of random lengths, a separator first in each."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(FIRST_WORD, LAST_WORD + 1, size=(rows, tokens + 1))
    starts = np.flatnonzero(generator.random(rows * tokens) < 2.5 / tokens)
    inner = starts[starts % tokens > 0]
    ids[inner // tokens, inner % tokens] = SEPARATOR
    segments, positions = segments_and_positions(inner, rows, tokens)
    return TextBatch(
        tokens_BT=torch.from_numpy(ids[:, :-1]),
        targets_BT=torch.from_numpy(ids[:, 1:]),
        positions_BT=positions if apart else torch.arange(tokens).expand(rows, tokens),
        mask=Mask(segments_BT=segments if apart else None),
    )


def tiny_decoder():
    return build_decoder(gpt2(24, 2, 3, SIZE, 64), seed=1)


def tiny_encoder():
    return build_encoder(bert(24, 2, 3, SIZE, 64, dropout=0.0), seed=1)


def tiny_pair():
    return build_generator_discriminator(electra(24, 2, 2, 12, (1, 2), SIZE, 64, dropout=0.0), seed=1)


def tiny_encoder_decoder(gated: bool = True):
    return build_encoder_decoder(t5(24, 2, 3, 8, 40, gated=gated, vocab_size=SIZE, dropout=0.0), seed=1)
