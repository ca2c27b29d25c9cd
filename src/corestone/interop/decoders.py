"""Causal language models of Hugging Face that a Decoder can express."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corestone.interop.family import ACTIVATIONS, ANY_FAMILY, TIED, Family, Name, Settings, Tensors
from corestone.models.spec import Decoder

_GPT_LAYER = (
    Name("stack.blocks.{layer}.mixer_norm.weight", "h.{layer}.ln_1.weight"),
    Name("stack.blocks.{layer}.mixer_norm.bias", "h.{layer}.ln_1.bias"),
    Name("stack.blocks.{layer}.mixer.qkv.weight", "h.{layer}.attn.c_attn.weight", "transposed"),
    Name("stack.blocks.{layer}.mixer.qkv.bias", "h.{layer}.attn.c_attn.bias"),
    Name("stack.blocks.{layer}.mixer.out.weight", "h.{layer}.attn.c_proj.weight", "transposed"),
    Name("stack.blocks.{layer}.mixer.out.bias", "h.{layer}.attn.c_proj.bias"),
    Name("stack.blocks.{layer}.feedforward_norm.weight", "h.{layer}.ln_2.weight"),
    Name("stack.blocks.{layer}.feedforward_norm.bias", "h.{layer}.ln_2.bias"),
    Name("stack.blocks.{layer}.feedforward.up.weight", "h.{layer}.mlp.c_fc.weight", "transposed"),
    Name("stack.blocks.{layer}.feedforward.up.bias", "h.{layer}.mlp.c_fc.bias"),
    Name("stack.blocks.{layer}.feedforward.down.weight", "h.{layer}.mlp.c_proj.weight", "transposed"),
    Name("stack.blocks.{layer}.feedforward.down.bias", "h.{layer}.mlp.c_proj.bias"),
)

_GPT_KEYS = {
    "vocab_size": "vocab_size",
    "context_length": "n_positions",
    "width": "n_embd",
    "depth": "n_layer",
    "num_heads": "n_head",
    "eps": "layer_norm_epsilon",
    "std": "initializer_range",
    "embedding_dropout": "embd_pdrop",
    "dropout": "resid_pdrop",
    "attention_dropout": "attn_pdrop",
}

_GPT_NEEDED = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")

_GPT_DEFAULTS = {
    "embd_pdrop": 0.1,
    "resid_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
}

_CAUSAL: Mapping[str, Any] = {
    "record": Decoder,
    "loader": "AutoModelForCausalLM",
    "outputs": {"logits": "logits"},
}

GPT2 = Family(
    **_CAUSAL,
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    tensors=Tensors(
        names=(
            Name("embedding.token.weight", "wte.weight"),
            Name("embedding.position.weight", "wpe.weight"),
            *_GPT_LAYER,
            Name("stack.final_norm.weight", "ln_f.weight"),
            Name("stack.final_norm.bias", "ln_f.bias"),
        ),
        prefixes=("transformer.", ""),
        heads=("lm_head.",),
        repeats={"lm_head.weight": "wte.weight"},
        buffers=("h.{layer}.attn.bias", "h.{layer}.attn.masked_bias"),
    ),
    settings=Settings(
        keys={**_GPT_KEYS, "hidden_dim": "n_inner", "activation": "activation_function"},
        needed=_GPT_NEEDED,
        defaults={**_GPT_DEFAULTS, "activation_function": "gelu_new", "n_inner": None},
        activations=ACTIVATIONS,
        only={
            **TIED,
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "reorder_and_upcast_attn": (False,),
        },
        shape={"init": {"scale_residual": True}},
    ),
)

# This class of the library computes the tanh form of GELU under the name "gelu".
OPENAI_GPT = Family(
    **_CAUSAL,
    model_type="openai-gpt",
    architecture="OpenAIGPTLMHeadModel",
    tensors=Tensors(
        names=(
            Name("embedding.token.weight", "tokens_embed.weight"),
            Name("embedding.position.weight", "positions_embed.weight"),
            *_GPT_LAYER,
        ),
        prefixes=("transformer.", ""),
        heads=("lm_head.",),
        repeats={"lm_head.weight": "tokens_embed.weight"},
        buffers=("h.{layer}.attn.bias", "position_ids"),
    ),
    settings=Settings(
        keys={**_GPT_KEYS, "activation": "afn"},
        needed=_GPT_NEEDED,
        defaults={**_GPT_DEFAULTS, "afn": "gelu"},
        activations={"gelu_tanh": ("gelu",)},
        only=TIED,
        shape={"block": {"norm_at": "after"}, "final_norm": False},
    ),
)

_OPT_LAYER = "stack.blocks.{layer}."

OPT = Family(
    **_CAUSAL,
    model_type="opt",
    architecture="OPTForCausalLM",
    tensors=Tensors(
        names=(
            Name("embedding.token.weight", "embed_tokens.weight"),
            Name("embedding.position.weight", "embed_positions.weight"),
            Name("embedding.project.weight", "project_in.weight"),
            Name("project.weight", "project_out.weight"),
            *(
                name
                for kind in ("weight", "bias")
                for name in (
                    Name(f"{_OPT_LAYER}mixer_norm.{kind}", "layers.{layer}.self_attn_layer_norm." + kind),
                    Name(
                        f"{_OPT_LAYER}mixer.qkv.{kind}",
                        tuple("layers.{layer}.self_attn." + f"{part}_proj.{kind}" for part in "qkv"),
                    ),
                    Name(f"{_OPT_LAYER}mixer.out.{kind}", "layers.{layer}.self_attn.out_proj." + kind),
                    Name(f"{_OPT_LAYER}feedforward_norm.{kind}", "layers.{layer}.final_layer_norm." + kind),
                    Name(f"{_OPT_LAYER}feedforward.up.{kind}", "layers.{layer}.fc1." + kind),
                    Name(f"{_OPT_LAYER}feedforward.down.{kind}", "layers.{layer}.fc2." + kind),
                    Name(f"stack.final_norm.{kind}", f"final_layer_norm.{kind}"),
                )
            ),
        ),
        prefixes=("model.decoder.", ""),
        heads=("lm_head.",),
        repeats={"lm_head.weight": "embed_tokens.weight"},
    ),
    settings=Settings(
        keys={
            "vocab_size": "vocab_size",
            "context_length": "max_position_embeddings",
            "width": "hidden_size",
            "depth": "num_hidden_layers",
            "num_heads": "num_attention_heads",
            "hidden_dim": "ffn_dim",
            "embedding_width": "word_embed_proj_dim",
            "pre_norm": "do_layer_norm_before",
            "std": "init_std",
            "dropout": "dropout",
            "attention_dropout": "attention_dropout",
            "activation": "activation_function",
        },
        needed=(
            "vocab_size",
            "max_position_embeddings",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "ffn_dim",
        ),
        defaults={
            "do_layer_norm_before": True,
            "word_embed_proj_dim": None,
            "init_std": 0.02,
            "dropout": 0.1,
            "attention_dropout": 0.0,
            "activation_function": "relu",
        },
        activations=ACTIVATIONS,
        only={
            **TIED,
            "enable_bias": (True,),
            "layer_norm_elementwise_affine": (True,),
            "_remove_final_layer_norm": (False,),
        },
        shape={"embedding": {"position": {"offset": 2}}, "init": {"scale_residual": True}},
    ),
)

GPTJ = Family(
    **_CAUSAL,
    model_type="gptj",
    architecture="GPTJForCausalLM",
    tensors=Tensors(
        names=(
            Name("embedding.token.weight", "wte.weight"),
            Name(
                "stack.blocks.{layer}.mixer.qkv.weight",
                tuple("h.{layer}.attn." + f"{part}_proj.weight" for part in "qkv"),
            ),
            Name("stack.blocks.{layer}.mixer.out.weight", "h.{layer}.attn.out_proj.weight"),
            *(
                name
                for kind in ("weight", "bias")
                for name in (
                    Name("stack.blocks.{layer}.mixer_norm." + kind, "h.{layer}.ln_1." + kind),
                    Name("stack.blocks.{layer}.feedforward.up." + kind, "h.{layer}.mlp.fc_in." + kind),
                    Name("stack.blocks.{layer}.feedforward.down." + kind, "h.{layer}.mlp.fc_out." + kind),
                    Name("stack.final_norm." + kind, "ln_f." + kind),
                    Name("head." + kind, "lm_head." + kind),
                )
            ),
        ),
        prefixes=("transformer.", ""),
        heads=("lm_head.",),
        buffers=("h.{layer}.attn.bias", "h.{layer}.attn.masked_bias", "h.{layer}.attn.embed_positions"),
    ),
    settings=Settings(
        keys={**_GPT_KEYS, "hidden_dim": "n_inner", "activation": "activation_function", "rotary_dims": "rotary_dim"},
        needed=(*_GPT_NEEDED, "rotary_dim"),
        defaults={**_GPT_DEFAULTS, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
        | {"activation_function": "gelu_new", "n_inner": None},
        activations=ACTIVATIONS,
        only={**ANY_FAMILY, "tie_word_embeddings": (False,)},
        shape={
            "block": {"residual": "parallel"},
            "mixer": {"bias_in": False, "bias_out": False},
            "rotary": {"interleaved": True},
            "embedding": {"position": None},
        },
        parts=lambda told: {"head": {"tied": False, "bias": True}},
    ),
)

BLOOM = Family(
    **_CAUSAL,
    model_type="bloom",
    architecture="BloomForCausalLM",
    tensors=Tensors(
        names=(
            Name("embedding.token.weight", "word_embeddings.weight"),
            *(
                name
                for kind in ("weight", "bias")
                for name in (
                    Name("embedding.norm." + kind, "word_embeddings_layernorm." + kind),
                    Name("stack.blocks.{layer}.mixer_norm." + kind, "h.{layer}.input_layernorm." + kind),
                    Name(
                        "stack.blocks.{layer}.mixer.qkv." + kind,
                        "h.{layer}.self_attention.query_key_value." + kind,
                        "by_head",
                    ),
                    Name("stack.blocks.{layer}.mixer.out." + kind, "h.{layer}.self_attention.dense." + kind),
                    Name("stack.blocks.{layer}.feedforward_norm." + kind, "h.{layer}.post_attention_layernorm." + kind),
                    Name("stack.blocks.{layer}.feedforward.up." + kind, "h.{layer}.mlp.dense_h_to_4h." + kind),
                    Name("stack.blocks.{layer}.feedforward.down." + kind, "h.{layer}.mlp.dense_4h_to_h." + kind),
                    Name("stack.final_norm." + kind, "ln_f." + kind),
                )
            ),
        ),
        prefixes=("transformer.", ""),
        heads=("lm_head.",),
        repeats={"lm_head.weight": "word_embeddings.weight"},
    ),
    settings=Settings(
        keys={
            "vocab_size": "vocab_size",
            "context_length": "seq_length",
            "width": "hidden_size",
            "depth": "n_layer",
            "num_heads": "n_head",
            "eps": "layer_norm_epsilon",
            "std": "initializer_range",
            "dropout": "hidden_dropout",
            "attention_dropout": "attention_dropout",
        },
        needed=("vocab_size", "hidden_size", "n_layer", "n_head"),
        defaults={
            "seq_length": 2048,
            "layer_norm_epsilon": 1e-5,
            "initializer_range": 0.02,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
        },
        activations={"gelu_tanh": ()},
        only={**TIED, "apply_residual_connection_post_layernorm": (False,)},
        shape={"mixer": {"position": {"kind": "alibi"}}, "embedding": {"position": None}, "embedding_norm": True},
    ),
)

DECODERS = (GPT2, OPENAI_GPT, GPTJ, OPT, BLOOM)
