"""Vision Transformers of other libraries that an ImageEncoder can express: the names of their tensors."""

from __future__ import annotations

from corestone.interop.family import Name, Named, Tensors


def _both(ours: str, *theirs: str) -> tuple[Name, Name]:
    """The weight and the bias of a layer."""
    weight, bias = (Name(f"{ours}.{kind}", tuple(f"{part}.{kind}" for part in theirs)) for kind in ("weight", "bias"))
    return weight, bias


def _patches(theirs: str) -> tuple[Name, Name]:
    """The map of a patch, a convolution there."""
    return (
        Name("embedding.patch.weight", f"{theirs}.weight", layout="kernel"),
        Name("embedding.patch.bias", f"{theirs}.bias"),
    )


_OURS, _TIMM, _HF = "stack.blocks.{layer}.", "blocks.{layer}.", "encoder.layer.{layer}."

TIMM = Named(
    architecture="VisionTransformer",
    tensors=Tensors(
        prefixes=("",),
        names=(
            *_patches("patch_embed.proj"),
            Name("embedding.class_token.weight", "cls_token", layout="batched"),
            Name("embedding.position.weight", "pos_embed", layout="batched"),
            *_both(_OURS + "mixer_norm", _TIMM + "norm1"),
            *_both(_OURS + "mixer.qkv", _TIMM + "attn.qkv"),
            *_both(_OURS + "mixer.out", _TIMM + "attn.proj"),
            *_both(_OURS + "feedforward_norm", _TIMM + "norm2"),
            *_both(_OURS + "feedforward.up", _TIMM + "mlp.fc1"),
            *_both(_OURS + "feedforward.down", _TIMM + "mlp.fc2"),
            *_both("stack.final_norm", "norm"),
            Name("pool.probe.weight", "attn_pool.latent", layout="batched"),
            *_both("pool.attention.q", "attn_pool.q"),
            *_both("pool.attention.kv", "attn_pool.kv"),
            *_both("pool.attention.out", "attn_pool.proj"),
            *_both("pool.norm", "attn_pool.norm"),
            *_both("pool.feedforward.up", "attn_pool.mlp.fc1"),
            *_both("pool.feedforward.down", "attn_pool.mlp.fc2"),
            *_both("head", "head"),
        ),
    ),
)
"""Of timm. Its mean pooling is this one with `fc_norm=False`: by default its last norm stands behind the mean."""

_BODY = (
    *_patches("embeddings.patch_embeddings.projection"),
    Name("embedding.class_token.weight", "embeddings.cls_token", layout="batched"),
    Name("embedding.position.weight", "embeddings.position_embeddings", layout="batched"),
    *_both(_OURS + "mixer_norm", _HF + "layernorm_before"),
    *_both(_OURS + "mixer.qkv", *(f"{_HF}attention.attention.{part}" for part in ("query", "key", "value"))),
    *_both(_OURS + "mixer.out", _HF + "attention.output.dense"),
    *_both(_OURS + "feedforward_norm", _HF + "layernorm_after"),
    *_both(_OURS + "feedforward.up", _HF + "intermediate.dense"),
    *_both(_OURS + "feedforward.down", _HF + "output.dense"),
    *_both("stack.final_norm", "layernorm"),
)

HUGGINGFACE = Named(
    architecture="ViTForImageClassification",
    tensors=Tensors(prefixes=("vit.", ""), heads=("classifier.",), names=(*_BODY, *_both("head", "classifier"))),
)
"""Of `transformers`, by the names in its folders."""

HUGGINGFACE_POOLER = Named(
    architecture="ViTModel",
    tensors=Tensors(prefixes=("", "vit."), names=(*_BODY, *_both("head.dense", "pooler.dense"))),
)
"""The pretrained model with its tanh layer, whose logits the library leaves out."""
