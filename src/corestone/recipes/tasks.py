"""Score a run or checkpoint by the field's own protocols, each number with its convention, beside published ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

from corestone.core.errors import CheckpointError, DataError, SpecError, unknown
from corestone.core.metric import Metric
from corestone.core.protocols import Evaluator, Model
from corestone.core.spec import plain
from corestone.data.prepare.pipeline import prepare_source
from corestone.data.sources import own_files
from corestone.data.spec import Prepare
from corestone.data.tokenizer import Tokenizer
from corestone.data.tokens import open_token_set
from corestone.evaluate.dynamic import learning
from corestone.evaluate.floors import document_texts
from corestone.evaluate.last_word import LastWord, Passage, made_passages
from corestone.evaluate.perplexity import Scorer
from corestone.evaluate.published import PublishedRow, published
from corestone.evaluate.rolling import Corpus, RollingPerplexity
from corestone.evaluate.spec import PICTURE_TASKS, RMS, SGD
from corestone.evaluate.text_sets import read_lambada, read_treebank, read_treebank_characters, read_wikitext
from corestone.models.decoder import DecoderModel
from corestone.objectives.spec import NextToken
from corestone.parallel.allocator import keep_freed_memory
from corestone.parallel.precision import Precision
from corestone.recipes.dynamic import gradient_statistics, named_dynamic, precision_with
from corestone.recipes.evaluate import DEFAULT_CONTEXT, held_out_sets, learnt
from corestone.recipes.kept import about_checkpoint, keep
from corestone.recipes.load import load_model, open_run
from corestone.recipes.registry import OBJECTIVES
from corestone.recipes.results import cells, plain_metric
from corestone.recipes.spec import Evaluation
from corestone.recipes.text import Reading, scorer, text_of
from corestone.train.archive import PICTURES, locate

LM_EVAL = "lm-eval:"
"""A task name that begins so is one of EleutherAI's lm-eval (`recipes/harness.py`)."""


@dataclass(frozen=True)
class Asked:
    """What a user asks of a task; None leaves it to the task.

    Attributes:
        data: the file of a test set, or a source of text.
        shots: examples before each question.
        stride: new tokens per row of a rolling likelihood; None: as many as a row has.
        context: the most tokens of a row; None: as many as the run trained with.
        batch_size: rows at a time; changes the speed alone.
        dynamic: score once more while the model learns from the text it reads.
    """

    data: str | None = None
    shots: int | None = None
    stride: int | None = None
    context: int | None = None
    batch_size: int | None = None
    dynamic: SGD | RMS | None = None


@dataclass(frozen=True)
class Subject:
    """What is scored: the run or checkpoint, its tokenizer, how long and how many rows are, by which other scorer."""

    path: Path
    tokenizer: Tokenizer
    context: int
    batch_size: int
    score: Scorer | None = None


@dataclass(frozen=True)
class Task:
    """A protocol.

    Attributes:
        data: what `--data` takes.
        variant: which form of its text this is.
        takes: which of `shots`, `stride` and `dynamic` mean something to it.
        build: makes its evaluator.
    """

    data: str
    variant: str
    takes: frozenset[str]
    build: Callable[[Subject, Asked], TaskEvaluator]


class TaskEvaluator(Evaluator, Protocol):
    """Knows how many texts it scores."""

    documents: int


def _rolling(read: Callable[[str], Corpus], data: str, variant: str) -> Task:
    def build(subject: Subject, asked: Asked) -> TaskEvaluator:
        stride = asked.stride or subject.context
        corpus, context = read(str(asked.data)), subject.context
        return RollingPerplexity(subject.tokenizer, corpus, context, stride, subject.batch_size, subject.score)

    return Task(data, variant, frozenset({"stride", "dynamic"}), build)


def _last_word(read: Callable[[Subject, Asked], list[Passage]], data: str, variant: str) -> Task:
    def build(subject: Subject, asked: Asked) -> TaskEvaluator:
        passages = read(subject, asked)
        return LastWord(subject.tokenizer, passages, variant, asked.shots or 0, subject.context, subject.batch_size)

    return Task(data, variant, frozenset({"shots"}), build)


def _made(subject: Subject, asked: Asked) -> list[Passage]:
    """Passages out of held-out text: of a named source, or of the run itself."""
    if asked.data is None and not (subject.path / "recipe.yaml").is_file():
        raise CheckpointError(f"{subject.path}: a checkpoint has no data of its own; name some with --data SOURCE")
    held_out = [texts for _, _, texts, _ in held_out_sets(subject.path, asked.data, subject.tokenizer)]
    passages = made_passages(
        text.decode("utf-8") for texts in held_out for text in document_texts(texts, subject.tokenizer)
    )
    if not passages:
        raise DataError("last_word: the held-out text holds no passage that ends with a repeated word; give more text")
    return passages


class _Some:
    """Some metrics of another evaluator."""

    def __init__(self, inner: Evaluator, documents: int, names: tuple[str, ...]) -> None:
        self.inner, self.documents, self.names = inner, documents, names

    def run(self, model: Model) -> Iterator[Metric]:
        return (metric for metric in self.inner.run(model) if metric.name in self.names)


def _c4(subject: Subject, asked: Asked) -> TaskEvaluator:
    source = own_files(str(asked.data)).model_copy(update={"validation_percent": 100.0})
    folder = prepare_source(source, subject.tokenizer, Prepare(deduplicate=False))
    reading = Reading(subject.context, True, subject.batch_size)
    objective = OBJECTIVES.build(NextToken(), subject.tokenizer.vocabulary)
    texts = open_token_set(folder, "validation")
    inner = scorer(objective, texts, subject.tokenizer, reading)
    return _Some(inner, texts.n_documents, ("token_perplexity", "bits_per_byte"))


_WIKITEXT = "wiki.test.tokens, wiki.test.raw or their Parquet form"
_LAMBADA = "lambada_test.jsonl or Parquet with a column text, or one passage per line"
TASKS = {
    "wikitext103": _rolling(read_wikitext, _WIKITEXT, "text as it stands"),
    "wikitext103_natural": _rolling(
        lambda path: read_wikitext(path, natural=True), _WIKITEXT, "words put together again"
    ),
    "ptb": _rolling(read_treebank, "ptb.test.txt", "words"),
    "ptb_char": _rolling(read_treebank_characters, "ptb.char.test.txt", "characters"),
    "lambada_openai": _last_word(
        lambda _, asked: read_lambada(str(asked.data), lower_case=False), _LAMBADA, "text with its case kept"
    ),
    "lambada_standard": _last_word(
        lambda _, asked: read_lambada(str(asked.data), lower_case=True), _LAMBADA, "original lower-cased text"
    ),
    "last_word": _last_word(_made, "any source of text; none: the run's own held-out text", "passages made here"),
    "c4": Task("c4-validation.*.json.gz, .jsonl or Parquet with a column text", "documents apart", frozenset(), _c4),
}


def evaluate_task(
    path: Path, name: str, asked: Asked, precision: Precision = "auto", console: Console | None = None
) -> dict[str, Any]:
    """Score the newest whole checkpoint of a run, or a checkpoint, on a task.

    Returns:
        What was asked and of which checkpoint, the model's metrics, and the published rows of the same kind. It is kept
        in the folder of a run (`recipes/kept.py`).

    Raises:
        SpecError, DataError: no such task, an option that means nothing to it, no or unusable data.
    """
    task = find_task(name, asked)
    if (locate(path) / PICTURES).is_file():
        raise SpecError(f"--task {name}: scores text, and {path} sees pictures; its tasks: {', '.join(PICTURE_TASKS)}")
    keep_freed_memory()
    model, tokenizer = load_model(path, precision_with(asked.dynamic, precision))
    subject = subject_of(path, model, tokenizer, asked)
    evaluator = task.build(subject, asked)
    metrics = list(evaluator.run(model))
    if asked.dynamic is not None:
        metrics += _while_learning(task, subject, asked, model, asked.dynamic)
    rows = [row for row in published(name) if {metric.name for metric in metrics} & set(row.metrics)]
    result = told(subject, name, asked, model, metrics) | {
        "variant": task.variant,
        "shots": (asked.shots or 0) if "shots" in task.takes else None,
        "stride": (asked.stride or subject.context) if "stride" in task.takes else None,
        "documents": evaluator.documents,
        "published": [plain(row) for row in rows],
    }
    console = console or Console()
    show(console, result, metrics, rows)
    keep(path, [result], console)
    return result


def _while_learning(task: Task, subject: Subject, asked: Asked, model: Any, dynamic: SGD | RMS) -> list[Metric]:
    """The task's metrics once more, by a model that learns from the text as it reads."""
    run = open_run(subject.path) if (subject.path / "recipe.yaml").is_file() else None
    with learning(model, dynamic, gradient_statistics(model, subject.path, run, dynamic)) as score:
        return named_dynamic(task.build(replace(subject, score=score), asked).run(model), dynamic)


def find_task(name: str, asked: Asked) -> Task:
    """The task of a name, if what is asked means something to it."""
    if name not in TASKS:
        raise SpecError(f"--task: {unknown('task', name, [*TASKS, *PICTURE_TASKS, LM_EVAL + 'NAME'])}")
    task = TASKS[name]
    for option in ("shots", "stride", "dynamic"):
        if getattr(asked, option) is not None and option not in task.takes:
            those = ", ".join(other for other in TASKS if option in TASKS[other].takes)
            raise SpecError(f"--{option}: means nothing to {name}; leave it out (tasks that take it: {those})")
    if asked.data is None and name != "last_word":
        raise SpecError(f"{name}: needs its test file, which is not fetched; give --data FILE ({task.data})")
    return task


def subject_of(
    path: Path,
    model: Any,
    tokenizer: Tokenizer,
    asked: Asked,
    longest_default: int = DEFAULT_CONTEXT,
    answers: bool = False,
) -> Subject:
    """The rows of a task: as long as the run's own, unless asked otherwise and within the model's context.

    Args:
        longest_default: the most tokens of a row where there is no run.
        answers: an encoder-decoder will do, whose answers the task scores.

    Raises:
        SpecError: the model was not trained to predict next tokens, which every task scores.
    """
    run = open_run(path) if (path / "recipe.yaml").is_file() else None
    objective = run.objective if run else learnt(model)
    asks = OBJECTIVES.build(objective, tokenizer.vocabulary).asks if run else not isinstance(objective, NextToken)
    if asks and not isinstance(model, DecoderModel) and not (answers and model.generates == "answers"):
        kind = objective.model_dump()["kind"]
        raise SpecError(f"{path}: learnt {kind}, and a task scores next tokens; give a model that predicts those")
    longest = int(model.context_length)
    context = asked.context or min(longest, text_of(run).context_length if run else longest_default)
    if context > longest:
        raise SpecError(f"--context: the model reads at most {longest:,} tokens, not {context:,}")
    size = asked.batch_size or (run.evaluation if run else Evaluation()).batch_size
    return Subject(path, tokenizer, context, size)


def told(subject: Subject, name: str, asked: Asked, model: Any, metrics: list[Metric]) -> dict[str, Any]:
    """A task's result for JSON."""
    return {
        "task": name,
        "variant": "",
        "data": asked.data,
        "shots": asked.shots,
        "stride": None,
        "context": subject.context,
        "dynamic": None if asked.dynamic is None else plain(asked.dynamic),
        **about_checkpoint(subject.path),
        "precision": str(next(model.parameters()).dtype).removeprefix("torch."),
        "documents": None,
        "model": [plain_metric(metric) for metric in metrics],
        "published": [],
    }


def show(console: Console, result: dict[str, Any], metrics: list[Metric], rows: Sequence[PublishedRow]) -> None:
    """Print a table of the metrics and published rows, and below it how each was counted."""
    title = f"{result['task']}, {result['data'] or 'own held-out text'}"
    table = Table(title=f"{title} ({result['checkpoint']}, {result['precision']})")
    for name in ("metric", "value", "95 % interval", "unit", "n"):
        table.add_column(name, justify="left" if name in ("metric", "unit") else "right")
    for metric in metrics:
        table.add_row(f"[bold]{metric.name}[/]", *cells(metric))
    if rows:
        table.add_section()
    for row in rows:
        table.add_row(f"published: {row.system}", f"{row.value:g}", "", row.unit, "")
    console.print(table)
    for metric in metrics:
        console.print(f"{metric.name}: {metric.convention}", highlight=False, markup=False)
    for row in rows:
        console.print(f"{row.system} ({row.source}, {row.year}): {row.caveat}", highlight=False, markup=False)
