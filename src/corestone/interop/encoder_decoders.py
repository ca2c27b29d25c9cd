"""Encoder-decoders of Hugging Face that an EncoderDecoder can express."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from corestone.interop.family import ANY_FAMILY, Family, Name, Settings, Tensors, Tree
from corestone.models.spec import EncoderDecoder


def _attention(ours: str, theirs: str) -> Iterator[Name]:
    """The maps of an attention layer to another text, and its norm."""
    yield Name(f"{ours}cross_norm.weight", f"{theirs}layer_norm.weight")
    yield Name(f"{ours}cross.q.weight", f"{theirs}EncDecAttention.q.weight")
    yield Name(f"{ours}cross.kv.weight", tuple(f"{theirs}EncDecAttention.{part}.weight" for part in "kv"))
    yield Name(f"{ours}cross.out.weight", f"{theirs}EncDecAttention.o.weight")


def _stack(side: str, last: int) -> Iterator[Name]:
    """The parameters of a stack whose feed-forward is a layer's branch number `last`."""
    ours, theirs = f"{side}.blocks.{{layer}}.", f"{side}.block.{{layer}}.layer."
    first = f"{side}.block.0.layer.0.SelfAttention."
    yield Name(f"{side}.position.weight", f"{first}relative_attention_bias.weight")
    yield Name(f"{ours}mixer_norm.weight", f"{theirs}0.layer_norm.weight")
    yield Name(f"{ours}mixer.qkv.weight", tuple(f"{theirs}0.SelfAttention.{part}.weight" for part in "qkv"))
    yield Name(f"{ours}mixer.out.weight", f"{theirs}0.SelfAttention.o.weight")
    yield from _attention(ours, f"{theirs}1.")
    yield Name(f"{ours}feedforward_norm.weight", f"{theirs}{last}.layer_norm.weight")
    yield Name(f"{ours}feedforward.up.weight", f"{theirs}{last}.DenseReluDense.wi.weight", gated=False)
    yield Name(f"{ours}feedforward.gate.weight", f"{theirs}{last}.DenseReluDense.wi_0.weight", gated=True)
    yield Name(f"{ours}feedforward.up.weight", f"{theirs}{last}.DenseReluDense.wi_1.weight", gated=True)
    yield Name(f"{ours}feedforward.down.weight", f"{theirs}{last}.DenseReluDense.wo.weight")
    yield Name(f"{side}.final_norm.weight", f"{side}.final_layer_norm.weight")


def _plainly(config: Mapping[str, Any], stored: Collection[str]) -> Mapping[str, Any]:
    """A T5 config.json in which every setting means what its name says.

    Up to version 4 of the library `tie_word_embeddings` tells both whether the head is the token table and whether
    logits are scaled. Version 5 always writes true; `scale_decoder_outputs` tells the second, and the first is told by
    whether the head has weights of its own. What `feed_forward_proj` says stands there once more in two parts.
    """
    tied = config.get("tie_word_embeddings") is not False
    scaled = config.get("scale_decoder_outputs", tied)
    own = not tied or (not scaled and "lm_head.weight" in stored)
    kind = config.get("feed_forward_proj", "relu")
    gated = kind == "gated-gelu"
    parts = {"dense_act_fn": "gelu_new" if gated else kind, "is_gated_act": gated}
    other = [f"{key}={config[key]!r}" for key, value in parts.items() if config.get(key, value) != value]
    told = {"tie_word_embeddings": not own, "scale_decoder_outputs": scaled}
    return {**config, **told, "feed_forward_proj": " with ".join([str(kind), *other])}


def _parts(told: Tree) -> Tree:
    small = told["width"] ** -0.5
    return {
        "head": {"tied": told["tied"], "scale": small if told["scaled"] else 1.0},
        "init": {"std": None, "token_std": 1.0, "position_std": small},
    }


# 1.0, 1.1 and FLAN-T5 are one class: they differ in the feed-forward, the head, and whether logits are scaled. Before
# version 5 the library cannot scale the logits of a head of its own, nor leave those of a tied one unscaled.
T5 = Family(
    record=EncoderDecoder,
    model_type="t5",
    architecture="T5ForConditionalGeneration",
    loader="AutoModelForSeq2SeqLM",
    outputs={"logits": "logits"},
    tensors=Tensors(
        names=(
            Name("embedding.token.weight", "shared.weight"),
            *_stack("encoder", last=1),
            *_stack("decoder", last=2),
            Name("head.weight", "lm_head.weight"),
        ),
        prefixes=("",),
        repeats={
            "encoder.embed_tokens.weight": "shared.weight",
            "decoder.embed_tokens.weight": "shared.weight",
            "lm_head.weight": "shared.weight",
        },
        # The first published checkpoints store one, but attention to the source knows no positions.
        buffers=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),
    ),
    settings=Settings(
        plainly=_plainly,
        keys={
            "vocab_size": "vocab_size",
            "context_length": "n_positions",
            "width": "d_model",
            "depth": "num_layers",
            "decoder_depth": "num_decoder_layers",
            "num_heads": "num_heads",
            "head_dim": "d_kv",
            "hidden_dim": "d_ff",
            "buckets": "relative_attention_num_buckets",
            "max_distance": "relative_attention_max_distance",
            "eps": "layer_norm_epsilon",
            "embedding_dropout": "dropout_rate",
            "dropout": "dropout_rate",
            "attention_dropout": "dropout_rate",
            "hidden_dropout": "dropout_rate",
            "final_dropout": "dropout_rate",
            "activation": "feed_forward_proj",
            "tied": "tie_word_embeddings",
            "scaled": "scale_decoder_outputs",
        },
        needed=("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"),
        defaults={
            "n_positions": 512,
            "num_decoder_layers": None,
            "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128,
            "layer_norm_epsilon": 1e-6,
            "dropout_rate": 0.1,
        },
        activations={"relu": ("relu",), "gelu_tanh": ("gated-gelu",)},
        gated=("gated-gelu",),
        only={**ANY_FAMILY, "is_encoder_decoder": (True,), "is_decoder": (False,), "tie_encoder_decoder": (False,)},
        afresh={"initializer_factor": 1.0},
        shape={
            "norm": {"kind": "rms", "bias": False},
            "mixer": {"bias_in": False, "bias_out": False, "scale": 1.0},
            "feedforward": {"bias": False},
            "embedding": {"position": None},
        },
        parts=_parts,
    ),
)

ENCODER_DECODERS = (T5,)
