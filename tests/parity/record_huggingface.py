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
}


def tiny(case: str, **changes: Any) -> Any:
    """A random model of a case, some settings changed, every gain and bias away from its usual 1 and 0."""
    import transformers

    torch.manual_seed(sum(case.encode()))
    settings = {"resid_pdrop": 0.2, "embd_pdrop": 0.1, "attn_pdrop": 0.05, "bos_token_id": 0, "eos_token_id": 0}
    config = transformers.AutoConfig.for_model(**{**settings, **CASES[case], **changes})
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "ln_" in name and name.endswith("weight") else 0.0, 0.3)
    return model.eval()


def tokens_for(model: Any) -> torch.Tensor:
    """Random ids that fill the context."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(model.config.vocab_size, (2, model.config.n_positions), generator=generator)


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
