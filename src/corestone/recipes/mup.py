"""Learning rates that do not depend on the width: muP (Yang et al. 2022, Tensor Programs V, table 8) as a rewrite of a
recipe. What it changes is data: initial deviations, the factor of the logits, and the optimiser's rules.
"""

from __future__ import annotations

import math
import re

import torch

from corestone.core.errors import SpecError
from corestone.core.spec import parse, plain
from corestone.models.spec import Decoder
from corestone.nn.spec import Attention, Block
from corestone.optim.spec import AdamW, Lion, Rule
from corestone.recipes.build import build_model
from corestone.recipes.spec import Run


def at_width(run: Run, width: int) -> Run:
    """The recipe of a decoder with another width: feed-forwards grow in proportion, heads become more, not wider.

    Raises SpecError for another kind of model, one whose parts do not all grow, or a width that gives no whole number
    of heads.
    """
    model = _decoder(run)
    before = model.stack.width
    blocks = tuple(_widened(block, before, width, place) for place, block in enumerate(model.stack.blocks))
    stack = model.stack.model_copy(update={"width": width, "blocks": blocks})
    return _checked(run, model=model.model_copy(update={"stack": stack}))


def mup(run: Run, base_width: int) -> Run:
    """The recipe in muP, whose best learning rate at `base_width` is meant to be the best one at its own width too.

    With m = width / base_width and Adam (table 8): weights between two layers begin with 1 / sqrt(m) of the deviation
    and learn at 1 / m of the rate; tables, gains and biases stay as they are; the logits are divided by m. Scores are
    to be divided by the width of a head instead of its root, which changes nothing here, since heads keep theirs. The
    decay of what learns more slowly is m times as strong, so that a step shrinks all weights alike (the authors' code,
    mup/optim.py). At the base width itself nothing changes. A head of its own begins smaller than in the table, by
    sqrt(m); its first logits vanish with the width in either case.

    Raises SpecError as `at_width` does, for an optimiser other than Adam and Lion, and for one with rules of its own.
    """
    model, optimiser = _decoder(run), run.optimiser
    if base_width < 1:
        raise SpecError(f"mup: base_width={base_width}: give the width at which the rate was tuned")
    if not isinstance(optimiser, AdamW | Lion):
        raise SpecError(f"mup: known for optimiser.kind adamw and lion, not '{optimiser.kind}'")
    if optimiser.rules is not None:
        raise SpecError("mup: the recipe's optimiser has rules of its own; leave optimiser.rules out")
    growth = model.stack.width / base_width
    shapes, base = _shapes(run), _shapes(at_width(run, base_width))
    between = [name for name in shapes if sum(a != b for a, b in zip(shapes[name], base[name], strict=True)) >= 2]
    if growth == 1:  # which weights lie between layers shows at another width
        doubled = _shapes(at_width(run, 2 * base_width))
        between = [n for n in shapes if sum(a != b for a, b in zip(shapes[n], doubled[n], strict=True)) >= 2]
    decay = optimiser.weight_decay
    rules = (
        Rule(match=_patterns(between), weight_decay=decay * growth, lr_scale=1 / growth),
        Rule(
            match=_patterns([name for name in shapes if name not in between]), weight_decay=decay, decay_vectors=False
        ),
    )
    init = model.init
    table = init.token_std or init.std or 1 / math.sqrt(base_width)
    std = None if init.std is None else init.std / math.sqrt(growth)
    head = model.head.model_copy(update={"scale": model.head.scale / growth})
    changed = {"init": init.model_copy(update={"std": std, "token_std": table}), "head": head}
    return _checked(
        run, model=model.model_copy(update=changed), optimiser=optimiser.model_copy(update={"rules": rules})
    )


def _decoder(run: Run) -> Decoder:
    model = run.model
    if not isinstance(model, Decoder):
        raise SpecError(f"mup: known for models of kind decoder, not '{plain(model)['kind']}'")
    if model.embedding.width is not None:
        raise SpecError("mup: model.embedding.width stays as it is when the model grows; set it to null")
    return model


def _widened(block: Block, before: int, width: int, place: int) -> Block:
    mixer = block.mixer
    if not isinstance(mixer, Attention) or mixer.kv_heads != mixer.num_heads:
        raise SpecError(f"mup: model.stack.blocks.{place}.mixer: known for attention with as many kv heads as heads")
    heads, hidden = mixer.num_heads * width / before, block.feedforward.hidden_dim * width / before
    if heads < 1 or heads % 1 or hidden % 1:
        raise SpecError(
            f"mup: width {width} gives {heads:g} heads of {mixer.head_dim} and hidden_dim {hidden:g} in block {place}; "
            f"choose a multiple of {before // math.gcd(mixer.num_heads, before)}"
        )
    counts = {"num_heads": int(heads), "num_kv_heads": None if mixer.num_kv_heads is None else int(heads)}
    feedforward = block.feedforward.model_copy(update={"hidden_dim": int(hidden)})
    return block.model_copy(update={"mixer": mixer.model_copy(update=counts), "feedforward": feedforward})


def _shapes(run: Run) -> dict[str, torch.Size]:
    """Of all parameters by name; nothing is allocated."""
    return {name: tensor.shape for name, tensor in build_model(run.model, 0, torch.device("meta")).named_parameters()}


def _patterns(names: list[str]) -> tuple[str, ...]:
    """Names as globs that are alike in all layers."""
    return tuple(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names))


def _checked(run: Run, **changes: object) -> Run:
    return parse(Run, plain(run.model_copy(update=changes)), "mup")
