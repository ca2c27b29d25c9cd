"""Learning rates over widths: every run once, on one record, and the best rate per width."""

from __future__ import annotations

import json
import math

import pytest
from checked import decoder, recipe
from typer.testing import CliRunner

from corestone.cli.main import app
from corestone.core.errors import SpecError
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.coordinates import coordinate_check
from corestone.recipes.transfer import RECORD, Grid, read_rates, transfer

RATES = (0.001, 0.004, 0.016, 1e9)


def test_rates_are_a_range_of_doubles_or_a_list():
    assert read_rates("0.001:0.008") == (0.001, 0.002, 0.004, 0.008)
    assert read_rates("0.001:0.009") == (0.001, 0.002, 0.004, 0.008)
    assert read_rates("0.01,0.001, 0.1") == (0.001, 0.01, 0.1)
    for text in ("0.1", "0.1:0.01", "0.1:x", "0.1:0.2,0.4", "0.1,0.2", "-1,1,2", "1:2", ""):
        with pytest.raises(SpecError, match="--rates"):
            read_rates(text)


def test_each_run_is_trained_once_and_what_diverged_is_no_best_rate(tmp_path):
    run = find_recipe(recipe(tmp_path, decoder()), [])
    told: list[str] = []
    found = transfer(run, Grid((32, 64), 32, RATES, 1), 12, tmp_path / "out", told.append)
    assert len(told) == 3 * len(RATES)  # at the base width both parametrisations are one
    assert found["losses"]["standard"][32] == found["losses"]["muP"][32]
    assert all(math.isinf(rows[width][-1]) for rows in found["losses"].values() for width in (32, 64))
    for kind, rows in found["losses"].items():
        for width, losses in rows.items():
            assert found["best"][kind][width] == RATES[losses.index(min(losses))]
    assert found["drift"]["muP"] == max(found["best"]["muP"].values()) / min(found["best"]["muP"].values())

    again: list[str] = []
    assert transfer(run, Grid((32, 64), 32, RATES, 1), 12, tmp_path / "out", again.append) == found
    assert again == []
    more = transfer(run, Grid((32, 64), 32, RATES[:3], 2), 12, tmp_path / "out", again.append)
    assert len(again) == 3 * 3  # the second seed alone
    assert [seeds[0] for seeds in more["each"]["muP"][64]] == found["losses"]["muP"][64][:3]


def test_another_base_width_trains_every_mup_run_anew(tmp_path):
    run = find_recipe(recipe(tmp_path, decoder()), [])
    found, told = {}, dict[int, list[str]]()
    for base in (32, 128):
        told[base] = []
        found[base] = transfer(run, Grid((32, 64), base, RATES[:3], 1), 10, tmp_path / "out", told[base].append)
    assert [line.split(":")[0] for line in told[128]] == [
        f"muP (base 128) {width} {rate:g} {run.seed}" for width in (32, 64) for rate in RATES[:3]
    ]
    assert found[128]["losses"]["standard"] == found[32]["losses"]["standard"]
    for width in (32, 64):
        assert not set(found[128]["losses"]["muP"][width]) & set(found[32]["losses"]["muP"][width])
    again: list[str] = []
    assert transfer(run, Grid((32, 64), 32, RATES[:3], 1), 10, tmp_path / "out", again.append) == found[32]
    assert again == []


def test_several_ranks_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    run = find_recipe(recipe(tmp_path, decoder()), [])
    with pytest.raises(SpecError, match=r"mup transfer: .* without torchrun"):
        transfer(run, Grid((32,), 32, RATES, 1), 10, tmp_path / "out", lambda line: None)
    with pytest.raises(SpecError, match=r"mup check: .* without torchrun"):
        coordinate_check(run, [32, 64], 32)
    assert not (tmp_path / "out").exists()


def test_a_last_line_that_a_kill_cut_short_is_dropped_and_its_run_trained_again(tmp_path):
    run = find_recipe(recipe(tmp_path, decoder()), [])
    grid, record = Grid((32,), 32, RATES[:3], 1), tmp_path / "out" / RECORD
    found = transfer(run, grid, 10, tmp_path / "out", lambda line: None)
    whole = record.read_bytes()
    for cut in (whole[:-1], whole[:-20]):
        record.write_bytes(cut)
        told: list[str] = []
        assert transfer(run, grid, 10, tmp_path / "out", told.append) == found
        assert "dropped its last line" in told[0]
        assert told[1].startswith(f"standard 32 0.016 {run.seed}")
        assert record.read_bytes() == whole
    record.write_bytes(b"")  # killed before the first line
    assert transfer(run, Grid((32,), 32, RATES[:3], 1), 10, tmp_path / "out", told.append) == found
    assert record.read_bytes() == whole


def test_a_record_of_another_recipe_or_a_damaged_one_is_refused(tmp_path):
    run = find_recipe(recipe(tmp_path, decoder()), [])
    grid = Grid((32, 64), 32, RATES[:3], 1)
    transfer(run, Grid((32,), 32, RATES[:3], 1), 12, tmp_path, lambda line: None)
    with pytest.raises(SpecError, match="another recipe or number of steps"):
        transfer(run, grid, 13, tmp_path, lambda line: None)
    record = tmp_path / RECORD
    whole = record.read_text()
    first = whole.splitlines()[0]
    for damaged in (whole + '{"run": "mu\n', whole + "7\n", first[:-4], f"{first}\n{{}}\n", "a diary"):
        record.write_text(damaged)
        with pytest.raises(SpecError, match="no record of losses, or damaged"):
            transfer(run, grid, 12, tmp_path, lambda line: None)
        assert record.read_text() == damaged


def test_the_command_leaves_figure_and_numbers_and_says_where_the_range_ends(tmp_path):
    words = ["--widths", "32,64", "--steps", "10", "--rates", "0.0001:0.0004", "--out", str(tmp_path / "out")]
    path = recipe(tmp_path, decoder())
    done = CliRunner().invoke(app, ["mup", "transfer", path, *words])
    assert done.exit_code == 0, done.output
    assert "widen --rates" in done.stdout
    assert "muP: the best rate is the same at all widths" in done.stdout
    assert (tmp_path / "out" / "transfer.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads(CliRunner().invoke(app, ["mup", "transfer", path, *words, "--json"]).stdout)
    assert told["best"] == {"standard": {"32": 0.0004, "64": 0.0004}, "muP": {"32": 0.0004, "64": 0.0004}}
