"""`corestone evaluate`: how well a model predicts held-out text, beside trivial floors, or does on a known test set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from corestone.core.errors import SpecError

if TYPE_CHECKING:
    from rich.console import Console

    from corestone.evaluate.spec import RMS, SGD, PictureTask
    from corestone.parallel.precision import Precision
    from corestone.recipes.tasks import Asked


SETTINGS = typer.Argument(
    help="Settings of --dynamic: eta, lam, segment; of rms also eps, statistics_segments, statistics_tokens. "
    "Of --task zero_shot: class_names, templates (JSON files as CLIP_benchmark has them), dataset; of knn: "
    "nearest, temperature; of linear_probe: penalty.",
    metavar="KEY=VALUE",
)
DATA = typer.Option(
    help="Other text: a data set's name, a file, folder or glob, hf://PATH or -; with --task the file of its test set. "
    "'PATH?text_key=NAME' where rows hold their text under another key. For tasks on pictures: a folder of class "
    "folders, a table, .tar shards or a data set's name, with fields of its record behind '?' (t.csv?label_key=breed)."
)
TASK = typer.Option(
    help="A known test instead of plain text: wikitext103, wikitext103_natural, ptb, ptb_char, lambada_openai, "
    "lambada_standard, last_word, c4, or lm-eval:NAME (pip install 'corestone[eval]'; --data may name a folder of own "
    "tasks). Of models that see pictures: zero_shot, knn, linear_probe, retrieval, captions."
)


def evaluate(
    path: Annotated[
        Path,
        typer.Argument(help="A run folder (its newest whole checkpoint) or a checkpoint folder.", metavar="RUN"),
    ],
    settings: Annotated[list[str] | None, SETTINGS] = None,
    data: Annotated[str | None, DATA] = None,
    task: Annotated[str | None, TASK] = None,
    shots: Annotated[int | None, typer.Option(min=0, help="With --task: examples before each question.")] = None,
    stride: Annotated[
        int | None,
        typer.Option(min=1, help="With --task: new tokens per row of a long text. Default: rows without overlap."),
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=2, help="With --task: the most tokens of a row. Default: as the run trained.")
    ] = None,
    precision: Annotated[
        Literal["auto", "bfloat16", "float32"],
        typer.Option(help="Format of the arithmetic; auto: the one that this machine multiplies faster."),
    ] = "auto",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows at a time; changes the speed alone.")] = None,
    dynamic: Annotated[
        Literal["sgd", "rms"] | None,
        typer.Option(help="Score once more while the model learns: it takes a step behind each segment of the text."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a model on what it has not seen, or on a known task.

    Held-out text gives nats per token, bits per byte and perplexities with intervals, beside floors on the same bytes.
    A run's folder keeps what it was scored on, and corestone report shows it.
    """
    from rich.console import Console

    console, pictures = Console(quiet=as_json), _picture_task(task, settings or [])
    record = None if pictures else _record(dynamic, settings or [])
    if task is None and (shots, stride, context) != (None, None, None):
        raise SpecError("evaluate: --shots, --stride and --context belong to a task; name one with --task")
    if pictures is not None and (shots, stride, context, dynamic) != (None, None, None, None):
        raise SpecError(f"--task {task}: takes no --shots, --stride, --context or --dynamic; leave them out")
    if pictures is not None:
        from corestone.recipes.picture_tasks import evaluate_pictures

        results: Any = evaluate_pictures(path, pictures, data, precision, batch_size, console)
    elif task is None:
        from corestone.recipes.evaluate import evaluate as run_evaluation

        results = run_evaluation(path, data, precision, batch_size, console, record)
    else:
        from corestone.recipes.tasks import Asked

        asked = Asked(data=data, shots=shots, stride=stride, context=context, batch_size=batch_size, dynamic=record)
        results = _task(path, task, asked, precision, console)
    if as_json:
        typer.echo(json.dumps(results, indent=1))


def _picture_task(task: str | None, settings: list[str]) -> PictureTask | None:
    """The record of a task on pictures, refused before torch is loaded; None of another task."""
    from corestone.core.spec import override
    from corestone.evaluate.spec import PICTURE_TASKS

    return override(PICTURE_TASKS[task](), settings) if task in PICTURE_TASKS else None


def _record(dynamic: str | None, settings: list[str]) -> SGD | RMS | None:
    """The record of dynamic evaluation, refused before torch is loaded."""
    from corestone.core.spec import override
    from corestone.evaluate.spec import RMS, SGD

    if dynamic is not None:
        return override(SGD() if dynamic == "sgd" else RMS(), settings)
    if settings:
        raise SpecError(
            f"evaluate: '{settings[0]}' is a setting of dynamic evaluation or a task on pictures; "
            "add --dynamic sgd or rms, or such a --task"
        )
    return None


def _task(path: Path, task: str, asked: Asked, precision: Precision, console: Console) -> dict[str, Any]:
    from corestone.recipes.tasks import LM_EVAL, evaluate_task

    if not task.startswith(LM_EVAL):
        return evaluate_task(path, task, asked, precision, console)
    try:
        from corestone.recipes.harness import evaluate_lm_eval
    except ModuleNotFoundError as error:
        if error.name != "lm_eval":
            raise
        raise SpecError(f"--task {task}: needs lm-eval; run: pip install 'corestone[eval]'") from None
    return evaluate_lm_eval(path, task.removeprefix(LM_EVAL), asked, precision, console)
