"""Tiny random Hugging Face models and what they compute, recorded so that the default tests need no `transformers`.

Run `python tests/parity/record_huggingface.py` to record again. Each case is a folder as `save_pretrained` writes it,
beside `expected.safetensors` with token ids (rows, tokens) and float32 logits (rows, tokens, vocabulary).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

DATA = Path(__file__).parent / "data"

# Every size differs from every other within a case wherever it may, so that a swapped axis cannot go unnoticed.
CASES: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 24, "vocab_size": 61},
    "gpt2-inner": {
        "model_type": "gpt2",
        "n_layer": 3,
        "n_head": 3,
        "n_embd": 12,
        "n_positions": 17,
        "vocab_size": 53,
        "n_inner": 40,
        "layer_norm_epsilon": 1e-3,
        "activation_function": "gelu_pytorch_tanh",
    },
    "gpt2-one-head": {
        "model_type": "gpt2",
        "n_layer": 1,
        "n_head": 1,
        "n_embd": 8,
        "n_positions": 9,
        "vocab_size": 31,
        "n_inner": 8,
    },
    "gpt1": {"model_type": "openai-gpt", "n_layer": 2, "n_head": 4, "n_embd": 16, "n_positions": 24, "vocab_size": 61},
    "gpt1-deep": {
        "model_type": "openai-gpt",
        "n_layer": 5,
        "n_head": 1,
        "n_embd": 10,
        "n_positions": 13,
        "vocab_size": 37,
        "layer_norm_epsilon": 1e-3,
    },
    "gptj": {
        "model_type": "gptj",
        "n_layer": 2,
        "n_head": 3,
        "n_embd": 24,
        "n_positions": 22,
        "vocab_size": 61,
        "rotary_dim": 6,
    },
    "gptj-inner": {
        "model_type": "gptj",
        "n_layer": 1,
        "n_head": 1,
        "n_embd": 8,
        "n_positions": 9,
        "vocab_size": 31,
        "rotary_dim": 8,
        "n_inner": 20,
    },
    "opt": {
        "model_type": "opt",
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "hidden_size": 18,
        "word_embed_proj_dim": 18,
        "ffn_dim": 40,
        "max_position_embeddings": 23,
        "vocab_size": 61,
    },
    "opt-post": {
        "model_type": "opt",
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "hidden_size": 16,
        "word_embed_proj_dim": 10,
        "ffn_dim": 24,
        "max_position_embeddings": 14,
        "vocab_size": 53,
        "do_layer_norm_before": False,
    },
    "bloom": {
        "model_type": "bloom",
        "n_layer": 2,
        "n_head": 6,
        "hidden_size": 24,
        "vocab_size": 61,
        "seq_length": 29,
        "layer_norm_epsilon": 1e-3,
    },
    "bloom-four-heads": {
        "model_type": "bloom",
        "n_layer": 3,
        "n_head": 4,
        "hidden_size": 12,
        "vocab_size": 37,
        "seq_length": 16,
    },
}


_GPT = {"resid_pdrop": 0.2, "embd_pdrop": 0.1, "attn_pdrop": 0.05}
DROPOUT: dict[str, dict[str, Any]] = {
    "gpt2": _GPT,
    "openai-gpt": _GPT,
    "gptj": _GPT,
    "opt": {"dropout": 0.2, "attention_dropout": 0.05, "pad_token_id": None},
    "bloom": {"hidden_dropout": 0.2, "attention_dropout": 0.05},
}


def context_of(config: Any) -> int:
    """The longest row of a case."""
    found: int = getattr(config, "seq_length", None) or config.max_position_embeddings
    return found


def tiny(case: str, **changes: Any) -> Any:
    """A random model of a case, some settings changed, every gain and bias away from its usual 1 and 0."""
    import transformers

    torch.manual_seed(sum(case.encode()))
    settings = {**DROPOUT[CASES[case]["model_type"]], "bos_token_id": 0, "eos_token_id": 0}
    config = transformers.AutoConfig.for_model(**{**settings, **CASES[case], **changes})
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            gain = name.endswith("weight") and ("ln_" in name or "norm" in name)
            parameter.normal_(1.0 if gain else 0.0, 0.3)
    return model.eval()


def tokens_for(model: Any) -> torch.Tensor:
    """Random ids that fill the context."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(model.config.vocab_size, (2, context_of(model.config)), generator=generator)


@torch.no_grad()
def logits_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """The reference's float32 logits."""
    logits: torch.Tensor = model(tokens).logits
    return logits


def record(case: str) -> None:
    """Write one case."""
    folder = DATA / case
    shutil.rmtree(folder, ignore_errors=True)
    model = tiny(case)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokens = tokens_for(model)
    save_file({"tokens": tokens, "logits": logits_of(model, tokens).contiguous()}, folder / "expected.safetensors")


if __name__ == "__main__":
    for name in CASES:
        record(name)
