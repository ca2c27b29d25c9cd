"""Tiny random Hugging Face models and what they compute, recorded so that the default tests need no `transformers`.

Run `python tests/parity/record_huggingface.py [CASE]...` to record again. Each case is a folder as `save_pretrained`
writes it, beside `expected.safetensors`. Of decoders that has token ids (rows, tokens) and float32 logits (rows,
tokens, vocabulary); of encoders what `encoder_expected` makes, of encoder-decoders what `seq2seq_expected` makes.
"""

from __future__ import annotations

import shutil
import sys
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


_TINY_BERT = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "hidden_size": 18,
    "intermediate_size": 28,
    "max_position_embeddings": 23,
    "vocab_size": 61,
}
_TINY_ELECTRA = {
    "model_type": "electra",
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "hidden_size": 18,
    "embedding_size": 10,
    "intermediate_size": 28,
    "max_position_embeddings": 23,
    "vocab_size": 61,
}

ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-pretraining": ("BertForPreTraining", _TINY_BERT),
    "bert-masked": (
        "BertForMaskedLM",
        {
            **_TINY_BERT,
            "num_hidden_layers": 3,
            "num_attention_heads": 5,
            "hidden_size": 20,
            "type_vocab_size": 3,
            "layer_norm_eps": 1e-3,
        },
    ),
    "bert-pooler": (
        "BertModel",
        {**_TINY_BERT, "num_attention_heads": 1, "hidden_size": 14, "hidden_act": "gelu_new", "vocab_size": 37},
    ),
    "bert-bare": ("BertModel", {**_TINY_BERT, "hidden_size": 12, "hidden_act": "relu", "max_position_embeddings": 11}),
    "electra-discriminator": ("ElectraForPreTraining", _TINY_ELECTRA),
    "electra-discriminator-equal": (
        "ElectraForPreTraining",
        {**_TINY_ELECTRA, "embedding_size": 18, "num_hidden_layers": 1, "layer_norm_eps": 1e-3},
    ),
    "electra-generator": ("ElectraForMaskedLM", {**_TINY_ELECTRA, "num_attention_heads": 1, "hidden_size": 8}),
    "electra-generator-equal": (
        "ElectraForMaskedLM",
        {**_TINY_ELECTRA, "embedding_size": 15, "hidden_size": 15, "num_attention_heads": 5},
    ),
}
"""Encoders: the class, and its settings."""

WITHOUT_POOLER = {"bert-bare"}
# A padding id would take the gradient of its row away.
ENCODER_COMMON = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.05, "pad_token_id": None}
ENCODER_OUTPUTS = (
    "logits",
    "prediction_logits",
    "seq_relationship_logits",
    "last_hidden_state",
    "pooler_output",
)

_TINY_T5 = {
    "model_type": "t5",
    "vocab_size": 61,
    "d_model": 16,
    "d_kv": 5,
    "d_ff": 28,
    "num_heads": 3,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 11,
    "dropout_rate": 0.2,
    "decoder_start_token_id": 0,
}
_GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}

ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "t5": _TINY_T5,
    "t5-one-head": {
        **_TINY_T5,
        "num_heads": 1,
        "num_layers": 4,
        "num_decoder_layers": 1,
        "layer_norm_epsilon": 1e-3,
        "relative_attention_num_buckets": 12,
        "relative_attention_max_distance": 19,
    },
    "t5-v1.1": {
        **_TINY_T5,
        **_GATED,
        "num_heads": 5,
        "d_kv": 3,
        "d_model": 12,
        "d_ff": 20,
        "num_layers": 3,
        "num_decoder_layers": 2,
        "vocab_size": 53,
    },
    "t5-v1.1-equal": {
        **_TINY_T5,
        **_GATED,
        "num_heads": 2,
        "d_kv": 7,
        "d_model": 14,
        "num_decoder_layers": 2,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
    },
    "t5-v1.1-tied": {**_TINY_T5, **_GATED, "d_kv": 6, "num_layers": 1, "vocab_size": 47},
}
"""T5ForConditionalGeneration. Versions 5.x of the library give a new model of version 1.1 a tied head, whatever its
settings say; as long as the two are equal they stay tied in a folder too. Published checkpoints are not tied, so those
of OWN_HEAD are given a head of their own before they are saved, and the library keeps them apart when it reads them."""

# With gains near 1 behind the last layer, tied heads would only repeat what they were given; with much larger values
# rounding alone reaches 1e-4.
T5_VALUES = {
    "final_layer_norm": (0.0, 1.0),
    "layer_norm": (1.0, 0.2),
    "relative": (0.0, 1.0),
    "shared": (0.0, 0.5),
    "": (0.0, 0.2),
}
"""Mean and deviation by part of a parameter's name, the first that fits."""

OWN_HEAD = {"t5-v1.1", "t5-v1.1-equal"}
SOURCE, TARGET, ANSWER = 37, 29, 23
"""Tokens of sources, targets and generated answers; no distance of the smaller cases reaches so far."""

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


def loaded_encoder(case: str, folder: Path) -> Any:
    """An encoder out of a folder, in evaluation mode."""
    import transformers

    options = {"add_pooling_layer": False} if case in WITHOUT_POOLER else {}
    loader = getattr(transformers, ENCODERS[case][0])
    return loader.from_pretrained(folder, dtype=torch.float32, **options).eval()


def tiny_encoder(case: str, **changes: Any) -> Any:
    """A random encoder of a case, some settings changed, every gain and bias away from its usual 1 and 0."""
    import transformers

    torch.manual_seed(sum(case.encode()))
    architecture, settings = ENCODERS[case]
    config = transformers.AutoConfig.for_model(**{**ENCODER_COMMON, **settings, **changes})
    options = {"add_pooling_layer": False} if case in WITHOUT_POOLER else {}
    model = getattr(transformers, architecture)(config, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if name.endswith("LayerNorm.weight") else 0.0, 0.3)
    return model.eval()


def encoder_inputs(config: Any) -> dict[str, torch.Tensor]:
    """Three rows of random ids and types: whole, padded on the right, padded on the left; and their positions."""
    generator, length = torch.Generator().manual_seed(2), config.max_position_embeddings
    tokens = torch.randint(config.vocab_size, (3, length), generator=generator)
    types = torch.randint(config.type_vocab_size, (3, length), generator=generator)
    attention = torch.ones(3, length, dtype=torch.int64)
    attention[1, -(length // 3) :] = 0
    attention[2, : length // 4] = 0
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    return {"tokens": tokens, "types": types, "attention": attention, "positions": positions}


def encoder_outputs(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the reference computes, by its names for it."""
    out = model(
        inputs["tokens"],
        token_type_ids=inputs["types"],
        attention_mask=inputs["attention"],
        position_ids=inputs["positions"],
    )
    return {name: out[name] for name in ENCODER_OUTPUTS if out.get(name) is not None}


def meaningful(name: str, attention: torch.Tensor) -> torch.Tensor:
    """Boolean, of an output's first axes: whether it says something, which padding does not.

    The pooler reads a row's first token, so it says nothing of rows padded on the left.
    """
    pooled = name in {"pooler_output", "seq_relationship_logits"}
    return (attention[:, 0] if pooled else attention).bool()


def probes_of(outputs: dict[str, torch.Tensor], attention: torch.Tensor) -> dict[str, torch.Tensor]:
    """A random number for each output, 0 where that means nothing."""
    generator = torch.Generator().manual_seed(3)
    probes = {}
    for name, value in outputs.items():
        kept = meaningful(name, attention)
        probe = torch.randn(value.shape, generator=generator)
        probes[name] = probe * kept.reshape(kept.shape + (1,) * (value.dim() - kept.dim()))
    return probes


def encoder_expected(model: Any) -> dict[str, torch.Tensor]:
    """Inputs, `out.` outputs, `probe.` probes and `grad.` gradients of the outputs times the probes."""
    inputs = encoder_inputs(model.config)
    outputs = encoder_outputs(model, inputs)
    probes = probes_of(outputs, inputs["attention"])
    model.zero_grad()
    sum((outputs[name] * probes[name]).sum() for name in outputs).backward()
    return {
        **inputs,
        **{f"out.{name}": value.detach().contiguous() for name, value in outputs.items()},
        **{f"probe.{name}": value for name, value in probes.items()},
        **{f"grad.{name}": parameter.grad.contiguous() for name, parameter in model.named_parameters()},
    }


def tiny_seq2seq(case: str, **changes: Any) -> Any:
    """A random encoder-decoder of a case, some settings changed, every gain away from its usual 1."""
    import transformers

    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**{**ENCODER_DECODERS[case], **changes}))
    if case in OWN_HEAD:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
    torch.manual_seed(sum(case.encode()))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(*next(normal for part, normal in T5_VALUES.items() if part in name))
    return model.eval()


def seq2seq_inputs(config: Any) -> dict[str, torch.Tensor]:
    """Three rows of random ids without the special ones: whole, padded on the right, padded on the left."""
    generator, inputs = torch.Generator().manual_seed(4), {}
    for side, length in (("source", SOURCE), ("target", TARGET)):
        inputs[side] = torch.randint(2, config.vocab_size, (3, length), generator=generator)
        real = inputs[f"{side}_attention"] = torch.ones(3, length, dtype=torch.int64)
        real[1, -(length // 3) :] = 0
        real[2, : length // 4] = 0
    return inputs


def seq2seq_logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of the reference."""
    out = model(
        input_ids=inputs["source"],
        attention_mask=inputs["source_attention"],
        decoder_input_ids=inputs["target"],
        decoder_attention_mask=inputs["target_attention"],
    )
    logits: torch.Tensor = out.logits
    return logits


def prompts_in(inputs: dict[str, torch.Tensor]) -> list[list[int]]:
    """The sources without padding."""
    pairs = zip(inputs["source"], inputs["source_attention"], strict=True)
    return [source[attention.bool()].tolist() for source, attention in pairs]


def answers_of(model: Any, prompts: list[list[int]], tokens: int = ANSWER) -> torch.Tensor:
    """What `generate` writes greedily (rows, tokens), padding behind an end; prompts come without their ends.

    With a cache where the library can: it makes room for as many layers as the encoder has (5.23), which is too little
    for deeper decoders.
    """
    config = model.config
    longest = max(len(prompt) for prompt in prompts)
    rows = [[*prompt, config.eos_token_id, *[0] * (longest - len(prompt))] for prompt in prompts]
    real = [[1] * (len(prompt) + 1) + [0] * (longest - len(prompt)) for prompt in prompts]
    with torch.inference_mode():
        out = model.generate(
            torch.tensor(rows),
            attention_mask=torch.tensor(real),
            max_new_tokens=tokens,
            do_sample=False,
            num_beams=1,
            use_cache=config.num_decoder_layers <= config.num_layers,
        )
    found: torch.Tensor = torch.nn.functional.pad(out[:, 1:], (0, tokens + 1 - out.shape[1])).clone()
    return found


def seq2seq_expected(model: Any) -> dict[str, torch.Tensor]:
    """Inputs, `logits`, a `probe` (0 at padding), `grad.` gradients of logits times probe, and greedy `answers`."""
    inputs = seq2seq_inputs(model.config)
    logits = seq2seq_logits(model, inputs)
    probe = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))
    probe *= inputs["target_attention"][..., None]
    model.zero_grad()
    (logits * probe).sum().backward()
    return {
        **inputs,
        "logits": logits.detach().contiguous(),
        "probe": probe,
        "answers": answers_of(model, prompts_in(inputs)),
        **{f"grad.{name}": parameter.grad.contiguous() for name, parameter in model.named_parameters()},
    }


def record_seq2seq(case: str) -> None:
    """Write one encoder-decoder's case."""
    folder = DATA / case
    shutil.rmtree(folder, ignore_errors=True)
    model = tiny_seq2seq(case)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_file(seq2seq_expected(model), folder / "expected.safetensors")


def record_encoder(case: str) -> None:
    """Write one encoder's case."""
    folder = DATA / case
    shutil.rmtree(folder, ignore_errors=True)
    model = tiny_encoder(case)
    model.save_pretrained(folder)
    save_file(encoder_expected(model), folder / "expected.safetensors")


def record(case: str) -> None:
    """Write one decoder's case."""
    folder = DATA / case
    shutil.rmtree(folder, ignore_errors=True)
    model = tiny(case)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokens = tokens_for(model)
    save_file({"tokens": tokens, "logits": logits_of(model, tokens).contiguous()}, folder / "expected.safetensors")


if __name__ == "__main__":
    for name in sys.argv[1:] or (*CASES, *ENCODERS, *ENCODER_DECODERS):
        (record if name in CASES else record_encoder if name in ENCODERS else record_seq2seq)(name)
