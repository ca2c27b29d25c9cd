"""Tiny decoders with lively weights: at the usual initialisation a tied model only repeats its last token."""

from __future__ import annotations

import torch

from corestone.core.batch import plain_batch
from corestone.core.vocabulary import Vocabulary
from corestone.models.decoder import DecoderModel, build_decoder
from corestone.models.spec import Decoder
from corestone.zoo.bloom import bloom
from corestone.zoo.gpt import gpt2, gpt3
from corestone.zoo.gptj import gptj
from corestone.zoo.h3 import h3
from corestone.zoo.opt import opt
from corestone.zoo.palm import palm
from corestone.zoo.primer import primer, primer_ez

SEPARATOR = 0
VOCABULARY = Vocabulary(size=61, separator=SEPARATOR)
PADDED = 64


def tiny(context_length: int = 64, window: int | None = None, seed: int = 3) -> DecoderModel:
    """Two layers of width 32 in float32; a window makes the second layer banded."""
    spec = gpt2(32, 2, 4, vocab_size=PADDED, context_length=context_length)
    if window is not None:
        blocks = gpt3(32, 2, 4, band=window).stack.blocks
        spec = spec.model_copy(update={"stack": spec.stack.model_copy(update={"blocks": blocks})})
    return lively(spec, seed)


FAMILIES = {
    "gptj": gptj(32, 2, 4, rotary_dims=4, vocab_size=PADDED, context_length=64),
    "opt": opt(32, 2, 4, vocab_size=PADDED, context_length=64),
    "bloom": bloom(24, 2, 6, vocab_size=PADDED, context_length=64),
    "primer": primer_ez(24, 2, 3, 40, vocab_size=PADDED, context_length=64),
    "primer-full": primer(primer_ez(24, 2, 3, 40, vocab_size=PADDED, context_length=64)),
    "palm": palm(32, 2, 4, head_dim=6, vocab_size=PADDED, context_length=64),
    "h3": h3(32, 3, 4, {1}, vocab_size=PADDED, context_length=64),
}


def lively(spec: Decoder, seed: int = 3) -> DecoderModel:
    """A model whose every part shows in the logits."""
    init = spec.init.model_copy(update={"std": 0.4, "token_std": None, "position_std": 0.4})
    return build_decoder(spec.model_copy(update={"init": init}), seed=seed).eval()


def next_logits(model: DecoderModel, tokens: list[int]) -> torch.Tensor:
    """Logits (V,) behind a row, by one uncached forward call over all of it."""
    with torch.no_grad():
        return model.head(model(plain_batch(torch.tensor([tokens]))).hidden[0, -1])


def continue_uncached(
    model: DecoderModel, prompt: list[int], tokens: int, context: int, penalty: float = 1.0
) -> list[int]:
    """Greedy decoding by the plainest means: the whole window anew for each token, and its stated rule."""
    row, window = [SEPARATOR, *prompt], len(prompt) + 1
    new: list[int] = []
    for _ in range(tokens):
        if window > context:
            window = max(1, context // 2)
        logits = next_logits(model, row[-window:])[: VOCABULARY.size].tolist()
        for seen in {*prompt, *new}:
            logits[seen] = logits[seen] / penalty if logits[seen] > 0 else logits[seen] * penalty
        token = max(range(len(logits)), key=logits.__getitem__)
        if token == SEPARATOR:
            break
        row.append(token)
        new.append(token)
        window += 1
    return new
