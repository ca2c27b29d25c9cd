"""Rows for scaling laws, from run folders and CSV files: every refusal names file, line and column."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from corestone.core.errors import CheckpointError, DataError
from corestone.core.runlog import RunLog
from corestone.plan.rows import Row
from corestone.recipes.scaling import measured, read_csv

BITS = {"name": "bits_per_byte", "value": 2.5, "unit": "bits/byte", "n": 1000}
NATS = {"name": "nats_per_token", "value": 5.5, "unit": "nats/token", "n": 300}
ACCURACY = {"name": "top1_accuracy", "value": 0.9, "unit": "share of pictures", "n": 500}


def run(folder: Path, *, unit: str = "tokens", end: bool = True, parameters: int | None = 1000, **changed: Any) -> Path:
    """A run folder of two log lines; `changed` is of its evaluation's metrics."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("name: small\n")
    (folder / "environment.json").write_text(json.dumps({"parameters": parameters}))
    metrics = changed.get("metrics", [BITS, NATS])
    if metrics:
        (folder / "evaluation.json").write_text(json.dumps({"checkpoint": "step-2", "model": metrics}))
    with RunLog(folder) as log:
        speeds = {f"{unit}_per_second": 50.0, "flops_per_second": 50.0 * 7000}
        log.log("train", step=1, loss=3.0, **{unit: 4096}, **speeds)
        log.log("train", step=2, loss=2.0, **{unit: 8192}, **speeds)
        if end:
            log.log("end", step=2, **{unit: 8192})
    return folder


def test_a_run_gives_its_size_what_it_saw_its_compute_and_its_loss(tmp_path: Path) -> None:
    found = measured([run(tmp_path / "a")])
    assert found.rows == (Row(1000.0, 8192.0, 2.5, flops=8192 * 7000.0, step=2, name=str(tmp_path / "a")),)
    assert (found.loss, found.material) == ("bits_per_byte (bits/byte)", "tokens")


def test_a_run_knows_what_guessing_by_frequency_reaches_in_the_same_unit(tmp_path: Path) -> None:
    folder = run(tmp_path / "a")
    floors = [BITS | {"name": "5-gram", "value": 2.1}, BITS | {"name": "unigram of tokens", "value": 3.1}]
    (folder / "evaluation.json").write_text(json.dumps({"model": [BITS, NATS], "floors": floors}))
    assert measured([folder]).rows[0].guess == 3.1
    assert measured([folder], "nats_per_token").rows[0].guess is None


def test_another_metric_can_be_asked_for_and_a_misspelt_one_names_the_nearest(tmp_path: Path) -> None:
    folder = run(tmp_path / "a")
    assert measured([folder], "nats_per_token").rows[0].loss == 5.5
    with pytest.raises(DataError, match="no metric 'nats_per_tokens': did you mean 'nats_per_token'"):
        measured([folder], "nats_per_tokens")


def test_a_share_of_what_was_right_counts_as_what_was_wrong(tmp_path: Path) -> None:
    found = measured([run(tmp_path / "a", unit="pictures", metrics=[ACCURACY])])
    assert found.rows[0].loss == pytest.approx(0.1)
    assert (found.loss, found.material) == ("1 - top1_accuracy", "pictures")


def test_runs_that_give_no_row_are_counted_with_their_reason(tmp_path: Path) -> None:
    run(tmp_path / "runs" / "whole")
    run(tmp_path / "runs" / "deeper" / "open", end=False)
    run(tmp_path / "runs" / "unscored", metrics=[])
    run(tmp_path / "runs" / "unknown", parameters=None)
    found = measured([tmp_path / "runs"])  # a folder of runs
    assert [row.name for row in found.rows] == [str(tmp_path / "runs" / "whole")]
    assert {Path(one.row.name).name: one.reason for one in found.dropped} == {
        "open": "run is not finished",
        "unscored": "run was not evaluated",
        "unknown": "environment.json tells no parameter count",
    }
    with pytest.raises(DataError, match="none of 1 runs can be used \\(run is not finished\\); let runs finish"):
        measured([tmp_path / "runs" / "deeper"])


def test_losses_that_do_not_compare_are_refused(tmp_path: Path) -> None:
    one = run(tmp_path / "one")
    other = run(tmp_path / "other", metrics=[BITS | {"n": 999}])
    with pytest.raises(
        DataError, match=r"other: scored by bits_per_byte over 999, but .*one by bits_per_byte over 1,000"
    ):
        measured([one, other])
    pictures = run(tmp_path / "pictures", unit="pictures", metrics=[ACCURACY])
    with pytest.raises(CheckpointError, match="does not compare"):
        measured([one, pictures])


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="nowhere: there is no such file or folder; give run folders or a CSV file"
    ):
        measured([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty: not a run folder"):
        measured([tmp_path / "empty"])


def csv(folder: Path, text: str) -> Path:
    path = folder / "rows.csv"
    path.write_text(text)
    return path


def test_a_csv_file_gives_rows(tmp_path: Path) -> None:
    text = "name, parameters,tokens,loss,flops,step\n,1e6,2e7,3.5,,\n\nbig,1e7,2e8,nan,1.3e16,100\n"
    first, second = read_csv(csv(tmp_path, "\ufeff" + text))
    assert first == Row(1e6, 2e7, 3.5, name="line 2")
    assert first.compute == 6 * 1e6 * 2e7
    assert (second.name, second.flops, second.step, math.isnan(second.loss)) == ("big", 1.3e16, 100, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parameters,tokns,loss\n", "line 1: unknown column 'tokns': did you mean 'tokens'"),
        ("parameters,tokens\n", "line 1: column 'loss' is missing; the first line names parameters, tokens, loss"),
        ("parameters,tokens,loss,loss\n", "line 1: column 'loss' stands there twice"),
        ("", "line 1: column 'parameters' is missing"),
        ("parameters,tokens,loss\n1,2,3\n1,many,3\n", "line 3, column tokens: 'many' is not a number"),
        ("parameters,tokens,loss\n-1,2,3\n", "line 2, column parameters: '-1' is not a positive number"),
        ("parameters,tokens,loss\n1,nan,3\n", "line 2, column tokens: 'nan' is not a positive number"),
        ("parameters,tokens,loss\n1,2,\n", "line 2, column loss: empty; give a number, or drop the line"),
        ("parameters,tokens,loss\n1,2\n", "line 2: 2 cells, but the first line names 3 columns"),
        ('parameters,tokens,loss\n1,"2,3\n', "line 2: not valid CSV"),
    ],
)
def test_a_bad_csv_file_is_refused_with_file_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    path = csv(tmp_path, text)
    with pytest.raises(DataError) as refused:
        measured([path])
    assert str(refused.value).startswith(str(path))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_no_text_or_one_of_several_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"rows.csv: not a text file in UTF-8; give a CSV file"):
        measured([path])
    with pytest.raises(DataError, match=r"rows.csv: a CSV file stands alone"):
        measured([run(tmp_path / "a"), path])
