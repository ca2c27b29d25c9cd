"""The number format of a run: measured where it is left open, and kept for the run's whole life."""

from __future__ import annotations

import json

import pytest
import torch

from corestone.parallel import precision
from corestone.parallel.collectives import World
from corestone.parallel.precision import WORTH, compute_dtype, decoding_dtype
from corestone.recipes.language.shakespeare import shakespeare
from corestone.recipes.pretrain import compute_format

CPU = torch.device("cpu")
ALONE = World(rank=0, size=1, device=CPU)


@pytest.fixture
def peaks(monkeypatch):
    """FLOP/s by format, as a processor of the test's making would have them."""
    rates = {torch.bfloat16: 1.0, torch.float32: 1.0}
    monkeypatch.setattr(precision, "gemm_peak", lambda dtype, device, seconds: rates[dtype])
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    precision._bfloat16_is_faster.cache_clear()
    yield rates
    precision._bfloat16_is_faster.cache_clear()


@pytest.mark.parametrize(
    ("ratio", "chosen"), [(0.5, torch.float32), (0.99 * WORTH, torch.float32), (1.01 * WORTH, torch.bfloat16)]
)
def test_auto_takes_what_multiplies_faster(peaks, ratio, chosen):
    peaks[torch.bfloat16] = ratio
    assert compute_dtype("auto", CPU) == chosen
    assert compute_dtype("bfloat16", CPU) == torch.bfloat16
    assert compute_dtype("float32", CPU) == torch.float32


def test_a_processor_without_bfloat16_is_not_measured(peaks, monkeypatch):
    peaks[torch.bfloat16] = 2.0
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    assert compute_dtype("auto", CPU) == decoding_dtype("auto", CPU) == torch.float32


def test_a_torch_without_onednn_is_asked_nothing(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", None)
    assert not precision.cpu_has_bfloat16()


def test_decoding_takes_the_smaller_format_whatever_multiplies_faster(peaks):
    peaks[torch.bfloat16] = 0.5
    assert decoding_dtype("auto", CPU) == torch.bfloat16
    assert decoding_dtype("float32", CPU) == torch.float32


@pytest.mark.parametrize("begun", ["bfloat16", "float32"])
def test_a_run_goes_on_in_the_format_it_began_with(peaks, tmp_path, begun):
    peaks[torch.bfloat16] = 0.5 if begun == "bfloat16" else 2.0  # this machine would choose the other one
    (tmp_path / "environment.json").write_text(json.dumps({"precision": begun}))
    assert compute_format(shakespeare(), tmp_path, ALONE) == getattr(torch, begun)


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"precision": "float8"}', '{"precision": []}'])
def test_without_a_record_the_machine_is_asked(peaks, tmp_path, text):
    peaks[torch.bfloat16] = 2.0
    if text is not None:
        (tmp_path / "environment.json").write_text(text)
    assert compute_format(shakespeare(), tmp_path, ALONE) == torch.bfloat16
