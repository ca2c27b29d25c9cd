"""Plans against what is known otherwise: real saved tensors and optimiser state, hand calculations, published runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from corestone.cli.main import app
from corestone.core.errors import CheckpointError, SpecError
from corestone.core.rng import Draws
from corestone.core.spec import to_yaml
from corestone.optim.build import build_optimiser, optimiser_tensors
from corestone.optim.spec import LAMB, SGD, Adafactor, AdamW, Lion
from corestone.parallel.collectives import World
from corestone.plan import cluster, expected, memory, shapes
from corestone.plan.calibration import Measured, calibrate, factors
from corestone.plan.hardware import devices, find_hardware, find_region, regions
from corestone.plan.spec import device_count
from corestone.recipes.calibrate import calibrate as calibrate_by_runs
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.plan import Wanted, guessed, made_up, model_of, parse_budget, plan_built, plan_recipe, store_plan
from corestone.recipes.registry import MODELS, OBJECTIVES
from corestone.report import figures
from corestone.report.folder import read_run
from corestone.report.planned import held_to_account, others, rows
from corestone.zoo.catalogue import find

GB = 1e9

FAMILIES = {
    "decoder": ("shakespeare", torch.bfloat16),
    "one head of keys": ("shakespeare-palm", torch.float32),
    "encoder": ("shakespeare-bert-pairs", torch.float32),
    "two encoders": ("shakespeare-electra", torch.float32),
    "encoder-decoder": ("shakespeare-t5", torch.bfloat16),
    "H3": ("shakespeare-h3", torch.float32),
    "LSTM": ("shakespeare-mogrifier", torch.float32),
    "convolutions": ("mnist", torch.float32),
    "pictures": ("mnist-vit", torch.float32),
    "two towers": ("clip-emoji", torch.float32),
    "captioner": ("coca-emoji", torch.float32),
}


TOO_MUCH = {"captioner": 0.0004}
"""Its first block of the text is given a part of a larger tensor, for which all others like it count too: 0.027 % too
much. The others agree to the byte."""


@pytest.mark.parametrize("family", FAMILIES)
def test_traced_memory_is_what_autograd_really_keeps(family):
    """Though the traced model has no values and runs each kind of block once."""
    name, dtype = FAMILIES[family]
    run = find_recipe(name, [])
    known = guessed(run, 1e5, model_of(run))
    objective = OBJECTIVES.build(run.objective, known.vocabulary)
    model = model_of(run)
    batch = objective.corrupt(made_up(run, known, model, 2), Draws(run.seed, range(2)))
    (traced,) = shapes.trace(model, objective.loss, [batch], dtype)
    real = MODELS.build(run.model, seed=0, device=torch.device("cpu")).to(dtype)
    saved = shapes._Saved({})
    saved.own = {parameter.untyped_storage()._cdata for parameter in real.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(saved.keep, lambda tensor: tensor):
        objective.loss(real, batch)
    assert traced.saved == pytest.approx(saved.kept(2).saved, rel=TOO_MUCH.get(family, 0))
    alone = 1.03 if family == "two towers" else 1  # a text tower's only layer: its input is kept besides, 1.020
    assert traced.recomputed <= traced.saved * alone


def test_fused_attention_never_holds_scores():
    run = find_recipe("shakespeare", [])
    known = guessed(run, None, model_of(run))
    objective = OBJECTIVES.build(run.objective, known.vocabulary)
    kept = {}
    for cpu in (True, False):
        model = model_of(run)
        (found,) = shapes.trace(model, objective.loss, [made_up(run, known, model, 4)], torch.bfloat16, cpu)
        kept[cpu] = found.saved
    assert kept[False] < kept[True]


def test_parts_are_all_parameters():
    for name in ("shakespeare", "clip-emoji", "shakespeare-electra", "mnist"):
        run = find_recipe(name, [])
        real = MODELS.build(run.model, seed=0, device=torch.device("cpu"))
        assert sum(shapes.parameter_parts(model_of(run)).values()) == sum(p.numel() for p in real.parameters())


@pytest.mark.parametrize(
    "spec",
    [
        AdamW(learning_rate=1e-3),
        LAMB(learning_rate=1e-3),
        Lion(learning_rate=1e-3),
        SGD(learning_rate=1e-3),
        SGD(learning_rate=1e-3, momentum=0.0),
        Adafactor(learning_rate=1e-3),
        Adafactor(learning_rate=1e-3, beta1=0.9),
        Adafactor(learning_rate=1e-3, beta1=0.9, factored=False),
    ],
    ids=lambda spec: f"{spec.kind}",
)
def test_optimiser_state_is_what_a_step_leaves(spec):
    sizes = [(6, 4), (4,), (3, 2, 5)]
    parameters = {f"p{place}": torch.nn.Parameter(torch.randn(size)) for place, size in enumerate(sizes)}
    optimiser = build_optimiser(spec, parameters)
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter)
    optimiser.step()
    kept = [tensor for name, tensor in optimiser_tensors(optimiser).items() if not name.endswith("/step")]
    assert memory.optimiser_state(spec, sizes) == sum(tensor.numel() * tensor.element_size() for tensor in kept)


@pytest.mark.parametrize(("count", "wanted"), [(1, 126.0), (8, 15.75), (64, 1.96875), (512, 0.24609375)])
def test_seven_billion_under_full_sharding_by_hand(count, wanted):
    """2 bytes of weights, 4 of masters, 4 of gradients, 8 of AdamW's state: 18 x 7e9 = 126 GB over all devices."""
    held = memory.held(7_000_000_000, 0, True, 8 * 7e9, False, "zero3", count)
    assert memory.totalled(held) == wanted * GB


def test_levels_of_sharding_by_hand():
    """On 8 devices: 126; 14 + 28 + 84/8; 14 + 112/8; 126/8."""
    found = [memory.totalled(memory.held(7 * 10**9, 0, True, 56 * GB, False, level, 8)) / GB for level in memory.SPLIT]
    assert found == [126.0, 52.5, 28.0, 15.75]


WORK = cluster.Work(
    flops=1.0, parameters=1000, frozen=500, blocks=5, rows=64, micro_rows=8, weight_bytes=2.0, updated_bytes=30_000
)


def test_bytes_sent_by_hand():
    assert cluster.sent_bytes(WORK, "none", 4) == 2 * 0.75 * 4000
    assert cluster.sent_bytes(WORK, "zero1", 4) == 0.75 * 6000
    assert cluster.sent_bytes(WORK, "zero3", 4) == 2 * 0.75 * (8000 + 500 * 4)  # frozen weights are gathered twice too


def test_latency_by_hand():
    """Over 4 devices a collective has 2 hops; full sharding has 3 for each of 5 pieces in 2 micro-batches."""
    assert cluster.collectives(WORK, "none", 4) == cluster.collectives(WORK, "zero2", 4) == 2
    assert cluster.collectives(WORK, "zero3", 4) == 30
    far = devices()["h100"].model_copy(update={"within_bytes": 1e30})
    assert cluster.step_on(WORK, far, 1e15, 0.5, "zero3", 4).communication_seconds == pytest.approx(
        60 * cluster.LATENCY
    )


def test_updates_are_as_fast_as_memory():
    """AdamW with bfloat16: 4 bytes of gradients, 8 of masters, 16 of state, 2 of the copy: 30 a parameter."""
    assert memory.updated(1000, 8000.0, True) == 30_000
    assert memory.updated(1000, 0.0, False) == 12_000
    here = devices()["h100"]
    for sharding, share in (("none", 1), ("zero1", 4)):
        step = cluster.step_on(WORK, here, 1e15, 0.5, sharding, 4)
        assert step.update_seconds == pytest.approx(30_000 / 3.35e12 / share)
    alone = cluster.step_on(WORK, here.model_copy(update={"memory_bandwidth": None}), 1e15, 0.5, "none", 1)
    assert alone.update_seconds == 0
    assert alone.seconds == alone.compute_seconds


def test_float32_has_a_peak_of_its_own():
    assert devices()["a100-80"].peak("float32") == 19.5e12
    assert devices()["mi300x"].peak("float32") / devices()["mi300x"].peak("bfloat16") > 0.1
    with pytest.raises(SpecError, match="tpu-v5e: no float32 peak"):
        devices()["tpu-v5e"].peak("float32")
    plan = plan_recipe(find_recipe("opt-125m", ["training.precision=float32"]), Wanted(hardware="h100"))
    assert any(text.startswith("float32 has 7% of bfloat16's peak") for text in plan["warnings"])
    assert {row["name"] for row in plan["others"]} == {"a100-40", "a100-80", "h200", "b200", "mi300x"}


def test_one_node_writes_what_is_not_sharded():
    run = find_recipe("opt-125m", [])
    found = {
        sharding: plan_recipe(run, Wanted(hardware="h100", devices=16, sharding=sharding))["time"]["checkpoint_seconds"]
        for sharding in ("none", "zero3")
    }
    assert found["none"] == pytest.approx(2 * found["zero3"])


def test_daly_is_near_young_where_checkpoints_are_quick():
    found = cluster.failures(1000, 86_400.0, 10.0, 24)
    between = cluster.HOURS_BETWEEN_FAILURES * 3600 / 1000
    assert found.interval_seconds == pytest.approx(math.sqrt(2 * 10 * between), rel=0.01)
    assert found.expected == pytest.approx(86_400 / between)
    losses = [10 / t + t / 2 / between for t in (found.interval_seconds * f for f in (0.5, 1.0, 2.0))]
    assert min(losses) == losses[1]
    assert found.lost == pytest.approx((1800 + cluster.RESTART_SECONDS) / between)  # an hour between checkpoints


def test_besiroglu_and_repeated_data():
    """facts: the optimum at 5.76e23 FLOPs is 7.225e10 parameters, 1.329e12 tokens, 1.9744 nats."""
    parameters, tokens = expected.compute_optimal(5.76e23)
    assert (parameters, tokens) == (pytest.approx(7.225e10, rel=1e-3), pytest.approx(1.329e12, rel=1e-3))
    assert expected.expected_loss(parameters, tokens) == pytest.approx(1.9744, abs=1e-4)
    assert expected.effective_tokens(100.0, 100.0) == 100.0
    once_more = expected.effective_tokens(100.0, 200.0)
    assert 190 < once_more < 200
    assert expected.effective_tokens(100.0, 1e9) == pytest.approx(100 * (1 + expected.REPEATS))
    assert expected.critical_batch(3.0) == pytest.approx(1.1226e6, rel=1e-3)
    assert expected.learning_rate(1e8) == pytest.approx(6.69e-4, rel=1e-2)


GPT3 = {
    "gpt3-125m": 2.25e20,
    "gpt3-350m": 6.41e20,
    "gpt3-760m": 1.37e21,
    "gpt3-1.3b": 2.38e21,
    "gpt3-2.7b": 4.77e21,
    "gpt3-6.7b": 1.20e22,
    "gpt3-13b": 2.31e22,
    "gpt3-175b": 3.14e23,
}
"""FLOPs of 300 B tokens (Brown et al. 2020, table D.1): 6 per parameter and token, attention not counted."""


@pytest.mark.parametrize("name", GPT3)
def test_gpt3_computes_what_was_published(name):
    """6ND to the table's rounding (worst seen 0.6 %); counted by products, which leave position tables and vectors out
    and count attention: 3 % less to 20 % more."""
    model = MODELS.build(find(name).spec, device="meta")
    total = sum(shapes.parameter_parts(model).values())
    assert 6 * total * 300e9 == pytest.approx(GPT3[name], rel=0.01)
    assert 0.97 < model.training_flops(2048) * 300e9 / GPT3[name] < 1.2


@pytest.fixture(scope="module")
def large():
    return plan_recipe(
        find_recipe("opt-175b", ["training.recompute=true"]),
        Wanted(hardware="a100-80", devices=1024, sharding="zero3", available=180e9),
    )


def test_175b_costs_what_was_published(large):
    """3.14e23 FLOPs by 6ND (Brown et al. 2020, table D.1, without attention); 4.30e23 with what is recomputed, and 34
    days on 992 A100 at 147 TFLOP/s (Zhang et al. 2022): the plan's arithmetic takes as long within 10 %. That run split
    matrices within nodes too; full sharding alone, which is what is planned, waits for its links most of the time."""
    assert large["parameters"]["total"] == 174_604_468_224
    assert large["flops"]["total"] == pytest.approx(3.14e23, rel=0.03)
    assert large["flops"]["done"] == pytest.approx(4.30e23, rel=0.03)
    published = 4.30e23 / (992 * 147e12)
    assert large["time"]["training_seconds"] * large["time"]["efficiency"] == pytest.approx(published, rel=0.10)
    assert large["time"]["efficiency"] < 0.5
    assert large["memory"]["fits"]


def test_a_plan_is_told_and_marked(large):
    told = dict(rows(large))
    assert "174,604,468,224" in told["parameters"]
    assert "USD* at 2.00 a device-hour (assumed)" in told["money"]
    assert "*: " in told["time"]  # it waits for links that were not seen at their source
    assert {row[0] for row in others(large)} == set(devices()) - {"a100-80"}
    assert any("seen 1.7" in text or "epochs" in text for text in [told["data"], *large["warnings"]])
    json.dumps(large, allow_nan=False)


def test_what_does_not_fit_is_said():
    plan = plan_recipe(find_recipe("opt-175b", []), Wanted(hardware="h100", devices=8, budget="1000USD"))
    assert any(text.startswith("does not fit") for text in plan["warnings"])
    assert plan["budget"]["share_of_this_run"] < 0.01


def test_steps_shorter_than_their_kernels_are_said(large):
    small = plan_recipe(find_recipe("shakespeare", []), Wanted(hardware="h100"))
    assert any("launching its kernels" in warning for warning in small["warnings"])
    assert not any("launching its kernels" in warning for warning in large["warnings"])


@pytest.mark.parametrize("text", ["100", "100EUR", "USD", "1.2.3USD"])
def test_budgets_that_cannot_be_read(text):
    with pytest.raises(SpecError, match="100USD"):
        parse_budget(text)


def test_tables_have_sources():
    for device in devices().values():
        assert device.source
        assert set(device.unverified) <= set(type(device).model_fields)
        assert device.price_usd_hour is None or device.price_source
        assert "assumed" not in device.price_source or "price_usd_hour" in device.unverified
    assert all(region.source and region.year >= 2020 for region in regions().values())
    with pytest.raises(SpecError, match="did you mean 'h100'"):
        find_hardware("h10", "bfloat16")
    with pytest.raises(SpecError, match="france"):
        find_region("frnce")
    assert (device_count("x64"), device_count("64"), device_count("x1_024")) == (64, None, 1024)
    with pytest.raises(SpecError, match="x0: a run needs a device"):
        device_count("x0")


ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def test_a_run_on_an_accelerator_is_planned_for_it(monkeypatch):
    """Its memory, not the machine's; a peak measured in float32 is that of float32; nothing that processors taught."""
    found = SimpleNamespace(name="NVIDIA H200", total_memory=141 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    run = find_recipe("shakespeare", [])
    world = World(rank=0, size=1, device=torch.device("cuda", 0))
    plan = plan_built(run, guessed(run, 1e6, model_of(run)), "float32", 5e13, world)
    assert plan["hardware"]["peak_flops"] == 5e13
    assert plan["memory"]["capacity_bytes"] == 141e9
    assert "process" not in plan["memory"]["parts_bytes"]
    assert not any("float32" in text for text in plan["warnings"])


def test_a_kept_plan_changes_no_random_state_and_never_stops_a_run(tmp_path):
    run = find_recipe("shakespeare", [])
    before = torch.get_rng_state()
    known = guessed(run, 200_000, model_of(run))
    told = store_plan(run, lambda: known, tmp_path, "float32", 1e13, ALONE)
    assert torch.equal(before, torch.get_rng_state())
    assert "of training" in told
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["data"]["available"] == 200_000
    assert store_plan(run, lambda: known, tmp_path, "float32", 1e13, ALONE, fresh=False) == ""
    assert (tmp_path / "plan.json").is_file()
    lost = replace(known, vocabulary=None)  # of which no batch can be made up
    assert "no plan was kept (" in store_plan(run, lambda: lost, tmp_path, "float32", 1e13, ALONE)
    assert not (tmp_path / "plan.json").exists()  # that was of an earlier attempt
    measured = {"parameters": plan["parameters"]["total"], "peak_bytes": 2 * plan["memory"]["peak_bytes"]}
    held = {row.name: row.difference for row in held_to_account(plan, measured)}
    assert held == {"Parameters": "+0.0%", "Peak memory": "+100.0%"}


def test_a_run_is_held_to_its_time_only_where_it_took_the_planned_steps(tmp_path):
    run = find_recipe("shakespeare", [])
    store_plan(run, lambda: guessed(run, None, model_of(run)), tmp_path, "float32", 1e13, ALONE)
    planned = json.loads((tmp_path / "plan.json").read_text())["time"]["steps"]
    (tmp_path / "recipe.yaml").write_text(to_yaml(run))
    line = {"event": "train", "time": 1.0, "tokens_per_second": 2048.0, "flops_per_second": 1e9, "memory_bytes": 1e9}
    for step, named in ((planned, True), (planned - 1, False), (planned + 1, False)):
        told = line | {"step": step, "tokens": 2048 * step}
        (tmp_path / "metrics.jsonl").write_text(json.dumps(told) + "\n")
        found = figures.measured(read_run(tmp_path))
        assert "peak_bytes" in found
        assert ("training_seconds" in found, "flops" in found) == (named, named)
        if not named:
            with pytest.raises(CheckpointError, match="fewer or more steps"):
                calibrate_by_runs([tmp_path])


def test_calibration_is_used_and_told(tmp_path, monkeypatch):
    monkeypatch.setenv("CORESTONE_CACHE", str(tmp_path))
    one = partial(Measured, predicted={"peak_bytes": 1e9, "training_seconds": 100.0})
    runs = [one("a", "decoder", measured={"peak_bytes": 1.2e9, "training_seconds": 80.0})]
    runs += [one("b", "convnet", measured={"peak_bytes": 1e9, "training_seconds": 200.0})]
    calibrate(runs, "this")
    assert factors("this", "decoder")[0] == {"memory": 1.2, "utilisation": 1.25}
    assert factors("this", "recurrent")[0] == {"memory": 1.1, "utilisation": 0.875}
    assert factors("other", "decoder") == ({}, "")
    with pytest.raises(CheckpointError, match="plan calibrate"):
        calibrate([], "this")


def test_the_command_line():
    runner = CliRunner()
    helped = runner.invoke(app, ["plan", "--help"])
    assert helped.exit_code == 0
    assert "calibrate" in helped.output
    wrong = runner.invoke(app, ["plan", "shakspeare"])
    assert "did you mean 'shakespeare'" in str(wrong.exception)
    typed = ["plan", "opt-125m", "--hardware", "h100", "x8", "training.length=1e9 tokens", "--available", "2e9"]
    told = runner.invoke(app, [*typed, "--json"])
    plan = json.loads(told.output)
    assert (plan["hardware"]["devices"], plan["data"]["epochs"]) == (8, pytest.approx(0.5, rel=1e-3))
    shown = runner.invoke(app, typed)
    assert shown.exit_code == 0
    assert "parameters" in shown.output


def test_the_page(tmp_path):
    out = tmp_path / "plan.html"
    arguments = ["plan", "opt-125m", "--hardware", "h100", "--json", "--html", str(out)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    page = out.read_text()
    assert "Throughput" in page
    assert "<svg" in page
