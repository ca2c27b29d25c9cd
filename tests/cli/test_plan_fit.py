"""corestone plan fit: a table, JSON and figures of the same numbers, from a CSV file and from runs."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


def plan_fit(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "corestone", "plan", "fit", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five sizes at each of four computes by the corrected Chinchilla law with 0.3 % of noise, a run that diverged and
    an outlier."""
    generator = np.random.default_rng(0)
    lines = ["parameters,tokens,loss,flops"]
    for flops in np.geomspace(1e18, 1e21, 4):
        for size in 8.05e7 * (flops / 1e18) ** 0.513 * np.geomspace(1 / 4, 4, 5):
            tokens = flops / (6 * size)
            loss = 1.8172 + 482.01 / size**0.3478 + 2085.43 / tokens**0.3658
            lines.append(f"{size},{tokens},{loss * math.exp(0.003 * generator.normal())},{flops}")
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    path.write_text("\n".join([*lines, "1e9,1e10,nan,6e19", "1e9,1e10,5.1,6e19"]) + "\n")
    return path


def test_table_json_and_figures_tell_the_same(rows: Path, tmp_path: Path) -> None:
    done = plan_fit(str(rows), "--out", str(tmp_path / "out"), "--seed", "3")
    assert done.returncode == 0, done.stderr
    tree = json.loads((tmp_path / "out" / "study.json").read_text())
    law = tree["laws"]["parameters and tokens"]
    floor = law["constants"]["floor"]
    assert floor["interval"][0] < floor["value"] < floor["interval"][1]
    assert floor["value"] == pytest.approx(1.8172, rel=0.05)  # 0.6 % off
    assert f"{floor['value']:.5g}" in done.stdout
    assert law["extrapolation"]["mean_error"] < 0.02  # 0.6 %, at 10 times the compute
    assert f"{law['extrapolation']['mean_error']:.2%}" in done.stdout
    assert tree["isoflop"]["parameters"]["exponent"] == pytest.approx(0.513, abs=0.03)  # 0.501
    assert "line 22: loss is not finite (the run diverged) (nan)" in done.stdout
    assert "outlier left out: line 23: loss +9" in done.stdout
    for name in ("loss-over-compute", "isoflop", "predicted-measured"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "out" / f"{name}.svg").read_text().rstrip().endswith("</svg>")
    as_json = plan_fit(str(rows), "--out", str(tmp_path / "again"), "--seed", "3", "--json")
    assert json.loads(as_json.stdout) == tree
    figures = [(tmp_path / folder / "isoflop.svg").read_bytes() for folder in ("out", "again")]
    assert figures[0] == figures[1]


def test_what_cannot_be_fitted_ends_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "two.csv"
    path.write_text("parameters,tokens,loss\n1e6,1e7,3\n1e7,1e8,2\n")
    done = plan_fit(str(path), "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert (
        done.stderr == "error: 2 rows allow no fit: a fit of loss over flops needs at least 4 rows (got 2); add runs\n"
    )
    assert not (tmp_path / "out").exists()
