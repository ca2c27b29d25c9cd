"""Checks of what a model computes: from what it may see, by which way, in which company."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from corestone.core.batch import Seq2SeqBatch, TextBatch, plain_batch
from corestone.core.mask import Mask
from corestone.core.metric import Metric
from corestone.core.tensors import each_tensor
from corestone.data.loader import TextLoader
from corestone.data.spec import Data
from corestone.generate.decode import caption, generate
from corestone.generate.source import SourceReader, source_batch
from corestone.generate.spec import Sampling
from corestone.objectives.next_sentence import PairBatch
from corestone.recipes.build import Built
from corestone.recipes.checks.context import Context, corrupted, relative, texts_of
from corestone.recipes.checks.excerpt import short_documents, with_short_texts
from corestone.recipes.checks.finding import Finding, failed, judged, skipped
from corestone.recipes.text import TextData

HIDDEN = 1e-4
"""Of hidden values computed in another company or by another way, in their root mean squares."""
GAP = 1e-3
"""By how many standard deviations of logits the token that was written with a cache may be less likely than the
likeliest without."""
FIGURE = 1e-5
"""Of held-out figures, relative."""
READ, WRITTEN, FIRST = 16, 8, 3
"""Tokens that are read token by token, tokens that are written, and tokens that are read at once before."""
SIZES = (3, 16)


def causality(ctx: Context) -> Finding:
    """Tokens do not change what stands before them."""
    built = ctx.build()
    built.model.eval()
    worst, where, places = 0.0, "", 0
    with torch.no_grad():
        for hidden_of, batch in texts_of(built.model, corrupted(built)):
            text = batch.target if isinstance(batch, Seq2SeqBatch) else batch
            if not text.mask.causal:
                continue
            before_BTD, T = hidden_of(batch), text.tokens_BT.shape[1]
            for at in sorted({1, T // 3, T // 2, T - 1} & set(range(1, T))):
                changed, same_BT = _changed(text, at, built.model.vocab_size)
                after_BTD = hidden_of(replace(batch, target=changed) if isinstance(batch, Seq2SeqBatch) else changed)
                places += int(same_BT.sum())
                found = relative(after_BTD[same_BT], before_BTD[same_BT]) if bool(same_BT.any()) else 0.0
                worst, where = max((worst, where), (found, f"tokens from {at} on of {T} changed"))
    if not places:
        return skipped("nothing of this recipe is causal")
    return judged("hidden values before tokens that change, before and after", worst, HIDDEN, where or f"{places} kept")


def _changed(text: TextBatch, at: int, size: int) -> tuple[TextBatch, Tensor]:
    """The text with other tokens from a place on, a prefix that is seen by all left out, and the places before the
    first of them, boolean (B, T)."""
    places_BT = torch.arange(text.tokens_BT.shape[1], device=text.tokens_BT.device).expand_as(text.tokens_BT)
    other_BT = places_BT >= at
    if text.mask.prefix_BT is not None:
        other_BT = other_BT & ~text.mask.prefix_BT
    tokens_BT = torch.where(other_BT, (text.tokens_BT + 1) % size, text.tokens_BT)
    return replace(text, tokens_BT=tokens_BT), other_BT.cumsum(dim=1) == 0


def cache(ctx: Context) -> Finding:
    """Writing with a cache is writing without (design, promise 6): hidden values token by token, then what prompts of
    unequal lengths are continued with."""
    built = ctx.build()
    if built.model.generates == "nothing":
        return skipped("this model writes nothing")
    built.model.eval()
    with torch.inference_mode():
        plain, reader, tokens_BT = _reading(built)
        worst = relative(_token_by_token(reader, tokens_BT), plain(tokens_BT))
        gap, count = _written(built)
    note = f"hidden values; of {count} tokens written, the least likely stands {gap:.2g} sigma under the likeliest"
    compared = "token by token with a cache and all at once"
    return judged(compared, worst, HIDDEN, note) if gap <= GAP else failed(compared, f"{note} (at most {GAP:g})")


def _reading(built: Built) -> tuple[Callable[[Tensor], Tensor], Any, Tensor]:
    """What makes hidden values of tokens (B, T) at once, what does so with a cache, and tokens."""
    model, batch = built.model, built.loader.batch(0).to(built.world.device)
    if model.generates == "captions":
        images, tokens_BT = batch.images.rows(0, FIRST), batch.texts.tokens_BT[:FIRST, :READ]
        reader = SourceReader(model, images, None, READ)
        return partial(_answering, model, images), reader, tokens_BT
    tokens_BT = batch.tokens_BT[:FIRST, :READ]
    if model.generates == "continuations":
        return partial(_continuing, model), model, tokens_BT
    sources = source_batch(batch.tokens_BT[:FIRST, READ : 2 * READ].tolist()).to(built.world.device)
    reader = SourceReader(model, sources, None, READ)
    return partial(_answering, model, sources), reader, tokens_BT


def _continuing(model: Any, tokens_BT: Tensor) -> Tensor:
    """Hidden values of whole rows, without a cache."""
    hidden: Tensor = model(plain_batch(tokens_BT)).hidden
    return hidden


def _answering(model: Any, read: Any, tokens_BT: Tensor) -> Tensor:
    """Hidden values of whole rows behind what was read, a text or a picture each, without a cache."""
    hidden: Tensor = model.decode(plain_batch(tokens_BT), model.encode(read)).hidden
    return hidden


def _token_by_token(reader: Any, tokens_BT: Tensor) -> Tensor:
    B, T = tokens_BT.shape
    first = min(FIRST, T)
    state, found = reader.empty_cache(B, T, torch.float32), []
    for start, stop in [(0, first), *((place, place + 1) for place in range(first, T))]:
        batch = plain_batch(tokens_BT[:, start:stop])
        positions_BT = torch.arange(start, stop, device=tokens_BT.device).expand(B, stop - start)
        found.append(reader(replace(batch, positions_BT=positions_BT), state).hidden)
    return torch.cat(found, dim=1)


def _written(built: Built) -> tuple[float, int]:
    """Of tokens that decoding wrote, the largest distance from the likeliest one without a cache, in standard
    deviations of logits; and how many there were."""
    model, vocabulary, batch = built.model, built.data.vocabulary, built.loader.batch(0)
    assert vocabulary is not None  # of a model that writes
    sampling = Sampling(temperature=0.0, max_tokens=WRITTEN)
    gaps: list[float] = []

    def judge(begin: Sequence[int], new: Sequence[int], hidden_of: Callable[[Tensor], Tensor]) -> None:
        tokens = torch.tensor([[*begin, *new]], device=built.world.device)
        logits_TV = model.head(hidden_of(tokens))[0, len(begin) - 1 : -1, : vocabulary.size].float()
        chosen_T = logits_TV.gather(1, torch.tensor(new, device=logits_TV.device)[:, None])[:, 0]
        gaps.extend(((logits_TV.amax(dim=1) - chosen_T) / logits_TV.std(dim=1)).tolist())

    if model.generates == "captions":
        images = batch.images.rows(0, FIRST).to(built.world.device)
        for row, new in enumerate(caption(model, vocabulary, images, sampling)):
            one = images.rows(row, row + 1)
            if new:
                judge([vocabulary.separator], new, partial(_answering, model, one))
        return max(gaps, default=0.0), len(gaps)
    prompts = [batch.tokens_BT[row, : 2 + 5 * row].tolist() for row in range(min(FIRST, len(batch)))]
    for prompt, new in zip(prompts, generate(model, vocabulary, prompts, sampling), strict=True):
        if not new:
            continue
        if model.generates == "continuations":
            judge([vocabulary.separator, *prompt], new, partial(_continuing, model))
            continue
        source = source_batch([[*prompt, vocabulary.separator]]).to(built.world.device)
        judge([vocabulary.start], new, partial(_answering, model, source))
    return max(gaps, default=0.0), len(gaps)


def evaluation_batch(ctx: Context) -> Finding:
    """Held-out figures depend neither on the batch size nor on what fills batches up (design, promise 5)."""
    data = with_short_texts(ctx.data, ctx.run)
    found: list[list[Metric]] = []
    for size in SIZES:
        built = ctx.build()
        evaluation = ctx.run.evaluation.model_copy(update={"batch_size": size})
        run = ctx.run.model_copy(update={"evaluation": evaluation})
        torch.manual_seed(size)
        found.append(list(data.held_out(run, built.objective).run(built.model)))
    gaps = {
        one.name: abs(one.value - other.value) / max(abs(other.value), 1e-6) for one, other in zip(*found, strict=True)
    }
    name = max(gaps, key=lambda one: gaps[one])
    return judged(f"held-out figures by {SIZES[0]} and {SIZES[1]} rows, relative", gaps[name], FIGURE, name)


def packing(ctx: Context) -> Finding:
    """Packed documents see only themselves (design, promise 3)."""
    if not isinstance(ctx.run.data, Data) or not isinstance(ctx.data, TextData):
        return skipped("pictures are not packed")
    if not ctx.run.data.keep_documents_apart:
        return skipped("data.keep_documents_apart is off: documents of a row see each other by choice")
    spec, built = ctx.run.data, ctx.build()
    documents = short_documents(ctx.data.train[0], ctx.data.tokenizer, spec.context_length)
    one = spec.model_copy(update={"components": spec.components[:1]})
    built.loader = TextLoader([documents], one, ctx.run.seed, built.examples)
    built.model.eval()
    batch, worst, pieces = corrupted(built), 0.0, 0
    if isinstance(batch, PairBatch):
        return skipped("a row of this objective holds one pair of texts")
    with torch.no_grad():
        for hidden_of, packed in texts_of(built.model, batch):
            whole_BTD = hidden_of(packed)
            for row, places, alone in _alone(packed):
                worst = max(worst, relative(hidden_of(alone)[0], whole_BTD[row, places]))
                pieces += 1
    if not pieces:
        return skipped("no row of this objective holds several documents")
    return judged("hidden values of documents packed and alone", worst, HIDDEN, f"{pieces} documents")


def _alone(packed: TextBatch | Seq2SeqBatch) -> Iterator[tuple[int, Tensor, Any]]:
    """Each document of the rows that hold several: its row, its places there, and a batch of it alone, with positions
    from 0."""
    text = packed.target if isinstance(packed, Seq2SeqBatch) else packed
    segments_BT = text.mask.segments_BT
    if segments_BT is None:
        return
    for row in range(len(text)):
        numbers = [number for number in segments_BT[row].unique().tolist() if number >= 0]
        for number in numbers if len(numbers) > 1 else []:
            places = (segments_BT[row] == number).nonzero()[:, 0]
            alone = _piece(text, row, places)
            if isinstance(packed, Seq2SeqBatch):
                assert packed.source.mask.segments_BT is not None  # as the target has them
                read = (packed.source.mask.segments_BT[row] == number).nonzero()[:, 0]
                yield row, places, Seq2SeqBatch(_piece(packed.source, row, read), alone)
            else:
                yield row, places, alone


def _piece(text: TextBatch, row: int, places: Tensor) -> TextBatch:
    """Some places of a row as a batch without segments, its positions from 0."""
    prefix = text.mask.prefix_BT
    bare = replace(text, mask=Mask())
    cut = each_tensor(bare, lambda tensor: tensor[row : row + 1, places])
    positions = torch.arange(len(places), device=places.device)[None]
    mask = Mask(causal=text.mask.causal, prefix_BT=None if prefix is None else prefix[row : row + 1, places])
    return replace(cut, positions_BT=positions, mask=mask)
