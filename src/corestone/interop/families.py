"""What Corestone and Hugging Face call the same things: one table of names and one of settings per family.

A new family is a new table here; the code that reads and writes folders (`weights.py`, `huggingface.py`) knows none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Name:
    """One parameter on both sides; `{layer}` stands for the layer's number.

    Attributes:
        transposed: the library keeps this matrix as (in, out) where a linear map has (out, in).
    """

    ours: str
    theirs: str
    transposed: bool = False


@dataclass(frozen=True)
class Family:
    """A model class of the `transformers` library and how a Decoder says the same.

    Attributes:
        model_type: its name in config.json.
        architecture: the class with the language-model head.
        prefix: what a saved causal model puts before every name of its body.
        names: the parameters.
        norm_at, final_norm: the block's shape (nn.spec.Block, nn.spec.Stack).
        activation_key: the setting that names the activation.
        activations: names of the tanh form of GELU there, the first one written on export.
        hidden_key: the setting that holds the feed-forward's hidden size; None: it is always four widths.
        scale_residual: how the initialisation of branch outputs is scaled.
        only: settings that change the arithmetic, with the values that a Decoder can express.
        buffers: tensors that hold no weights and may stand in a file.
    """

    model_type: str
    architecture: str
    prefix: str
    names: tuple[Name, ...]
    norm_at: str
    final_norm: bool
    activation_key: str
    activations: tuple[str, ...]
    hidden_key: str | None
    scale_residual: bool
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    buffers: tuple[str, ...] = ()


_LAYER = (
    Name("stack.blocks.{layer}.mixer_norm.weight", "h.{layer}.ln_1.weight"),
    Name("stack.blocks.{layer}.mixer_norm.bias", "h.{layer}.ln_1.bias"),
    Name("stack.blocks.{layer}.mixer.qkv.weight", "h.{layer}.attn.c_attn.weight", transposed=True),
    Name("stack.blocks.{layer}.mixer.qkv.bias", "h.{layer}.attn.c_attn.bias"),
    Name("stack.blocks.{layer}.mixer.out.weight", "h.{layer}.attn.c_proj.weight", transposed=True),
    Name("stack.blocks.{layer}.mixer.out.bias", "h.{layer}.attn.c_proj.bias"),
    Name("stack.blocks.{layer}.feedforward_norm.weight", "h.{layer}.ln_2.weight"),
    Name("stack.blocks.{layer}.feedforward_norm.bias", "h.{layer}.ln_2.bias"),
    Name("stack.blocks.{layer}.feedforward.up.weight", "h.{layer}.mlp.c_fc.weight", transposed=True),
    Name("stack.blocks.{layer}.feedforward.up.bias", "h.{layer}.mlp.c_fc.bias"),
    Name("stack.blocks.{layer}.feedforward.down.weight", "h.{layer}.mlp.c_proj.weight", transposed=True),
    Name("stack.blocks.{layer}.feedforward.down.bias", "h.{layer}.mlp.c_proj.bias"),
)

_ANY_FAMILY: Mapping[str, tuple[Any, ...]] = {
    "tie_word_embeddings": (True,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
}

GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    prefix="transformer.",
    names=(
        Name("embedding.token.weight", "wte.weight"),
        Name("embedding.position.weight", "wpe.weight"),
        *_LAYER,
        Name("stack.final_norm.weight", "ln_f.weight"),
        Name("stack.final_norm.bias", "ln_f.bias"),
    ),
    norm_at="in",
    final_norm=True,
    activation_key="activation_function",
    activations=("gelu_new", "gelu_pytorch_tanh"),
    hidden_key="n_inner",
    scale_residual=True,
    only={
        **_ANY_FAMILY,
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "reorder_and_upcast_attn": (False,),
    },
    buffers=("h.{layer}.attn.bias", "h.{layer}.attn.masked_bias"),
)

# This class of the library computes the tanh form of GELU under the name "gelu".
OPENAI_GPT = Family(
    model_type="openai-gpt",
    architecture="OpenAIGPTLMHeadModel",
    prefix="transformer.",
    names=(
        Name("embedding.token.weight", "tokens_embed.weight"),
        Name("embedding.position.weight", "positions_embed.weight"),
        *_LAYER,
    ),
    norm_at="after",
    final_norm=False,
    activation_key="afn",
    activations=("gelu",),
    hidden_key=None,
    scale_residual=False,
    only=_ANY_FAMILY,
    buffers=("h.{layer}.attn.bias", "position_ids"),
)

FAMILIES = (GPT2, OPENAI_GPT)

# Settings of config.json in its own words, which both families share.
SHAPE_KEYS = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
"""Without these a folder is refused: a guessed number of heads would load and compute something else."""

DEFAULTS: Mapping[str, Any] = {
    "embd_pdrop": 0.1,
    "resid_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
}
"""What the library assumes where config.json is silent."""
