"""Votes of trained runs: by hand from the members' own answers, chosen on validation alone, and refused where runs do
not go together."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from corestone.core.errors import CheckpointError, CorestoneError, DataError, SpecError
from corestone.core.spec import plain
from corestone.evaluate.classification import answers
from corestone.evaluate.intervals import proportion_interval
from corestone.parallel.collectives import World
from corestone.recipes import vote as module
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.images import open_images
from corestone.recipes.load import open_run
from corestone.recipes.picture_model import load_picture_model
from corestone.recipes.pretrain import pretrain
from corestone.recipes.vote import vote
from corestone.zoo.mnist_cnn import mnist_cnn

QUIET = Console(quiet=True)
SIDE = "test"


def short(*more: str, channels: tuple[int, ...] = (8, 8)):
    """So few steps of so small networks that members often disagree."""
    changes = [
        f"model={json.dumps(plain(mnist_cnn(5, channels)))}",
        "training.length=12 steps",
        "training.average=null",
        "training.batch_examples=32",
        "training.precision=float32",
        "evaluation.pictures_while_training=40",
        "data.augmentation.steps=[]",
    ]
    return find_recipe("mnist", [*changes, *more])


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Two of one kind and one of another, at places 0, 2 and 1."""
    folder = tmp_path_factory.mktemp("votes")
    for seed, channels in enumerate([(8, 8), (6, 6), (8, 8)]):
        run = short(f"seed={seed}", f"name={'narrow' if channels[0] == 6 else 'wide'}", channels=channels)
        pretrain(run, folder / f"run-{seed}", console=QUIET)
    return [folder / f"run-{seed}" for seed in range(3)]


def data(run: Path):
    return open_images(open_run(run), World(rank=0, size=1, device=torch.device("cpu")))


def guesses(run: Path, side: str = SIDE):
    return answers(load_picture_model(run, "float32").model, data(run).batches(side), 100)


@pytest.fixture(scope="module")
def result(runs):
    return vote(runs, precision="float32", batch_size=64, console=QUIET)


def test_members_are_scored_as_evaluation_scores_them(runs, result):
    """Their kinds, checkpoints, accuracies with intervals, and the pictures they get wrong."""
    assert [member["kind"] for member in result["members"]] == ["wide", "narrow", "wide"]
    for run, member in zip(runs, result["members"], strict=True):
        found = guesses(run)
        right = found.guesses_N == found.labels_N
        metric = member["accuracy"]
        assert (metric["value"], metric["n"]) == (right.mean(), len(found))
        assert tuple(metric["interval"]) == proportion_interval(int(right.sum()), len(found))
        assert member["errors"] == (~right).sum()
        pictures = data(run).sides[SIDE]
        assert member["wrong"] == [pictures.id(int(place)) for place in found.places_N[~right]]
        assert member["checkpoint"] == "checkpoints/step-0000012"


def test_votes_are_what_counting_gives(runs, result):
    """Where at least two of three kinds or members agree, their class; elsewhere one of those voted for."""
    said = np.stack([guesses(run).guesses_N for run in runs])
    labels = guesses(runs[0]).labels_N
    by_how = {one["vote"]: one for one in result["votes"]}
    assert by_how.keys() == {"homogeneous", "heterogeneous"}
    assert (by_how["homogeneous"]["kind"], by_how["homogeneous"]["members"]) == ("wide", [0, 2])
    assert by_how["heterogeneous"]["members"] == [0, 1, 2]
    pictures = data(runs[0]).sides[SIDE]
    ids = [pictures.id(place) for place in range(len(labels))]
    agreed, unsure = 0, 0
    for place, name in enumerate(ids):
        wide, label = {said[0, place], said[2, place]}, labels[place]
        wrong = name in by_how["homogeneous"]["wrong"]
        if len(wide) == 1:
            agreed += 1
            assert wrong == (label not in wide)
            if said[1, place] in wide:
                assert (name in by_how["heterogeneous"]["wrong"]) == (label not in wide)
        else:
            unsure += 1
            assert label in wide or wrong
        if label not in said[:, place]:
            assert name in by_how["heterogeneous"]["wrong"]
    assert min(agreed, unsure) > 50  # so that both were tried


def test_agreement_by_hand(runs, result):
    said = np.stack([guesses(run).guesses_N for run in runs])
    labels = guesses(runs[0]).labels_N
    values = {metric["name"]: metric["value"] for metric in result["agreement"]}
    kinds = [len(Counter(column)) for column in said.T.tolist()]
    assert values["all_agree"] == pytest.approx(np.mean([count == 1 for count in kinds]))
    pairs = {pair: float((said[pair[0]] == said[pair[1]]).mean()) for pair in combinations(range(3), 2)}
    assert values["pairs_agree"] == pytest.approx(np.mean(list(pairs.values())))
    missed = [label not in column for label, column in zip(labels, said.T.tolist(), strict=True)]
    assert values["none_right"] == pytest.approx(np.mean(missed))
    for (one, other), share in pairs.items():
        assert result["pairs"][one][other] == result["pairs"][other][one] == share
    assert [result["pairs"][place][place] for place in range(3)] == [1.0] * 3


def test_the_choice_looks_at_validation_alone(runs, monkeypatch):
    """The kept ones are the best there, and no member that is left out ever sees the test side."""
    seen: list[tuple[str, str]] = []
    judge = module.Member.judge

    def watched(member, side):
        seen.append((str(member.path), side))
        return judge(member, side)

    monkeypatch.setattr(module.Member, "judge", watched)
    found = vote(runs, best=2, precision="float32", batch_size=100, console=QUIET)
    accuracy = {}
    for run in runs:
        validation = guesses(run, "validation")
        accuracy[str(run)] = (validation.guesses_N == validation.labels_N).mean()
    assert len(set(accuracy.values())) == 3  # no ties that would hide a mistake
    kept = sorted(accuracy, key=accuracy.get)[1:]
    assert [member["run"] for member in found["members"]] == sorted(kept)
    assert {run for run, side in seen if side == "test"} == set(kept)
    assert {entry["run"]: entry["accuracy"]["value"] for entry in found["chosen"]["members"]} == accuracy
    assert [entry["run"] for entry in found["chosen"]["members"] if entry["kept"]] == sorted(kept)


def test_the_terminal_and_json_say_the_same(runs, result, capsys, monkeypatch):
    from corestone.cli.main import main

    words = ["corestone", "vote", *map(str, runs), "--precision", "float32", "--batch-size", "64"]
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr("sys.argv", [*words, "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(result))
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr().out
    for entry in (*result["members"], *result["votes"]):
        assert f"{entry['accuracy']['value']:.5g}" in shown
    assert "one vote per kind, 3 members" in shown


def changed(run: Path, folder: Path, old: str, new: str) -> Path:
    """A copy of a run with another line in its recipe."""
    shutil.copytree(run, folder)
    text = (folder / "recipe.yaml").read_text()
    assert old in text
    (folder / "recipe.yaml").write_text(text.replace(old, new))
    return folder


def test_what_does_not_go_together_is_refused(runs, tmp_path):
    one, other = runs[0], runs[1]
    with pytest.raises(SpecError, match="two runs or more"):
        vote([one], console=QUIET)
    with pytest.raises(SpecError, match="named twice"):
        vote([one, other, one.parent / "." / one.name], console=QUIET)
    with pytest.raises(SpecError, match="--best 3 of 2"):
        vote([one, other], best=3, console=QUIET)
    with pytest.raises(CheckpointError, match="no run folder"):
        vote([one, other / "checkpoints" / "step-0000012"], console=QUIET)
    elsewhere = changed(other, tmp_path / "elsewhere", "deduplicate: true", "deduplicate: false")
    with pytest.raises(DataError, match=r"elsewhere has other pictures or sides than .*run-0"):
        vote([one, elsewhere], console=QUIET)
    shakespeare = find_recipe("shakespeare", [])
    text = tmp_path / "text"
    text.mkdir()
    (text / "recipe.yaml").write_text(json.dumps(plain(shakespeare)))
    with pytest.raises(SpecError, match="no classifier of pictures"):
        vote([one, text], console=QUIET)


def test_other_classes_are_refused_even_where_there_are_as_many(runs, tmp_path, monkeypatch):
    """As where the folder behind a recipe was changed after the training."""
    opened = module.open_images

    def renamed(run, world):
        found = opened(run, world)
        for side in found.sides.values():
            side.classes = ("nought", *side.classes[1:])
        return found

    monkeypatch.setattr(module, "open_images", renamed)
    with pytest.raises(CorestoneError, match=r"trained on other classes \(0, 1, 2, 3, 4 and 5 more\).*\(nought, 1"):
        vote(runs[:2], console=QUIET)


def test_without_a_test_side_nothing_can_be_chosen(runs, monkeypatch):
    opened = module.open_images

    def halved(run, world):
        found = opened(run, world)
        del found.sides["test"]
        return found

    monkeypatch.setattr(module, "open_images", halved)
    with pytest.raises(SpecError, match="no test side"):
        vote(runs, best=2, console=QUIET)
    assert vote(runs[:2], precision="float32", console=QUIET)["split"] == "validation"
