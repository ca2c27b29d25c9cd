"""lm-eval's tasks on a run or checkpoint. Like `interop/harness.py`, this module needs the extra `eval`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager
from rich.console import Console

from corestone.core.errors import CorestoneError, DataError, SpecError, nearest
from corestone.core.metric import Metric
from corestone.interop.harness import CorestoneLM
from corestone.parallel.allocator import keep_freed_memory
from corestone.parallel.precision import Precision
from corestone.recipes.kept import keep
from corestone.recipes.load import load_model
from corestone.recipes.tasks import LM_EVAL, Asked, show, subject_of, told


def evaluate_lm_eval(
    path: Path, name: str, asked: Asked, precision: Precision = "auto", console: Console | None = None
) -> dict[str, Any]:
    """Score a run or checkpoint on a task or group of lm-eval.

    Args:
        asked: its `data` names a folder of own task files (YAML), instead of those that lm-eval ships.

    Returns:
        As `tasks.evaluate_task`; a metric's interval is 1.96 of lm-eval's standard errors to each side.

    Raises:
        SpecError: there is no such task.
        DataError: the task's data cannot be loaded.
    """
    if asked.stride is not None:
        raise SpecError("--stride: lm-eval's tasks read a text without overlap; leave it out")
    if asked.dynamic is not None:
        raise SpecError("--dynamic: lm-eval's tasks ask questions of a model that stays as it is; leave it out")
    manager = _tasks(name, asked.data)
    keep_freed_memory()
    model, tokenizer = load_model(path, precision)
    subject = subject_of(path, model, tokenizer, asked, longest_default=int(model.context_length), answers=True)
    lm = CorestoneLM(model, tokenizer, subject.context, subject.batch_size)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints remarks where --json is to be read
            found = lm_eval.simple_evaluate(
                model=lm, tasks=[name], num_fewshot=asked.shots, task_manager=manager, log_samples=False
            )
    except Exception as error:  # of many unrelated types: no network, a damaged file, a template's unknown column
        if isinstance(error, CorestoneError) or _is_ours(error):
            raise
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"{LM_EVAL}{name}: lm-eval cannot run it ({type(error).__name__}: {reason}); check that its data can be "
            "reached and its task file is right"
        ) from error
    metrics = list(_metrics(found, subject.context))
    counts = [count["effective"] for count in found["n-samples"].values()]
    result = told(subject, f"{LM_EVAL}{name}", asked, model, metrics) | {"documents": sum(counts)}
    console = console or Console()
    show(console, result, metrics, [])
    keep(path, [result], console)
    return result


def _is_ours(error: Exception) -> bool:
    """Whether it happened while our model was answering."""
    files = {frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)}
    return str(sys.modules[CorestoneLM.__module__].__file__) in files


def _tasks(name: str, folder: str | None) -> TaskManager:
    """lm-eval's own task list or that of a folder, if the name is on it."""
    if folder is not None and not Path(folder).is_dir():
        raise SpecError(
            f"--data: {folder} is no folder; lm-eval's own tasks need none, yours stand in one as YAML files"
        )
    manager = TaskManager(include_path=folder, include_defaults=folder is None)
    if name not in manager.all_tasks:
        guess = nearest(name, manager.all_tasks)
        hint = f"did you mean '{guess}'? " if guess else ""
        raise SpecError(f"{LM_EVAL}{name}: no such task; {hint}{len(manager.all_tasks):,} are known")
    return manager


def _metrics(found: Mapping[str, Any], context: int) -> Iterator[Metric]:
    """lm-eval's numbers, a group's own ones and those of each of its tasks."""
    library = importlib.metadata.version("lm_eval")
    for task, numbers in found["results"].items():
        examples = found["n-samples"].get(task, {}).get("effective") or numbers.get("sample_len") or 0
        shots, version = found["n-shot"].get(task), found["versions"].get(task)
        said = f"lm-eval {library}, {task} version {version}, {shots} examples, rows of up to {context:,} tokens"
        for key, value in numbers.items():
            name, _, filtered = key.partition(",")
            if not filtered or name.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = numbers.get(f"{name}_stderr,{filtered}")
            ends = (value - 1.96 * error, value + 1.96 * error) if isinstance(error, (int, float)) else None
            shown = name if filtered == "none" else f"{name} ({filtered})"
            yield Metric(f"{task}: {shown}", float(value), "", int(examples), ends, said)
