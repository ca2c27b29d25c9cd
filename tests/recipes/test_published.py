"""Recipes at published scale print and read back, build with the published size and follow the published rates."""

from __future__ import annotations

import pytest

from corestone.core.spec import from_yaml, to_yaml
from corestone.core.units import Duration
from corestone.optim.build import rules_of
from corestone.optim.schedule import build_schedule
from corestone.recipes.catalogue import PUBLISHED, find_recipe
from corestone.recipes.registry import MODELS
from corestone.recipes.spec import Run
from corestone.recipes.text import batch_examples
from corestone.zoo.catalogue import find

TEXT = [name.removeprefix("language/") for name in PUBLISHED if name.startswith("language/")]
NAMES = [name for name in TEXT if name != "gpt2-124m"]
IN_ZOO = [name for name in NAMES if name not in ("mogrifier-ptb-char", "electra-small")]
"""The zoo names the one by its size, and of the other it counts the discriminator."""


def count(model) -> int:
    return sum(p.numel() for p in MODELS.build(model, device="meta").parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_it_prints_reads_back(name):
    run = find_recipe(name, [])
    assert from_yaml(Run, to_yaml(run), name) == run
    assert run.name == name.split("/")[1]


@pytest.mark.parametrize("name", IN_ZOO)
def test_its_model_is_the_zoos(name):
    """tests/zoo holds the zoo's own counts against the published ones."""
    run = find_recipe(name, [])
    assert count(run.model) == count(find(name).spec)
    assert run.model.embedding.vocab_size >= run.data.tokenizer.vocab_size
    longer = {"bert-base": 512, "t5-base": 512, "alexatm-20b": 1024}  # rows are cut, corrupted or continued
    assert run.model.embedding.context_length == longer.get(name, run.data.context_length)
    assert batch_examples(run) * run.data.context_length == run.training.batch_tokens


@pytest.mark.parametrize("name", NAMES)
def test_each_parameter_has_its_rule(name):
    run = find_recipe(name, [])
    parameters = dict(MODELS.build(run.model, device="meta").named_parameters())
    decays = {rule.weight_decay for rule in rules_of(run.optimiser, parameters).values()}
    light = {"bert-base": {0.01, 0.0}, "electra-small": {0.01, 0.0}, "mogrifier-ptb-char": decays}
    assert decays == light.get(name, {0.1, 0.0} if run.optimiser.kind == "adamw" else {0.0})


def rate(run: Run, step: int) -> float:
    """Learning rate at a step, counted from 0."""

    def steps(length: Duration) -> int:
        examples = batch_examples(run)
        return length.steps(batch_tokens=run.training.batch_tokens, batch_examples=examples, epoch_tokens=1)

    return run.optimiser.learning_rate * build_schedule(run.schedule, steps(run.training.length), steps)(step)


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [
        ("gptj-6b", 1_499, 0.6e-4),
        ("gptj-6b", 3_000, 1.2e-4),
        ("gptj-6b", 302_999, 1.2e-5),
        ("gptj-6b", 383_499, 1.2e-5),
        ("opt-125m", 715, 6e-4),  # 375 M tokens are 715.3 steps
        ("opt-125m", 572_204, 6e-5),  # 300 B tokens are 572,204.6 steps
        ("opt-175b", 1_999, 3e-5),
        ("opt-175b", 143_051, 3e-6),
        ("bloom-560m", 715, 3e-4),  # 183,105 rows are 715.3 steps
        ("bloom-560m", 781_249, 1e-5),  # 200 M rows; beyond the run's end
        ("bloom-176b", 97_656, 6e-6),
        ("palm-8b", 0, 0.01),
        ("palm-8b", 9_999, 0.01),
        ("palm-540b", 39_999, 0.005),
        ("primer-ez-537m", 999_999, 0.001),
    ],
)
def test_rates_are_the_published_ones(name, step, expected):
    # Worst relative difference seen: 3e-16.
    assert rate(find_recipe(name, []), step) == pytest.approx(expected, rel=1e-9)


def test_a_missing_corpus_is_one_clear_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["corestone", "prepare", "opt-125m"])
    from corestone.cli.main import main

    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "corpus" in capsys.readouterr().err
