"""Published architectures at the size of the main job: same data, tokens and schedule, so that they can be compared."""

from __future__ import annotations

from corestone.models.spec import Decoder, Recurrent
from corestone.recipes.language.h3 import h3_adamw
from corestone.recipes.language.shakespeare import shakespeare
from corestone.recipes.spec import Run
from corestone.zoo.bloom import bloom
from corestone.zoo.gptj import gptj
from corestone.zoo.h3 import h3
from corestone.zoo.mogrifier import mogrifier
from corestone.zoo.opt import opt
from corestone.zoo.palm import palm
from corestone.zoo.primer import primer, primer_ez

WIDTH, DEPTH, HEADS, VOCAB_SIZE, CONTEXT_LENGTH = 256, 4, 4, 4096, 256


def _on_shakespeare(name: str, title: str, model: Decoder | Recurrent) -> Run:
    description = f"A small {title} on 38 plays of Shakespeare, beside the main job's GPT-2."
    changes = {"name": f"shakespeare-{name}", "description": description, "model": model}
    return shakespeare().model_copy(update=changes)


def small_gptj() -> Run:
    """GPT-J's block: parallel branches, interleaved rotary positions on half of each head."""
    return _on_shakespeare("gptj", "GPT-J", gptj(WIDTH, DEPTH, HEADS, 32, VOCAB_SIZE, CONTEXT_LENGTH))


def small_primer() -> Run:
    """Primer-EZ: squared ReLU, convolutions behind queries, keys and values."""
    return _on_shakespeare("primer", "Primer-EZ", primer_ez(WIDTH, DEPTH, HEADS, 4 * WIDTH, VOCAB_SIZE, CONTEXT_LENGTH))


def small_primer_full() -> Run:
    """The whole of Primer: besides, queries made of keys, and the feed-forward's norm behind it."""
    model = primer(primer_ez(WIDTH, DEPTH, HEADS, 4 * WIDTH, VOCAB_SIZE, CONTEXT_LENGTH))
    return _on_shakespeare("primer-full", "Primer", model)


def small_opt() -> Run:
    """OPT without its dropout, as the others are."""
    model = opt(WIDTH, DEPTH, HEADS, VOCAB_SIZE, CONTEXT_LENGTH)
    blocks = tuple(block.model_copy(update={"dropout": 0.0}) for block in model.stack.blocks)
    stack = model.stack.model_copy(update={"blocks": blocks})
    return _on_shakespeare("opt", "OPT", model.model_copy(update={"stack": stack}))


def small_bloom() -> Run:
    """BLOOM: linear position biases, a norm behind the token table."""
    return _on_shakespeare("bloom", "BLOOM", bloom(WIDTH, DEPTH, HEADS, VOCAB_SIZE, CONTEXT_LENGTH))


def small_palm() -> Run:
    """PaLM: parallel branches, SwiGLU, one head of keys and values, rotary positions."""
    return _on_shakespeare("palm", "PaLM", palm(WIDTH, DEPTH, HEADS, WIDTH // HEADS, VOCAB_SIZE, CONTEXT_LENGTH))


def small_h3() -> Run:
    """A hybrid H3 with attention in its third layer, without the dropout of its embedding."""
    model = h3(WIDTH, DEPTH, HEADS, {2}, vocab_size=VOCAB_SIZE, context_length=CONTEXT_LENGTH)
    embedding = model.embedding.model_copy(update={"dropout": 0.0})
    run = _on_shakespeare("h3", "H3", model.model_copy(update={"embedding": embedding}))
    return run.model_copy(update={"optimiser": h3_adamw(run.optimiser.learning_rate)})


def small_mogrifier() -> Run:
    """The Mogrifier LSTM without its dropout, at about the learning rate that was tuned for it."""
    run = _on_shakespeare("mogrifier", "Mogrifier", mogrifier(400, 2, 4, 24, VOCAB_SIZE, tied=True))
    return run.model_copy(update={"optimiser": run.optimiser.model_copy(update={"learning_rate": 4e-3})})
