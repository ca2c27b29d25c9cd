"""CONTRIBUTING.md's example, word for word: a model, an objective and a data set from outside the package."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_of_contributing_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    recipe = tmp_path / "my_recipe.py"
    recipe.write_text(code)
    run = tmp_path / "run"
    command = [sys.executable, "-m", "corestone", "pretrain", str(recipe), "--run", str(run)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    metrics = {m["name"]: m["value"] for m in json.loads((run / "evaluation.json").read_text())["model"]}
    # A bigram of bytes must beat the best constant guess, the entropy of single bytes (4.6 bits here).
    assert metrics["bits_per_byte"] < 4.3
    data = json.loads((run / "data.json").read_text())
    assert data[0]["card"]["name"] == "comedies"
    assert 0 < metrics["nats_per_token"] < math.log(257)
