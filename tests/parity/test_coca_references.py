"""Parity with torchmultimodal's CoCa (torchmultimodal-nightly 2024.4.1), fp32 on CPU: outputs and gradients.

Where that model is not ours:

- its pools norm their queries; ours has the normed ones as parameters.
- its encoder has no norm at the end and its first pool norms what it reads: the same place.
- its second pool norms once more what the first one's norm made; ours does not, and theirs is taken out here.
- its texts are filled up to one length, the text's own vector stands at the end of that, with that place's position;
  ours stands behind the last real token and has no position: it is the sum of theirs.
- its own mask of what fills up is off by one place, so that the text's own vector sees the first of what fills up.
  Filled rows are compared under the right mask.

Measured worst case over all cases, in parts of a tensor's largest value (or of 1): 4.7e-7 of outputs, 2.4e-6 of
gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from corestone.core.batch import ImageBatch, ImageTextBatch, plain_batch
from corestone.core.mask import Mask
from corestone.core.spec import parse, plain
from corestone.models.captioner import CaptionerModel, build_captioner
from corestone.models.picture_spec import Captioner
from corestone.nn.spec import PatchEmbedding
from corestone.zoo.coca import coca, entries

pytestmark = pytest.mark.parity
TOLERANCE = 1e-5
VOCABULARY = 61
CASES: dict[str, dict[str, int]] = {
    "small": {"width": 24, "heads": 3, "seeing": 2, "depth": 2, "queries": 5, "tokens": 8},
    "one head, one query": {"width": 20, "heads": 1, "seeing": 1, "depth": 1, "queries": 1, "tokens": 5},
    "deep": {"width": 12, "heads": 4, "seeing": 3, "depth": 3, "queries": 17, "tokens": 11},
}


def close(found: Tensor, expected: Tensor, what: str) -> None:
    assert found.shape == expected.shape, what
    found, expected = found.detach(), expected.detach()
    error = float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()))
    assert error < TOLERANCE, (what, error)


def reference(case: Mapping[str, int], lively: bool = True) -> Any:
    coca_model = pytest.importorskip("torchmultimodal.models.coca.coca_model")
    width, heads, depth = case["width"], case["heads"], case["depth"]
    names = ("vision_layer_norm_eps", "text_layer_norm_eps", "text_final_layer_norm_eps", "fusion_layer_norm_eps")
    eps = dict.fromkeys((*names, "fusion_final_layer_norm_eps", "pooler_layer_norm_eps"), 1e-6)
    model = coca_model.coca_vit(
        vision_patch_size=case.get("patch", 3),
        vision_dim_feedforward=case.get("image_hidden", 40),
        vision_n_layer=case["seeing"],
        vision_n_head=heads,
        vocab_size=case.get("vocabulary", VOCABULARY),
        num_text_positions=case["tokens"] + 1,
        text_hidden_dim=width,
        text_n_layer=depth,
        text_n_head=heads,
        text_dim_feedforward=case.get("text_hidden", 28),
        text_output_dim=width,
        fusion_n_layer=depth,
        fusion_n_head=heads,
        fusion_dim_feedforward=case.get("text_hidden", 28),
        multimodal_output_projection_dim=case.get("vocabulary", VOCABULARY),
        pooler_input_embed_dim=width,
        pooler_output_embed_dim=width,
        pooler_n_head=heads,
        pooler_n_queries=case["queries"],
        image_size=(case["side"],) * 2 if "side" in case else (9, 12),
        pad_idx=None,
        **eps,
    )
    model.vision_pooler.poolers[1].ln_k = nn.Identity()
    generator = torch.Generator().manual_seed(case["width"])
    for name, parameter in model.named_parameters() if lively else ():
        gain = parameter.ndim == 1 and name.endswith("weight")
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + float(gain))
    return model


def ours_of(case: Mapping[str, int]) -> CaptionerModel:
    picture = PatchEmbedding(image_size=(9, 12), patch_size=3, class_token=False)
    image, text = (case["seeing"], 40), (case["depth"], 28)
    spec = coca(case["width"], case["heads"], image, text, VOCABULARY, picture=picture, queries=case["queries"])
    tree = plain(spec)
    tree["embedding"]["context_length"] = case["tokens"]
    return build_captioner(parse(Captioner, tree, "model"))


def layer(theirs: Mapping[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    """The tensors of one block under our names."""
    found = {}
    names = {"attention_layernorm": "mixer_norm", "feedforward_layernorm": "feedforward_norm",
             "cross_attention_layernorm": "cross_norm", "feedforward.model.0": "feedforward.up",
             "feedforward.model.2": "feedforward.down", "attention.output_proj": "mixer.out",
             "attention.input_proj": "mixer.qkv", "cross_attention.output_proj": "cross.out"}  # fmt: skip
    for end in ("weight", "bias"):
        for before, after in names.items():
            if f"{old}.{before}.{end}" in theirs:
                found[f"{new}.{after}.{end}"] = theirs[f"{old}.{before}.{end}"]
        if f"{old}.attention.q_proj.{end}" in theirs:
            found[f"{new}.mixer.qkv.{end}"] = maps(theirs, f"{old}.attention", "qkv", end)
        if f"{old}.cross_attention.q_proj.{end}" in theirs:
            found[f"{new}.cross.q.{end}"] = maps(theirs, f"{old}.cross_attention", "q", end)
            found[f"{new}.cross.kv.{end}"] = maps(theirs, f"{old}.cross_attention", "kv", end)
    return found


def maps(theirs: Mapping[str, Tensor], where: str, which: str, end: str) -> Tensor:
    return torch.cat([theirs[f"{where}.{name}_proj.{end}"] for name in which])


def named_ours(theirs: Mapping[str, Tensor], case: Mapping[str, int]) -> dict[str, Tensor]:
    """Their tensors, or gradients, under our names; without the queries and the text's own vector."""
    picture, text, depth = "vision_encoder.embeddings", "text_decoder.embeddings", case["depth"]
    found = {
        "image_embedding.patch.weight": theirs[f"{picture}.conv_projection.weight"].flatten(1),
        "image_embedding.patch.bias": theirs[f"{picture}.conv_projection.bias"],
        "image_embedding.position.weight": theirs[f"{picture}.position_embeddings"][0],
        "embedding.token.weight": theirs[f"{text}.token_embeddings.weight"],
        "embedding.position.weight": theirs[f"{text}.position_embeddings"][:-1],
        "image_out.weight": theirs["vision_proj.weight"],
        "text_out.weight": theirs["text_decoder.text_projection.weight"],
        "head.weight": theirs["multimodal_decoder.output_projection.weight"],
    }
    for end in ("weight", "bias"):
        found[f"image_stack.final_norm.{end}"] = theirs[f"vision_pooler.poolers.0.ln_k.{end}"]
        found[f"text_norm.{end}"] = theirs[f"text_decoder.ln_final.{end}"]
        last = f"multimodal_decoder.transformer_decoder.final_layer_norm.{end}"
        found[f"decoder.final_norm.{end}"] = theirs[last]
        for number, pool in enumerate(("caption_pool", "contrast_pool")):
            old = f"vision_pooler.poolers.{number}"
            found[f"{pool}.attention.q.{end}"] = maps(theirs, f"{old}.attn", "q", end)
            found[f"{pool}.attention.kv.{end}"] = maps(theirs, f"{old}.attn", "kv", end)
            found[f"{pool}.attention.out.{end}"] = theirs[f"{old}.attn.output_proj.{end}"]
            found[f"{pool}.norm.{end}"] = theirs[f"{old}.ln_post.{end}"]
    for number in range(case["seeing"]):
        found |= layer(theirs, f"vision_encoder.encoder.layer.{number}", f"image_stack.blocks.{number}")
    for number in range(depth):
        for half, name in enumerate(("text_decoder", "multimodal_decoder")):
            old = f"{name}.transformer_decoder.layer.{number}"
            found |= layer(theirs, old, f"decoder.blocks.{half * depth + number}")
    return found


def filled(theirs: Any, case: Mapping[str, int]) -> CaptionerModel:
    """Ours with their weights."""
    ours, tensors = ours_of(case), dict(theirs.named_parameters())
    weights = named_ours(tensors, case)
    for number, pool in enumerate(("caption_pool", "contrast_pool")):
        one = theirs.vision_pooler.poolers[number]
        weights[f"{pool}.probe.weight"] = one.ln_q(one.query)
    text = theirs.text_decoder.embeddings
    weights["text_token.weight"] = (text.cls_embedding + text.position_embeddings[-1])[None]
    parameters = dict(ours.named_parameters())
    assert weights.keys() == parameters.keys() - {"similarity.log_scale"}
    with torch.no_grad():
        for name, value in weights.items():
            assert value.shape == parameters[name].shape, name
            parameters[name].copy_(value)
    return ours


def texts_of(case: Mapping[str, int]) -> Tensor:
    return torch.randint(1, VOCABULARY, (3, case["tokens"]), generator=torch.Generator().manual_seed(1))


def theirs_of(theirs: Any, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    image, text, logits, _ = theirs(images, tokens)
    return image[:, 0], text, logits


def outputs(ours: CaptionerModel, batch: ImageTextBatch) -> tuple[Tensor, Tensor, Tensor]:
    out = ours(batch)
    return out.intermediates["image"], out.intermediates["text"], ours.head(out.hidden)


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients(name: str) -> None:
    case = CASES[name]
    theirs, images = reference(case), torch.randn(3, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    ours, tokens = filled(theirs, case), texts_of(case)
    expected = theirs_of(theirs, images, tokens)
    found = outputs(ours, ImageTextBatch(ImageBatch(images), plain_batch(tokens)))
    assert float(expected[2].detach().std()) > 0.4
    probes = [torch.randn(one.shape, generator=torch.Generator().manual_seed(2)) for one in expected]
    for what, one, other in zip(("image", "text", "logits"), found, expected, strict=True):
        close(one, other, what)
    for ends in (expected, found):
        sum((end * probe).sum() for end, probe in zip(ends, probes, strict=True)).backward()
    theirs_by_name = dict(theirs.named_parameters())
    wanted = named_ours({key: p.grad for key, p in theirs_by_name.items() if p.grad is not None}, case)
    wanted["text_token.weight"] = theirs_by_name["text_decoder.embeddings.cls_embedding"].grad[None]
    gradients = {key: p.grad for key, p in ours.named_parameters() if p.grad is not None}
    for number, pool in enumerate(("caption_pool", "contrast_pool")):
        one = theirs.vision_pooler.poolers[number]
        back = torch.autograd.grad(one.ln_q(one.query), one.query, gradients.pop(f"{pool}.probe.weight"))[0]
        close(back, one.query.grad, f"{pool}.probe")
    assert gradients.keys() == wanted.keys()
    for key, gradient in gradients.items():
        close(gradient, wanted[key], key)


@pytest.mark.parametrize("name", ["small", "deep"])
def test_rows_that_are_filled_up(name: str) -> None:
    case = CASES[name]
    theirs, images = reference(case), torch.randn(3, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    ours, tokens, T = filled(theirs, case), texts_of(case), case["tokens"]
    real = torch.arange(T)[None] < torch.tensor([T, 3, 1])[:, None]
    seen = torch.cat((real, torch.ones(3, 1, dtype=torch.bool)), dim=1)
    causal = torch.ones(T + 1, T + 1, dtype=torch.bool).tril()
    own = torch.eye(T + 1, dtype=torch.bool)  # what fills up must see something
    theirs.text_decoder.build_mask = lambda ids, padding: ((causal & seen[:, None]) | own)[:, None]
    mask = Mask(segments_BT=(~real).int())
    batch = ImageTextBatch(ImageBatch(images), replace(plain_batch(tokens), mask=mask))
    with torch.no_grad():
        expected, found = theirs_of(theirs, images, tokens), outputs(ours, batch)
    close(found[0], expected[0], "image")
    close(found[1], expected[1], "text")
    close(found[2][real], expected[2][real], "logits")


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_published_sizes_have_their_tensors(entry: Any) -> None:
    """As many numbers as theirs, but for the norms they have more, the second position of the text's own vector, the
    scale, which is the loss's there, and a head of its own."""
    spec = entry.spec
    width, block, text = spec.decoder.width, spec.image_stack.blocks[0], spec.decoder.blocks[0]
    case = {"width": width, "heads": block.mixer.num_heads, "seeing": len(spec.image_stack.blocks),
            "depth": spec.unimodal, "queries": 256, "tokens": 64, "side": 288, "patch": 18,
            "vocabulary": 64_000, "image_hidden": block.feedforward.hidden_dim,
            "text_hidden": text.feedforward.hidden_dim}  # fmt: skip
    with torch.device("meta"):
        theirs = sum(p.numel() for p in reference(case, lively=False).parameters())
    ours = sum(p.numel() for p in build_captioner(spec, device="meta").parameters())
    head = 64_000 * width if spec.head.tied else 0
    assert theirs - ours == 2 * 2 * width + width - 1 + head
