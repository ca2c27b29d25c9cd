"""From the record of a run to the built parts that the loop takes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from corestone.core.errors import CheckpointError, SpecError
from corestone.core.protocols import CorrectsItself, Recomputes
from corestone.core.spec import Spec, parse, to_yaml
from corestone.core.units import Duration
from corestone.nn.batch_norm import recompute_statistics
from corestone.nn.modes import freeze
from corestone.optim.build import build_optimiser, frozen_names, load_optimiser_tensors, optimiser_tensors
from corestone.optim.ema import ExponentialAverage
from corestone.optim.schedule import build_schedule
from corestone.parallel.collectives import World
from corestone.parallel.precision import MasterWeights
from corestone.recipes.registry import MODELS, OBJECTIVES
from corestone.recipes.run_data import RunData
from corestone.recipes.spec import ModelFile, Run
from corestone.recipes.start import START, begin, check_start
from corestone.train.archive import AVERAGE
from corestone.train.checkpoint import read_tensors, write_checkpoint
from corestone.train.noise import check_measurable
from corestone.train.state import State

_log = logging.getLogger(__name__)


def build_model(spec: Spec, seed: int, device: torch.device) -> Any:
    """The model of a record, in float32, with its initial values."""
    return MODELS.build(spec, seed=seed, device=device)


STATISTICS_ROWS = 2_000
"""Training rows over which batch norms of averaged weights take their statistics."""


class Built:
    """Everything of a run that has a state, and how it is saved and restored."""

    def __init__(self, run: Run, data: RunData, world: World, dtype: torch.dtype) -> None:
        self.run, self.data, self.world, self.dtype = run, data, world, dtype
        self.model = build_model(run.model, run.seed, world.device)
        data.check(self.model)
        self.start = begin(run.start, run.model, _by_name(self.model), data.files()) if run.start else None
        if self.start and world.is_main:
            _log.warning(self.start.told())
        freeze(self.model, frozen_names(run.optimiser, dict(self.model.named_parameters())))
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.weights = MasterWeights(self.model, self.dtype)
        self.optimiser = build_optimiser(run.optimiser, self.weights.masters)
        self.objective = OBJECTIVES.build(run.objective, data.vocabulary)
        self.examples, self.step_units = data.batch(run)
        if run.training.noise_scale is not None:
            rank_rows = self.examples // world.size
            check_measurable(self.objective.reduction, rank_rows, run.training.micro_batch, world.size)
        self.loader = data.loader(run, self.examples, world)
        self.total_steps = self.steps(run.training.length)
        average = run.training.average
        self.average = ExponentialAverage(self.weights.masters, average.decay, average.ramp) if average else None
        self.factor = build_schedule(run.schedule, self.total_steps, self.steps)
        if run.training.recompute:
            for module in self.model.modules():
                if isinstance(module, Recomputes):
                    module.recompute = True

    def steps(self, length: Duration) -> int:
        """A duration in steps of this run."""
        if length.unit == "tokens" and self.data.unit != "tokens":
            raise SpecError(f"'{length}': this run counts in {self.data.unit}; give steps, examples or epochs")
        return length.steps(
            batch_tokens=self.step_units,
            batch_examples=self.examples,
            epoch_tokens=self.loader.epoch_units,
        )

    def every(self, length: Duration | None) -> int | None:
        """A rhythm in steps; at least one."""
        return None if length is None else max(1, self.steps(length))

    def learning_rate(self, step: int) -> float:
        return self.run.optimiser.learning_rate * self.factor(step)

    def updated(self) -> None:
        """After each update of the master weights."""
        if isinstance(self.model, CorrectsItself):
            self.model.after_update(self.weights.masters)
        if self.average is not None:
            self.average.update()

    @contextmanager
    def given_away(self) -> Iterator[Any]:
        """The model as the run gives it away: with averaged weights, where it averages them, and the statistics of
        batch norms over the first training batches that belong to these."""
        if self.average is None:
            yield self.model
            return
        with self.average.applied(self.model):
            steps = max(1, min(STATISTICS_ROWS // self.examples, self.loader.epoch_units // self.step_units))
            batches = (self.loader.batch(step).to(self.world.device) for step in range(steps))
            recompute_statistics(self.model, batches)
            yield self.model

    def save(self, folder: Path, state: State) -> None:
        """Write a checkpoint."""
        averages: dict[str, dict[str, torch.Tensor]] = {}
        if self.average is not None:
            with self.given_away() as model:
                buffers = {name: buffer.clone() for name, buffer in kept_buffers(model).items()}
            averages = {AVERAGE: {**self.average.tensors(), **buffers}}
        begun = {START: json.dumps(self.start.identity, indent=1)} if self.start else {}
        write_checkpoint(
            folder,
            {
                "model.safetensors": {**self.weights.masters, **kept_buffers(self.model)},
                "optimizer.safetensors": optimiser_tensors(self.optimiser),
                **averages,
            },
            {
                "model.yaml": to_yaml(self.run.model),
                "recipe.yaml": to_yaml(self.run),
                "state.json": json.dumps(state.to_json()),
                **self.data.files(),
                **begun,
            },
        )

    def restore(self, folder: Path) -> State:
        """Put weights and optimiser back and return the state of a whole checkpoint."""
        if self.start:
            check_start(self.start, folder)
        tensors = read_tensors(folder / "model.safetensors", self.world.device)
        load_weights({**self.weights.masters, **kept_buffers(self.model)}, tensors, str(folder))
        self.weights.publish()
        self.weights.clear()
        load_optimiser_tensors(self.optimiser, read_tensors(folder / "optimizer.safetensors", self.world.device))
        if self.average is not None:
            averages, buffers = read_tensors(folder / AVERAGE, self.world.device), kept_buffers(self.model)
            self.average.load({name: tensor for name, tensor in averages.items() if name not in buffers})
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return State.from_json(state, str(folder / "state.json"))


def kept_buffers(model: Any) -> dict[str, torch.Tensor]:
    """What a model remembers beside its parameters (the statistics of batch norms), by name."""
    kept = model.state_dict()
    return {name: buffer for name, buffer in model.named_buffers() if name in kept}


def _by_name(model: Any) -> dict[str, torch.Tensor]:
    """Parameters and what is remembered beside them."""
    return {**dict(model.named_parameters()), **kept_buffers(model)}


@torch.no_grad()
def load_weights(parameters: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor], where: str) -> None:
    """Copy tensors into parameters and buffers by name; CheckpointError names what is missing, extra or misshaped."""
    missing, extra = sorted(parameters.keys() - tensors.keys()), sorted(tensors.keys() - parameters.keys())
    if missing or extra:
        raise CheckpointError(f"{where}: does not fit the model (missing {missing[:3]}, unexpected {extra[:3]})")
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise CheckpointError(
                f"{where}: '{name}' has shape {list(tensors[name].shape)}, the model needs {list(parameter.shape)}"
            )
        parameter.copy_(tensors[name])


def read_model_spec(text: str, where: str) -> Spec:
    """The model record of a checkpoint's `model.yaml`."""
    return parse(ModelFile, {"model": yaml.safe_load(text)}, where).model
