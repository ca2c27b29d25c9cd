"""Operations that a plan counts, beside those that torch counts in a real step of made-up data: every small recipe, and
some published ones scaled down."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from corestone.core.batch import IGNORE
from corestone.core.rng import Draws
from corestone.data.spec import Data
from corestone.models import flops
from corestone.nn.modes import freeze
from corestone.objectives.masked_token import MaskedTokenObjective
from corestone.objectives.next_sentence import NextSentenceObjective
from corestone.objectives.replaced_token import ReplacedTokenObjective
from corestone.optim.build import frozen_names
from corestone.recipes.catalogue import SMALL, find_recipe
from corestone.recipes.checks.scale import scaled
from corestone.recipes.made_up import guessed, made_up, step_size
from corestone.recipes.registry import MODELS, OBJECTIVES

ROWS = 4

PUBLISHED = ("palm-540b", "vit-b16", "coatnet-0", "clip-vit-l14", "siglip-b16", "coca-base", "basic-s-2")

WITHIN = {
    "shakespeare-t5": 0.03,  # lengths of source and target are means, and rounded: 0.021
    "shakespeare-alexatm": 0.01,  # likewise: 0.0056
    "shakespeare-h3": 0.003,  # its kernels, made once a step, are not counted: 0.0015
    "photographs-h3": 0.005,  # likewise, over shorter rows: 0.0032
    "clip-emoji": 2e-4,  # similarities of the batch, of 512 values, are not counted: 1.4e-4
    "clip-vit-l14": 1e-4,  # 4.6e-6
    "siglip-b16": 1e-4,  # 4.4e-6
    "basic-emoji-3": 1e-4,  # 3.4e-5
    "basic-emoji-2": 0.001,  # a frozen tower's first map is counted as a third where it is half: 5.1e-4
    "basic-s-2": 0.01,  # 0.0065: narrow, its first map weighs more
    "coca-emoji": 0.015,  # the last place of a caption's row has no target, so no logits of 4,096: 0.0108
    "coca-base": 0.02,  # 0.0114, of a vocabulary that is large for a narrow model
}
"""What a count is off by, at most, where it is not exact, each with the reason and what was measured."""


def convolved_back(
    grad: Any, x: Any, weight: Any, *settings: Any, out_shape: Any = None, **more: Any
) -> int:  # as torch calls it
    """Operations of a convolution's backward, by shapes. Torch's own formula forgets groups in the gradient of the
    weights, and so counts those of a depthwise convolution once for each channel."""
    *_, (of_input, of_weights, _) = settings
    return 2 * prod(weight) * grad[0] * prod(grad[2:]) * (of_input + of_weights)


def as_drawn(objective: Any, batch: Any) -> None:
    """Let an objective that hides a share of tokens count the share that it hid, which is rounded in each row."""
    masked: Any
    match objective:
        case MaskedTokenObjective():
            masked, text = objective, batch
        case NextSentenceObjective():
            masked, text = objective.masked, batch.text
        case ReplacedTokenObjective():
            masked, text = objective, batch.hidden
        case _:
            return
    share = float((text.targets_BT != IGNORE).double().mean())
    assert share == pytest.approx(masked.spec.rate, rel=0.2)  # 14 % in pairs, whose marks are not hidden
    masked.spec = masked.spec.model_copy(update={"rate": share})


@pytest.mark.parametrize("name", [*(name.rpartition("/")[2] for name in SMALL), *PUBLISHED])
def test_operations_are_those_of_a_step(name, monkeypatch):
    run, _ = scaled(find_recipe(name, []))
    if isinstance(run.data, Data):  # one document a row, as the count of an encoder-decoder assumes
        run = run.model_copy(update={"data": run.data.model_copy(update={"keep_documents_apart": False})})
    model = MODELS.build(run.model, seed=0, device=torch.device("cpu"))
    freeze(model, frozen_names(run.optimiser, dict(model.named_parameters())))
    known = guessed(run, 1e5, model)
    objective = OBJECTIVES.build(run.objective, known.vocabulary)
    batch = objective.corrupt(made_up(run, known, model, ROWS), Draws(run.seed, range(ROWS)))
    counts = {torch.ops.aten.convolution_backward: convolved_back}
    with FlopCounterMode(display=False, custom_mapping=counts) as counter, sdpa_kernel(SDPBackend.MATH):
        objective.loss(model, batch).total.backward()
    # A kernel multiplies hidden keys too, and torch's counter knows no Fourier transforms.
    monkeypatch.setattr(flops, "_keys", lambda mixer, tokens, causal: tokens)
    monkeypatch.setattr(flops, "_h3", lambda width, tokens: 24.0 * width**2)
    as_drawn(objective, batch)
    rows, units = step_size(run)
    counted = objective.training_flops(model, known.row_tokens) * units / rows * ROWS
    assert counter.get_total_flops() == pytest.approx(counted, rel=WITHIN.get(name, 1e-9))
