"""Votes of runs on pictures: members and their majorities, scored on the same side of the same data.

Shape letters: M members, N pictures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from corestone.core.errors import CheckpointError, DataError, SpecError
from corestone.core.metric import Metric
from corestone.data.images.sources import describe
from corestone.data.images.spec import Images
from corestone.evaluate.classification import share_metric
from corestone.evaluate.vote import Judgement, agreement, judge, majority, two_level_majority
from corestone.objectives.spec import Classification
from corestone.parallel.collectives import World, join_world
from corestone.parallel.precision import Precision, compute_dtype
from corestone.recipes.images import IN_ORDER, ImageData, open_images
from corestone.recipes.kept import about_checkpoint
from corestone.recipes.load import is_run, open_run
from corestone.recipes.picture_model import load_picture_model
from corestone.recipes.results import cells, plain_metric
from corestone.recipes.spec import Run
from corestone.train.archive import PICTURES, locate

ACCURACY = "top1_accuracy"


@dataclass(frozen=True)
class Member:
    """A run that may vote.

    Attributes:
        precision, batch_size: how its model computes.
    """

    path: Path
    run: Run
    data: ImageData
    precision: Precision
    batch_size: int

    def judge(self, side: str) -> Judgement:
        """What its model says of a side; the model is forgotten afterwards."""
        model = load_picture_model(self.path, self.precision).model
        self.data.check(model)
        return judge(model, self.data.batches(side), self.batch_size)


def vote(
    paths: Sequence[Path],
    best: int | None = None,
    precision: Precision = "auto",
    batch_size: int | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Score runs and their votes on the test side, or on validation where there is none.

    Args:
        best: keep so many members, by accuracy on the validation side, then by nats there.

    Returns:
        JSON: source, split, precision, classes, members, votes (lists), agreement (metrics), pairs (each member's
        with each), and `chosen` where members were. Members and votes have their accuracy (n, interval), errors (how
        many) and wrong (ids).

    Raises:
        SpecError: too few runs, or no such choice. CheckpointError: no run. DataError: runs on other data or classes.
    """
    members = [_open(path, precision, batch_size) for path in paths]
    _check_together(members)
    side = "test" if "test" in members[0].data.sides else "validation"
    chosen = None
    if best is not None:
        members, chosen = _best(members, best, side)
    judged = [member.judge(side) for member in members]
    kinds = _kinds(members)
    guesses_MN = np.stack([one.guesses for one in judged])
    labels_N, pictures = judged[0].labels_N, members[0].data.sides[side]

    def scored(guesses_N: NDArray[np.int64]) -> dict[str, Any]:
        right_N = guesses_N == labels_N
        wrong = [pictures.id(int(place)) for place in judged[0].places_N[~right_N]]
        metric = share_metric(ACCURACY, right_N, IN_ORDER)
        return {"accuracy": plain_metric(metric), "errors": len(wrong), "wrong": wrong}

    result = {
        "source": describe(members[0].data.spec.source),
        "split": side,
        "precision": str(compute_dtype(precision, join_world().device)).removeprefix("torch."),
        "classes": list(pictures.classes),
        "chosen": chosen,
        "members": [
            {"run": str(member.path), "kind": kind, **about_checkpoint(member.path), **scored(guesses_N)}
            for member, kind, guesses_N in zip(members, _kind_of_each(kinds), guesses_MN, strict=True)
        ],
        "votes": [
            {"vote": how, "kind": kind, "members": voters, **scored(guesses_N)}
            for how, kind, voters, guesses_N in _votes(kinds, judged)
        ],
        "agreement": [plain_metric(metric) for metric in agreement(guesses_MN, labels_N)],
        "pairs": (guesses_MN[:, None] == guesses_MN[None]).mean(axis=2).tolist(),
    }
    _show(console or Console(), result)
    return result


def _open(path: Path, precision: Precision, batch_size: int | None) -> Member:
    if not is_run(path):
        raise CheckpointError(f"{path}: no run folder (it has no recipe.yaml of its own); a vote needs the run's data")
    run = open_run(path)
    if not isinstance(run.data, Images) or not isinstance(run.objective, Classification):
        raise SpecError(f"{path}: is no classifier of pictures; leave it out of the vote")
    data = open_images(run, World(rank=0, size=1, device=torch.device("cpu")))
    return Member(path, run, data, precision, batch_size or run.evaluation.batch_size)


def _check_together(members: Sequence[Member]) -> None:
    """Refuse members that do not judge the same pictures by the same classes."""
    if len(members) < 2:
        raise SpecError("vote: takes two runs or more")
    first = members[0].data.sides["train"]
    for place, member in enumerate(members):
        if member.path.resolve() in {other.path.resolve() for other in members[:place]}:
            raise SpecError(f"vote: {member.path} is named twice, and a member has one vote; leave one out")
        found = member.data.sides["train"]
        if found.fingerprint != first.fingerprint:
            raise DataError(
                f"vote: {member.path} has other pictures or sides than {members[0].path} (sets {found.fingerprint} and "
                f"{first.fingerprint}); vote with runs whose data.source and data.prepare are alike"
            )
        classes = json.loads((locate(member.path) / PICTURES).read_text(encoding="utf-8"))["classes"]
        if tuple(classes) != found.classes:
            raise DataError(
                f"vote: {member.path} was trained on other classes ({_few(classes)}) than its data has now "
                f"({_few(found.classes)}); train it anew, or put the old pictures back"
            )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _best(members: Sequence[Member], best: int, side: str) -> tuple[list[Member], dict[str, Any]]:
    """The members that are best on the validation side, in the order in which they were given."""
    if side == "validation":
        raise SpecError(
            "vote: --best chooses on the validation side, and the data has no test side to score the choice on; leave "
            "--best out, or hold out a test side"
        )
    if best > len(members):
        raise SpecError(f"vote: --best {best} of {len(members)} members; give a smaller number, or more runs")
    ranks, told = [], []
    for place, member in enumerate(members):
        judged = member.judge("validation")
        metric = share_metric(ACCURACY, judged.guesses == judged.labels_N, IN_ORDER)
        ranks.append((-metric.value, judged.nats, place))
        told.append({"run": str(member.path), "accuracy": plain_metric(metric), "nats": judged.nats})
    kept = sorted(place for _, _, place in sorted(ranks)[:best])
    for place, entry in enumerate(told):
        entry["kept"] = place in kept
    return [members[place] for place in kept], {"split": "validation", "best": best, "members": told}


def _kinds(members: Sequence[Member]) -> dict[str, list[int]]:
    """Numbers of the members of each kind; those whose models have one record are of one kind, named after the first
    member's run."""
    kinds: list[list[int]] = []
    for place, member in enumerate(members):
        same = [kind for kind in kinds if members[kind[0]].run.model == member.run.model]
        if same:
            same[0].append(place)
        else:
            kinds.append([place])
    names = [members[kind[0]].run.name for kind in kinds]
    shown = [name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, start=1)]
    return dict(zip(shown, kinds, strict=True))


def _kind_of_each(kinds: dict[str, list[int]]) -> list[str]:
    return [name for _, name in sorted((place, name) for name, places in kinds.items() for place in places)]


def _votes(
    kinds: dict[str, list[int]], judged: Sequence[Judgement]
) -> list[tuple[str, str | None, list[int], NDArray[np.int64]]]:
    """What votes there are: how, of which kind, by which members (numbers), and what they say."""
    stacks = {name: np.stack([judged[place].probabilities_NK for place in places]) for name, places in kinds.items()}
    votes: list[tuple[str, str | None, list[int], NDArray[np.int64]]] = [
        ("homogeneous", name, places, majority(stacks[name])) for name, places in kinds.items() if len(places) > 1
    ]
    if len(kinds) > 1:
        everyone = sorted(place for places in kinds.values() for place in places)
        votes.append(("heterogeneous", None, everyone, two_level_majority(list(stacks.values()))))
    return votes


def _show(console: Console, result: dict[str, Any]) -> None:
    table = Table(title=f"{result['source']}, {result['split']} ({result['precision']})")
    for name in ("member or vote", "accuracy", "95 % interval", "errors", "n"):
        table.add_column(name, justify="left" if name == "member or vote" else "right")

    def add(name: str, entry: dict[str, Any]) -> None:
        value, interval, _, n = cells(Metric(**entry["accuracy"]))
        table.add_row(name, value, interval, f"{entry['errors']:,}", n)

    for member in result["members"]:
        add(escape(f"{member['run']} ({member['kind']})"), member)
    table.add_section()
    for one in result["votes"]:
        who = one["kind"] if one["kind"] else "one vote per kind"
        add(f"[bold]{one['vote']}[/]: {escape(who)}, {len(one['members'])} members", one)
    console.print(table)
    for entry in result["agreement"]:
        value, interval, unit, n = cells(Metric(**entry))
        console.print(f"{entry['name']:12} {value} {unit} ({interval}; n = {n})", highlight=False)
    if result["chosen"] is not None:
        left = [one["run"] for one in result["chosen"]["members"] if not one["kept"]]
        console.print(f"chosen on validation; left out: {', '.join(left) or 'none'}", highlight=False, markup=False)
