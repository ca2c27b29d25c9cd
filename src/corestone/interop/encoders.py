"""Encoders of Hugging Face that an Encoder can express: a record per class, put together from the parts it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from corestone.interop.family import ACTIVATIONS, TIED, Family, Name, Settings, Tensors, Tree
from corestone.models.spec import Encoder


def _both(ours: str, *theirs: str) -> tuple[Name, Name]:
    """The weight and the bias of a layer."""
    weight, bias = (Name(f"{ours}.{kind}", tuple(f"{part}.{kind}" for part in theirs)) for kind in ("weight", "bias"))
    return weight, bias


_OURS, _THEIRS = "stack.blocks.{layer}.", "encoder.layer.{layer}."

_BODY = (
    Name("embedding.token.weight", "embeddings.word_embeddings.weight"),
    Name("embedding.position.weight", "embeddings.position_embeddings.weight"),
    Name("embedding.types.weight", "embeddings.token_type_embeddings.weight"),
    *_both("embedding.norm", "embeddings.LayerNorm"),
    *_both(_OURS + "mixer.qkv", *(f"{_THEIRS}attention.self.{part}" for part in ("query", "key", "value"))),
    *_both(_OURS + "mixer.out", _THEIRS + "attention.output.dense"),
    *_both(_OURS + "mixer_norm", _THEIRS + "attention.output.LayerNorm"),
    *_both(_OURS + "feedforward.up", _THEIRS + "intermediate.dense"),
    *_both(_OURS + "feedforward.down", _THEIRS + "output.dense"),
    *_both(_OURS + "feedforward_norm", _THEIRS + "output.LayerNorm"),
)

_BARE = Tensors(
    names=_BODY,
    prefixes=("", "bert."),
    old_endings={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    buffers=("embeddings.position_ids", "embeddings.token_type_ids"),
)

_POOLER = _both("pooler.dense", "pooler.dense")

_FILLS_IN = (
    *_both("head.transform.dense", "cls.predictions.transform.dense"),
    *_both("head.transform.norm", "cls.predictions.transform.LayerNorm"),
    Name("head.bias", "cls.predictions.bias"),
)

_WITH_HEADS = replace(
    _BARE,
    prefixes=("bert.", ""),
    heads=("cls.",),
    repeats={
        "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
)

_SETTINGS = Settings(
    keys={
        "vocab_size": "vocab_size",
        "context_length": "max_position_embeddings",
        "types": "type_vocab_size",
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "hidden_dim": "intermediate_size",
        "eps": "layer_norm_eps",
        "std": "initializer_range",
        "embedding_dropout": "hidden_dropout_prob",
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
        "activation": "hidden_act",
    },
    needed=(
        "vocab_size",
        "max_position_embeddings",
        "type_vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
    ),
    defaults={
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.02,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
    },
    activations={"gelu": ("gelu",)},  # the heads' own activation, which is the layers' there, is this one here
    only={**TIED, "is_decoder": (False,), "position_embedding_type": ("absolute",)},
    shape={"block": {"norm_at": "after"}, "final_norm": False, "embedding_norm": True},
)

_HEADLESS = {"gelu": ("gelu",), **ACTIVATIONS}


def _head(told: Tree) -> Tree:
    return {"bias": True, "transform": {"norm": told["norm"]}}


_BERT: Mapping[str, Any] = {"record": Encoder, "model_type": "bert"}

BERT_PRETRAINING = Family(
    **_BERT,
    architecture="BertForPreTraining",
    loader="AutoModelForPreTraining",
    outputs={"logits": "prediction_logits", "next": "seq_relationship_logits"},
    tensors=replace(_WITH_HEADS, names=(*_BODY, *_FILLS_IN, *_POOLER, *_both("pooler.out", "cls.seq_relationship"))),
    settings=replace(_SETTINGS, parts=lambda told: {"head": _head(told), "pooler": {"classes": 2}}),
)

BERT_MASKED = Family(
    **_BERT,
    architecture="BertForMaskedLM",
    loader="AutoModelForMaskedLM",
    outputs={"logits": "logits"},
    tensors=replace(_WITH_HEADS, names=(*_BODY, *_FILLS_IN)),
    settings=replace(_SETTINGS, parts=lambda told: {"head": _head(told)}),
)

BERT = Family(
    **_BERT,
    architecture="BertModel",
    loader="AutoModel",
    outputs={"hidden": "last_hidden_state", "pooled": "pooler_output"},
    tensors=replace(_BARE, names=(*_BODY, *_POOLER)),
    settings=replace(_SETTINGS, activations=_HEADLESS, parts=lambda told: {"head": None, "pooler": {}}),
)

BERT_WITHOUT_POOLER = replace(
    BERT,
    loader_options={"add_pooling_layer": False},
    outputs={"hidden": "last_hidden_state"},
    tensors=_BARE,
    settings=replace(_SETTINGS, activations=_HEADLESS, parts=lambda told: {"head": None}),
)

_ELECTRA_BODY = (*_BODY, *_both("embedding.project", "embeddings_project"))

_ELECTRA_SETTINGS = replace(
    _SETTINGS,
    keys={**_SETTINGS.keys, "embedding_width": "embedding_size"},
    needed=(*_SETTINGS.needed, "embedding_size"),
    shape={**_SETTINGS.shape, "embedding": {"project": "sum"}},
)

ELECTRA_DISCRIMINATOR = Family(
    record=Encoder,
    model_type="electra",
    architecture="ElectraForPreTraining",
    loader="AutoModelForPreTraining",
    outputs={"replaced": "logits"},
    tensors=replace(
        _BARE,
        prefixes=("electra.", ""),
        heads=("discriminator_predictions.",),
        names=(
            *_ELECTRA_BODY,
            *_both("detector.dense", "discriminator_predictions.dense"),
            *_both("detector.out", "discriminator_predictions.dense_prediction"),
        ),
    ),
    settings=replace(_ELECTRA_SETTINGS, parts=lambda told: {"head": None, "detector": True}),
)

ELECTRA_GENERATOR = Family(
    record=Encoder,
    model_type="electra",
    architecture="ElectraForMaskedLM",
    loader="AutoModelForMaskedLM",
    outputs={"logits": "logits"},
    tensors=replace(
        _BARE,
        prefixes=("electra.", ""),
        heads=("generator_predictions.", "generator_lm_head."),
        repeats={"generator_lm_head.weight": "embeddings.word_embeddings.weight"},
        names=(
            *_ELECTRA_BODY,
            *_both("head.transform.dense", "generator_predictions.dense"),
            *_both("head.transform.norm", "generator_predictions.LayerNorm"),
            Name("head.bias", "generator_lm_head.bias"),
        ),
    ),
    settings=replace(_ELECTRA_SETTINGS, parts=lambda told: {"head": _head(told)}),
)

ENCODERS = (
    BERT_PRETRAINING,
    BERT_MASKED,
    BERT,
    BERT_WITHOUT_POOLER,
    ELECTRA_DISCRIMINATOR,
    ELECTRA_GENERATOR,
)
