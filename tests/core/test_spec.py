"""Records: refusals name what is wrong and what is near; text forms round-trip."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestone.core.errors import SpecError
from corestone.core.format import clock, si
from corestone.core.spec import from_yaml, override, to_yaml
from corestone.core.units import Duration, duration
from corestone.recipes.catalogue import RECIPES, find_recipe
from corestone.recipes.spec import Run


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_round_trips_through_yaml(name):
    run = RECIPES[name]()
    assert from_yaml(Run, to_yaml(run), "here") == run


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.bach_tokens=3", "did you mean 'batch_tokens'"),
        ("trainning.batch_tokens=3", "did you mean 'training'"),
        ("optimiser.learning_rate=-1", "optimiser.learning_rate: Input should be greater than 0 \\(got -1\\)"),
        ("training.length=5 stepz", "steps, tokens, examples, epochs"),
        ("model.stack.blocks.9.dropout=1", "index from 0 to 3"),
        ("model.stack.blocks.0.dropout=1", "less than 1"),
        ("training.batch_tokens", "expected path=value"),
        ("schedule.kind=cosin", "'cosine'"),
        ("model.kind=decodr", "'decoder'"),
        ("model={kind: decoder, widht: 3}", "widht"),
        ("name.deeper=3", "nothing inside"),
        ("seed={", "not a YAML value"),
        ("optimiser.learning_rate=.nan", "optimiser.learning_rate"),
        ("model.stack.blocks.0.mixer={num_heds: 4}", "override: model.stack.blocks.0.mixer: .* mean 'num_heads'"),
        ("model.stack.blocks.0.mixer={num_heads: 4}", "override: model.stack.blocks.0.mixer.head_dim: Field required"),
        (
            "model.stack.blocks.0.mixer={kind: h3, state_dim: 3}",
            "override: model.stack.blocks.0.mixer.state_dim: Input",
        ),
        (
            "model.stack.blocks.0.mixer={kind: h4}",
            "override: model.stack.blocks.0.mixer: unknown kind 'h4': did you mean 'h3'",
        ),
        ("model.stack.blocks.0.mixer=3", "override: model.stack.blocks.0.mixer: "),
        ("model.stack.blocks.0={mixer: {kind: h3}}", "override: model.stack.blocks.0.feedforward: Field required"),
        ("objective={kind: mixture}", "override: objective.parts: Field required"),
        ("data.components.0={weight: 1}", "override: data.components.0.source: Field required"),
    ],
)
def test_a_wrong_override_is_one_clear_line(assignment, message):
    with pytest.raises(SpecError, match=message) as error:
        find_recipe("shakespeare", [assignment])
    assert "\n" not in str(error.value)


def test_overrides_are_typed_and_reach_all_layers():
    run = find_recipe("shakespeare", ["model.stack.blocks.*.dropout=0.1", "training.length=1e6 tokens", "seed=7"])
    assert [block.dropout for block in run.model.stack.blocks] == [0.1] * len(run.model.stack.blocks)
    assert str(run.training.length) == "1e+06 tokens"
    one = override(run, ["model.stack.blocks.1.dropout=0.3"])
    assert [block.dropout for block in one.model.stack.blocks][:3] == [0.1, 0.3, 0.1]


def test_a_mixer_that_names_no_kind_attends():
    run = find_recipe("shakespeare", [])
    lines = [line for line in to_yaml(run).splitlines() if line.strip() != "kind: attention"]
    assert len(lines) < len(to_yaml(run).splitlines())
    assert from_yaml(Run, "\n".join(lines), "here") == run
    hybrid = override(run, ["model.stack.blocks.1.mixer={kind: h3, state_dim: 8}"])
    assert [block.mixer.kind for block in hybrid.model.stack.blocks[:3]] == ["attention", "h3", "attention"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "expected a mapping"), ("a: [", "line 1: not valid YAML"), ("name: x\nsede: 3\n", "did you mean 'seed'")],
)
def test_a_broken_file_is_refused_with_its_place(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=message) as error:
        find_recipe(str(path), [])
    assert str(path) in str(error.value)


@given(st.floats(0, 1e15, allow_nan=False), st.sampled_from(["steps", "tokens", "examples", "epochs"]))
def test_durations_round_trip(value, unit):
    one = Duration(value=float(f"{value:g}"), unit=unit)
    assert duration(str(one)) == one


def test_numbers_are_readable():
    assert [si(124e6), si(4.3e11, "FLOP/s"), si(999.9), si(0.5)] == ["124 M", "430 GFLOP/s", "1 k", "0.5"]
    assert [clock(247), clock(3753)] == ["4:07", "1:02:33"]


def test_reading_a_recipe_loads_no_torch():
    code = (
        "import sys; from corestone.recipes.catalogue import find_recipe as f; f('shakespeare', []); "
        "print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
