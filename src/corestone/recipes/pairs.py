"""Runs on pictures with captions: their data, opened, and how pairs are scored."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from corestone.core.batch import ImageBatch
from corestone.core.errors import SpecError
from corestone.core.protocols import Evaluator
from corestone.core.spec import plain
from corestone.core.vocabulary import Vocabulary
from corestone.data.cache import cache_dir
from corestone.data.images.augment import colours, evaluation_picture
from corestone.data.images.caption_rows import caption_rows
from corestone.data.images.pairs import HeldOutPairs, PairLoader, caption_tokenizer
from corestone.data.images.picture_set import PictureSet
from corestone.data.images.sources import card
from corestone.data.images.spec import Pairs
from corestone.data.tokenizer import Tokenizer
from corestone.evaluate.captions import CaptionScore
from corestone.evaluate.retrieval import RetrievalScore
from corestone.generate.spec import Sampling
from corestone.generate.text import caption_text
from corestone.models.picture_spec import Captioner
from corestone.parallel.collectives import World
from corestone.plan.ending import Ending
from corestone.recipes.images import TIMED, check_pictures, open_sides, picture_size, read_at_the_end
from corestone.recipes.spec import Run
from corestone.train.archive import PICTURES

MEASURED_PICTURES, MEASURED_ROWS = 2048, 256

SAMPLED = 8
"""Held-out pictures of which a captioner's captions are shown while it learns."""

READING = "pictures without chance, every caption"


@dataclass(frozen=True)
class PairData:
    """A run's prepared pictures and captions. Satisfies `recipes.run_data.RunData`.

    Attributes:
        sides: by name: train and validation, and test where the source has one.
    """

    spec: Pairs
    folder: Path
    sides: dict[str, PictureSet]
    tokenizer: Tokenizer

    unit, more_is_better = "pictures", True

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The captions'."""
        return self.tokenizer.vocabulary

    def check(self, model: Any) -> None:
        """Refuse a model that reads pictures of another size, or too few or too short tokens, or one that writes
        captions otherwise than it would learn them."""
        check_pictures(model, self.spec.augmentation)
        needed = self.tokenizer.manifest.vocab_size
        if model.vocab_size < needed:
            raise SpecError(f"model: its vocabulary has {model.vocab_size} entries, the captions' tokenizer {needed}")
        if model.context_length < self.spec.context_length:
            raise SpecError(
                f"data.context_length: {self.spec.context_length} tokens do not fit a model of context_length "
                f"{model.context_length}"
            )
        rows, separator = caption_rows(self.spec.rows, self.tokenizer.vocabulary), self.tokenizer.vocabulary.separator
        if model.generates == "captions" and (rows.start, rows.end) != (separator, separator):
            raise SpecError(
                f"data.rows: start={rows.start} and end={rows.end}, and a captioner writes from the tokenizer's "
                f"separator ({separator}) to the next one; leave data.rows out"
            )

    def batch(self, run: Run) -> tuple[int, int]:
        """Pairs of one step over all ranks, twice: a pair is a row."""
        pairs, known = run.training.batch_examples or 0, len(self.sides["train"])
        if pairs > known:
            raise SpecError(
                f"training.batch_examples: {pairs:,} are more than the {known:,} pictures of the training side, and a "
                "batch that holds a picture twice calls one of them wrong; set fewer"
            )
        return pairs, pairs

    def row_tokens(self) -> int:
        """Tokens of the longest caption of a batch, the mean over a few batches."""
        chosen = self.pairs("train", MEASURED_PICTURES)
        widths = [batch.tokens_BT.shape[1] for batch in chosen.texts(MEASURED_ROWS)]
        return round(sum(widths) / len(widths))

    def loader(self, run: Run, rows: int, world: World) -> PairLoader:
        """Batches of the training side."""
        return PairLoader(self.sides["train"], self.tokenizer, self.spec, run.seed, rows, world.rank, world.size)

    def files(self) -> dict[str, str]:
        """The tokenizer, and how a picture and a caption become what the model sees."""
        rows = caption_rows(self.spec.rows, self.tokenizer.vocabulary)
        told = {
            "augmentation": plain(self.spec.augmentation),
            "context_length": self.spec.context_length,
            "rows": plain(rows),
        }
        return {PICTURES: json.dumps(told, indent=1, ensure_ascii=False) + "\n", **self.tokenizer.files()}

    def described(self) -> list[dict[str, Any]]:
        """The cards of the source's parts, each with the set's manifest."""
        manifest = self.sides["train"].manifest
        return [{"card": one, "manifest": manifest} for one in card(self.spec.source)]

    def summary(self) -> str:
        """Pictures of each side, their size, the captions' vocabulary."""
        counts = ", ".join(f"{len(side):,} {name}" for name, side in self.sides.items())
        size, table = picture_size(self.spec.augmentation), self.tokenizer.manifest
        return f"{counts} pictures with captions, {size}, vocabulary {table.vocab_size:,}"

    def pairs(self, side: str, most: int | None = None) -> HeldOutPairs:
        """A side in order, or its first pictures."""
        spec = self.spec
        return HeldOutPairs(self.sides[side], self.tokenizer, spec.augmentation, spec.context_length, spec.rows, most)

    def held_out(self, run: Run, objective: Any) -> Evaluator:
        """Retrieval among the first pictures of the validation side."""
        return retrieval(self.pairs("validation", run.evaluation.pictures_while_training), run.evaluation.batch_size)

    def held_out_units(self, run: Run, objective: Any) -> int:
        """The first pictures of the validation side."""
        return min(len(self.sides["validation"]), run.evaluation.pictures_while_training)

    def ending(self, run: Run, objective: Any) -> Ending:
        """The test side, or the validation side where there is none, beside floors; a captioner captions all of it."""
        found = read_at_the_end(self.sides, lambda side: self.pairs(side, TIMED).images(TIMED))
        return replace(found, captions=found.units if isinstance(run.model, Captioner) else 0.0)

    def samples(self, run: Run, model: Any) -> list[tuple[str, str]]:
        """What a captioner writes of some held-out pictures, evenly spread, beside each one's id and own caption; two
        towers write nothing."""
        if model.generates != "captions":
            return []
        side = self.sides["validation"]
        places = [place * len(side) // SAMPLED for place in range(min(SAMPLED, len(side)))]
        seen = self.spec.augmentation
        rows = [evaluation_picture(seen, side.pixels(place)) for place in places]
        batch = ImageBatch(torch.stack(rows), colours=colours(seen)).to(next(iter(model.named_parameters()))[1].device)
        sampling = Sampling(temperature=0.0, max_tokens=self.pairs("validation", SAMPLED).longest)
        written = caption_text(model, self.tokenizer, batch, sampling)
        named = [f"{side.id(place)} ({side.captions(place)[0]}):" for place in places]
        return [(name, f" {text}") for name, text in zip(named, written, strict=True)]


def retrieval(pairs: HeldOutPairs, batch_size: int) -> RetrievalScore:
    """Scores of finding one half of a pair by the other."""
    return RetrievalScore(pairs.images, pairs.texts, pairs.owner_T, batch_size, READING, pairs.wording_T)


def captioning(pairs: HeldOutPairs, tokenizer: Tokenizer, batch_size: int) -> CaptionScore:
    """Scores of writing captions, as long as those that were learnt."""
    return CaptionScore(pairs.images, pairs.captions_of, tokenizer, batch_size, pairs.longest)


def open_pairs(run: Run, world: World) -> PairData:
    """Prepare what is not prepared yet (the main rank does) and open it."""
    spec = run.data
    if not isinstance(spec, Pairs):
        raise SpecError(f"{run.name}: learns from {spec.kind}; what was asked needs a run on pairs")
    folder, sides = open_sides(spec, world)
    if world.is_main:
        tokenizer = caption_tokenizer(spec, sides["train"], cache_dir())
    world.barrier()
    if not world.is_main:
        tokenizer = caption_tokenizer(spec, sides["train"], cache_dir())
    return PairData(spec, folder, sides, tokenizer)
