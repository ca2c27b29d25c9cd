"""The Mogrifier LSTM as specs (Melis et al. 2020; sizes and settings by the authors' tuned configurations)."""

from __future__ import annotations

from corestone.models.spec import Dropout, Head, Recurrent
from corestone.nn.spec import LSTM, Mogrifier
from corestone.zoo.entry import Entry

PTB_CHAR_WIDTH, PTB_WORD_WIDTH, ENWIK8_WIDTH = 1209, 912, 1687
"""The largest widths whose models stay within the published number of parameters, which is how the code finds them."""


def mogrifier(
    width: int,
    depth: int,
    rounds: int,
    rank: int | None,
    vocab_size: int,
    tied: bool = False,
    dropout: Dropout | None = None,
    state_dropout: float = 0.0,
) -> Recurrent:
    """LSTM layers whose input and state gate each other, capped input gates, the head on the sum of all layers."""
    return Recurrent(
        vocab_size=vocab_size,
        width=width,
        depth=depth,
        layer=LSTM(mogrifier=Mogrifier(rounds=rounds, rank=rank), cap_input_gate=True, state_dropout=state_dropout),
        skip=True,
        dropout=dropout or Dropout(),
        head=Head(tied=tied, bias=True),
    )


def lstm(width: int, depth: int, vocab_size: int, tied: bool = False) -> Recurrent:
    """The paper's baseline: the same without the mutual gating."""
    spec = mogrifier(width, depth, 1, None, vocab_size, tied)
    return spec.model_copy(update={"layer": spec.layer.model_copy(update={"mogrifier": None})})


def ptb_char(vocab_size: int = 50) -> Recurrent:
    """24 M parameters for characters of the Penn Treebank, with the dropout that was tuned for them."""
    dropout = Dropout(input=0.279, between=0.0738, output=0.235)
    return mogrifier(PTB_CHAR_WIDTH, 2, 4, 24, vocab_size, dropout=dropout, state_dropout=0.171)


def ptb_word() -> Recurrent:
    """24 M parameters for the Penn Treebank's 10,000 words."""
    dropout = Dropout(input=0.729, between=0.291, output=0.716)
    return mogrifier(PTB_WORD_WIDTH, 2, 5, 84, 10_000, tied=True, dropout=dropout, state_dropout=0.387)


def enwik8() -> Recurrent:
    """96 M parameters for the bytes of enwik8."""
    dropout = Dropout(input=0.0159, between=0.138, output=0.288)
    return mogrifier(ENWIK8_WIDTH, 4, 5, 61, 205, dropout=dropout, state_dropout=0.165)


def entries() -> list[Entry]:
    """The published sizes, without WikiText-2's mixture of softmaxes, whose head is no single product."""
    source, width = "Melis et al. 2020 and its code", "width not printed: the largest within the number"
    return [
        Entry("mogrifier-ptb-char-24m", "mogrifier", ptb_char(), 24e6, source, f"{width}, of 50 symbols"),
        Entry("mogrifier-ptb-word-24m", "mogrifier", ptb_word(), 24e6, source, f"{width}, of 10,000 words"),
        Entry("mogrifier-enwik8-96m", "mogrifier", enwik8(), 96e6, source, f"{width}, of 205 symbols (assumed)"),
    ]
