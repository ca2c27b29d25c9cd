"""Resolved recipes, initialisation and weight decay are what the reviewed texts say."""

from __future__ import annotations

import pytest
import record


@pytest.mark.parametrize("name", sorted(record.texts()))
def test_golden(name):
    assert record.texts()[name] == (record.HERE / name).read_text(encoding="utf-8"), "python tests/golden/record.py"


def test_no_golden_is_left_over():
    kept = {path.name for path in record.HERE.iterdir() if path.suffix in {".yaml", ".txt"}}
    assert kept == set(record.texts())
