"""Pairs spread over two processes have the gradient that they have together in one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from pairs import TinyTowers, gradients_of, objective, pairs
from safetensors.torch import load_file

LOSSES = ("softmax", "sigmoid")
WORKER = """
import sys
sys.path.insert(0, sys.argv[2])
from safetensors.torch import save_file
from pairs import TinyTowers, gradients_of, objective, pairs, split
from corestone.parallel.collectives import end_rank, join_world
world, kept = join_world(), {}
mine = pairs().rows(6 * world.rank, 6 * world.rank + 6)
for loss in ("softmax", "sigmoid"):
    model = TinyTowers()
    found = objective(loss).gradients(model, split(mine, (4, 2)), (0, 1), world)
    sums = gradients_of(model) | {"total": found.total, "weight": found.weight.float()}
    world.sum_(list(sums.values()))
    kept |= {f"{loss}.{name}": value for name, value in sums.items()}
if world.is_main:
    save_file(kept, sys.argv[1])
end_rank()
"""


def over_two_ranks(path: Path) -> dict[str, torch.Tensor]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    helpers = str(Path(__file__).parents[1] / "objectives")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(path), helpers], env=base | {"RANK": str(rank), "WORLD_SIZE": "2"}
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    return load_file(path)


def test_two_ranks_equal_one_whole_batch(tmp_path):
    two, compared = over_two_ranks(tmp_path / "two"), set()
    for loss in LOSSES:
        model = TinyTowers()
        whole = objective(loss).loss(model, pairs())
        whole.total.backward()
        one = gradients_of(model) | {"total": whole.total.detach(), "weight": whole.weight}
        for name, value in one.items():
            worst = (two[f"{loss}.{name}"] - value).abs().max().item() / value.abs().max().item()
            assert worst < 1e-6, (loss, name, worst)  # measured 5.1e-7
            compared.add(f"{loss}.{name}")
    assert compared == set(two)
