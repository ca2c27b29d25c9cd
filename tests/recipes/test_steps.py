"""Steps for checks, timings and comparisons are the run's own: its micro-batches, its clipping, its compiler."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from checked import ALONE, decoder, recipe

from corestone.objectives.next_token import NextTokenObjective
from corestone.parallel.compiled import Compiled
from corestone.recipes import ladder_cost, steps
from corestone.recipes.build import Built
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.coordinates import coordinate_check
from corestone.recipes.load import open_data
from corestone.recipes.steps import Changes, Diverged, train_steps
from corestone.recipes.transfer import Grid, transfer


@pytest.fixture
def trained_rows(monkeypatch) -> list[int]:
    """How many rows each training pass had."""
    rows: list[int] = []
    given = NextTokenObjective.loss

    def loss(self, model, batch):
        if model.training:
            rows.append(len(batch))
        return given(self, model, batch)

    monkeypatch.setattr(NextTokenObjective, "loss", loss)
    return rows


@pytest.mark.parametrize(
    ("given", "rows", "clipped"), [(None, [3, 3, 2], True), ({"micro_batch": None, "clip_norm": None}, [8], False)]
)
def test_settings_are_the_runs_where_no_others_are_given(tmp_path, trained_rows, given, rows, clipped):
    run = find_recipe(recipe(tmp_path, decoder(), micro_batch=3, clip_norm=0.01), [])
    built = Built(run, open_data(run, ALONE), ALONE, torch.float32)
    norms: list[float] = []

    def keep() -> None:
        norms.append(float(torch.nn.utils.get_total_norm([m.grad for m in built.weights.masters.values()])))

    other = None if given is None else run.training.model_copy(update=given)
    train_steps(built, 1, Changes(training=other, updated=keep))
    assert trained_rows == rows
    assert (norms[0] <= 0.01 * (1 + 1e-5)) == clipped  # 1 + 5e-8 times as long, measured; 0.9 unclipped


def test_mup_keeps_the_recipes_micro_batches(tmp_path, trained_rows):
    """Or a recipe whose batch fits in parts alone runs out of memory."""
    run = find_recipe(recipe(tmp_path, decoder(), micro_batch=3), [])
    coordinate_check(run, [32, 64], 32, steps=1, seeds=1)
    assert trained_rows == [3, 3, 2] * 4
    trained_rows.clear()
    transfer(run, Grid((32,), 32, (0.001,), 1), 2, tmp_path / "out", lambda line: None)
    assert trained_rows == [3, 3, 2] * 2


def test_steps_of_a_compiled_recipe_are_timed_compiled(tmp_path, monkeypatch):
    """Here by the tracer alone, which is quick."""
    graphs: list[torch.fx.GraphModule] = []

    def trace(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(steps, "Compiled", partial(Compiled, backend=trace))
    path = recipe(tmp_path, decoder())
    for compiles in (False, True):
        run = find_recipe(path, [f"training.compile={compiles}"])
        found = ladder_cost.time_steps(run, open_data(run, ALONE), ALONE, 0.1, 60)
        assert found.step > 0
        assert bool(graphs) == compiles


def test_an_anomaly_names_its_step(tmp_path):
    run = find_recipe(recipe(tmp_path, decoder()), ["optimiser.learning_rate=1e30"])
    built = Built(run, open_data(run, ALONE), ALONE, torch.float32)
    with pytest.raises(Diverged, match=r"^step 2: .* is (nan|inf)") as caught:
        train_steps(built, 4)
    assert caught.value.step == 1
