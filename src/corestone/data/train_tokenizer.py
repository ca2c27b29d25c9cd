"""Training: from documents to a tokenizer of the `tokenizers` library, the same in every process.

The library adds up floating-point counts and numbers pieces in the order of hash tables that differ from one process to
the next. What depends on that is fixed here: continuing characters are numbered beforehand (word pieces), and scores
are rounded (unigram).
"""

from __future__ import annotations

import heapq
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from corestone.core.errors import DataError
from corestone.core.rng import fold
from corestone.data.spec import BytePair, Trained, Unigram, WordPiece

SEPARATOR = "<|endoftext|>"
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
T5_SPECIAL = ("<pad>", "</s>", "<unk>")
CHARACTER_COVERAGE = 0.9995
"""Share of the text that the vocabulary's characters must cover: SentencePiece's default (Kudo and Richardson 2018)."""

NO_TEXT = "tokenizer: there is no text to train on; check that the source gives training documents"

_T5_NAMES = re.compile(r"<(?:pad|/s|unk|extra_id_\d+|0x[0-9A-F]{2})>")

_CHARACTER_SHARE = 4
"""At most one in so many pieces is a character's own; of word pieces one in two: each may begin or continue a word."""

_BYTE_CHARACTERS = "0123456789ABCDEFx<>"
"""What the names of bytes are spelt with."""

_PENALTY = 1e-4
"""The library sets apart by this the scores of characters that no piece needs, in the order of a hash table."""


def sentinel(number: int) -> str:
    """The name of a sentinel."""
    return f"<extra_id_{number}>"


def train_library(spec: Trained, sample: list[str]) -> Any:
    """Train a tokenizer of the `tokenizers` library.

    Args:
        sample: documents.

    Raises:
        DataError: no text to train on, or a vocabulary too small for the text's characters.
    """
    if not any(sample):
        raise DataError(NO_TEXT)
    if isinstance(spec, BytePair):
        return _train_byte_pair(spec, sample)
    return _train_word_piece(spec, sample) if isinstance(spec, WordPiece) else _train_unigram(spec, sample)


def sample_texts(texts: Iterable[str], sample_bytes: int) -> list[str]:
    """Whole documents, evenly spread over a stream of unknown length, of at most `sample_bytes` of UTF-8 together.

    Each document draws a number from its place in the stream, and those with the lowest numbers stay; memory never
    holds more than the sample and one document. A document longer than the sample is cut to it.
    """
    chosen: list[tuple[int, int, int, str]] = []  # a heap; the highest draw leaves first
    total, limit = 0, 1 << 63
    for place, text in enumerate(texts):
        draw = fold(0, "tokenizer sample", place)
        if draw >= limit:
            continue
        data = text.encode("utf-8", "replace")
        if len(data) > sample_bytes:
            text = data[:sample_bytes].decode("utf-8", "ignore")
            data = text.encode()
        heapq.heappush(chosen, (-draw, place, len(data), text))
        total += len(data)
        while total > sample_bytes:
            draw_negative, _, size, _ = heapq.heappop(chosen)
            limit, total = -draw_negative, total - size
    return [text for _, _, _, text in sorted(chosen, key=lambda item: item[1])]


def byte_level(model: Any) -> Any:
    """A tokenizer whose pieces are bytes, cut as GPT-2 cuts text."""
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return library


def bert_library(vocab: dict[str, int], lowercase: bool, chinese: bool = True, accents: bool | None = None) -> Any:
    """A tokenizer that cuts text as BERT does.

    Args:
        vocab: ids of word pieces, BERT's special tokens among them.
        chinese: CJK characters become words of their own.
        accents: whether to strip them; None strips where letters become small.
    """
    library = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=chinese, strip_accents=accents, lowercase=lowercase
    )
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece(prefix="##")
    library.add_special_tokens(list(BERT_SPECIAL))
    library.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(name, vocab[name]) for name in ("[CLS]", "[SEP]")],
    )
    return library


def _train_byte_pair(spec: BytePair, sample: list[str]) -> Any:
    library = byte_level(models.BPE())
    further = [f"<|{role}|>" for role in spec.special] + [sentinel(n) for n in reversed(range(spec.sentinels))]
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size - len(further),
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # all 256 bytes, so that any text can be written
        show_progress=False,
    )
    library.train_from_iterator(sample, trainer)
    library.add_special_tokens(further)
    return library


def _train_word_piece(spec: WordPiece, sample: list[str]) -> Any:
    special = list(BERT_SPECIAL)
    empty = bert_library({name: token for token, name in enumerate(special)}, spec.lowercase)
    normal = empty.normalizer.normalize_str
    alphabet = _alphabet((normal(text) for text in sample), spec.vocab_size - len(special))
    continuing = ["##" + char for char in alphabet if _may_continue(empty, char)]
    library = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=spec.vocab_size,
        special_tokens=special + continuing,  # in this order, not in that of a hash table
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    library.train_from_iterator((normal(text) for text in sample), trainer)
    return bert_library(library.get_vocab(), spec.lowercase)


def _may_continue(library: Any, char: str) -> bool:
    """Whether a character can stand within a word, not only begin one."""
    words = library.pre_tokenizer.pre_tokenize_str(library.normalizer.normalize_str(f"a{char}a"))
    return any(char in word[1:] for word, _ in words)


def _train_unigram(spec: Unigram, sample: list[str]) -> Any:
    library = tokenizers.Tokenizer(models.Unigram())
    library.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    rule = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()]) if spec.normalizer == "nmt_nfkc" else None
    normal = [rule.normalize_str(text) for text in sample] if rule else sample
    sentinels = [sentinel(n) for n in reversed(range(spec.sentinels))]
    pieces = _unigram_pieces(library, spec, normal)
    vocab = [(name, 0.0) for name in T5_SPECIAL] + pieces + [(name, 0.0) for name in sentinels]
    library.model = models.Unigram(vocab, unk_id=T5_SPECIAL.index("<unk>"), byte_fallback=spec.byte_fallback)
    if rule:
        library.normalizer = rule
    join = decoders.Metaspace()
    library.decoder = decoders.Sequence([decoders.ByteFallback(), join]) if spec.byte_fallback else join
    library.add_special_tokens([*T5_SPECIAL, *sentinels])
    library.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", T5_SPECIAL.index("</s>"))]
    )
    return library


def _unigram_pieces(library: Any, spec: Unigram, sample: list[str]) -> list[tuple[str, float]]:
    """All but special tokens, with their scores: the bytes, if there are any, and what is learnt."""
    names = [f"<0x{byte:02X}>" for byte in range(256)] if spec.byte_fallback else []
    always = _BYTE_CHARACTERS if names else ""
    room = spec.vocab_size - len(T5_SPECIAL) - spec.sentinels - len(names)
    alphabet = {*_alphabet(sample, room - _CHARACTER_SHARE * len(always)), *always}
    trainer = trainers.UnigramTrainer(
        vocab_size=room + len(T5_SPECIAL),
        special_tokens=list(T5_SPECIAL),
        initial_alphabet=list(always),
        unk_token="<unk>",
        show_progress=False,
    )
    library.train_from_iterator(_trainable(sample, alphabet), trainer)
    trained = json.loads(library.to_str())["model"]["vocab"]
    learnt = _settled([(piece, score) for piece, score in trained[len(T5_SPECIAL) :]])
    # The library would read a byte's name, spelt out in a text, as that byte: its characters must be likelier together.
    unlikely = 2 * len("<0x00>") * min(score for _, score in learnt)
    return [(name, unlikely) for name in names] + learnt


def _settled(pieces: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """The trainer's pieces and scores (logarithms of probabilities) without what its hash tables left to chance.

    Scores are rounded to 0.001, which is far more than their sums differ by; a character that no piece needs gets the
    lowest score instead of one by its place in a hash table; equal scores are ordered by their pieces.
    """
    lowest = min(score for _, score in pieces)

    def settled(piece: str, score: float) -> float:
        steps = (score - lowest) / _PENALTY
        by_place = len(piece) == 1 and steps < len(pieces) and abs(steps - round(steps)) < _PENALTY
        return round(lowest if by_place else score, 3)

    return sorted(((piece, settled(piece, score)) for piece, score in pieces), key=lambda item: (-item[1], item[0]))


def _alphabet(texts: Iterable[str], room: int) -> list[str]:
    """The characters that get pieces of their own: the most frequent ones, white space aside, sorted.

    Args:
        room: pieces beside the special tokens.

    Raises:
        DataError: those that there is room for cover too little of the text.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    ranked = sorted(
        ((n, char) for char, n in counts.items() if not char.isspace()), key=lambda item: (-item[0], item[1])
    )
    if not ranked:
        raise DataError(NO_TEXT)
    total, covered, needed = sum(n for n, _ in ranked), 0, 0
    while covered < CHARACTER_COVERAGE * total:
        covered += ranked[needed][0]
        needed += 1
    fitting = max(0, room) // _CHARACTER_SHARE
    if fitting < needed:
        short = _CHARACTER_SHARE * needed - room
        raise DataError(
            f"tokenizer: the {needed:,} most frequent characters, {CHARACTER_COVERAGE:.2%} of the training text, need "
            f"{_CHARACTER_SHARE * needed:,} tokens beside the special ones; set data.tokenizer.vocab_size higher by "
            f"{short:,}, or take data.tokenizer.kind=byte_pair, which writes any text with 257 tokens"
        )
    return sorted(char for _, char in ranked[:fitting])


def _trainable(texts: Iterable[str], alphabet: set[str]) -> Iterator[str]:
    """The texts with blanks for special names and for characters outside the alphabet: no piece holds either."""
    for text in texts:
        others = dict.fromkeys(map(ord, set(text) - alphabet), " ")
        yield _T5_NAMES.sub(" ", text.translate(others) if others else text)
