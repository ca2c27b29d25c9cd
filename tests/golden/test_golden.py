"""Resolved recipes, initialisation and weight decay are what the reviewed texts say."""

from __future__ import annotations

import pytest
import record


@pytest.mark.parametrize("name", sorted(record.texts()))
def test_golden(name):
    assert record.texts()[name] == (record.HERE / name).read_text(encoding="utf-8"), "python tests/golden/record.py"


def test_no_golden_is_left_over():
    kept = {path.name for path in record.HERE.iterdir() if path.suffix in {".yaml", ".txt"}}
    assert kept == {*record.texts(), record.LOSSES}


def test_the_first_losses_of_the_main_job():
    # One thread instead of two moved a loss by 2e-7 of itself at most; the kernels of another processor may do more.
    kept = [float(line) for line in (record.HERE / record.LOSSES).read_text().split()]
    assert len(kept) == 20
    assert record.first_losses() == pytest.approx(kept, rel=1e-4), "python tests/golden/record.py"
