"""Score a run on pictures with captions by finding one by the other, beside floors on the same ones.

The report shows pictures that are left in the run's folder (`recipes/report_pictures.py`): training pictures; as
`shown` held-out ones, evenly spread; as `mistaken` those to which another's caption is nearest; and with maps those
that a model attends to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from corestone.data.images.pairs import HeldOutPairs
from corestone.data.images.picture_set import PictureSet
from corestone.data.images.sources import describe
from corestone.evaluate.nearest_captions import DistinctCaptions
from corestone.evaluate.picture_floors import nearest_caption_floors
from corestone.parallel.collectives import World
from corestone.parallel.precision import Precision
from corestone.recipes.kept import about_checkpoint
from corestone.recipes.pairs import captioning, open_pairs, retrieval
from corestone.recipes.picture_model import load_picture_model
from corestone.recipes.report_pictures import keep_attention, keep_pictures
from corestone.recipes.results import plain_metric, show, write
from corestone.recipes.spec import Run

SHOWN = 12
"""Held-out pictures that are kept with their nearest captions, evenly spread; and as many mistakes at most."""


def evaluate_pairs(
    path: Path, run: Run, precision: Precision, batch_size: int | None, console: Console
) -> list[dict[str, Any]]:
    """Score a run's newest whole checkpoint on the test side, or on the validation side where there is none."""
    data, model = (
        open_pairs(run, World(rank=0, size=1, device=torch.device("cpu"))),
        load_picture_model(path, precision).model,
    )
    side, rows = "test" if "test" in data.sides else "validation", batch_size or run.evaluation.batch_size
    pairs = data.pairs(side)
    finding = retrieval(pairs, rows)
    images_IE, texts_TE = finding.vectors(model)
    metrics, writes = list(finding.metrics(images_IE, texts_TE)), model.generates == "captions"
    if writes:
        metrics += captioning(pairs, data.tokenizer, rows).run(model)
    measured = nearest_caption_floors(captioned(data.pairs("train"), rows), captioned(pairs, rows), writes)
    captions = DistinctCaptions(texts_TE, pairs.captions, pairs.owner_T)
    spread = [place * pairs.count // SHOWN for place in range(SHOWN)] if pairs.count > SHOWN else range(pairs.count)
    mistaken = captions.mistaken(images_IE)
    result: dict[str, Any] = {
        "checkpoint": about_checkpoint(path)["checkpoint"],
        "source": describe(data.spec.source),
        "split": side,
        "precision": str(next(model.parameters()).dtype).removeprefix("torch."),
        "model": [plain_metric(metric) for metric in metrics],
        "floors": [plain_metric(metric) for metric in measured],
        "nearest_captions": {
            "pictures": pairs.count,
            "captions": len(captions.said),
            "mistakes": len(mistaken),
            "shown": nearest(captions, images_IE, spread, data.sides[side]),
            "mistaken": nearest(captions, images_IE, mistaken[:SHOWN], data.sides[side]),
            "cosines": cosines(captions, images_IE, spread),
        },
    }
    kept = path / "pictures"
    keep_pictures(kept, run, data, data.sides[side], {"shown": spread, "mistaken": mistaken[:SHOWN]})
    result["attention"] = keep_attention(
        kept, model, data, data.sides[side], lambda place: next(iter(data.sides[side].captions(place)), "")
    )
    write(path, [result])
    show(console, result, metrics, [], measured)
    return [result]


def captioned(pairs: HeldOutPairs, batch_size: int) -> tuple[Tensor, list[tuple[str, ...]]]:
    """Pictures, and the captions of each."""
    return torch.cat([batch.images_BCHW for batch in pairs.images(batch_size)]), pairs.captions_of


def nearest(
    captions: DistinctCaptions, images_IE: Tensor, places: Sequence[int], side: PictureSet
) -> list[dict[str, Any]]:
    """Of some pictures: id, the nearest own caption with its cosine, how many captions of others are `before` it, and
    the three nearest of all: text, cosine, whether it is own."""
    return [
        {
            "id": side.id(place),
            "own": [one.own[0], _finite(one.own[1])],
            "before": one.before,
            "nearest": [[text, _finite(cosine), own] for text, cosine, own in one.nearest],
        }
        for place, one in zip(places, captions.nearest(images_IE, places), strict=True)
    ]


def cosines(
    captions: DistinctCaptions, images_IE: Tensor, places: Sequence[int]
) -> list[list[tuple[float | None, bool]]]:
    """Of some pictures (rows) with the nearest own caption of each of them (columns): the cosine, and whether the
    caption is own to the row's picture."""
    own = [captions.said.index(one.own[0]) for one in captions.nearest(images_IE, places)]
    similar_RR, own_RR = captions.similar(images_IE, places)[:, own], captions.own(places)[:, own]
    rows = zip(similar_RR.tolist(), own_RR.tolist(), strict=True)
    return [list(zip(map(_finite, values), marks, strict=True)) for values, marks in rows]


def _finite(cosine: float) -> float | None:
    """JSON has no infinities: a ruined model's cosine becomes null."""
    return round(cosine, 4) if math.isfinite(cosine) else None
