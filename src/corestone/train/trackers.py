"""The run log's other readers: TensorBoard always, mlflow and Weights & Biases where a recipe asks for them."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from corestone.core.errors import CorestoneError, unknown
from corestone.core.runlog import Event, Tracker, number


def build_trackers(kinds: Sequence[str], run: Path, name: str, settings: Mapping[str, Any]) -> list[Tracker]:
    """TensorBoard files under RUN/tensorboard, and the further trackers asked for.

    Args:
        kinds: out of `mlflow` and `wandb`.
        run: the run folder. It keeps the remote runs' ids, so that a resumed run goes on in the same ones.
        name: of the run at the trackers.
        settings: the recipe as a plain tree, kept beside the numbers.

    Raises:
        CorestoneError: unknown name, or the extra that brings the library is not installed.
    """
    makers: dict[str, Callable[[Path, str, Mapping[str, Any]], Tracker]] = {"mlflow": MLflow, "wandb": WandB}
    for kind in kinds:
        if kind not in makers:
            raise CorestoneError(unknown("tracker", kind, makers))
    return [TensorBoard(run), *(makers[kind](run, name, settings) for kind in kinds)]


def scalars(event: Event) -> dict[str, float]:
    """The finite numbers of an event as `event/key`, nested ones (metrics) included; what trackers plot."""
    found: dict[str, float] = {}
    nested = event.get("metrics")
    for source in (event, nested if isinstance(nested, Mapping) else {}):
        for key in source:
            value = number(source, key)
            if value is not None and math.isfinite(value) and key not in ("step", "time"):
                found[f"{event['event']}/{key}"] = value
    return found


def _samples(event: Event) -> str:
    return "\n\n".join(f"**{item.get('prompt', '')}**{item.get('text', '')}" for item in event.get("samples", ()))


class TensorBoard:
    """Event files under RUN/tensorboard."""

    def __init__(self, run: Path) -> None:
        # Imported here because tensorboardX imports torch, which reading a log has no use for.

        self._folder = run / "tensorboard"
        self._open = SummaryWriter
        self._writer: Any = None
        self._hide_from: int | None = None

    def write(self, event: Event) -> None:
        """Add the event's numbers, and its samples as text."""
        if event["event"] == "resume":
            # The format has its own way to take steps back: a session start that hides what older files say after it.
            self._hide_from = event["step"] + 1 if self._folder.is_dir() else None
            return
        if self._writer is None:
            self._writer = self._open(str(self._folder), purge_step=self._hide_from)
        for name, value in scalars(event).items():
            self._writer.add_scalar(name, value, event["step"], walltime=event["time"])
        if event["event"] == "sample":
            self._writer.add_text("sample", _samples(event), event["step"], walltime=event["time"])
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()


class MLflow:
    """A run of mlflow; server and experiment come from mlflow's own environment variables."""

    def __init__(self, run: Path, name: str, settings: Mapping[str, Any]) -> None:
        try:
            import mlflow
        except ImportError:
            raise CorestoneError("tracker 'mlflow' needs a library: pip install 'corestone[mlflow]'") from None
        self._mlflow = mlflow
        known = _remote_id(run, "mlflow")
        active = mlflow.start_run(run_id=known, run_name=None if known else name)
        if known is None:
            mlflow.log_dict(dict(settings), "recipe.json")
            _remember(run, "mlflow", active.info.run_id)

    def write(self, event: Event) -> None:
        """Log the event's numbers."""
        self._mlflow.log_metrics(scalars(event), step=event["step"])

    def close(self) -> None:
        """End the remote run."""
        self._mlflow.end_run()


class WandB:
    """A run of Weights & Biases; project and key come from its own environment variables."""

    def __init__(self, run: Path, name: str, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise CorestoneError("tracker 'wandb' needs a library: pip install 'corestone[wandb]'") from None
        known = _remote_id(run, "wandb") or uuid.uuid4().hex[:8]
        self._run = wandb.init(id=known, resume="allow", name=name, dir=str(run), config=dict(settings))
        _remember(run, "wandb", known)
        # Steps go by a metric of our own: wandb's counter refuses to go back to a checkpoint.
        self._run.define_metric("*", step_metric="step")

    def write(self, event: Event) -> None:
        """Log the event's numbers, with the step as a number among them."""
        self._run.log({**scalars(event), "step": event["step"]})

    def close(self) -> None:
        """End the remote run."""
        self._run.finish()


def _remote_id(run: Path, kind: str) -> str | None:
    note = run / f"{kind}-run.txt"
    return note.read_text(encoding="utf-8").strip() or None if note.is_file() else None


def _remember(run: Path, kind: str, remote: str) -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / f"{kind}-run.txt").write_text(remote + "\n", encoding="utf-8")
