"""Decoding speed beside Hugging Face `generate`, on the same random 124M GPT-2 weights, greedy, interleaved.

    python benchmarks/generation_speed.py [--tokens 96] [--repeats 3] [--threads 2]

Prints tokens/s as medians over repeats and ratios as medians of each repeat's own ratio (foreign load drifts). Before
timing it checks, in float32, that both sides choose the same tokens; bfloat16 logits of random weights are full of
near-ties, so there it prints how far both sides' logits are from float32's, and how many tokens agree.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from corestone.core.batch import plain_batch
from corestone.core.vocabulary import Vocabulary
from corestone.generate.decode import generate
from corestone.generate.quantize import weight_only_int8
from corestone.generate.spec import Sampling
from corestone.generate.weights import decoding_weights
from corestone.models.decoder import DecoderModel, build_decoder
from corestone.zoo.gpt import gpt2

SEPARATOR = 50256
PROMPT = 32
Side = Callable[[list[list[int]], int], list[list[int]]]


def reference_model() -> GPT2LMHeadModel:
    """GPT-2 124M with random weights, on Hugging Face's own fast attention path."""
    torch.manual_seed(0)
    config = GPT2Config(attn_implementation="sdpa", eos_token_id=SEPARATOR, bos_token_id=SEPARATOR)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("bias") and parameter.dim() == 2:
                # Wider than at initialisation, so that the chosen token depends on more than the last one read.
                parameter.normal_(0.0, 0.02 if "wte" in name else 0.05)
    return model


def corestone_model(reference: GPT2LMHeadModel) -> DecoderModel:
    """The same weights in our decoder. Hugging Face's Conv1D stores (in, out), a linear map (out, in)."""
    model = build_decoder(gpt2(768, 12, 12)).eval()
    theirs = reference.state_dict()
    names = {"embedding.token.weight": "transformer.wte.weight", "embedding.position.weight": "transformer.wpe.weight"}
    parts = {"mixer_norm": "ln_1", "mixer.qkv": "attn.c_attn", "mixer.out": "attn.c_proj", "feedforward_norm": "ln_2"}
    parts |= {"feedforward.up": "mlp.c_fc", "feedforward.down": "mlp.c_proj"}
    for kind in ("weight", "bias"):
        names[f"stack.final_norm.{kind}"] = f"transformer.ln_f.{kind}"
        for layer in range(12):
            for ours, other in parts.items():
                names[f"stack.blocks.{layer}.{ours}.{kind}"] = f"transformer.h.{layer}.{other}.{kind}"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            other = names[name]
            value = theirs[other]
            parameter.copy_(value.t() if any(c in other for c in ("c_attn", "c_proj", "c_fc")) else value)
    return model


def ours(model: DecoderModel) -> Side:
    vocabulary = Vocabulary(size=50257, separator=SEPARATOR)

    def run(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        return generate(model, vocabulary, prompts, Sampling(temperature=0.0, max_tokens=tokens))

    return run


def theirs(model: GPT2LMHeadModel) -> Side:
    def run(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        ids = torch.tensor([[SEPARATOR, *prompt] for prompt in prompts])
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=SEPARATOR,
            )
        return [row[ids.shape[1] :] for row in out.tolist()]

    return run


def logits(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        if isinstance(model, GPT2LMHeadModel):
            return model(ids).logits.float()
        return model.head(model(plain_batch(ids)).hidden).float()


def agreement(a: list[list[int]], b: list[list[int]]) -> float:
    """Share of equal tokens before the first difference of each row."""
    equal = 0
    for x, y in zip(a, b, strict=True):
        equal += next((i for i, (s, t) in enumerate(zip(x, y, strict=False)) if s != t), min(len(x), len(y)))
    return equal / max(1, sum(len(x) for x in a))


def report(batch: int, sides: dict[str, Side], prompts: list[list[int]], tokens: int, repeats: int) -> None:
    """Interleaved repeats; a side's own second run (short) warms it up."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, load average {os.getloadavg()[0]:.1f}")
    random = torch.Generator().manual_seed(1)
    prompts = torch.randint(0, 50256, (8, PROMPT), generator=random).tolist()

    hf = reference_model()
    model = corestone_model(hf)
    a, b = theirs(hf)(prompts[:2], 48), ours(model)(prompts[:2], 48)
    distinct = len({token for row in a for token in row})
    print(f"float32 tokens equal: {a == b} (2 rows of 48, {distinct} distinct)")
    if a != b:
        raise SystemExit("float32 tokens differ: the two sides do not run the same model")
    ids = torch.tensor(prompts[:2])
    exact = logits(model, ids)
    hf_bf16, bf16 = hf.to(torch.bfloat16), None
    int8 = weight_only_int8(model)
    bf16 = decoding_weights(model.to(torch.bfloat16))
    for name, side in (("Hugging Face bf16", hf_bf16), ("corestone bf16", bf16), ("corestone int8", int8)):
        error = (logits(side, ids) - exact).norm() / exact.norm()
        print(f"  {name:<20} logits' relative distance to float32 {error:.4f}")
    c, d = theirs(hf_bf16)(prompts[:2], 48), ours(bf16)(prompts[:2], 48)
    print(f"  bf16 tokens before the first difference: {agreement(c, d):.0%} of {sum(map(len, c))}")
    sides = {"Hugging Face generate, bf16": theirs(hf_bf16), "corestone, bf16": ours(bf16)}
    sides["corestone, int8 weights"] = ours(int8)
    for batch in (1, 8):
        report(batch, sides, prompts[:batch], options.tokens, options.repeats)
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
