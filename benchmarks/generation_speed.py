"""Decoding speed beside Hugging Face `generate`, on the same random weights, greedy, interleaved.

    python benchmarks/generation_speed.py [--model gpt2|gptj|t5-small] [--tokens 96] [--repeats 3] [--threads 2]

gpt2 is the model of 124M; gptj has GPT-J's block and head (256 values each, 64 of them rotary, biased head) at a width
of 1,024 and 8 layers; t5-small is published so. Prints tokens/s as medians over repeats, ratios as medians of each
repeat's own ratio (foreign load drifts), and for one row the bandwidth: bytes of the weights that a token needs, times
tokens/s, beside what reading memory alone reaches. Before timing it checks, in float32, that both sides choose the same
tokens; bfloat16 logits of random weights are full of near-ties, so there it prints how far both sides' logits are from
float32's, and how many tokens agree.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from corestone.core.batch import Seq2SeqBatch, plain_batch
from corestone.core.mask import Mask
from corestone.core.vocabulary import Vocabulary
from corestone.generate.decode import generate
from corestone.generate.quantize import weight_only_int8
from corestone.generate.spec import Sampling
from corestone.generate.weights import decoding_weights
from corestone.interop.settings import families_of_config, to_spec
from corestone.interop.weights import build_with, nearest, to_ours

PROMPT = 32
Side = Callable[[list[list[int]], int], list[list[int]]]


@dataclass(frozen=True)
class Peer:
    """A model of Hugging Face's and the ids that its texts need. `spread` is of the weights by part of their name, the
    first that fits: wider than at initialisation, so that the chosen token depends on more than the last one read."""

    build: Callable[[], torch.nn.Module]
    vocabulary: Vocabulary
    spread: dict[str, float]

    def model(self) -> torch.nn.Module:
        torch.manual_seed(0)
        model = self.build().eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not name.endswith("bias") and parameter.dim() == 2:
                    parameter.normal_(0.0, next(std for part, std in self.spread.items() if part in name))
        return model


def gptj() -> torch.nn.Module:
    config = GPTJConfig(
        vocab_size=50257, n_embd=1024, n_layer=8, n_head=4, rotary_dim=64, eos_token_id=50256, bos_token_id=50256
    )
    return GPTJForCausalLM(config)


PEERS = {
    "gpt2": Peer(
        lambda: GPT2LMHeadModel(GPT2Config(attn_implementation="sdpa", eos_token_id=50256, bos_token_id=50256)),
        Vocabulary(size=50257, separator=50256),
        {"wte": 0.02, "": 0.05},
    ),
    "gptj": Peer(gptj, Vocabulary(size=50257, separator=50256), {"wte": 1.0, "": 0.03}),
    "t5-small": Peer(
        lambda: T5ForConditionalGeneration(T5Config(decoder_start_token_id=0, eos_token_id=1, pad_token_id=0)),
        Vocabulary(size=32128, separator=1, pad=0),
        {"relative": 1.0, ".q.": 0.03, ".k.": 0.03, "shared": 0.1, "": 0.06},
    ),
}


def corestone_model(reference: Any) -> Any:
    """The same weights in our model, by the converter's own tables."""
    config, state = reference.config.to_dict(), reference.state_dict()
    family = nearest(families_of_config(config, "benchmark"), state)
    spec = to_spec(family, config, "benchmark", state)
    return build_with(spec, to_ours(family, spec, state, "benchmark"), "benchmark").eval()


def ours(model: Any, vocabulary: Vocabulary) -> Side:
    def run(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        return generate(model, vocabulary, prompts, Sampling(temperature=0.0, max_tokens=tokens))

    return run


def theirs(model: Any, vocabulary: Vocabulary) -> Side:
    answers = model.config.is_encoder_decoder

    def run(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        end = [vocabulary.separator]
        ids = torch.tensor([prompt + end if answers else end + prompt for prompt in prompts])
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=vocabulary.start,
            )
        return [row[1 if answers else ids.shape[1] :] for row in out.tolist()]

    return run


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Of texts, or of the same texts as answers to themselves."""
    with torch.inference_mode():
        if hasattr(model, "config"):
            given = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
            return model(ids, **given).logits.float()
        batch = plain_batch(ids)
        if model.generates == "answers":
            batch = Seq2SeqBatch(replace(batch, mask=Mask(causal=False)), batch)
        return model.head(model(batch).hidden).float()


def weight_bytes(model: Any) -> int:
    """Bytes of the weights that writing one token reads, in the model's precision."""
    once = ("embedding.token", "embedding.position", "encoder.", "cross.kv")  # a row, or before the first token
    state = dict(model.named_parameters())
    tied = "head.weight" not in state
    return sum(
        value.numel() * value.element_size()
        for name, value in state.items()
        if not any(part in name for part in once) or (tied and name == "embedding.token.weight")
    )


def read_speed() -> float:
    """Bytes per second of a sum over more memory than any cache holds, best of five."""
    data, seconds = torch.ones(1 << 28), []
    for _ in range(5):
        start = time.perf_counter()
        data.sum()
        seconds.append(time.perf_counter() - start)
    return data.numel() * data.element_size() / min(seconds)


def agreement(a: list[list[int]], b: list[list[int]]) -> float:
    """Share of equal tokens before the first difference of each row."""
    equal = 0
    for x, y in zip(a, b, strict=True):
        equal += next((i for i, (s, t) in enumerate(zip(x, y, strict=False)) if s != t), min(len(x), len(y)))
    return equal / max(1, sum(len(x) for x in a))


def report(batch: int, sides: dict[str, Side], prompts: list[list[int]], tokens: int, repeats: int) -> list[float]:
    """Tokens/s of each side, medians of interleaved repeats; a side's own second run (short) warms it up."""
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side(prompts, 4)
    for _ in range(repeats):
        for name, side in sides.items():
            start = time.perf_counter()
            out = side(prompts, tokens)
            speeds[name].append(sum(len(row) for row in out) / (time.perf_counter() - start))
    first = next(iter(sides))
    print(f"batch {batch}, {tokens} new tokens after {PROMPT + 1}, median of {repeats}:")
    for name, values in speeds.items():
        ratios = sorted(value / base for value, base in zip(values, speeds[first], strict=True))
        spread = f"{statistics.median(ratios):.2f}x  ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"  {name:<34} {statistics.median(values):8.1f} tok/s   {spread}")
    return [statistics.median(values) for values in speeds.values()]


def check_tokens(hf: Any, model: Any, vocabulary: Vocabulary, prompts: list[list[int]]) -> None:
    """In float32 both sides must write the same."""
    a, b = theirs(hf, vocabulary)(prompts, 48), ours(model, vocabulary)(prompts, 48)
    distinct = len({token for row in a for token in row})
    print(f"float32 tokens equal: {a == b} ({len(a)} rows of {[len(row) for row in a]}, {distinct} distinct)")
    if a != b:
        raise SystemExit("float32 tokens differ: the two sides do not run the same model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=PEERS, default="gpt2")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.model}, torch {torch.__version__}, {options.threads} threads, load {os.getloadavg()[0]:.1f}")
    random = torch.Generator().manual_seed(1)
    peer = PEERS[options.model]
    vocabulary = peer.vocabulary
    prompts = torch.randint(2, 30000, (8, PROMPT), generator=random).tolist()

    hf = peer.model()
    model = corestone_model(hf)
    check_tokens(hf, model, vocabulary, prompts[:2])
    ids = torch.tensor(prompts[:2])
    exact = logits(model, ids)
    int8 = weight_only_int8(model)
    hf, model = hf.to(torch.bfloat16), model.to(torch.bfloat16)
    needed, packed = weight_bytes(model), decoding_weights(model)
    for name, side in (("Hugging Face bf16", hf), ("corestone bf16", packed), ("corestone int8", int8)):
        error = (logits(side, ids) - exact).norm() / exact.norm()
        print(f"  {name:<20} logits' relative distance to float32 {error:.4f}")
    c, d = theirs(hf, vocabulary)(prompts[:2], 48), ours(packed, vocabulary)(prompts[:2], 48)
    print(f"  bf16 tokens before the first difference: {agreement(c, d):.0%} of {sum(map(len, c))}")
    sides = {
        "Hugging Face generate, bf16": theirs(hf, vocabulary),
        "corestone, bf16": ours(packed, vocabulary),
        "corestone, int8 weights": ours(int8, vocabulary),
    }
    alone, *_ = (report(batch, sides, prompts[:batch], options.tokens, options.repeats) for batch in (1, 8))
    reached = [speed * needed * share / 1e9 for speed, share in zip(alone, (1.0, 1.0, 0.5), strict=True)]
    print(
        f"weights a token needs: {needed / 1e6:.0f} MB in bf16, half in int8; at batch 1 they arrive at "
        f"{', '.join(f'{speed:.1f}' for speed in reached)} GB/s of {read_speed() / 1e9:.1f} that a sum reads"
    )
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
