"""Tiny random models of pictures and texts of `transformers` and open_clip and what they say of some, recorded so that
the default tests need neither.

Run `python tests/parity/record_pairs.py [CASE]...` to record again. Each case is a folder as the library itself saves
it, beside `expected.safetensors`: pictures `picture.0`, ... (H, W, C) uint8, `tokens` (K, T) of `TEXTS`, and the
`logits` (B, K) that the library computes of both, its own preprocessing and tokenizer included.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from record_pictures import DATA, pillow
from safetensors.torch import save_file
from tokenizers import decoders, models, pre_tokenizers, processors

TEXTS = ("a photo of a cat", "Two dogs, and 3 birds!", "größer 北京", "stone " * 30)
"""The last is longer than any context here."""

# Every size differs from every other within a case wherever it may, so that a swapped axis cannot go unnoticed.
HUGGINGFACE: dict[str, dict[str, Any]] = {
    "clip": {
        "text_config": {
            "hidden_size": 18, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 28,
            "max_position_embeddings": 15,
        },
        "vision_config": {
            "hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 40,
            "image_size": 16, "patch_size": 5,
        },
        "projection_dim": 14,
    },
    "siglip": {
        "text_config": {
            "hidden_size": 18, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 28,
            "max_position_embeddings": 15, "projection_size": 24,
        },
        "vision_config": {
            "hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 40,
            "image_size": 16, "patch_size": 4,
        },
    },
}  # fmt: skip
OPEN_CLIP: dict[str, dict[str, Any]] = {
    "open-clip": {
        "embed_dim": 14,
        "quick_gelu": True,
        "vision_cfg": {"layers": 3, "width": 24, "head_width": 6, "patch_size": 5, "image_size": 16, "mlp_ratio": 1.5},
        "text_cfg": {"context_length": 15, "width": 18, "heads": 3, "layers": 2, "hf_tokenizer_name": "local"},
    },
}
"""Of the library's `model_cfg`."""

SHAPES = ((16, 16), (33, 40), (18, 27))
"""Heights and widths of pictures. None leaves a half pixel to a crop where transformers would cut elsewhere."""


def vocabulary(words: Sequence[str], end: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Every byte, at the end of a word too where that is another token, and the merges that make some words whole: no
    trained one, as two trainings may number alike tokens differently."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names, merges = [*letters, *(letter + end for letter in letters if end)], []
    for word in words:
        parts = [*word[:-1], word[-1] + end]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            parts = ["".join(pair), *parts[2:]]
            if pair not in merges:
                merges.append(pair)
                names.append(parts[0])
    return {name: number for number, name in enumerate(names)}, merges


def clip_tokenizer(context_length: int) -> Any:
    """A small one of the library's own class."""
    import transformers

    vocab, merges = vocabulary(("photo", "cat", "dog", "stone"), "</w>")
    vocab |= {"<|startoftext|>": len(vocab), "<|endoftext|>": len(vocab) + 1}
    return transformers.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=context_length)


def plain_tokenizer(context_length: int) -> Any:
    """Byte pairs, an end behind and nothing in front, which also fills up: as SigLIP's."""
    import transformers

    vocab, merges = vocabulary(("Ġphoto", "Ġcat", "Ġdog", "Ġstone"), "")
    raw = tokenizers.Tokenizer(models.BPE(vocab, merges))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<unk>", "</s>"])
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", len(vocab) + 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="</s>", pad_token="</s>", unk_token="<unk>", model_max_length=context_length,
        model_input_names=["input_ids"], padding_side="right",
    )  # fmt: skip


def some() -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [generator.integers(64, 193, (*shape, 3), dtype=np.uint8) for shape in SHAPES]


def save_huggingface(case: str, folder: Path) -> None:
    """A folder as `save_pretrained` writes it."""
    import transformers

    clip, config = case == "clip", HUGGINGFACE[case]
    context = config["text_config"]["max_position_embeddings"]
    tokenizer = (clip_tokenizer if clip else plain_tokenizer)(context)
    ids = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    ids["bos_token_id"] = tokenizer.bos_token_id if clip else tokenizer.eos_token_id
    config = {**config, "text_config": {**config["text_config"], **ids}}
    library = "CLIP" if clip else "Siglip"
    made = getattr(transformers, f"{library}Model")(getattr(transformers, f"{library}Config")(**config))
    scale_up(made)
    scale = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
    if clip:
        size = {"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}}
        processor = transformers.CLIPImageProcessor(**size, **scale)
    else:
        processor = transformers.SiglipImageProcessor(size={"height": 16, "width": 16}, **scale)
    for part in (made, tokenizer, processor):
        part.save_pretrained(folder)


def save_open_clip(config: dict[str, Any], folder: Path, preprocess: dict[str, Any] | None = None) -> None:
    """A folder as the library writes it for others to load."""
    from open_clip.model import CLIP, CustomTextCLIP, set_model_preprocess_cfg
    from open_clip.push_to_hf_hub import save_for_hf

    tokenizer = clip_tokenizer(config["text_cfg"].get("context_length", 77))
    config = {**config, "text_cfg": {**config["text_cfg"], "vocab_size": len(tokenizer)}}
    rest = {key: value for key, value in config.items() if key != "custom_text"}
    model = scale_up((CustomTextCLIP if config.get("custom_text") else CLIP)(**rest))
    scale = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bicubic", "resize_mode": "shortest"}
    set_model_preprocess_cfg(model, {**scale, **(preprocess or {})})
    save_for_hf(model, tokenizer, config, folder, safe_serialization=True)


def scale_up(model: Any) -> Any:
    """No gain 1, no bias 0, no statistic where it starts, and logits that every part moves."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            drawn = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(1 + drawn.abs())
            elif name.startswith("logit_"):
                tensor.fill_(2.3 if name == "logit_scale" else -1.7)
            elif tensor.is_floating_point():
                tensor.copy_(drawn * 0.4 + (tensor.ndim == 1 and name.endswith("weight")))
    return model.eval()


def said_by_huggingface(folder: Path, architecture: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and logits of the library's own model, tokenizer and processor."""
    import transformers

    model = getattr(transformers, architecture).from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    images = torch.cat([processor(images=pillow(one), return_tensors="pt")["pixel_values"] for one in some()])
    texts = processor(text=list(TEXTS), padding="max_length", truncation=True, return_tensors="pt")
    with torch.inference_mode():
        return texts["input_ids"], model(pixel_values=images, **texts).logits_per_image


def said_by_open_clip(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and logits of the library's own model, tokenizer and transform."""
    import open_clip

    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(list(TEXTS))
    with torch.inference_mode():
        return tokens, model.eval().get_logits(torch.stack([transform(pillow(one)) for one in some()]), tokens)[0]


def record(case: str) -> None:
    """Write a case's folder anew."""
    folder = DATA / case
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if case in HUGGINGFACE:
        save_huggingface(case, folder)
        tokens, logits = said_by_huggingface(folder, "CLIPModel" if case == "clip" else "SiglipModel")
    else:
        save_open_clip(OPEN_CLIP[case], folder)
        tokens, logits = said_by_open_clip(folder)
    assert logits.std() > 0.3, logits  # logits that hardly differ would prove nothing
    pictures = {f"picture.{place}": torch.from_numpy(one) for place, one in enumerate(some())}
    save_file(
        {**pictures, "tokens": tokens.contiguous(), "logits": logits.contiguous()}, folder / "expected.safetensors"
    )


if __name__ == "__main__":
    for name in sys.argv[1:] or (*HUGGINGFACE, *OPEN_CLIP):
        record(name)
        print(name)
