"""muP: nothing changes at the base width, the rules are those of the tables, and the rewritten recipe runs."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from tiny_text import write_recipe, write_texts

from corestone.core.errors import SpecError
from corestone.core.spec import from_yaml, override, read_yaml, to_yaml
from corestone.models.spec import Head
from corestone.optim.build import rules_of
from corestone.recipes.build import build_model
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.mup import at_width, mup, smallest_width
from corestone.recipes.spec import Run

HIDDEN = ("mixer.qkv.weight", "mixer.out.weight", "feedforward.up.weight", "feedforward.down.weight")


def effective(run: Run) -> dict[str, tuple[float, float]]:
    """Learning-rate factor and decay of each parameter."""
    model = build_model(run.model, 0, torch.device("meta"))
    rules = rules_of(run.optimiser, dict(model.named_parameters()))
    return {name: (rule.lr_scale, rule.weight_decay) for name, rule in rules.items()}


def deviations(run: Run) -> dict[str, float]:
    """Of each parameter at the start, about zero; of the larger ones within some percent."""
    model = build_model(run.model, 0, torch.device("cpu"))
    return {name: float(tensor.detach().square().mean().sqrt()) for name, tensor in model.named_parameters()}


@pytest.mark.parametrize(
    ("recipe", "width"), [("shakespeare", 256), ("shakespeare-bert-pairs", 256), ("mnist-vit", 128)]
)
def test_at_the_base_width_weights_rates_and_decay_stay_what_they_are(recipe, width):
    run = find_recipe(recipe, [])
    same = mup(run, width)
    assert effective(same) == effective(run)
    assert same.model.init == run.model.init
    assert same.model.head == run.model.head
    assert at_width(run, width) == run


def test_a_wider_recipe_is_wider_in_all_its_parts_and_has_heads_of_the_same_width():
    run = find_recipe("shakespeare-bert-pairs", [])
    wide = at_width(run, 768)
    block = wide.model.stack.blocks[0]
    assert (wide.model.stack.width, block.mixer.num_heads, block.mixer.head_dim) == (768, 12, 64)
    assert block.feedforward.hidden_dim == 4 * 768
    assert wide.name == "shakespeare-bert-pairs-width-768"
    assert at_width(wide, 256).model == run.model


def test_the_rules_of_a_tied_decoder_are_those_of_table_8():
    wide = at_width(find_recipe("shakespeare", []), 1024)
    run = mup(wide, 256)
    for name, (rate, decay) in effective(run).items():
        assert rate == (0.25 if name.endswith(HIDDEN) else 1.0), name
        assert rate * decay == (0.1 if name.endswith("weight") and "norm" not in name else 0.0), name
    assert run.model.head.scale == 0.25
    found = deviations(run)
    assert found["embedding.token.weight"] == pytest.approx(0.02, rel=0.01)
    assert found["stack.blocks.0.feedforward.up.weight"] == pytest.approx(0.02 / math.sqrt(4), rel=0.01)
    residual = 0.02 / math.sqrt(4) / math.sqrt(8)  # of 8 branches, as at the base width
    assert found["stack.blocks.3.feedforward.down.weight"] == pytest.approx(residual, rel=0.01)


def test_a_head_of_its_own_begins_and_learns_by_the_growth_as_in_table_3():
    narrow = find_recipe("shakespeare", ["model.head={tied: false}"])
    run = mup(at_width(narrow, 1024), 256)
    assert run.model.head == Head(tied=False)
    assert effective(run)["head.weight"][0] == 0.25
    assert deviations(run)["head.weight"] == pytest.approx(0.02 / 4, rel=0.01)


def test_an_encoder_has_its_transform_between_layers_and_its_pooler_out_of_the_model():
    run = mup(at_width(find_recipe("shakespeare-bert-pairs", []), 1024), 256)
    rates, found = effective(run), deviations(run)
    out = {"pooler.out.weight"}
    between = {"head.transform.dense.weight", "pooler.dense.weight"}
    slower = {name for name, (rate, _) in rates.items() if rate == 0.25}
    assert slower == out | between | {name for name in rates if name.endswith(HIDDEN)}
    assert run.model.head.scale == 0.25
    assert found["pooler.out.weight"] == pytest.approx(0.02 / 4, rel=0.1)  # 2,048 draws
    assert all(found[name] == pytest.approx(0.01, rel=0.01) for name in between)


@pytest.mark.parametrize("std", [0.02, "null"])
def test_what_reads_pixels_of_a_classifier_keeps_its_deviation_and_rate(std):
    pool = "{kind: attention, attention: {num_heads: 4, head_dim: 32}, feedforward: {hidden_dim: 256}}"
    narrow = find_recipe("mnist-vit", [f"model.init.std={std}", f"model.pool={pool}"])
    run = mup(at_width(narrow, 512), 128)
    rates, found, before = effective(run), deviations(run), deviations(narrow)
    growing = (
        "head.weight",
        *HIDDEN,
        "pool.attention.q.weight",
        "pool.attention.kv.weight",
        "pool.attention.out.weight",
    )
    for name, (rate, _) in rates.items():
        factor = 1 / 4 if name == "head.weight" else 1 / 2 if name.endswith(growing) else 1.0
        assert rate == (0.25 if name.endswith(growing) else 1.0), name
        # the least tensor that is drawn is a class token of 128 values, whose own error is 6 %
        assert found[name] == pytest.approx(factor * before[name], rel=0.25), name


@pytest.mark.parametrize("recipe", ["shakespeare", "shakespeare-bert-pairs", "shakespeare-primer-full", "mnist-vit"])
def test_the_rewritten_recipe_is_a_file_that_reads_as_itself_and_builds(recipe):
    run = find_recipe(recipe, [])
    wide = mup(at_width(run, 8 * smallest_width(run)), smallest_width(run))
    assert from_yaml(Run, to_yaml(wide), "here") == wide
    build_model(wide.model, 0, torch.device("cpu"))


def test_show_prints_a_recipe_in_mup_that_pretrain_runs(tmp_path):
    write_texts(tmp_path)
    write_recipe(tmp_path / "small.yaml", steps=6, every=3)
    command = [sys.executable, "-m", "corestone"]
    shown = subprocess.run(
        [*command, "show", "small.yaml", "--width", "64", "--mup-base", "32"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    (tmp_path / "wide.yaml").write_text(shown.stdout)
    assert read_yaml(Run, tmp_path / "wide.yaml") == mup(at_width(read_yaml(Run, tmp_path / "small.yaml"), 64), 32)
    done = subprocess.run([*command, "pretrain", "wide.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "lr_scale: 0.5" in (tmp_path / "runs" / "small-width-64-mup-32" / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("recipe", "assignments", "said"),
    [
        ("shakespeare-t5", [], "decoder, encoder and image_encoder, not 'encoder_decoder'"),
        ("shakespeare-palm", [], "model.stack.blocks.0.mixer: known for attention with as many kv heads as heads"),
        ("shakespeare-h3", ["optimiser.rules=null"], "model.stack.blocks.0.mixer: known for attention"),
        ("shakespeare", ["model.embedding.width=64"], "model.embedding.width stays as it is"),
        ("shakespeare", ["start={path: runs/before}"], "set start=null"),
        ("shakespeare", ["optimiser={kind: sgd, learning_rate: 0.1}"], "not 'sgd'"),
        ("shakespeare", ["optimiser.rules=[{match: ['*']}]"], "leave optimiser.rules out"),
        ("shakespeare", ["model.init.rules=[{match: ['*.weight'], std: 1}]"], "leave model.init.rules out"),
    ],
)
def test_what_it_is_not_known_for_is_refused(recipe, assignments, said):
    with pytest.raises(SpecError, match=said):
        mup(override(find_recipe(recipe, []), assignments), 128)


def test_a_base_width_of_nothing_is_refused():
    with pytest.raises(SpecError, match="base_width=0"):
        mup(find_recipe("shakespeare", []), 0)


@pytest.mark.parametrize("width", [100, 0, -64])
def test_a_width_without_whole_heads_is_refused(width):
    with pytest.raises(SpecError, match="choose a multiple of 64"):
        at_width(find_recipe("shakespeare", []), width)
