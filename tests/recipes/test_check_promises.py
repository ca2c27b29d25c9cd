"""Healthy recipes of every kind pass the checks, and what means nothing to one is skipped with the reason."""

from __future__ import annotations

import json

import pytest
from checked import context, decoder, encoder, encoder_decoder, pictures, recipe
from rich.console import Console

from corestone.core.errors import SpecError
from corestone.recipes.catalogue import RECIPES, find_recipe
from corestone.recipes.checks.certify import check
from corestone.recipes.checks.registry import CHECKS
from corestone.recipes.checks.scale import LARGE, scaled
from corestone.recipes.sizes import parameters_of

PROCESSES = ("ranks", "resume")
SLOW = ("compile", "export")
QUIET = Console(quiet=True)

SKIPPED = {
    "decoder": set(),
    "encoder": {"causality", "cache"},
    "encoder_decoder": set(),
    "pictures": {"causality", "cache", "packing"},
    "pairs": {"packing"},
}


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    made = {"pictures": context("mnist-vit", pictures(), tmp_path_factory.mktemp("pictures"))}
    made["pairs"] = context("coca-emoji", [], tmp_path_factory.mktemp("pairs"))
    for name, parts in (("decoder", decoder()), ("encoder", encoder()), ("encoder_decoder", encoder_decoder())):
        folder = tmp_path_factory.mktemp(name)
        made[name] = context(recipe(folder, parts), [], folder)
    return made


@pytest.mark.parametrize("name", [name for name in CHECKS if name not in (*PROCESSES, *SLOW)])
@pytest.mark.parametrize("kind", SKIPPED)
def test_a_healthy_recipe_passes(contexts, kind, name):
    """Worst measured, of all kinds: see docs/checks.md."""
    found = CHECKS[name](contexts[kind])
    assert found.verdict == ("skipped" if name in SKIPPED[kind] else "pass"), found
    assert found.note


@pytest.mark.parametrize("name", [*PROCESSES, *SLOW])
def test_a_healthy_decoder_passes_what_takes_longer(contexts, name):
    assert CHECKS[name](contexts["decoder"]).verdict == "pass"


def test_a_captioner_has_no_counterpart_to_be_exported_to(contexts):
    found = CHECKS["export"](contexts["pairs"])
    assert found.verdict == "skipped"
    assert "captioner has no counterpart" in found.note


def test_a_custom_loss_has_no_known_beginning(contexts, tmp_path):
    sigmoid = context("clip-emoji", ["objective.loss=sigmoid", "model.similarity.bias=-10.0"], tmp_path)
    assert CHECKS["initial-loss"](sigmoid).verdict == "skipped"


def test_the_certificate_is_written_and_tells_everything(contexts, tmp_path):
    path = contexts["decoder"].recipe
    out = tmp_path / "certificate.json"
    told = check(path, ["data", "causality"], ["seed=3"], out, QUIET)
    assert told["passed"]
    assert json.loads(out.read_text()) == told
    assert [one["name"] for one in told["checks"]] == ["causality", "data"]  # in the order of the registry
    assert told["checks"][0].keys() >= {"compared", "worst", "tolerance", "verdict", "note", "seconds", "details"}
    assert any("rows of 48 tokens" in line for line in told["scaled"])


def test_an_unknown_check_names_the_nearest(contexts):
    with pytest.raises(SpecError, match="unknown check 'casuality': did you mean 'causality'"):
        check(contexts["decoder"].recipe, ["casuality"], [], None, QUIET)


def test_a_recipe_that_measures_its_noise_can_be_scaled_down():
    """A scaled step is one micro-batch, which has no noise scale."""
    run = find_recipe("shakespeare", ["training.noise_scale={}", "training.micro_batch=4"])
    assert run.training.noise_scale is not None
    assert scaled(run)[0].training.noise_scale is None


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_scaled_down(name):
    """A layer of each kind is left, and no more parameters than a check can train on."""
    run, told = scaled(find_recipe(name, []))
    assert told
    assert run.data.kind == find_recipe(name, []).data.kind
    assert parameters_of(run.model) <= LARGE
