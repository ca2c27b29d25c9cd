"""Suggestions by rules: each against a known answer, out of its range a reason, far off a warning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from corestone.cli.main import app
from corestone.core.errors import CheckpointError
from corestone.plan import rules
from corestone.plan.rules import family, interpolated, published
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.plan import Wanted, plan_recipe
from corestone.report.planned import suggested


def planned(name: str, *words: str, **wanted: Any) -> dict[str, Any]:
    return plan_recipe(find_recipe(name, [*words]), Wanted(hardware="h100", devices=8, **wanted))


def said(plan: dict[str, Any], setting: str) -> dict[str, dict[str, Any]]:
    """The rules of a setting by name."""
    (found,) = [one for one in plan["suggestions"]["settings"] if one["of"] == setting]
    return {one["rule"]: one for one in found["rules"]}


def said_settings(plan: dict[str, Any]) -> list[str]:
    return [one["of"] for one in plan["suggestions"]["settings"]]


def off(plan: dict[str, Any]) -> list[str]:
    return [warning for warning in plan["warnings"] if warning.startswith("learning rate off the rule")]


def test_gpt3s_table_at_its_sizes_and_between():
    """Brown et al. 2020, table 2.1. Halfway in the logarithm between 125 M and 350 M: the root of 6e-4 times 3e-4;
    between 13 B and 175 B that of 1e-4 times 0.6e-4, and of 2 M times 3.2 M tokens."""
    rows = family("decoder", "next_token", "tokens")
    assert [interpolated(rows, row.parameters) for row in rows] == [
        pytest.approx((row.learning_rate, row.batch)) for row in rows
    ]
    assert interpolated(rows, (125e6 * 350e6) ** 0.5) == (pytest.approx(4.2426e-4, rel=1e-4), pytest.approx(0.5e6))
    assert interpolated(rows, (13e9 * 175e9) ** 0.5) == (
        pytest.approx(7.7460e-5, rel=1e-4),
        pytest.approx(2.5298e6, rel=1e-4),
    )
    assert (rows[0].learning_rate, rows[-1].batch) == (6e-4, 3.2e6)


@pytest.mark.parametrize(
    ("parameters", "rate", "batch"),
    [(6.9e9, 4.2e-4, 2304 * 4096), (67e9, 3.2e-4, 4608 * 4096)],
)
def test_deepseeks_rules_give_what_the_paper_took(parameters, rate, batch):
    """Both models, 2 T tokens each, by 6ND in place of its own count (DeepSeek-AI 2024, table 2): worst seen 1.2 % of
    a rate and 3.1 % of a batch."""
    flops = 6 * parameters * 2e12
    assert rules.deepseek_learning_rate(flops) == pytest.approx(rate, rel=0.02)
    assert rules.deepseek_batch(flops) == pytest.approx(batch, rel=0.04)


def test_deepseeks_rules_by_hand():
    """At 1e19: 10^-2.375 = 4.21697e-3, 10^6.2149 = 1.64021e6."""
    assert rules.deepseek_learning_rate(1e19) == pytest.approx(0.3118 * 4.21697e-3, rel=1e-5)
    assert rules.deepseek_batch(1e19) == pytest.approx(0.2920 * 1.64021e6, rel=1e-5)


def test_rules_by_hand():
    """Goyal et al. 2017: 0.1 at 256, 3.2 at 8,192. Malladi et al. 2022: twice at four times the batch. Ma and Yarats
    2021: 40 steps at 0.95, 2,000 at 0.999. McCandlish et al. 2018: twice both at the critical batch. Hoffmann et al.
    2022: Chinchilla's 70 B parameters and 1.4 T tokens."""
    assert [rules.linear_scaling(batch) for batch in (256, 8192)] == pytest.approx([0.1, 3.2])
    assert rules.square_root_scaling(1e-3, 256, 1024) == pytest.approx(2e-3)
    assert [rules.untuned_warmup(beta2) for beta2 in (0.95, 0.999)] == pytest.approx([40, 2000])
    assert rules.costs(1e6, 1e6) == (2, 2)
    assert rules.costs(1e5, 1e6) == pytest.approx((1.1, 11))
    assert rules.TOKENS_PER_PARAMETER * 70e9 == 1.4e12


def test_the_table_of_published_runs_is_whole():
    assert all(one.source for one in published())
    assert len({one.name for one in published()}) == len(published())
    for one in published():  # its own recipe is on its own rule
        found = interpolated(family(one.model, one.objectives[0], one.unit), one.parameters)
        assert found == pytest.approx((one.learning_rate, one.batch))


@pytest.fixture(scope="module")
def gpt2():
    return planned("gpt2-124m", available=2e11)


def test_a_decoder_within_all_ranges(gpt2):
    """Kaplan's at 85,056,000 parameters: 0.003239 - 0.0001395 x 18.25882 = 6.919e-4. DeepSeek's at the run's 10 G
    tokens times 6 x 85 M and the attention's 12 layers x 768 x 1,024 x 12: 6.24e18, so 0.3118 x 4.473e-3. Ours counts
    the half of attention that a causal mask leaves: 1.2 % more."""
    rates = said(gpt2, "learning rate")
    assert rates["Kaplan et al."]["low"] == pytest.approx(6.919e-4, rel=1e-3)
    assert rates["GPT-3's table"]["low"] == pytest.approx(6e-4, rel=1e-3)
    assert rates["DeepSeek LLM"]["low"] == pytest.approx(1.3947e-3, rel=0.02)
    assert rates["root of the batch"]["low"] == pytest.approx(6e-4 * (524_288 / 500_000) ** 0.5)
    assert said(gpt2, "batch")["critical, at most"]["low"] == pytest.approx(1.1e6, rel=0.01)
    assert said(gpt2, "warm-up")["2 / (1 - beta2)"]["low"] == pytest.approx(40)
    assert "the run has 10 G tokens" in said(gpt2, "warm-up")["GPT-3"]["outside"]
    assert said(gpt2, "length")["20 tokens a parameter"]["low"] == 20 * gpt2["parameters"]["total"]
    assert off(gpt2) == []
    assert any("--mup-base" in note for note in gpt2["suggestions"]["notes"])
    for found in gpt2["suggestions"]["settings"]:
        assert all(rule["source"] and rule["range"] for rule in found["rules"])
        assert all((rule["low"] is None) == bool(rule["outside"]) for rule in found["rules"])


def test_out_of_its_range_no_rule_suggests_anything():
    plan = planned("shakespeare")
    rates = said(plan, "learning rate")
    assert rates.keys() == {"Kaplan et al.", "GPT-3's table", "DeepSeek LLM", "root of the batch"}
    assert "the batch has 2.05 k tokens" in rates["Kaplan et al."]["outside"]
    assert "4.27 M parameters" in rates["GPT-3's table"]["outside"]
    assert "FLOPs" in rates["DeepSeek LLM"]["outside"]
    assert all(rule["low"] is None for rule in [*rates.values(), *said(plan, "length").values()])
    assert off(plan) == []
    assert any("--range-test" in note for note in plan["suggestions"]["notes"])


def test_short_runs_are_of_no_rule_that_was_found_in_long_ones():
    """A hundredth of 250,000 steps of 524,288 tokens are 1.31 G, of GPT-3's 300 G are 3 G."""
    plan = planned("gpt2-124m", "training.length=2e9 tokens")
    rates = said(plan, "learning rate")
    assert rates["Kaplan et al."]["low"] is not None
    assert "less than a hundredth of 300 G" in rates["GPT-3's table"]["outside"]
    assert "less than a hundredth of 300 G" in rates["root of the batch"]["outside"]
    rates = said(planned("shakespeare-electra"), "learning rate")
    assert "less than a hundredth of 16.4 G" in rates["root of the batch"]["outside"]


def test_kaplans_rule_ends_at_ten_billion():
    rates = said(planned("palm-8b", "optimiser={kind: adamw, learning_rate: 1e-4}"), "learning rate")
    assert rates["Kaplan et al."]["low"] is not None
    rates = said(planned("opt-175b"), "learning rate")
    assert "parameters outside of embeddings" in rates["Kaplan et al."]["outside"]
    assert rates["GPT-3's table"]["low"] == pytest.approx(0.6e-4, rel=0.01)


@pytest.mark.parametrize(("rate", "side"), [("0.01", "above 0.0014"), ("1e-4", "below 0.0006")])
def test_a_rate_far_off_is_warned_of(rate, side):
    (warning,) = off(planned("gpt2-124m", f"optimiser.learning_rate={rate}"))
    assert f"more than 3 times {side}" in warning


def test_lions_rates_are_shares_of_adams(gpt2):
    plan = planned("gpt2-124m", "optimiser={kind: lion, learning_rate: 1e-4}")
    adam = said(gpt2, "learning rate")["Kaplan et al."]["low"]
    lion = said(plan, "learning rate")["Kaplan et al. over 10 to 3 (Lion, Chen et al. 2023)"]
    assert (lion["low"], lion["high"]) == (pytest.approx(adam / 10), pytest.approx(adam / 3))
    assert off(plan) == []
    assert "2 / (1 - beta2)" not in said(plan, "warm-up")


def test_pictures_go_by_the_root_of_the_batch():
    """Dosovitskiy et al. 2021: 3e-3 at 4,096 pictures, so half at 1,024; beyond ten times the batch Adam's beta1 of
    0.9 leaves no such run."""
    assert said(planned("vit-b16", available=1.28e6), "learning rate")["root of the batch"]["low"] == 3e-3
    plan = planned("vit-b16", "training.batch_examples=1024", available=1.28e6)
    assert said(plan, "learning rate")["root of the batch"]["low"] == pytest.approx(1.5e-3)
    assert said(plan, "length") == {}
    plan = planned("vit-b16", "training.batch_examples=65536", available=1.28e8)
    assert "16 times the published one" in said(plan, "learning rate")["root of the batch"]["outside"]


def test_sgd_on_pictures_goes_by_linear_scaling():
    sgd = "optimiser={kind: sgd, learning_rate: 0.4, momentum: MOMENTUM}"
    plan = planned(
        "vit-b16", sgd.replace("MOMENTUM", "0.9"), "training.batch_examples=1024", "training.length=90 epochs",
        "schedule.warmup=100 steps", available=1.28e6,
    )  # fmt: skip
    assert said(plan, "learning rate")["linear scaling"]["low"] == pytest.approx(0.4)
    assert said(plan, "warm-up")["5 epochs"]["low"] == pytest.approx(5 * 1.28e6 / 1024)
    assert off(plan) == []
    plan = planned("vit-b16", sgd.replace("MOMENTUM", "0.5"), "training.batch_examples=16384", available=1.28e6)
    assert "the batch has 16,384 pictures" in said(plan, "learning rate")["linear scaling"]["outside"]
    plan = planned("vit-b16", sgd.replace("MOMENTUM", "0.5"), available=1.28e6)
    assert "the momentum is 0.5" in said(plan, "learning rate")["linear scaling"]["outside"]


def test_runs_that_begin_with_trained_weights_are_of_no_rule_of_pretraining():
    found = said(planned("clip-vit-l14-336", available=4e8), "learning rate")["root of the batch"]
    assert "begins with trained weights" in found["outside"]


def test_a_decay_is_a_tenth_of_the_run():
    plan = planned("gpt2-124m", "schedule={kind: warmup_stable_decay, warmup: 700 steps, decay: 100 steps}")
    assert said(plan, "decay")["a tenth of the run"]["low"] == pytest.approx(plan["time"]["steps"] / 10)


def test_a_length_in_epochs_of_unknown_size_is_left_out():
    words = ["training.length=600 steps", "schedule.warmup=0.5 epochs"]
    assert said_settings(planned("mnist", *words)) == ["learning rate", "batch", "length"]
    assert "warm-up" in said_settings(planned("mnist", *words, available=6e4))
    decay = "schedule={kind: warmup_stable_decay, warmup: 10 steps, decay: 0.5 epochs}"
    assert "decay" not in said_settings(planned("mnist", "training.length=600 steps", decay))


@pytest.mark.parametrize(
    ("name", "noted"),
    [
        ("gpt2-124m", True),
        ("shakespeare-bert", True),
        ("vit-b16", True),
        ("clip-vit-b32", False),  # two towers
        ("vit-l16-cifar10", False),  # begins with a run's weights
        ("electra-small", False),  # two encoders
    ],
)
def test_mup_is_named_where_it_can_be_had(name, noted):
    run = find_recipe(name, ["optimiser={kind: adamw, learning_rate: 1e-3}"])
    notes = plan_recipe(run, Wanted(hardware="h100", devices=8, available=1e6))["suggestions"]["notes"]
    assert any("--mup-base" in note for note in notes) == noted


def test_optimisers_without_a_rule_have_none():
    plan = planned("palm-8b")
    assert said(plan, "learning rate") == {}
    assert {line[0]: line[2] for line in suggested(plan)}["learning rate"] == "no rule is known for such a run"


def log(folder: Path, *events: dict[str, Any]) -> Path:
    folder.mkdir()
    lines = [{"event": "train", "time": 1.0, **event} for event in events]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_measured_noise_scale_is_taken(tmp_path):
    """The last finite one. A batch of half of it takes 1.5 times the least tokens and 3 times the least steps."""
    run = log(
        tmp_path / "measured",
        {"step": 10, "tokens": 100, "noise_scale": 5e5},
        {"step": 20, "tokens": 200, "noise_scale": 1_048_576.0},
        {"step": 30, "tokens": 300, "noise_scale": "nan"},
    )
    found = said(planned("gpt2-124m", noise_from=run), "batch")["measured noise scale"]
    assert found["low"] == 1_048_576
    assert "measured at step 20" in found["source"]
    assert "1.5 times the least tokens and 3 times the least steps" in found["remark"]
    run = log(
        tmp_path / "noisy",
        {"step": 10, "tokens": 100, "noise_scale": 5e5},
        {"step": 20, "tokens": 200, "noise_scale": -3e6},
        {"step": 30, "tokens": 300, "noise_scale": 0.0},
    )
    assert said(planned("gpt2-124m", noise_from=run), "batch")["measured noise scale"]["low"] == 5e5
    with pytest.raises(CheckpointError, match="does not count in pictures"):
        planned("vit-b16", available=1e6, noise_from=run)
    for place, told in enumerate(({}, {"noise_scale": 0.0}, {"noise_scale": -1.0})):
        with pytest.raises(CheckpointError, match="has no noise scale above 0; train it"):
            planned("gpt2-124m", noise_from=log(tmp_path / f"{place}", {"step": 10, "tokens": 100} | told))


def test_the_screen_and_the_page(tmp_path):
    page = tmp_path / "plan.html"
    typed = ["plan", "gpt2-124m", "--hardware", "h100", "x8", "--available", "2e11", "--html", str(page)]
    shown = CliRunner().invoke(app, typed, env={"COLUMNS": "160"})
    assert shown.exit_code == 0, shown.output
    assert "0.00069 (Kaplan et al.); 0.0006 (GPT-3's table)" in shown.output
    assert "outside its range: GPT-3 (the run has 10 G tokens)" in " ".join(shown.output.replace("│", " ").split())
    html = page.read_text()
    for words in ("What rules suggest", "Ma and Yarats 2021", "here the run has 10 G tokens", "--mup-base"):
        assert words in html
