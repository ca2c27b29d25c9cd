"""Training of encoders and encoder-decoders beside their Hugging Face classes in a hand-written loop, same texts.

    python benchmarks/encoder_speed.py --model bert-base --lengths natural
    python benchmarks/encoder_speed.py --model bert-base --lengths full
    python benchmarks/encoder_speed.py --model electra-small
    python benchmarks/encoder_speed.py --model t5-small

Each side lives in a process of its own, and the sides take turns; printed are medians of steps, useful tokens (those of
texts, not what fills up), ratios and each process's peak memory. The other side computes under bfloat16 autocast with
fused AdamW, padded to the longest text with an attention mask, logits of all places, as its classes do it. Natural
lengths are drawn evenly between 36 and 128 tokens. "+allocator" is a side with Corestone's allocator settings.
Checked: same weights at the start, same hidden tokens, same loss of the first step (ELECTRA samples by chance, so its
discriminator's loss is only near).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn

from corestone.core.batch import IGNORE, TextBatch
from corestone.core.mask import Mask
from corestone.core.rng import Draws
from corestone.core.vocabulary import Vocabulary
from corestone.models.encoder import build_encoder, build_generator_discriminator
from corestone.models.encoder_decoder import build_encoder_decoder
from corestone.objectives.masked_token import MaskedTokenObjective
from corestone.objectives.replaced_token import ReplacedBatch, ReplacedTokenObjective
from corestone.objectives.seq2seq import SpanCorruptionObjective
from corestone.objectives.spec import MaskedToken, ReplacedToken, SpanCorruption
from corestone.parallel.allocator import keep_freed_memory
from corestone.parallel.peak import gemm_peak
from corestone.parallel.precision import compute_dtype
from corestone.train.meter import peak_memory
from corestone.zoo.bert import bert
from corestone.zoo.electra import electra
from corestone.zoo.t5 import t5
from ours import CPU, Corestone
from training_speed import has_our_allocator, start

ROWS, LENGTH, SHORTEST = 16, 128, 36
SIZE, MASK, FIRST = 30522, 103, 1000
VOCABULARY = Vocabulary(
    size=SIZE, separator=1, mask=MASK, pad=0, sentinels=tuple(range(SIZE - 1, SIZE - 101, -1)), special=(0, 1, MASK)
)


@dataclass(frozen=True)
class Texts:
    """Texts as padded rows (B, T), hidden tokens and all, and how many of their tokens are text."""

    batch: Any
    useful: int


def padded(lengths: str, seed: int, rows: int = ROWS, length: int = LENGTH) -> TextBatch:
    """Random texts; what fills up has no target and a segment of its own."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.full((rows,), length)
    if lengths == "natural":
        counts = torch.randint(SHORTEST, length + 1, (rows,), generator=generator)
        counts[0] = length  # the other side pads to the longest text
    tokens = torch.randint(FIRST, SIZE - 200, (rows, length), generator=generator)
    inside = torch.arange(length) < counts[:, None]
    return TextBatch(
        tokens_BT=torch.where(inside, tokens, 0),
        targets_BT=torch.where(inside, tokens, IGNORE),
        positions_BT=torch.arange(length).expand(rows, length),
        mask=Mask(causal=False, segments_BT=inside.int() - 1),
    )


def packed(batch: TextBatch, extra: list[torch.Tensor]) -> tuple[TextBatch, list[torch.Tensor]]:
    """The same texts with as little to fill up as first-fit leaves; whole rows stay as they are."""
    real = batch.mask.segments_BT == 0
    lengths = real.sum(dim=1).tolist()
    if min(lengths) == real.shape[1]:
        return replace(batch, mask=Mask(causal=False)), extra
    bins: list[list[int]] = []
    for text in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        room = next((b for b in bins if sum(lengths[n] for n in b) + lengths[text] <= real.shape[1]), None)
        bins.append([text]) if room is None else room.append(text)

    def laid(values: torch.Tensor, fill: int | float) -> torch.Tensor:
        out = torch.full((len(bins), real.shape[1]), fill, dtype=values.dtype)
        for row, texts in enumerate(bins):
            whole = torch.cat([values[text][: lengths[text]] for text in texts])
            out[row, : len(whole)] = whole
        return out

    numbers = torch.arange(len(lengths), dtype=torch.int32)[:, None].expand(-1, real.shape[1])
    text = TextBatch(
        tokens_BT=laid(batch.tokens_BT, 0),
        targets_BT=laid(batch.targets_BT, IGNORE),
        positions_BT=laid(batch.positions_BT, 0),
        mask=Mask(causal=False, segments_BT=laid(numbers, -1)),
    )
    return text, [laid(values, 0) for values in extra]


class Prepared:
    """An objective whose batches are corrupted already."""

    def corrupt(self, batch, draws):
        return batch


class PreparedMasked(Prepared, MaskedTokenObjective):
    pass


class PreparedReplaced(Prepared, ReplacedTokenObjective):
    pass


class PreparedSpans(Prepared, SpanCorruptionObjective):
    def __init__(self) -> None:
        SpanCorruptionObjective.__init__(self, SpanCorruption(), VOCABULARY)


def masked_texts(lengths: str, seed: int) -> Texts:
    batch = padded(lengths, seed)
    useful = int((batch.mask.segments_BT == 0).sum())
    corrupted = MaskedTokenObjective(MaskedToken(), VOCABULARY).corrupt(batch, Draws(seed, range(len(batch))))
    return Texts(corrupted, useful)


def replaced_texts(lengths: str, seed: int) -> Texts:
    batch = padded(lengths, seed)
    objective = ReplacedTokenObjective(ReplacedToken(), VOCABULARY)
    corrupted = objective.corrupt(batch, Draws(seed, range(len(batch))))
    return Texts(corrupted, int(corrupted.text_BT.sum()))


def span_texts(lengths: str, seed: int) -> Texts:
    """Eight texts of 256 tokens: as text to read and text to write."""
    batch = padded("full", seed, rows=8, length=256)
    objective = SpanCorruptionObjective(SpanCorruption(), VOCABULARY)
    pair = objective.corrupt(replace(batch, mask=Mask()), Draws(seed, range(len(batch))))
    return Texts(pair, pair.source.tokens_BT.numel() + pair.target.tokens_BT.numel())


def loaded(model: nn.Module, theirs: nn.Module, family: Any, spec: Any) -> nn.Module:
    """Our model with their weights, by the converter's own table."""
    from corestone.interop.weights import to_ours

    state = to_ours(family, spec, {name: value.detach() for name, value in theirs.state_dict().items()}, "benchmark")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[name])
    return model


def bert_spec():
    return bert(768, 12, 12, SIZE, LENGTH, dropout=0.0).model_copy(update={"pooler": None})


def hf_bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=SIZE, max_position_embeddings=LENGTH, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    return BertForMaskedLM(config)


def hf_electra(width: int, heads: int, finds: bool) -> nn.Module:
    from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

    config = ElectraConfig(
        vocab_size=SIZE, embedding_size=128, hidden_size=width, num_hidden_layers=12, num_attention_heads=heads,
        intermediate_size=4 * width, max_position_embeddings=LENGTH, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return (ElectraForPreTraining if finds else ElectraForMaskedLM)(config)


class ElectraPair(nn.Module):
    """Their two classes over one set of tables."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.discriminator, self.generator = hf_electra(256, 4, True), hf_electra(64, 1, False)
        self.generator.electra.embeddings = self.discriminator.electra.embeddings
        self.generator.tie_weights()


def hf_t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    return T5ForConditionalGeneration(T5Config(vocab_size=SIZE, dropout_rate=0.0, decoder_start_token_id=0))


def corestone_side(model: str, dtype: torch.dtype) -> Corestone:
    """Our trainer, from the other side's weights."""
    from corestone.interop.encoders import BERT_MASKED, ELECTRA_DISCRIMINATOR, ELECTRA_GENERATOR

    if model == "bert-base":
        ours = loaded(build_encoder(bert_spec()), hf_bert(), BERT_MASKED, bert_spec())
        return Corestone(ours, PreparedMasked(MaskedToken(), VOCABULARY), dtype)
    if model == "electra-small":
        spec = electra(256, 12, 4, 128, (1, 4), SIZE, LENGTH, dropout=0.0)
        pair, theirs = build_generator_discriminator(spec), ElectraPair()
        loaded(pair.discriminator, theirs.discriminator, ELECTRA_DISCRIMINATOR, spec.discriminator)
        loaded(pair.generator, theirs.generator, ELECTRA_GENERATOR, spec.generator)
        return Corestone(pair, PreparedReplaced(ReplacedToken(), VOCABULARY), dtype)
    from corestone.interop.encoder_decoders import T5

    spec = t5(512, 6, 8, 64, 2048, vocab_size=SIZE, dropout=0.0)
    return Corestone(loaded(build_encoder_decoder(spec), hf_t5(), T5, spec), PreparedSpans(), dtype)


def our_batch(batch: Any) -> Any:
    if isinstance(batch, TextBatch):
        return packed(batch, [])[0]
    if isinstance(batch, ReplacedBatch):
        hidden, (text, uniform) = packed(batch.hidden, [batch.text_BT.int(), batch.uniform_BT])
        return ReplacedBatch(hidden, text.bool(), uniform)
    return batch


def hf_loss(model: nn.Module, batch: Any) -> torch.Tensor:
    """The loss as the other side's classes compute it."""
    if isinstance(batch, TextBatch):
        mask = batch.mask.segments_BT + 1
        return model(input_ids=batch.tokens_BT, attention_mask=mask, labels=batch.targets_BT).loss
    if isinstance(batch, ReplacedBatch):
        hidden, mask = batch.hidden, batch.hidden.mask.segments_BT + 1
        generated = model.generator(input_ids=hidden.tokens_BT, attention_mask=mask, labels=hidden.targets_BT)
        chosen = hidden.targets_BT != IGNORE
        with torch.no_grad():
            drawn = torch.multinomial(generated.logits[chosen].float().softmax(-1), 1)[:, 0]
        tokens = hidden.tokens_BT.masked_scatter(chosen, drawn)
        wrong = (chosen & (tokens != hidden.targets_BT)).long()
        found = model.discriminator(input_ids=tokens, attention_mask=mask, labels=wrong)
        return generated.loss + 50.0 * found.loss
    return model(input_ids=batch.source.tokens_BT, labels=batch.target.targets_BT).loss


class HuggingFaceLoop:
    """bfloat16 autocast (or float32), fused AdamW, clipping."""

    def __init__(self, model: str, dtype: torch.dtype) -> None:
        self.model = {"bert-base": hf_bert, "electra-small": ElectraPair, "t5-small": hf_t5}[model]()
        self.dtype = dtype
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=3e-4, fused=True)

    def times(self, batches) -> tuple[list[float], list[float]]:
        seconds, losses = [], []
        for batch in batches:
            start = time.perf_counter()
            self.optimiser.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                loss = hf_loss(self.model, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            losses.append(loss.item())
            seconds.append(time.perf_counter() - start)
        return seconds, losses


TEXTS: dict[str, Callable[[str, int], Texts]] = {
    "bert-base": masked_texts,
    "electra-small": replaced_texts,
    "t5-small": span_texts,
}
SIDES = ["corestone", "hf", "hf+allocator"]


def worker(pipe: Connection, side: str, model: str, lengths: str, dtype: torch.dtype) -> None:
    """Train as many steps as asked, until told None: seconds and losses of the steps, peak bytes so far."""
    name = side.partition("+")[0]
    if has_our_allocator(side):
        keep_freed_memory()
    runner = corestone_side(model, dtype) if name == "corestone" else HuggingFaceLoop(model, dtype)
    while (steps := pipe.recv()) is not None:
        batches = [TEXTS[model](lengths, seed).batch for seed in range(steps)]
        batches = [our_batch(batch) for batch in batches] if name == "corestone" else batches
        pipe.send((*runner.times(batches), peak_memory(CPU)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=TEXTS, default="bert-base")
    parser.add_argument("--lengths", choices=["natural", "full"], default="natural")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="steps per side and round; the first is not counted")
    parser.add_argument("--precision", choices=["auto", "bfloat16", "float32"], default="auto")
    given = parser.parse_args()
    dtype = compute_dtype(given.precision, CPU)
    texts = TEXTS[given.model](given.lengths, 0)
    useful = statistics.mean(TEXTS[given.model](given.lengths, seed).useful for seed in range(1, given.steps))
    sides: dict[str, Connection] = {}
    seconds: dict[str, list[float]] = {side: [] for side in given.sides}
    first_loss, memory = {}, {}
    for _ in range(given.rounds):
        for side in given.sides:
            if side not in sides:
                sides[side] = start(worker, side, given.model, given.lengths, dtype)
            sides[side].send(given.steps)
            took, losses, memory[side] = sides[side].recv()
            seconds[side] += took[1:]
            first_loss.setdefault(side, losses[0])
    peak = gemm_peak(dtype, CPU, seconds=1.0)
    for pipe in sides.values():
        pipe.send(None)
    full = len(texts.batch) * LENGTH if given.model != "t5-small" else texts.useful
    name = str(dtype).removeprefix("torch.")
    print(
        f"{given.model}, {given.lengths} lengths ({texts.useful} of {full} tokens are text in the first batch), all "
        f"sides in {name}, GEMM peak {peak / 1e9:.0f} GFLOP/s, {torch.get_num_threads()} threads"
    )
    ours = statistics.median(seconds[given.sides[0]])
    for side in given.sides:
        median = statistics.median(seconds[side])
        print(
            f"{side:14} {useful / median:6.0f} useful tokens/s  median {median * 1e3:5.0f} ms of "
            f"{len(seconds[side])} steps ({min(seconds[side]) * 1e3:.0f} to {max(seconds[side]) * 1e3:.0f})  "
            f"first loss {first_loss[side]:.4f}  memory {memory[side] / 1e9:.2f} GB  "
            f"{given.sides[0]} is {median / ours:.2f}x"
        )


if __name__ == "__main__":
    main()
