"""Learning rates that do not depend on the width: muP (Yang et al. 2022, Tensor Programs V, appendix B) as a rewrite of
a recipe. What it changes is data: initial deviations, the factor of tied logits, and the optimiser's rules.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any, Literal

from torch import nn

from corestone.core.errors import SpecError
from corestone.core.spec import parse, plain
from corestone.models.picture_spec import ImageEncoder
from corestone.models.spec import Decoder, Encoder
from corestone.nn.init import init_std, inputs_of
from corestone.nn.spec import Attention, AttentionPool, FeedForward, InitRule
from corestone.optim.spec import AdamW, Lion, Rule
from corestone.recipes.sizes import resized, shaped_model
from corestone.recipes.spec import Run

Transformer = Decoder | Encoder | ImageEncoder
"""The shapes of computation that are one stack with heads behind it."""

Place = Literal["in", "between", "out"]
"""Of a parameter: between two layers, both its inputs and its outputs grow with the width; out of the model, its inputs
alone; all others (tables, what reads pixels, gains, biases) are called `in`."""


def smallest_width(run: Run) -> int:
    """The width at which every layer has whole numbers of heads and of hidden values; its multiples do, too.

    Raises SpecError for a model that `at_width` does not know.
    """
    model = _known(run)
    width, counts = model.stack.width, list[int]()
    for place, block in enumerate(model.stack.blocks):
        counts += _counts(block.mixer, block.feedforward, f"stack.blocks.{place}.mixer")
    if isinstance(model, ImageEncoder) and isinstance(model.pool, AttentionPool):
        counts += _counts(model.pool.attention, model.pool.feedforward, "pool.attention")
    return math.lcm(*(width // math.gcd(count, width) for count in counts))


def at_width(run: Run, width: int) -> Run:
    """The recipe of a transformer with another width: feed-forwards grow in proportion, heads become more, not wider.
    All else stays, and so do initial deviations and rates; the name tells the width.

    Raises SpecError for another kind of model, one whose parts do not all grow, one that begins with a run's weights,
    or a width that gives no whole number of heads.
    """
    model, unit = _known(run), smallest_width(run)
    before = model.stack.width
    if width == before:
        return run
    if width < 1 or width % unit:
        raise SpecError(
            f"mup: width {width} gives no whole number of heads or hidden values; choose a multiple of {unit}"
        )
    tree = plain(run) | {"name": f"{run.name}-width-{width}"}
    return parse(Run, tree | {"model": resized(tree["model"], Fraction(width, before))}, "mup")


def mup(run: Run, base_width: int) -> Run:
    """The recipe in muP, whose best learning rate at `base_width` is meant to be the best one at its own width too.

    With m = width / base_width and Adam: weights between two layers begin with 1 / sqrt(m) of the deviation that they
    have at the base width and learn at 1 / m of the rate; those of a head begin with 1 / m of it and learn at 1 / m of
    the rate (table 3); tables, what reads pixels, gains and biases keep theirs. A tied head is a table, so its logits
    are divided by m in place of that (table 8, which says the same of a network). Scores are to be divided by the width
    of a head instead of its root, which changes nothing here, since heads keep their width. The decay of what learns
    more slowly is m times as strong, so that a step shrinks all weights alike (the authors' code, mup/optim.py). At the
    base width itself nothing changes.

    Raises SpecError as `at_width` does, for an optimiser other than Adam and Lion, and for a recipe with rules of its
    own.
    """
    model, optimiser = _known(run), run.optimiser
    if base_width < 1:
        raise SpecError(f"mup: base_width={base_width}: give the width at which the rate was tuned")
    if not isinstance(optimiser, AdamW | Lion):
        raise SpecError(f"mup: known for optimiser.kind adamw and lion, not '{optimiser.kind}'")
    if optimiser.rules is not None or model.init.rules is not None:
        name = "model.init" if optimiser.rules is None else "optimiser"
        raise SpecError(f"mup: the recipe has rules of its own; leave {name}.rules out")
    growth = model.stack.width / base_width
    places = _places(at_width(run, base_width), at_width(run, 2 * base_width))
    slower = [name for name, place in places.items() if place != "in"]
    others = [name for name, place in places.items() if place == "in"]
    decay = optimiser.weight_decay
    rules = (
        Rule(match=_patterns(slower, others), weight_decay=decay * growth, lr_scale=1 / growth),
        Rule(match=_patterns(others, slower), weight_decay=decay, decay_vectors=False),
    )
    changed: dict[str, Any] = {"init": model.init.model_copy(update={"rules": _deviations(run, base_width, places)})}
    if not isinstance(model, ImageEncoder) and model.head is not None and model.head.tied:
        changed["head"] = model.head.model_copy(update={"scale": model.head.scale / growth})
    tree = plain(run.model_copy(update={"model": model.model_copy(update=changed)}))
    tree["optimiser"]["rules"] = plain(rules)
    return parse(Run, {**tree, "name": f"{run.name}-mup-{base_width}"}, "mup")


def _known(run: Run) -> Transformer:
    model = run.model
    if not isinstance(model, Decoder | Encoder | ImageEncoder):
        raise SpecError(
            f"mup: known for models of kind decoder, encoder and image_encoder, not '{plain(model)['kind']}'"
        )
    if not isinstance(model, ImageEncoder) and model.embedding.width is not None:
        raise SpecError("mup: model.embedding.width stays as it is when the model grows; set it to null")
    if run.start is not None:
        raise SpecError("mup: the recipe begins with a run's weights, which have their width; set start=null")
    return model


def _counts(mixer: object, feedforward: FeedForward | None, where: str) -> list[int]:
    """What must stay a whole number at another width."""
    if not isinstance(mixer, Attention) or mixer.kv_heads != mixer.num_heads:
        raise SpecError(f"mup: model.{where}: known for attention with as many kv heads as heads")
    return [mixer.num_heads, *([] if feedforward is None else [feedforward.hidden_dim])]


def _places(base: Run, doubled: Run) -> dict[str, Place]:
    """Where each parameter stands, by what grows."""
    model, wider = shaped_model(base.model), shaped_model(doubled.model).get_parameter
    reading = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    found: dict[str, Place] = {}
    for name, parameter in model.named_parameters():
        grown = [a != b for a, b in zip(parameter.shape, wider(name).shape, strict=True)]
        out = id(parameter) in reading and grown == [False, True]
        found[name] = "between" if sum(grown) >= 2 else "out" if out else "in"
    return found


def _deviations(run: Run, base_width: int, places: Mapping[str, Place]) -> tuple[InitRule, ...] | None:
    """Rules for what does not begin as it is to by the recipe's own deviations."""
    model = _known(run)
    growth, branches = model.stack.width / base_width, 2 * len(model.stack.blocks)
    factors = {"in": 1.0, "between": growth**-0.5, "out": 1 / growth}
    base, names = shaped_model(at_width(run, base_width).model), dict[float, list[str]]()
    for name, parameter in shaped_model(run.model).named_parameters():
        given = init_std(name, model.init, branches, inputs_of(parameter))
        there = init_std(name, model.init, branches, inputs_of(base.get_parameter(name)))
        if given is not None and there is not None and not math.isclose(given, there * factors[places[name]]):
            names.setdefault(there * factors[places[name]], []).append(name)
    rules = [
        InitRule(match=_patterns(own, [name for name in places if name not in own]), std=std)
        for std, own in names.items()
    ]
    return tuple(rules) or None


def _patterns(names: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """Names as globs that are alike in all layers, unless such a glob would claim one of the others."""
    globs = {name: re.sub(r"\.\d+\.", ".*.", name) for name in names}
    taken = {glob for glob in globs.values() if any(fnmatchcase(name, glob) for name in others)}
    return tuple(dict.fromkeys(name if glob in taken else glob for name, glob in globs.items()))
