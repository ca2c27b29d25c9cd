"""Small models, tokenizers and folders to convert. Nothing here needs the `transformers` library."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors.torch import save_file
from tiny_models import random_tensors
from tokenizers import decoders, models, pre_tokenizers, trainers

from corestone.core.spec import to_yaml
from corestone.core.vocabulary import Vocabulary
from corestone.data.spec import BytePair
from corestone.data.tokenizer import Tokenizer, build_tokenizer
from corestone.interop.settings import family_of_spec, to_config
from corestone.interop.weights import Record, to_theirs
from corestone.models.spec import Decoder, Encoder
from corestone.train.checkpoint import write_checkpoint

TEXT = ["a stone wall stands where the stones were cut", "cornerstone, keystone, corestone: 12 stones\n"] * 20


def save_huggingface_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    """Train a byte-level tokenizer with the library alone and save it as Hugging Face folders hold it."""
    raw = tokenizers.Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=280, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    )
    raw.save(str(folder / "tokenizer.json"))
    return raw


@pytest.fixture
def huggingface(tmp_path: Path) -> Callable[..., Path]:
    """Write a Hugging Face folder: `huggingface(spec)`, weights random, tokenizer.json beside them."""

    def write(spec: Decoder | Encoder, name: str = "theirs", dtype: torch.dtype = torch.float32) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        family = family_of_spec(spec, "test")
        rows = spec.embedding.vocab_size
        tensors = to_theirs(family, spec, random_tensors(spec), rows)
        save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(to_config(family, spec, Vocabulary(size=rows, separator=0))))
        save_huggingface_tokenizer(folder)
        return folder

    return write


@pytest.fixture(scope="session")
def trained_tokenizer() -> Tokenizer:
    """A tokenizer of ours with fewer tokens than its padded size."""
    return build_tokenizer(BytePair(vocab_size=300), TEXT)


@pytest.fixture
def checkpoint(tmp_path: Path, trained_tokenizer: Tokenizer) -> Callable[..., Path]:
    """Write a checkpoint of ours: `checkpoint(spec)`, weights random."""

    def write(spec: Record, name: str = "ours", tokenizer: Tokenizer = trained_tokenizer) -> Path:
        folder = tmp_path / name
        write_checkpoint(
            folder,
            {"model.safetensors": random_tensors(spec)},
            {"model.yaml": to_yaml(spec), **tokenizer.files()},
        )
        return folder

    return write


@pytest.fixture
def without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `import transformers` fail, as where it is not installed."""
    monkeypatch.setitem(sys.modules, "transformers", None)
