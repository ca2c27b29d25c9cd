"""Score a run or checkpoint on held-out text, beside floors measured on the same bytes in the same call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from corestone.core.errors import CheckpointError, SpecError
from corestone.core.metric import Metric
from corestone.core.spec import Spec, plain
from corestone.data.images.spec import Pairs
from corestone.data.prepare.pipeline import prepare_source
from corestone.data.sources import describe, parse_source
from corestone.data.spec import Data, Embedded, Prepare, Source
from corestone.data.tokenizer import Tokenizer, check_same
from corestone.data.tokens import TokenSet, open_token_set
from corestone.evaluate.dynamic import learning
from corestone.evaluate.floors import document_texts, floors, held_out_text, unigram_floor
from corestone.evaluate.objective import guessing_floors
from corestone.evaluate.spec import PICTURE_TASKS, RMS, SGD
from corestone.objectives.spec import MaskedToken, NextToken, SpanCorruption
from corestone.parallel.allocator import keep_freed_memory
from corestone.parallel.collectives import World
from corestone.parallel.precision import Precision
from corestone.recipes.dynamic import gradient_statistics, named_dynamic, precision_with
from corestone.recipes.evaluate_images import evaluate_images
from corestone.recipes.evaluate_pairs import evaluate_pairs
from corestone.recipes.kept import about_checkpoint, keep
from corestone.recipes.load import is_run, load_model, open_run
from corestone.recipes.registry import OBJECTIVES
from corestone.recipes.results import plain_metric, show, write
from corestone.recipes.spec import Evaluation, Run
from corestone.recipes.text import FLOOR_TOKENS, Reading, open_text, scorer, text_of

DEFAULT_CONTEXT = 1024
LOSSY = (
    "floors     not measured, and words not counted: the tokenizer ({kind}) does not keep all of a text; bits per byte "
    "leave out what it would cost to restore it"
)
FLOOR_ROWS = 16
"""Rows that make one unit of the floors' intervals."""


def evaluate(
    path: Path,
    source: str | None = None,
    precision: Precision = "auto",
    batch_size: int | None = None,
    console: Console | None = None,
    dynamic: SGD | RMS | None = None,
) -> list[dict[str, Any]]:
    """Score the newest whole checkpoint of a run, or a checkpoint.

    Args:
        source: other text than the run's own, as the command line names sources: the held-out side of a catalogue
            entry, all of anything else. A bare checkpoint needs one.
        batch_size: rows at a time; it changes the speed alone.
        dynamic: score once more while the model learns from the text it reads; the arithmetic is float32 then.

    Returns:
        One result per held-out set: checkpoint, source, split, model and floors (lists of metrics), dynamic where it
        was asked for. A run's folder keeps it: `evaluation.json` that of its own data, `recipes/kept.py` the others.
    """
    precision = precision_with(dynamic, precision)
    keep_freed_memory()
    console = console or Console()
    run = open_run(path) if is_run(path) else None
    if run is None or isinstance(run.data, Data):
        return _evaluate_text(path, run, source, (precision, batch_size, dynamic), console)
    if source is not None or dynamic is not None:
        raise SpecError(
            f"{path}: pictures are scored on their own held-out side; leave --data and --dynamic out, or name a --task "
            f"({', '.join(PICTURE_TASKS)})"
        )
    score = evaluate_pairs if isinstance(run.data, Pairs) else evaluate_images
    return score(path, run, precision, batch_size, console)


def _evaluate_text(
    path: Path,
    run: Run | None,
    source: str | None,
    asked: tuple[Precision, int | None, SGD | RMS | None],
    console: Console,
) -> list[dict[str, Any]]:
    precision, batch_size, dynamic = asked
    model, tokenizer = load_model(path, precision)
    if run is None and source is None:
        raise CheckpointError(f"{path}: a checkpoint has no data of its own; name some with --data SOURCE")
    reading = _reading(model, run, batch_size)
    objective = OBJECTIVES.build(run.objective if run else learnt(model), tokenizer.vocabulary)
    if dynamic is not None and objective.asks:
        raise SpecError(f"{path}: --dynamic learns from next tokens, which this model was not trained to predict")
    rms = gradient_statistics(model, path, run, dynamic)
    checkpoint, results, entries = about_checkpoint(path), [], []
    for named, split, held_out, training in held_out_sets(path, source, tokenizer):
        check_same(tokenizer.manifest, held_out.tokenizer, str(path))
        metrics, adapted = list(scorer(objective, held_out, tokenizer, reading).run(model)), []
        if dynamic is not None:
            with learning(model, dynamic, rms) as score:
                by_row = replace(reading, batch_size=1)
                adapted = list(scorer(objective, held_out, tokenizer, by_row, score=score).run(model))
        measured = _floors(objective, held_out, training, tokenizer, reading, console)
        result: dict[str, Any] = {
            "checkpoint": checkpoint["checkpoint"],
            "source": describe(named),
            "split": split,
            "precision": str(next(model.parameters()).dtype).removeprefix("torch."),
            "model": [plain_metric(metric) for metric in metrics],
            "floors": [plain_metric(metric) for metric in measured],
        }
        if dynamic is not None:
            result |= {"dynamic": [plain_metric(metric) for metric in adapted], "dynamic_settings": plain(dynamic)}
        results.append(result)
        more = {"context": reading.context_length, "documents": held_out.n_documents, **checkpoint}
        entries.append(_entry(result, named_dynamic(adapted, dynamic) if dynamic else []) | more)
        show(console, result, metrics, adapted, measured)
    if source is not None or dynamic is not None:
        keep(path, entries, console)
    elif run is not None:
        write(path, results)
    return results


def _entry(result: dict[str, Any], dynamic: list[Metric]) -> dict[str, Any]:
    """A result as it is kept beside those of tasks: all figures of the model in one list."""
    return {
        "task": "text",
        "variant": "all of it" if result["split"] == "all" else f"{result['split']} split",
        "data": result["source"],
        "shots": None,
        "stride": None,
        "dynamic": result.get("dynamic_settings"),
        "precision": result["precision"],
        "model": result["model"] + [plain_metric(metric) for metric in dynamic],
        "floors": result["floors"],
    }


def _reading(model: Any, run: Run | None, batch_size: int | None) -> Reading:
    """As the run's own training did; a checkpoint alone reads what its model can, within reason."""
    return Reading(
        min(model.context_length, text_of(run).context_length if run else DEFAULT_CONTEXT),
        text_of(run).keep_documents_apart if run else True,
        batch_size or (run.evaluation if run else Evaluation()).batch_size,
    )


def held_out_sets(
    path: Path, source: str | None, tokenizer: Tokenizer
) -> Iterator[tuple[Source, str, TokenSet, TokenSet | None]]:
    """Per source: its record, the split's name, the held-out set and the training set for floors that count in it."""
    if source is None:
        run = open_run(path)
        data = open_text(run, World(rank=0, size=1, device=torch.device("cpu")))
        for component, held_out, training in zip(data.spec.components, data.validation, data.train, strict=True):
            yield component.source, "validation", held_out, training
        return
    named = parse_source(source)
    if isinstance(named, Embedded):
        folder = prepare_source(named, tokenizer, Prepare())
        yield named, "validation", open_token_set(folder, "validation"), open_token_set(folder, "train")
        return
    everything = named.model_copy(update={"validation_percent": 100.0})
    yield named, "all", open_token_set(prepare_source(everything, tokenizer, Prepare()), "validation"), None


def learnt(model: Any) -> Spec:
    """What an imported model must have been trained on, by its shape."""
    if model.generates == "continuations":
        return NextToken()
    if model.head is None:
        raise CheckpointError(
            "this model has no head that predicts tokens, so held-out text does not score it; corestone embed makes "
            "vectors of texts with it"
        )
    return MaskedToken() if model.generates == "nothing" else SpanCorruption()


def _floors(
    objective: Any,
    held_out: TokenSet,
    training: TokenSet | None,
    tokenizer: Tokenizer,
    reading: Reading,
    console: Console,
) -> list[Metric]:
    """What needs no model: compressors and n-grams on the text, or guesses at the objective's questions.

    None, and a note, where the text is needed and the files hold less than it.
    """
    if not objective.asks and not tokenizer.lossless:
        console.print(LOSSY.format(kind=tokenizer.manifest.kind), highlight=False, soft_wrap=True)
        return []
    size = tokenizer.manifest.padded_vocab_size
    if not objective.asks:
        text = held_out_text(held_out, tokenizer)
        if training is None:
            return floors(text, None)
        found = floors(text, document_texts(training, tokenizer))
        return [*found, unigram_floor(held_out, training, size, FLOOR_TOKENS)]
    if training is None:
        return []
    known = islice(reading.shuffled(training)(FLOOR_ROWS), FLOOR_TOKENS // (FLOOR_ROWS * reading.context_length) + 1)
    asked = reading.shuffled(held_out)(FLOOR_ROWS)
    return guessing_floors(objective, known, asked, vocab_size=size)
