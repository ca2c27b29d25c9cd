"""What a run does besides learning: progress lines, held-out loss, samples, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from corestone.core.format import clock, si
from corestone.core.metric import Metric
from corestone.core.protocols import Evaluator
from corestone.core.runlog import RunLog
from corestone.recipes.build import Built
from corestone.train.checkpoint import checkpoint_folder, forget_old
from corestone.train.loop import Hook, StepResult
from corestone.train.meter import Meter
from corestone.train.noise import SCALE
from corestone.train.state import State

Scored = Callable[[State, Sequence[Metric]], None]
"""Told the held-out figures of a run while it trains, on the main rank."""


@dataclass
class Watch:
    """The hooks of a run share what they look at. All ranks call them; the main rank writes."""

    built: Built
    folder: Path
    log: RunLog | None
    meter: Meter
    console: Console
    held_out: Evaluator
    scored: Scored | None = None

    def hooks(self) -> list[Hook]:
        """In the order in which they act at one step: a checkpoint knows the loss measured just before it."""
        rhythm, every = self.built.run.rhythm, self.built.every
        return [
            Hook(every(rhythm.log), self.progress),
            Hook(every(rhythm.evaluate), self.score),
            Hook(every(rhythm.sample), self.sample),
            Hook(every(rhythm.checkpoint), self.checkpoint),
        ]

    def seen(self, state: State) -> int:
        """Tokens or pictures so far."""
        return state.step * self.built.step_units

    def write(self, event: str, state: State, **fields: object) -> None:
        if self.log is not None:
            self.log.log(event, step=state.step, **{self.built.data.unit: self.seen(state)}, **fields)

    def progress(self, state: State, result: StepResult | None) -> None:
        """One line with everything that is watched, and the same as a `train` event."""
        reading = self.meter.read()
        if result is None or reading.steps == 0:
            return
        unit, short = self.built.data.unit, SHORT[self.built.data.unit]
        measured = {name: getattr(reading, name) for name in MEASURED} | {
            f"{unit}_per_second": reading.units_per_second
        }
        numbers = {"loss": result.loss, "learning_rate": result.learning_rate, "grad_norm": result.grad_norm}
        self.write("train", state, **numbers, **measured, **result.metrics)
        total = self.built.total_steps
        scale = result.metrics.get(SCALE)
        critical = "" if scale is None else f"critical batch {si(scale, short)}  "
        left = (total - state.step) * reading.seconds / reading.steps
        self.console.print(
            f"step [bold]{state.step:>{len(str(total))}}[/]/{total}  {si(self.seen(state), short)}  "
            f"loss [bold]{result.loss:.4f}[/]  lr {result.learning_rate:.2e}  grad {result.grad_norm:.2f}  "
            f"{si(reading.units_per_second, f'{short}/s')}  {si(reading.flops_per_second, 'FLOP/s')} "
            f"({reading.utilisation:.0%} of peak)  data wait {reading.data_wait_share:.1%}  "
            f"{si(reading.memory_bytes, 'B')}  {critical}ETA {clock(left)}",
            highlight=False,
            soft_wrap=True,
        )

    def score(self, state: State, result: StepResult | None) -> None:
        """The figures of the beginning of the held-out data; the best one of the first marks the best checkpoint."""
        if self.built.world.is_main:
            with self.meter.paused(), self.built.given_away() as model:
                metrics = list(self.held_out.run(model))
            first, sign = metrics[0], -1 if self.built.data.more_is_better else 1
            state.held_out, state.held_out_step = first.value, state.step
            if state.best is None or sign * first.value < sign * state.best:
                state.best, state.best_step = first.value, state.step
            self.write("evaluate", state, metrics={metric.name: metric.value for metric in metrics})
            self.console.print(
                f"[green]held out[/]  {'  '.join(f'{metric.value:.4f} {metric.unit}' for metric in metrics[:2])} "
                f"(n = {first.n:,})",
                highlight=False,
            )
            if self.scored is not None:
                self.scored(state, metrics)
        self.built.world.barrier()

    def sample(self, state: State, result: StepResult | None) -> None:
        """The model continues the recipe's prompts."""
        if self.built.world.is_main:
            with self.meter.paused(), self.built.given_away() as model:
                pairs = self.built.data.samples(self.built.run, model)
        if self.built.world.is_main and pairs:
            self.write("sample", state, samples=[{"prompt": prompt, "text": text} for prompt, text in pairs])
            shown = " ".join("".join(pairs[0]).split())[:160]
            self.console.print(f"[cyan]sample[/]    {escape(shown)}", highlight=False)
        self.built.world.barrier()

    def checkpoint(self, state: State, result: StepResult | None = None) -> None:
        """Save the run and forget old checkpoints."""
        if self.built.world.is_main:
            with self.meter.paused():
                path = checkpoint_folder(self.folder, state.step)
                self.built.save(path, state)
                forget_old(self.folder, self.built.run.rhythm.keep_last, state.best_step)
            self.write("checkpoint", state, path=str(path.relative_to(self.folder)))
        self.built.world.barrier()

    def anomaly(self, state: State, problem: str, documents: Sequence[str]) -> None:
        """Say what went wrong at a step and which documents it saw."""
        policy = self.built.run.training.anomaly.policy
        self.write("anomaly", state, problem=problem, policy=policy, documents=list(documents))
        self.console.print(f"[red]anomaly[/]   step {state.step + 1}: {problem} (policy: {policy})", highlight=False)


SHORT = {"tokens": "tok", "pictures": "img"}

MEASURED = (
    "flops_per_second",
    "utilisation",
    "data_wait_share",
    "memory_bytes",
)
