"""Every check fails on a defect of the kind that it is for, planted in the code that really runs."""

from __future__ import annotations

import random
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from checked import context, decoder, encoder_decoder, recipe
from rich.console import Console

from corestone.core.mask import Mask
from corestone.core.protocols import Loss, Output
from corestone.data.loader import TextLoader
from corestone.evaluate import perplexity
from corestone.generate import decode
from corestone.interop import outgoing
from corestone.models.decoder import DecoderModel
from corestone.models.encoder_decoder import EncoderDecoderModel
from corestone.nn.cache import KeyValues
from corestone.nn.feedforward import FeedForwardLayer
from corestone.objectives import next_token
from corestone.objectives.captioning import CaptioningObjective
from corestone.objectives.next_token import NextTokenObjective
from corestone.parallel import collectives
from corestone.parallel.compiled import Compiled
from corestone.recipes import build
from corestone.recipes.checks import learning_checks
from corestone.recipes.checks.certify import tried
from corestone.recipes.checks.registry import CHECKS

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def ctx(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    return context(recipe(folder, decoder()), [], folder)


def caught(ctx, name: str) -> str:
    found = CHECKS[name](ctx)
    assert found.verdict == "fail", found
    return found.note


def wrap(monkeypatch, owner, name: str, change) -> None:
    """Put `change(given, *arguments)`, which has what stood there before, in the place of a method or function."""
    given = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *arguments, **keywords: change(given, *arguments, **keywords))


def scaled_loss(monkeypatch, factor) -> None:
    def change(given, self, model, batch):
        loss = given(self, model, batch)
        return Loss(loss.total * factor(loss), loss.weight)

    wrap(monkeypatch, NextTokenObjective, "loss", change)


def test_a_loss_divided_by_the_micro_batchs_own_weight(ctx, monkeypatch):
    scaled_loss(monkeypatch, lambda loss: 1 / loss.weight)
    caught(ctx, "accumulation")


def test_pairs_told_apart_within_their_micro_batch(tmp_path, monkeypatch):
    def alone(self, model, micro_batches, seeds, ranks=None):
        found = [self.loss(model, batch) for batch in micro_batches]
        for loss in found:
            loss.total.backward()
        return Loss(sum(loss.total for loss in found).detach(), sum(loss.weight for loss in found))

    monkeypatch.setattr(CaptioningObjective, "gradients", alone)
    caught(context("coca-emoji", [], tmp_path), "accumulation")


def test_chance_that_no_seed_decides(ctx, monkeypatch):
    scaled_loss(monkeypatch, lambda loss: 1 + 1e-6 * np.random.rand())
    caught(ctx, "determinism")


def test_a_loss_that_counts_targets_twice(ctx, monkeypatch):
    scaled_loss(monkeypatch, lambda loss: 2.0)
    assert "ln 320" in caught(ctx, "initial-loss")


def test_targets_that_are_others_at_every_step(ctx, monkeypatch):
    def change(given, self, model, batch):
        shift = int(np.random.randint(1, 40))
        return given(self, model, replace(batch, targets_BT=batch.targets_BT.roll(shift, dims=1)))

    wrap(monkeypatch, NextTokenObjective, "loss", change)
    monkeypatch.setattr(learning_checks, "PATIENCE_STEPS", 60)
    caught(ctx, "overfit")


def test_a_layer_that_no_gradient_reaches(ctx, monkeypatch):
    wrap(monkeypatch, FeedForwardLayer, "forward", lambda given, self, x: given(self, x).detach())
    assert "no gradient reaches stack.blocks.0.feedforward" in caught(ctx, "gradient-flow")


def test_a_gradient_that_explodes_on_its_way_down(ctx, monkeypatch):
    def change(given, self, x):
        return given(self, x * 1e5 - x.detach() * (1e5 - 1))

    wrap(monkeypatch, FeedForwardLayer, "forward", change)
    caught(ctx, "gradient-flow")


def test_attention_that_sees_the_next_token(ctx, monkeypatch):
    def change(given, self, batch, cache=None):
        hidden = given(self, batch, cache).hidden
        return Output(hidden=hidden + 1e-3 * hidden.roll(-1, dims=1))

    wrap(monkeypatch, DecoderModel, "forward", change)
    caught(ctx, "causality")


def test_a_decoder_that_reads_its_answer_both_ways(tmp_path, monkeypatch):
    def change(given, self, target, hidden, cache=None):
        return given(self, replace(target, mask=replace(target.mask, causal=False)), hidden, cache)

    wrap(monkeypatch, EncoderDecoderModel, "decode", change)
    caught(context(recipe(tmp_path, encoder_decoder()), [], tmp_path), "causality")


def test_a_mask_that_leaks_from_one_document_into_the_next(ctx, monkeypatch):
    wrap(monkeypatch, DecoderModel, "forward", lambda given, self, batch: given(self, replace(batch, mask=Mask())))
    caught(ctx, "packing")


def test_positions_that_run_on_through_the_row(ctx, monkeypatch):
    def change(given, self, batch):
        places = torch.arange(batch.tokens_BT.shape[1]).expand_as(batch.tokens_BT)
        whole = batch.mask.segments_BT is not None
        return given(self, replace(batch, positions_BT=places) if whole else batch)

    wrap(monkeypatch, DecoderModel, "forward", change)
    caught(ctx, "packing")


def test_a_loader_that_drops_a_sample(ctx, monkeypatch):
    def change(given, self, step):
        batch = given(self, step)
        rows = torch.arange(len(batch))
        rows[0] = 1
        return batch.select(rows)

    wrap(monkeypatch, TextLoader, "batch", change)
    assert "drops" in caught(ctx, "workers")


def test_ranks_that_read_the_same_rows(ctx, monkeypatch):
    def change(given, self, token_sets, spec, seed, batch_size, rank=0, world_size=1):
        given(self, token_sets, spec, seed, batch_size, 0, world_size)

    wrap(monkeypatch, TextLoader, "__init__", change)
    assert "2 ranks" in caught(ctx, "workers")


def test_a_batch_made_ahead_that_is_another_steps(ctx, monkeypatch):
    wrap(monkeypatch, TextLoader, "batch", lambda given, self, step: given(self, step + (self._depth > 0)))
    assert "ahead" in caught(ctx, "workers")


SUM_ONLY_LOSSES = """
from corestone.parallel.collectives import World
_sum = World.sum_
World.sum_ = lambda self, tensors: _sum(self, [tensor for tensor in tensors if tensor.ndim == 0])
"""


def test_ranks_that_keep_their_gradients_to_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr(collectives.World, "sum_", collectives.World.sum_)  # put back what the recipe changes here
    caught(context(recipe(tmp_path, decoder(), plant=SUM_ONLY_LOSSES), [], tmp_path), "ranks")


FORGET_STEPS = """
from corestone.recipes import build
_tensors = build.optimiser_tensors
build.optimiser_tensors = lambda optimiser: {
    name: tensor * 0 if name.endswith("/step") else tensor for name, tensor in _tensors(optimiser).items()
}
"""


class Middle(random.Random):
    """Chance that kills in the middle of a run, when there are checkpoints to go on from."""

    def randint(self, low: int, high: int) -> int:
        return 12


def test_a_checkpoint_that_forgets_the_optimisers_step(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "optimiser_tensors", build.optimiser_tensors)  # put back what the recipe changes here
    monkeypatch.setattr(learning_checks.random, "SystemRandom", Middle)
    caught(context(recipe(tmp_path, decoder(), plant=FORGET_STEPS), [], tmp_path), "resume")


FAIL_IN_A_CHILD = """
import os, sys
if sys.argv[0] == "-c":
    os._exit(3)
"""


def test_a_run_that_fails_before_it_is_killed(tmp_path):
    found, _ = tried("resume", context(recipe(tmp_path, decoder(), plant=FAIL_IN_A_CHILD), [], tmp_path), QUIET)
    assert (found.verdict, found.note) == ("fail", "before the kill a process failed by itself (exit codes [3])")


def test_a_product_that_is_rounded_away_in_bfloat16(ctx, monkeypatch):
    def change(given, hidden, *others):
        if hidden.dtype == torch.bfloat16:
            hidden = hidden + ((hidden / 4).round() * 4 - hidden).detach()
        return given(hidden, *others)

    wrap(monkeypatch, next_token, "linear_cross_entropy", change)
    caught(ctx, "precision")


def test_a_compiler_that_computes_something_else(ctx, monkeypatch):
    wrap(monkeypatch, Compiled, "__call__", lambda given, self, batch: Output(given(self, batch).hidden * 1.001))
    caught(ctx, "compile")


def test_a_cache_that_writes_one_place_too_early(ctx, monkeypatch):
    def change(given, self, start, keys, values):
        if start == 0:
            return given(self, start, keys, values)
        given(self, start - 1, keys, values)
        stop = start + keys.shape[2]
        return self.keys_BNSH[:, :, :stop], self.values_BNSH[:, :, :stop]

    wrap(monkeypatch, KeyValues, "write", change)
    caught(ctx, "cache")


def test_decoding_that_forgets_what_it_wrote(ctx, monkeypatch):
    """The model and its cache are right; what `generate` asks of them is not."""

    def change(given, self, tokens, positions, segments):
        return given(self, tokens if tokens.shape[1] > 1 else tokens * 0, positions, segments)

    wrap(monkeypatch, decode._Decoding, "_forward", change)
    assert "sigma under the likeliest" in caught(ctx, "cache")


def test_dropout_in_evaluation(ctx, monkeypatch):
    @contextmanager
    def training(model):
        model.train()
        yield

    monkeypatch.setattr(perplexity, "evaluation_mode", training)
    caught(ctx, "evaluation-batch")


def test_an_export_of_other_weights(ctx, monkeypatch):
    def change(given, *arguments):
        tensors = given(*arguments)
        name = next(iter(tensors))
        return {**tensors, name: tensors[name] + 1e-3}

    wrap(monkeypatch, outgoing, "to_theirs", change)
    assert "gives another model" in caught(ctx, "export")


def test_held_out_texts_that_stand_in_training(tmp_path):
    caught(context(recipe(tmp_path, decoder(), same=True), [], tmp_path), "data")


def test_a_model_that_breaks_off_has_failed(ctx, monkeypatch):
    def change(given, *arguments):
        raise RuntimeError("shapes do not fit")

    wrap(monkeypatch, DecoderModel, "forward", change)
    found, _ = tried("causality", ctx, QUIET)
    assert (found.verdict, found.note) == ("fail", "broke off with RuntimeError: shapes do not fit")
