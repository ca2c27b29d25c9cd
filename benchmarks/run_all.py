"""Run every benchmark, one after the other: `make bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PEERS = ("hand", "hand-compiled", "hf")

COMMANDS = [
    ["training_speed.py", "--model", "10m"],
    # In two parts: all sides together need more than 24 GB.
    ["training_speed.py", "--model", "124m", "--rounds", "3", "--sides", "corestone", "hand", "hand-compiled", "hf"],
    ["training_speed.py", "--model", "124m", "--sides", "corestone", *(f"{side}+allocator" for side in PEERS)],
    ["vision_speed.py", "--model", "s16-224"],
    ["vision_speed.py", "--model", "ti4-32"],
    ["contrastive_speed.py", "--captions", "full"],
    ["contrastive_speed.py", "--captions", "natural"],
    ["contrastive_memory.py"],
    ["convergence.py"],
    ["optimisers.py"],
    ["generation_speed.py"],
    ["h3_scaling.py"],
    ["tokenize_speed.py"],
    ["loading_speed.py"],
    ["image_loading.py"],
    ["plan_accuracy.py"],
    ["ladder_accuracy.py"],
]


def main() -> None:
    folder = Path(__file__).parent
    failed = []
    for command in COMMANDS:
        print(f"\n$ python benchmarks/{' '.join(command)}", flush=True)
        if subprocess.run([sys.executable, str(folder / command[0]), *command[1:]]).returncode:
            failed.append(command[0])
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
