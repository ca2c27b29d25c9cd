"""A run that does not compile does not load torch's compiler, which costs a second and 0.15 GB; nor does whoever opens
data load scaling laws and their scipy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

STEPS = """
sys.path.insert(0, sys.argv[1])
import torch
from corestone.core.units import duration
from corestone.optim.build import build_optimiser
from corestone.optim.spec import LAMB, SGD, Adafactor, AdamW, Lion
from corestone.train.spec import Training
from corestone.train.state import State
from parts import trainer
for kind in (AdamW, SGD, Lion, LAMB, Adafactor):
    parts, log = trainer(Training(length=duration("2 steps"), batch_tokens=128), steps=2, dtype=torch.bfloat16)
    parts.optimiser = build_optimiser(kind(learning_rate=1e-3), parts.weights.masters)
    parts.run(State())
    assert len(log) == 2
"""

VERBS = """
import corestone.recipes.evaluate
assert "scipy" not in sys.modules
import corestone.recipes.pretrain
"""


@pytest.mark.parametrize("script", [STEPS, VERBS], ids=["steps", "verbs"])
def test_neither_steps_nor_imports_load_it(script):
    told = 'print(sorted({"torch._dynamo", "torch._inductor", "torchvision"} & sys.modules.keys()))'
    command = [sys.executable, "-c", "import sys\n" + script + told, str(Path(__file__).parent)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout.strip() == "[]"
