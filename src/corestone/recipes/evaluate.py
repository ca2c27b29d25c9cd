"""Score a run or checkpoint on held-out text, beside floors measured on the same bytes in the same call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from corestone.core.batch import TextBatch
from corestone.core.errors import CheckpointError
from corestone.core.protocols import Metric
from corestone.core.units import si
from corestone.data.cache import cache_dir
from corestone.data.packing import evaluation_batches
from corestone.data.prepare.pipeline import prepare_source
from corestone.data.sources import parse_source
from corestone.data.spec import Prepare
from corestone.data.tokenizer import Tokenizer, check_same
from corestone.data.tokens import TokenSet, open_token_set
from corestone.evaluate.floors import floors
from corestone.evaluate.held_out import count_words, held_out_text
from corestone.evaluate.perplexity import TextPerplexity
from corestone.parallel.precision import Precision
from corestone.recipes.build import open_data
from corestone.recipes.load import load_model, open_run
from corestone.parallel.collectives import World
from corestone.train.checkpoint import newest_whole


def scorer(token_set: TokenSet, tokenizer: Tokenizer, batches: Sequence[TextBatch]) -> TextPerplexity:
    """A scorer of the given batches of a token set."""
    raise NotImplementedError


def evaluate(path: Path, source: str | None = None, precision: Precision = "auto", console: Console | None = None) -> dict[str, Any]:
    raise NotImplementedError
