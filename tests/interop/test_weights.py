"""Weights under other names: there and back is the identity, and nothing is guessed, dropped or made up."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import make_decoder, random_tensors
from torch import Tensor

from corestone.core.batch import plain_batch
from corestone.core.errors import CheckpointError
from corestone.interop.agreement import outputs_of
from corestone.interop.settings import family_of_spec
from corestone.interop.weights import build_with, parameter_shapes, renamed, to_ours, to_theirs
from corestone.models.decoder import build_decoder
from corestone.models.spec import Decoder, Encoder, PoolerHead
from corestone.zoo.bert import bert
from corestone.zoo.bloom import bloom
from corestone.zoo.electra import electra
from corestone.zoo.gptj import gptj
from corestone.zoo.opt import opt

BERT = bert(20, 2, 5, vocab_size=37, context_length=11, hidden_dim=28)
PAIR = electra(18, 2, 3, table_width=10, generator_fraction=(1, 3), vocab_size=37, context_length=11)

SPECS: dict[str, Decoder | Encoder] = {
    "gpt2": make_decoder(),
    "gpt1": make_decoder(post_norm=True),
    "gptj": gptj(24, 2, 3, rotary_dims=6, vocab_size=37, context_length=11),
    "opt": opt(24, 2, 3, vocab_size=37, context_length=11),
    "opt-350m": opt(24, 2, 3, vocab_size=37, context_length=11).model_copy(
        update={"embedding": opt(24, 2, 3, 37, 11).embedding.model_copy(update={"width": 10})}
    ),
    "bloom": bloom(24, 2, 3, vocab_size=37, context_length=11),
    "bert": BERT,
    "bert-masked": BERT.model_copy(update={"pooler": None}),
    "bert-pooler": BERT.model_copy(update={"head": None, "pooler": PoolerHead()}),
    "bert-bare": BERT.model_copy(update={"head": None, "pooler": None}),
    "electra-generator": PAIR.generator,
    "electra-discriminator": PAIR.discriminator,
}


def theirs_of(spec: Decoder | Encoder) -> dict[str, Tensor]:
    return to_theirs(family_of_spec(spec, "test"), spec, random_tensors(spec), spec.embedding.vocab_size)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_there_and_back_is_the_identity_bit_for_bit(spec: Decoder | Encoder) -> None:
    family, ours = family_of_spec(spec, "test"), random_tensors(spec)
    again = to_ours(family, spec, theirs_of(spec), "test")
    assert again.keys() == ours.keys()
    assert all(torch.equal(again[name], ours[name]) for name in ours)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_the_table_names_every_parameter_once(spec: Decoder | Encoder) -> None:
    rows = list(renamed(family_of_spec(spec, "test"), spec))
    assert sorted(name.ours for name in rows) == sorted(parameter_shapes(spec))
    parts = [part for name in rows for part in name.parts]
    assert len(set(parts)) == len(parts)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_exactly(dtype: torch.dtype) -> None:
    spec = SPECS["gpt2"]
    stored = {name: tensor.to(dtype) for name, tensor in theirs_of(spec).items()}
    ours = to_ours(family_of_spec(spec, "test"), spec, stored, "test")
    back = to_theirs(family_of_spec(spec, "test"), spec, ours, spec.embedding.vocab_size)
    assert all(tensor.dtype == torch.float32 for tensor in ours.values())
    assert all(torch.equal(back[name].to(dtype), stored[name]) for name in stored)


def test_names_without_prefix_buffers_and_a_repeated_tied_head_are_understood() -> None:
    """As the first published GPT-2 files are: no prefix, causal masks stored as `attn.bias`."""
    spec = SPECS["gpt2"]
    bare = {name.removeprefix("transformer."): tensor for name, tensor in theirs_of(spec).items()}
    for layer in range(3):
        bare[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 17, 17).tril()
        bare[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    bare["lm_head.weight"] = bare["wte.weight"].clone()
    ours = to_ours(family_of_spec(spec, "test"), spec, bare, "test")
    assert all(torch.equal(ours[name], tensor) for name, tensor in random_tensors(spec).items())


def _drop(tensors: dict[str, Tensor]) -> None:
    del tensors["transformer.h.1.mlp.c_fc.bias"]


def _add(tensors: dict[str, Tensor]) -> None:
    tensors["transformer.h.1.crossattention.c_attn.weight"] = torch.zeros(2)


def _score(tensors: dict[str, Tensor]) -> None:
    tensors["score.weight"] = torch.zeros(2, 12)


def _further_layer(tensors: dict[str, Tensor]) -> None:
    tensors["transformer.h.3.ln_1.weight"] = torch.zeros(12)


def _transpose(tensors: dict[str, Tensor]) -> None:
    tensors["transformer.h.0.mlp.c_fc.weight"] = tensors["transformer.h.0.mlp.c_fc.weight"].T


def _widen(tensors: dict[str, Tensor]) -> None:
    tensors["transformer.wpe.weight"] = tensors["transformer.wpe.weight"].double()


def _quantise(tensors: dict[str, Tensor]) -> None:
    tensors["transformer.wte.weight"] = tensors["transformer.wte.weight"].to(torch.int8)


def _poison(tensors: dict[str, Tensor]) -> None:
    tensors["transformer.ln_f.bias"][3] = float("nan")


def _untie(tensors: dict[str, Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 1


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_drop, "lack 'h.1.mlp.c_fc.bias'"),
        (_add, "also hold 'h.1.crossattention.c_attn.weight'"),
        (_score, "also hold 'score.weight (without prefix)'"),
        (_further_layer, "also hold 'h.3.ln_1.weight'"),
        (_transpose, "'h.0.mlp.c_fc.weight' has shape [40, 12], config.json asks for [12, 40]"),
        (_widen, "'wpe.weight' is stored as float64"),
        (_quantise, "'wte.weight' is stored as int8"),
        (_poison, "'ln_f.bias' holds values that are not finite"),
        (_untie, "'lm_head.weight' differs from 'wte.weight'"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(spoil: Callable[[dict[str, Tensor]], Any], words: str) -> None:
    spec = SPECS["gpt2"]
    tensors = theirs_of(spec)
    spoil(tensors)
    with pytest.raises(CheckpointError, match=re.escape(words)) as refusal:
        to_ours(family_of_spec(spec, "test"), spec, tensors, "folder")
    assert str(refusal.value).startswith("folder: ")
    assert "\n" not in str(refusal.value)


def test_a_model_built_with_weights_holds_them_and_its_head_is_tied() -> None:
    spec = SPECS["gpt2"]
    first = build_decoder(spec, seed=3)
    second = build_with(spec, {name: p.detach() for name, p in first.named_parameters()}, "test")
    tokens = torch.arange(17)[None]
    first_logits, second_logits = (outputs_of(model, plain_batch(tokens))["logits"] for model in (first.eval(), second))
    assert torch.equal(first_logits, second_logits)
    assert second.head.weight is second.embedding.token.weight
    assert len(list(second.named_parameters())) == len(list(first.named_parameters()))


def test_weights_of_another_model_are_refused() -> None:
    spec = SPECS["gpt2"]
    tensors = random_tensors(spec)
    tensors["embedding.position.weight"] = torch.zeros(16, 12)
    with pytest.raises(CheckpointError, match=r"'embedding.position.weight' has shape \[16, 12\].*\[17, 12\]"):
        build_with(spec, tensors, "run")
    del tensors["embedding.position.weight"]
    with pytest.raises(CheckpointError, match=r"lack 'embedding.position.weight'"):
        build_with(spec, tensors, "run")
