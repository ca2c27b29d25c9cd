"""Checks of data: who makes batches changes nothing, every sample is shown, and what is held out is not in training."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corestone.core.batch import IGNORE, ImageBatch, ImageTextBatch, TextBatch
from corestone.data.images.caption_rows import caption_rows, longest_of
from corestone.data.packing import sample_count
from corestone.data.spec import Data
from corestone.data.tokenizer import Tokenizer
from corestone.data.tokens import TokenSet
from corestone.parallel.collectives import World
from corestone.recipes.checks.context import Context
from corestone.recipes.checks.finding import Finding, judged, skipped
from corestone.recipes.images import ImageData
from corestone.recipes.load import open_data
from corestone.recipes.pairs import PairData
from corestone.recipes.spec import Run
from corestone.recipes.text import TextData

STEPS, SHUFFLED = 4, (3, 0, 2, 1)
"""Batches that are compared, and an order in which they are asked for."""
EPOCH_ROWS = 60_000
"""Rows of a pass, at most, that are looked at one by one."""
NGRAM, LEAKED = 13, 0.01
"""Words of a run that counts as the same text (Brown et al. 2020, appendix C), and what share of the held-out ones may
stand in training."""
SCANNED_TOKENS, SCANNED_PICTURES = 4_000_000, 20_000
"""How much of a side is scanned at most."""
WORD = re.compile(r"[^\W_]+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def workers(ctx: Context) -> Finding:
    """Neither the number of workers nor that of ranks drops, repeats or changes a sample (design, promise 4)."""
    rows = ctx.data.batch(ctx.run)[0]
    wanted = {step: _rows(ctx, ctx.run, step, rows) for step in range(STEPS)}
    others = {"3 batches ahead": _with(ctx.run, prefetch=3)}
    if not isinstance(ctx.run.data, Data):
        others["2 workers"] = _with(ctx.run, workers=2)
    wrong, where = 0, "nothing differs"
    for name, run in others.items():
        loader = open_data(run, ctx.world).loader(run, rows, ctx.world)
        for step in SHUFFLED:
            found = list(row_keys(loader.batch(step)))
            wrong, where = _count(wrong, where, found, wanted[step], f"{name}, step {step}")
        loader.close()
    for size in (size for size in (2, 4) if rows % size == 0):
        for step in range(STEPS):
            found = [key for rank in range(size) for key in _rows(ctx, ctx.run, step, rows, rank, size)]
            wrong, where = _count(wrong, where, found, wanted[step], f"{size} ranks, step {step}")
    missed, told = _pass(ctx)
    if missed:
        where = told
    return judged(f"rows of {STEPS} steps by other workers and ranks; {told}", float(wrong + missed), 0.0, where)


def _with(run: Run, **changes: int) -> Run:
    return run.model_copy(update={"data": run.data.model_copy(update=changes)})


def _count(wrong: int, where: str, found: list[str], wanted: list[str], here: str) -> tuple[int, str]:
    differing = sum(one != other for one, other in zip(found, wanted, strict=False)) + abs(len(found) - len(wanted))
    return wrong + differing, f"{differing} rows: {here}" if differing and not wrong else where


def _rows(ctx: Context, run: Run, step: int, rows: int, rank: int = 0, size: int = 1) -> list[str]:
    loader = ctx.data.loader(run, rows, World(rank=rank, size=size, device=ctx.world.device))
    return list(row_keys(loader.batch(step)))


def row_keys(batch: Any) -> Iterator[str]:
    """A hash of each row's content; what fills a row up is left out, since it depends on the row's neighbours."""
    for row in range(len(batch)):
        parts: list[NDArray[Any]] = []
        if isinstance(batch, ImageTextBatch | ImageBatch):
            images = batch.images if isinstance(batch, ImageTextBatch) else batch
            parts.append(images.pixels_BCHW[row].numpy())
            parts += [] if images.targets_BK is None else [images.targets_BK[row].numpy()]
        if isinstance(batch, ImageTextBatch | TextBatch):
            text = batch.texts if isinstance(batch, ImageTextBatch) else batch
            real = text.targets_BT[row] != IGNORE
            parts += [text.tokens_BT[row][real].numpy(), text.targets_BT[row][real].numpy()]
        yield _hash(parts)


def _hash(parts: Iterable[NDArray[Any]]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _pass(ctx: Context) -> tuple[int, str]:
    """How many samples one pass over the training side drops or repeats, and what was looked at, in words."""
    if isinstance(ctx.data, TextData) and isinstance(ctx.run.data, Data):
        if len(ctx.data.train) > 1:
            return 0, "a mixture has no pass"
        return _text_pass(ctx, ctx.data.train[0], ctx.run.data.context_length)
    rows, world = ctx.data.batch(ctx.run)[0], World(rank=0, size=1, device=ctx.world.device)
    loader = ctx.data.loader(ctx.run, rows, world)
    steps = loader.epoch_units // rows
    seen = Counter(name for step in range(min(steps, EPOCH_ROWS // rows)) for name in loader.names(step))
    wanted = min(steps, EPOCH_ROWS // rows) * rows
    return wanted - len(seen), f"{wanted:,} pictures of a pass"


def _text_pass(ctx: Context, token_set: TokenSet, T: int) -> tuple[int, str]:
    samples, rows = sample_count(token_set, T), 256
    if samples > EPOCH_ROWS:
        return 0, f"a pass of {samples:,} rows is too long to be looked at"
    loader = ctx.data.loader(ctx.run, rows, World(rank=0, size=1, device=ctx.world.device))
    shown = [key for step in range(-(-samples // rows)) for key in row_keys(loader.batch(step))][:samples]
    stream = token_set.slice(0, samples * T + 1)
    there = Counter(_hash((stream[i * T : i * T + T], stream[i * T + 1 : i * T + T + 1])) for i in range(samples))
    missed = (there - Counter(shown)).total()
    return missed, f"a pass of {samples:,} rows" + (f" that drops {missed}" if missed else "")


def data(ctx: Context) -> Finding:
    """What is held out does not stand in training; and how much is never shown, twice there, or cut short."""
    if isinstance(ctx.data, TextData):
        return _text(ctx, ctx.data)
    if isinstance(ctx.data, ImageData | PairData):
        return _pictures(ctx, ctx.data)
    return skipped("data of this kind is not known here")


def _text(ctx: Context, opened: TextData) -> Finding:
    numbers: dict[str, int] = {}
    held_out = [_ngrams(text, numbers) for one in opened.validation for text in _texts(one, opened.tokenizer)]
    found, scanned, of = list[NDArray[np.uint64]](), 0, 0
    documents: Counter[str] = Counter()
    for one in opened.train:
        of += one.n_tokens
        for text, tokens in _sized(one, opened.tokenizer):
            scanned += tokens
            documents[hashlib.blake2b(text.encode(), digest_size=8).hexdigest()] += 1
            found.append(_ngrams(text, numbers))
    trained = np.unique(np.concatenate(found)) if found else np.empty(0, np.uint64)
    asked = np.unique(np.concatenate(held_out)) if held_out else np.empty(0, np.uint64)
    share = float(np.isin(asked, trained, assume_unique=True).mean()) if len(asked) else 0.0
    unused = sum(
        one.n_tokens - 1 - sample_count(one, opened.spec.context_length) * opened.spec.context_length
        for one in opened.train
    )
    repeated = sum(count - 1 for count in documents.values())
    figures = {"duplicate_documents": float(repeated), "tokens_that_fill_no_row": float(unused)}
    figures["never_shown"] = _never_shown(ctx)
    note = (
        f"{scanned:,} of {of:,} training tokens scanned; {repeated} of {documents.total()} documents are there "
        f"twice, {figures['never_shown']:.1%} is never shown in {ctx.whole.training.length}, no text is cut short "
        f"({unused} tokens at the end fill no row)"
    )
    return judged(f"held-out runs of {NGRAM} words that stand in training, share", share, LEAKED, note, figures)


def _sized(token_set: TokenSet, tokenizer: Tokenizer) -> Iterator[tuple[str, int]]:
    """Texts of a split's documents and their tokens, up to the limit."""
    scanned = 0
    for i in range(token_set.n_documents):
        start, stop = int(token_set.starts[i]) + 1, int(token_set.starts[i + 1])
        stop = min(stop, start + SCANNED_TOKENS - scanned)
        scanned += stop - start
        yield tokenizer.decode(token_set.slice(start, stop).tolist()), stop - start
        if scanned >= SCANNED_TOKENS:
            return


def _texts(token_set: TokenSet, tokenizer: Tokenizer) -> Iterator[str]:
    return (text for text, _ in _sized(token_set, tokenizer))


def _ngrams(text: str, numbers: dict[str, int]) -> NDArray[np.uint64]:
    """A 64-bit hash of every run of so many words, by the words' numbers; case and punctuation do not count."""
    words = [numbers.setdefault(word, len(numbers)) for word in WORD.findall(text.lower())]
    if len(words) < NGRAM:
        return np.empty(0, dtype=np.uint64)
    numbered = np.array(words, dtype=np.uint64) + np.uint64(1)
    found = np.zeros(len(words) - NGRAM + 1, dtype=np.uint64)
    for place in range(NGRAM):  # a polynomial of the numbers, modulo 2^64
        found = found * _FACTOR + numbered[place : place + len(found)]
    return found


def _never_shown(ctx: Context) -> float:
    """Share of the training side that the recipe's own length leaves out."""
    training, (rows, units) = ctx.whole.training, ctx.data.batch(ctx.run)
    epoch = ctx.data.loader(ctx.run, rows, World(rank=0, size=1, device=ctx.world.device)).epoch_units
    batch = training.batch_tokens or training.batch_examples or units
    examples = rows * batch // units
    steps = training.length.steps(batch_tokens=batch, batch_examples=examples, epoch_tokens=epoch)
    return max(0.0, 1 - steps * batch / epoch)


def _pictures(ctx: Context, opened: ImageData | PairData) -> Finding:
    sides = opened.sides
    pixels = {
        name: Counter(_hash((one.pixels(i),)) for i in range(min(len(one), SCANNED_PICTURES)))
        for name, one in sides.items()
        if name in ("train", "validation")
    }
    trained, asked = pixels["train"], pixels["validation"]
    share = sum(count for key, count in asked.items() if key in trained) / asked.total()
    repeated = trained.total() - len(trained)
    figures = {"duplicate_pictures": float(repeated), "never_shown": _never_shown(ctx)}
    note = (
        f"{trained.total():,} of {len(sides['train']):,} training pictures scanned; {repeated} are there twice, "
        f"{figures['never_shown']:.1%} is never shown in {ctx.whole.training.length}"
    )
    if isinstance(opened, PairData):
        cut, of = _cut_captions(opened)
        figures["captions_cut_short"] = float(cut)
        note += f"; {cut} of {of:,} captions are cut short"
    return judged("held-out pictures that stand in training, pixel for pixel, share", share, LEAKED, note, figures)


def _cut_captions(opened: PairData) -> tuple[int, int]:
    """Captions of scanned training pictures that are longer than a row, and all of them."""
    most = longest_of(caption_rows(opened.spec.rows, opened.tokenizer.vocabulary), opened.spec.context_length)
    side = opened.sides["train"]
    captions = [one for place in range(min(len(side), SCANNED_PICTURES)) for one in side.captions(place)]
    return sum(len(opened.tokenizer.encode(one)) > most for one in captions), len(captions)
