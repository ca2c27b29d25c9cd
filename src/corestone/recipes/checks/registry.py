"""Every check by its name."""

from __future__ import annotations

from collections.abc import Callable

from corestone.recipes.checks.context import Context
from corestone.recipes.checks.data_checks import data, workers
from corestone.recipes.checks.export_check import export
from corestone.recipes.checks.finding import Finding
from corestone.recipes.checks.forward_checks import cache, causality, evaluation_batch, packing
from corestone.recipes.checks.gradient_checks import accumulation, compiled, gradient_flow, precision, ranks
from corestone.recipes.checks.learning_checks import determinism, initial_loss, overfit, resume

CHECKS: dict[str, Callable[[Context], Finding]] = {
    "determinism": determinism,
    "initial-loss": initial_loss,
    "overfit": overfit,
    "gradient-flow": gradient_flow,
    "causality": causality,
    "packing": packing,
    "accumulation": accumulation,
    "ranks": ranks,
    "workers": workers,
    "resume": resume,
    "precision": precision,
    "compile": compiled,
    "cache": cache,
    "evaluation-batch": evaluation_batch,
    "export": export,
    "data": data,
}
