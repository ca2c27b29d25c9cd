"""Tiny random picture classifiers of `transformers` and timm and what they make of pictures, recorded so that the
default tests need neither.

Run `python tests/parity/record_pictures.py [CASE]...` to record again. Each case is a folder as the library itself
saves it, beside `expected.safetensors`: pictures `picture.0`, ... (H, W, C) uint8 and the `logits` that the library
computes of them, its own preprocessing included.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

DATA = Path(__file__).parent / "data"

# Every size differs from every other within a case wherever it may, so that a swapped axis cannot go unnoticed.
VITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vit": (
        {"image_size": [14, 23], "patch_size": 4, "layer_norm_eps": 1e-6, "hidden_act": "gelu_new"},
        {"size": {"height": 14, "width": 23}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]},
    ),
    "vit-grey": (
        {"image_size": 12, "patch_size": 3, "num_channels": 1, "qkv_bias": False},
        {
            "size": {"shortest_edge": 16},
            "do_center_crop": True,
            "crop_size": {"height": 12, "width": 12},
            "resample": 2,
            "do_convert_rgb": False,
            "image_mean": [0.4],
            "image_std": [0.3],
        },
    ),
}
"""Of the library's ViTConfig, and of a processor: the second of CLIP's kind."""

_VIT_SIZES: dict[str, Any] = {
    "hidden_size": 18, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 28, "num_labels": 7,
}  # fmt: skip
_TIMM_VIT: dict[str, Any] = {"patch_size": 4, "embed_dim": 18, "depth": 2, "num_heads": 3, "mlp_ratio": 1.6}
_SEEN = {"interpolation": "bilinear", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "num_classes": 7}
TIMMS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "timm-vit": (
        "vit_tiny_patch16_224",
        {**_TIMM_VIT, "img_size": [14, 23], "global_pool": "avg", "fc_norm": False, "act_layer": "gelu_tanh"},
        {**_SEEN, "input_size": [3, 14, 23], "crop_mode": "squash", "crop_pct": 1.0},
    ),
    "timm-vit-pool": (
        "vit_base_patch16_224",
        {**_TIMM_VIT, "img_size": [12, 12], "global_pool": "map", "class_token": False, "qkv_bias": False},
        {**_SEEN, "input_size": [3, 12, 12], "crop_mode": "center", "crop_pct": 0.8},
    ),
    "timm-coatnet": (
        "coatnet_0_224",
        {
            "embed_dim": [8, 12, 16, 20], "depths": [1, 1, 2, 1], "stem_width": 6, "head_hidden_size": 20,
            "conv_stride_mode": "1x1", "conv_pool_type": "max2", "transformer_pool_type": "max2",
            "transformer_dim_head": 4, "img_size": [64, 64],
        },
        {**_SEEN, "input_size": [3, 64, 64], "crop_mode": "center", "crop_pct": 0.9, "fixed_input_size": True},
    ),
}  # fmt: skip
"""Entry point, its arguments, and what is said of preprocessing."""

SHAPES = ((9, 14), (20, 25), (30, 23))
"""Heights and widths of pictures. None leaves a half pixel to a crop where transformers would cut elsewhere."""


def lively(model: Any, case: str) -> Any:
    """No gain 1, no bias 0, no statistic where it starts, and logits that every part moves."""
    generator = torch.Generator().manual_seed(sum(case.encode()))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(1 + torch.rand(tensor.shape, generator=generator))
            elif tensor.is_floating_point():
                tensor.copy_(
                    torch.randn(tensor.shape, generator=generator) * 0.3 + ("norm" in name and tensor.ndim == 1)
                )
    return model.eval()


def pictures(channels: int) -> list[np.ndarray]:
    generator = np.random.default_rng(5)
    return [generator.integers(0, 256, (*shape, channels), dtype=np.uint8) for shape in SHAPES]


def pillow(picture: np.ndarray) -> Image.Image:
    return Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)


def record_vit(case: str, folder: Path) -> torch.Tensor:
    import transformers

    config, processing = VITS[case]
    model = lively(transformers.ViTForImageClassification(transformers.ViTConfig(**{**_VIT_SIZES, **config})), case)
    made = transformers.CLIPImageProcessor if "crop_size" in processing else transformers.ViTImageProcessor
    processor = made(**processing)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    given = [pillow(picture) for picture in pictures(model.config.num_channels)]
    with torch.inference_mode():
        return torch.cat([model(processor(one, return_tensors="pt")["pixel_values"]).logits for one in given])


def record_timm(case: str, folder: Path) -> torch.Tensor:
    import timm

    entry, args, seen = TIMMS[case]
    model = lively(timm.create_model(entry, pretrained_cfg=seen, **args), case)
    names = [f"kind {number}" for number in range(7)]
    timm.models.save_for_hf(
        model, folder, model_args=args, model_config={"label_names": names}, safe_serialization=True
    )
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.inference_mode():
        return model(torch.stack([transform(pillow(picture)) for picture in pictures(3)]))


def record(case: str) -> None:
    folder = DATA / case
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    logits = (record_vit if case in VITS else record_timm)(case, folder).clone()
    assert logits.std() > 0.3, f"{case}: logits that hardly differ would prove nothing"
    channels = 1 if case == "vit-grey" else 3
    shown = {f"picture.{place}": torch.from_numpy(one) for place, one in enumerate(pictures(channels))}
    save_file({**shown, "logits": logits}, folder / "expected.safetensors")


if __name__ == "__main__":
    for name in sys.argv[1:] or [*VITS, *TIMMS]:
        record(name)
        print(name, sum(path.stat().st_size for path in (DATA / name).iterdir()))
