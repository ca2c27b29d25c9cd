"""The figures of a scaling study show every run, and what the study found."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from corestone.plan.rows import Row
from corestone.plan.study import study
from corestone.report.scaling import Goal, write_figures


def test_runs_of_one_size_have_two_figures_without_valleys(tmp_path: Path) -> None:
    rows = [Row(1e6, tokens, 1 + 30 / tokens**0.3) for tokens in np.geomspace(1e5, 1e9, 9)]
    paths = write_figures(study(rows, seed=0, resamples=10), tmp_path, "1 - top1_accuracy", "pictures")
    assert sorted(path.name for path in paths) == [
        "loss-over-compute.png",
        "loss-over-compute.svg",
        "predicted-measured.png",
        "predicted-measured.svg",
    ]
    over = (tmp_path / "loss-over-compute.svg").read_text()
    assert "fit over compute" in over
    assert "no cheaper run is better" in over
    agreement = (tmp_path / "predicted-measured.svg").read_text()
    assert "law of tokens" in agreement
    assert "measured 1 - top1_accuracy" in agreement
    held = "largest runs by the law of the rest"
    assert held in agreement
    # Nine runs; the legend has a mark too.
    assert len(re.findall(r"<use [^>]*style=\"fill: #2563a8", agreement)) >= 9


def test_valleys_name_their_compute(tmp_path: Path) -> None:
    rows = [
        Row(size, flops / 6 / size, 1 + 9 * flops**-0.05 + 0.02 * np.log(size / flops**0.5) ** 2, flops)
        for flops in (1e12, 1e13, 1e14)
        for size in flops**0.5 * np.array([0.3, 0.6, 1.0, 2.0, 3.0])
    ]
    write_figures(study(rows, seed=0, resamples=10), tmp_path, "loss", "tokens")
    drawn = (tmp_path / "isoflop.svg").read_text()
    for words in ("1e12", "1e13", "1e14", "IsoFLOP valleys", "parameters", "Best size and length"):
        assert words in drawn


def test_a_goal_is_drawn_beyond_the_runs(tmp_path: Path) -> None:
    rows = [Row(1e6, tokens, 1 + 30 / tokens**0.3) for tokens in np.geomspace(1e5, 1e9, 9)]
    found = study(rows, seed=0, resamples=10)
    write_figures(found, tmp_path / "a", "nats", "tokens", Goal(1e18, 1.05, (1.04, 1.06), None))
    drawn = (tmp_path / "a" / "loss-over-compute.svg").read_text()
    assert "target, predicted" in drawn
    assert "target, measured" not in drawn
    assert "10^{18}" in drawn  # the axis reaches the goal, 160 times beyond the largest run
    write_figures(found, tmp_path / "b", "nats", "tokens", Goal(1e18, 1.05, None, 1.055))
    assert "target, measured" in (tmp_path / "b" / "loss-over-compute.svg").read_text()
