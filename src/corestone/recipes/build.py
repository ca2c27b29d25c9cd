"""From the record of a run to the built parts that the loop takes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from corestone.core.errors import CheckpointError, SpecError
from corestone.core.spec import Spec, parse, to_yaml
from corestone.core.units import Duration
from corestone.data.cache import cache_dir
from corestone.data.loader import TextLoader
from corestone.data.prepare.pipeline import Progress, prepare_data
from corestone.data.tokenizer import Tokenizer
from corestone.data.tokens import TokenSet, open_token_set
from corestone.nn.recurrent import RecurrentStack
from corestone.nn.stack import StackLayer
from corestone.optim.build import build_optimiser, load_optimiser_tensors, optimiser_tensors
from corestone.optim.schedule import build_schedule
from corestone.parallel.collectives import World
from corestone.parallel.precision import MasterWeights
from corestone.recipes.registry import MODELS, OBJECTIVES
from corestone.recipes.spec import ModelFile, Run
from corestone.train.checkpoint import read_tensors, write_checkpoint
from corestone.train.state import State


@dataclass(frozen=True)
class RunData:
    """A run's tokenizer and prepared sets, one of each split per component."""

    tokenizer: Tokenizer
    folders: list[Path]
    train: list[TokenSet]
    validation: list[TokenSet]


def open_data(run: Run, world: World, progress: Progress | None = None) -> RunData:
    """Prepare what is not prepared yet (the main rank does) and open it."""
    cache = cache_dir()
    if world.is_main:
        tokenizer, folders = prepare_data(run.data, cache, workers=0, progress=progress)
    world.barrier()
    if not world.is_main:
        tokenizer, folders = prepare_data(run.data, cache, workers=0, progress=None)
    return RunData(
        tokenizer=tokenizer,
        folders=folders,
        train=[open_token_set(folder, "train") for folder in folders],
        validation=[open_token_set(folder, "validation") for folder in folders],
    )


def batch_examples(run: Run) -> int:
    """Samples of one step over all ranks."""
    tokens, context = run.training.batch_tokens, run.data.context_length
    if tokens % context:
        raise SpecError(
            f"training.batch_tokens: {tokens} is no multiple of data.context_length ({context}); "
            f"the nearest are {tokens // context * context or context} and {(tokens // context + 1) * context}"
        )
    return tokens // context


def build_model(spec: Spec, seed: int, device: torch.device) -> Any:
    """The model of a record, in float32, with its initial values."""
    return MODELS.build(spec, seed=seed, device=device)


def check_fit(run: Run, model: Any, tokenizer: Tokenizer) -> None:
    """Refuse a model that cannot hold the tokenizer's ids or the data's rows."""
    rows, needed = model.vocab_size, tokenizer.manifest.vocab_size
    if rows < needed:
        raise SpecError(
            f"model: its vocabulary has {rows} entries, the tokenizer needs {needed}; set the model's "
            f"vocab_size={tokenizer.manifest.padded_vocab_size} (a multiple of 64 computes fastest)"
        )
    if model.context_length < run.data.context_length:
        raise SpecError(
            f"data.context_length: {run.data.context_length} tokens do not fit a model of context_length "
            f"{model.context_length}"
        )


class Built:
    """Everything of a run that has a state, and how it is saved and restored."""

    def __init__(self, run: Run, data: RunData, world: World, dtype: torch.dtype) -> None:
        self.run, self.data, self.world, self.dtype = run, data, world, dtype
        self.model = build_model(run.model, run.seed, world.device)
        check_fit(run, self.model, data.tokenizer)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.weights = MasterWeights(self.model, self.dtype)
        self.optimiser = build_optimiser(run.optimiser, self.weights.masters)
        self.objective = OBJECTIVES.build(run.objective, data.tokenizer.vocabulary)
        self.examples = batch_examples(run)
        self.loader = TextLoader(data.train, run.data, run.seed, self.examples, world.rank, world.size)
        self.total_steps = self.steps(run.training.length)
        self.factor = build_schedule(run.schedule, self.total_steps, self.steps)
        if run.training.recompute:
            for module in self.model.modules():
                if isinstance(module, StackLayer | RecurrentStack):
                    module.recompute = True

    def steps(self, length: Duration) -> int:
        """A duration in steps of this run."""
        return length.steps(
            batch_tokens=self.run.training.batch_tokens,
            batch_examples=self.examples,
            epoch_tokens=self.loader.epoch_tokens,
        )

    def every(self, length: Duration | None) -> int | None:
        """A rhythm in steps; at least one."""
        return None if length is None else max(1, self.steps(length))

    def learning_rate(self, step: int) -> float:
        return self.run.optimiser.learning_rate * self.factor(step)

    def save(self, folder: Path, state: State) -> None:
        """Write a checkpoint."""
        tokenizer = self.data.tokenizer.files()
        write_checkpoint(
            folder,
            {
                "model.safetensors": self.weights.masters,
                "optimizer.safetensors": optimiser_tensors(self.optimiser),
            },
            {
                "model.yaml": to_yaml(self.run.model),
                "recipe.yaml": to_yaml(self.run),
                "state.json": json.dumps(state.to_json()),
                **tokenizer,
            },
        )

    def restore(self, folder: Path) -> State:
        """Put weights and optimiser back and return the state of a whole checkpoint."""
        tensors = read_tensors(folder / "model.safetensors", self.world.device)
        load_weights(self.weights.masters, tensors, str(folder))
        self.weights.publish()
        self.weights.clear()
        load_optimiser_tensors(self.optimiser, read_tensors(folder / "optimizer.safetensors", self.world.device))
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return State.from_json(state, str(folder / "state.json"))


@torch.no_grad()
def load_weights(parameters: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor], where: str) -> None:
    """Copy tensors into parameters of the same names; CheckpointError names what is missing, extra or misshaped."""
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
