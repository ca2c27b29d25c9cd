"""Texts as vectors: the mean of real tokens, whatever stands beside or behind them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from corestone.cli.main import app
from corestone.core.batch import TextBatch
from corestone.core.errors import DataError, SpecError
from corestone.core.mask import Mask
from corestone.core.spec import to_yaml
from corestone.core.vocabulary import Vocabulary
from corestone.data.spec import BytePair
from corestone.data.tokenizer import build_tokenizer
from corestone.generate.embed import embed_texts, mean_of_tokens
from corestone.models.decoder import build_decoder
from corestone.models.encoder import build_encoder, build_generator_discriminator
from corestone.train.checkpoint import write_checkpoint
from corestone.zoo.bert import bert
from corestone.zoo.electra import electra
from corestone.zoo.gpt import gpt2


class Letters:
    """A tokenizer whose letters have the ids from 2."""

    def __init__(self, classify: int | None) -> None:
        self.vocabulary = Vocabulary(size=28, separator=0, classify=classify)

    def encode(self, text: str) -> Sequence[int]:
        return [ord(letter) - ord("a") + 2 for letter in text]


def lively(dropout: float = 0.0):
    spec = bert(24, 2, 3, vocab_size=28, context_length=16, dropout=dropout)
    return build_encoder(spec.model_copy(update={"init": spec.init.model_copy(update={"std": 0.4})}), seed=2)


MODEL = lively().eval()
TEXTS = st.lists(st.text("abcdefghij", max_size=14), min_size=1, max_size=9)


def plainly(text: str, classify: int | None) -> torch.Tensor:
    """One text by itself, token by token."""
    ids = [0 if classify is None else classify, *(ord(letter) - ord("a") + 2 for letter in text), 0]
    tokens = torch.tensor([ids])
    with torch.no_grad():
        hidden = MODEL(TextBatch(tokens, tokens, torch.arange(len(ids))[None], Mask(causal=False))).hidden[0]
    total = torch.zeros(24)
    for vector in hidden:
        total += vector
    return total / len(ids) / (total / len(ids)).square().sum().sqrt()


@settings(deadline=None, max_examples=40)
@given(TEXTS, st.sampled_from([None, 1]), st.integers(1, 9))
def test_a_vector_is_the_mean_of_a_texts_tokens_whatever_stands_beside_it(
    texts: list[str], classify: int | None, batch_size: int
) -> None:
    """Worst case seen 5e-7."""
    found = embed_texts(MODEL, Letters(classify), texts, batch_size)
    for vector, text in zip(found, texts, strict=True):
        assert float((vector - plainly(text, classify)).abs().max()) <= 5e-6


def test_means_are_over_real_tokens_and_in_float32() -> None:
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [1e4, 1e4]]], dtype=torch.bfloat16)
    found = mean_of_tokens(hidden, torch.tensor([[1, 1, 0]]))
    assert found.dtype == torch.float32
    assert found.tolist() == [[2.0, 4.0]]


def test_dropout_is_off_and_the_training_mode_comes_back() -> None:
    model = lively(dropout=0.5).train()
    first, second = (embed_texts(model, Letters(1), ["abc"]) for _ in range(2))
    assert torch.equal(first, second)
    assert model.training


def test_no_texts_give_no_vectors_and_a_long_one_is_refused() -> None:
    assert embed_texts(MODEL, Letters(1), []).shape[0] == 0
    assert embed_texts(MODEL, Letters(1), ["a" * 14]).shape == (1, 24)
    with pytest.raises(DataError, match="text 2 has 17 tokens with those around it and the model's context is 16"):
        embed_texts(MODEL, Letters(1), ["a", "a" * 15])


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny checkpoint of each shape of computation."""
    tokenizer = build_tokenizer(BytePair(vocab_size=300), ["the stones of the wall, and the wall of stones"] * 30)
    rows = tokenizer.manifest.padded_vocab_size
    models = {
        "encoder": build_encoder(bert(24, 2, 3, rows, 32)),
        "pair": build_generator_discriminator(electra(24, 2, 4, 10, (1, 2), rows, 32)),
        "decoder": build_decoder(gpt2(24, 2, 3, rows, 32)),
    }
    folders = {name: tmp_path_factory.mktemp("models") / name for name in models}
    for name, model in models.items():
        weights = {key: value.detach() for key, value in model.named_parameters()}
        texts = {"model.yaml": to_yaml(model.spec), **tokenizer.files()}
        write_checkpoint(folders[name], {"model.safetensors": weights}, texts)
    return folders


@pytest.mark.parametrize("name", ["encoder", "pair"])
def test_the_verb_prints_a_line_of_json_per_text(checkpoints: dict[str, Path], name: str) -> None:
    done = CliRunner().invoke(app, ["embed", str(checkpoints[name])], input="the wall\nstönes, 石\n")
    rows = [json.loads(line) for line in done.output.splitlines()]
    assert [row["text"] for row in rows] == ["the wall", "stönes, 石"]
    assert all(len(row["vector"]) == 24 for row in rows)
    assert all(sum(value**2 for value in row["vector"]) == pytest.approx(1, abs=1e-5) for row in rows)
    done = CliRunner().invoke(app, ["embed", str(checkpoints[name]), "the wall", "stönes, 石", "--similarity"])
    table = [json.loads(line)["similarity"] for line in done.output.splitlines()]
    cosine = sum(a * b for a, b in zip(rows[0]["vector"], rows[1]["vector"], strict=True))
    assert [table[0][1], table[1][0]] == pytest.approx([cosine, cosine], abs=1e-5)
    assert [table[0][0], table[1][1]] == pytest.approx([1, 1], abs=1e-5)


def test_a_decoder_has_no_vector_of_a_whole_text(checkpoints: dict[str, Path]) -> None:
    done = CliRunner().invoke(app, ["embed", str(checkpoints["decoder"]), "the wall"])
    assert isinstance(done.exception, SpecError)
    assert "this model writes text" in str(done.exception)
    assert "embed with a model of kind encoder or generator_discriminator" in str(done.exception)
