"""Models of pictures and texts in the hands of `transformers` and open_clip, from uint8 pictures and strings to logits,
in float32: folders of theirs imported, and folders written for them.

Measured worst cases stand beside the tolerances. `transformers` resizes with torchvision as this house does; open_clip
with Pillow, which rounds some values to another of 255 levels.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from record_pairs import (
    DATA,
    HUGGINGFACE,
    OPEN_CLIP,
    TEXTS,
    record,
    said_by_huggingface,
    said_by_open_clip,
    save_huggingface,
    save_open_clip,
    some,
)
from safetensors.torch import load_file, save_file

from corestone.core.batch import ImageBatch
from corestone.core.errors import CheckpointError
from corestone.core.spec import differing, plain, to_yaml
from corestone.data.images.augment import evaluation_picture, normalise
from corestone.data.images.augment_spec import Augmentation, CenterCrop, Resize
from corestone.data.images.caption_rows import caption_batch
from corestone.data.images.spec import CaptionRows
from corestone.data.spec import BytePair, WordPiece
from corestone.data.tokenizer import build_tokenizer, load_tokenizer
from corestone.interop.incoming_pairs import import_pairs
from corestone.interop.open_clip_pairs import OPEN_CLIP_CONFIG, OPEN_CLIP_MODEL
from corestone.interop.outgoing_pairs import export_pairs, read_pairs_json
from corestone.interop.pair_tokenizer import Template
from corestone.models.picture_spec import ImageEncoder, ModifiedResNet, Projection, Similarity, TextTower, TwoTower
from corestone.models.two_tower import build_two_tower
from corestone.nn.spec import MeanPool, Norm, PatchEmbedding, TokenEmbedding
from corestone.recipes.build import read_model_spec
from corestone.recipes.picture_model import load_picture_model
from corestone.train.archive import read_model_files
from corestone.train.checkpoint import write_checkpoint
from corestone.zoo.catalogue import find
from corestone.zoo.clip import stack
from corestone.zoo.siglip import siglip

pytestmark = pytest.mark.parity
TOLERANCE, RESIZED = 1e-4, 0.1
COMPANIONS = ("pictures.json", "tokenizer.json", "tokenizer-manifest.json")


def ours(folder: Path, pixels: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and logits of a checkpoint of ours, by what lies in it alone; of the pictures, or of given pixels."""
    model, tokenizer = load_picture_model(folder, "float32").model, load_tokenizer(folder)
    spec = read_model_spec(read_model_files(folder, COMPANIONS).model_yaml, "test")
    told = read_pairs_json(folder / "pictures.json", spec, tokenizer)
    batch = caption_batch([tokenizer.encode(text) for text in TEXTS], told.rows, told.context_length)
    if pixels is None:
        pixels = torch.stack([normalise(told.augmentation, evaluation_picture(told.augmentation, p)) for p in some()])
    with torch.no_grad():
        logits = model.log_scale.exp() * model.image(ImageBatch(pixels)) @ model.text(batch).T
        return batch.tokens_BT, logits if model.bias is None else logits + model.bias


def compared(what: str, folder: Path, said: tuple[torch.Tensor, torch.Tensor], tolerance: float) -> None:
    """The same ids, up to what fills rows up unread, and the same logits."""
    (mine, logits), (theirs, expected) = ours(folder), said
    assert torch.equal(mine, theirs[:, : mine.shape[1]])
    assert expected.std() > 0.3, expected  # logits that hardly differ would prove nothing
    worst = float((logits - expected).abs().max())
    print(f"WORST {what} {worst:.2g}")
    assert worst <= tolerance


def changed(case: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """A config with some settings of its parts changed."""
    case = copy.deepcopy(case)
    for name, value in parts.items():
        case[name] = {**case[name], **value} if isinstance(value, dict) else value
    return case


HUGGINGFACE_CASES = {
    "clip": ("clip", {}),
    "clip, gelu": ("clip", {"text_config": {"hidden_act": "gelu"}, "vision_config": {"hidden_act": "gelu"}}),
    "clip, one layer": ("clip", {"vision_config": {"num_hidden_layers": 1, "layer_norm_eps": 1e-3}}),
    "siglip": ("siglip", {}),
    "siglip, deeper text": ("siglip", {"text_config": {"num_hidden_layers": 4, "layer_norm_eps": 1e-4}}),
}


@pytest.mark.parametrize("name", HUGGINGFACE_CASES)
def test_folders_of_transformers_there_and_back(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured: logits within 2.1e-6; every tensor there and back the same."""
    case, changes = HUGGINGFACE_CASES[name]
    monkeypatch.setitem(HUGGINGFACE, case, changed(HUGGINGFACE[case], **changes))
    save_huggingface(case, tmp_path / "theirs")
    architecture = "CLIPModel" if case == "clip" else "SiglipModel"
    done = import_pairs(tmp_path / "theirs", tmp_path / "ours")
    compared("transformers in", done.folder, said_by_huggingface(tmp_path / "theirs", architecture), TOLERANCE)
    back = export_pairs(done.folder, tmp_path / "back", "huggingface")
    assert not any("not checked" in check for check in back.checks)
    assert len(back.checks) == 5
    compared("transformers out", done.folder, said_by_huggingface(back.folder, architecture), TOLERANCE)
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("theirs", "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


_OPEN = OPEN_CLIP["open-clip"]
OPEN_CLIP_CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "published activation": (_OPEN, {}),
    "squashed, bilinear": (
        changed(_OPEN, quick_gelu=False, vision_cfg={"image_size": [15, 20]}),
        {"resize_mode": "squash", "interpolation": "bilinear"},
    ),
    "sigmoid, towers apart": (
        changed(_OPEN, text_cfg={"proj_bias": True}, custom_text=True, init_logit_bias=-10.0),
        {},
    ),
    "mean of patches, tanh": (
        changed(
            _OPEN,
            quick_gelu=False,
            vision_cfg={"pool_type": "avg", "no_ln_pre": True, "act_kwargs": {"approximate": "tanh"}},
            text_cfg={"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-3}, "mlp_ratio": 2.2},
        ),
        {},
    ),
    "end by its id": (changed(_OPEN, text_cfg={"pool_type": "eos", "eos_id": 525}), {}),
    "both ways, last": (changed(_OPEN, text_cfg={"pool_type": "last", "no_causal_mask": True}), {}),
    "both ways, first": (changed(_OPEN, text_cfg={"pool_type": "first", "no_causal_mask": True}), {}),
    "no projection of texts": (changed(_OPEN, embed_dim=18, text_cfg={"proj_type": "none"}), {}),
    "residual": (
        changed(_OPEN, vision_cfg={"layers": [1, 2, 1, 1], "width": 4, "head_width": 32, "image_size": 64}),
        {},
    ),
}


@pytest.mark.parametrize("name", OPEN_CLIP_CASES)
def test_folders_of_open_clip_there_and_back(name: str, tmp_path: Path) -> None:
    """Measured: of the same pixels logits within 5.2e-6; Pillow's resize moves them by 0.037 at most. Every tensor
    there and back is the same."""
    import open_clip
    from record_pictures import pillow

    config, preprocess = OPEN_CLIP_CASES[name]
    save_open_clip(config, tmp_path / "theirs", preprocess)
    done = import_pairs(tmp_path / "theirs", tmp_path / "ours")
    back = export_pairs(done.folder, tmp_path / "back", "open_clip")
    assert not any("not checked" in check for check in back.checks)
    assert len(back.checks) == 5
    for folder in (tmp_path / "theirs", back.folder):
        tokens, logits = said_by_open_clip(folder)
        compared("open_clip, resized", done.folder, (tokens, logits), RESIZED)
        _, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
        pixels = torch.stack([transform(pillow(one)) for one in some()])
        worst = float((ours(done.folder, pixels)[1] - logits).abs().max())
        print(f"WORST open_clip, same pixels {worst:.2g}")
        assert worst <= TOLERANCE
    before, after = (load_file(tmp_path / folder / "open_clip_model.safetensors") for folder in ("theirs", "back"))
    kept = {key.removeprefix("text."): value for key, value in before.items() if "num_batches_tracked" not in key}
    assert after.keys() == kept.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in kept.items())


SIZE = (16, 24)
SEEN = Augmentation(size=SIZE, evaluation=(Resize(),), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
SQUARE = SEEN.model_copy(
    update={"size": (16, 16), "evaluation": (Resize(shorter=16, interpolation="bicubic"), CenterCrop())}
)
BICUBIC = SQUARE.model_copy(update={"evaluation": (Resize(interpolation="bicubic"),)})
CAPTIONS = ["a photo of a stone wall, two cats and a dog", "three birds on a corner stone"] * 9


def clip(size: tuple[int, int] = (16, 16), **changes: Any) -> TwoTower:
    embedding = PatchEmbedding(image_size=size, patch_size=8, bias=False, norm=Norm())
    text = TextTower(embedding=TokenEmbedding(vocab_size=320, context_length=20), stack=stack(64, 2))
    made = TwoTower(image=ImageEncoder(embedding=embedding, stack=stack(128, 2)), text=text, embed_dim=24)
    return made.model_copy(update=changes)


WHOLE = CaptionRows(start=2, end=3, fill=4, whole=True)
RESNET = ModifiedResNet(image_size=(64, 64), width=2, depths=(1, 1, 1, 1), head_dim=16)
LARGE = SEEN.model_copy(update={"size": (64, 64)})
MEAN = clip().image.model_copy(update={"pool": MeanPool()})
OWN: dict[str, tuple[str, TwoTower, Augmentation, CaptionRows | None, Any]] = {
    "clip for transformers": ("huggingface", clip(), BICUBIC, None, BytePair(vocab_size=300)),
    "clip of word pieces": ("huggingface", clip(), BICUBIC, None, WordPiece(vocab_size=120)),
    "siglip for transformers": (
        "huggingface",
        siglip(64, 2, 2, 8, 16, vocab_size=320, context_length=20),
        BICUBIC,
        WHOLE,
        BytePair(vocab_size=300),
    ),
    "siglip, one token for all": (
        "huggingface",
        siglip(64, 2, 2, 8, 16, vocab_size=320, context_length=20),
        BICUBIC,
        CaptionRows(start=0, end=0, fill=0, whole=True),
        BytePair(vocab_size=300),
    ),
    "clip for open_clip": ("open_clip", clip(SIZE), SEEN, None, BytePair(vocab_size=300)),
    "sigmoid for open_clip": (
        "open_clip",
        clip(similarity=Similarity(bias=-2.0), text_projection=Projection(bias=True), image=MEAN),
        SQUARE,
        None,
        BytePair(vocab_size=300),
    ),
    "end by its id for open_clip": (
        "open_clip",
        clip(),
        SQUARE,
        CaptionRows(start=0, end=7, fill=0),
        BytePair(vocab_size=300),
    ),
    "residual for open_clip": (
        "open_clip",
        clip(image=RESNET, image_projection=Projection(bias=True)),
        LARGE,
        None,
        BytePair(vocab_size=300),
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_our_own_models_say_the_same_there(name: str, tmp_path: Path) -> None:
    """Measured: of `transformers` logits within 3.5e-6; of open_clip within 0.016, which is Pillow's resize."""
    library, spec, seen, rows, words = OWN[name]
    tokenizer = build_tokenizer(words, CAPTIONS)
    model = build_two_tower(spec, seed=5)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if "similarity" not in key:
                drawn = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(1 + drawn.abs() if "variance" in key else tensor + 0.15 * drawn)
    told = {"augmentation": plain(seen), "context_length": 20, **({} if rows is None else {"rows": plain(rows)})}
    texts = {"model.yaml": to_yaml(spec), "pictures.json": json.dumps(told), **tokenizer.files()}
    write_checkpoint(tmp_path / "ours", {"model.safetensors": model.state_dict()}, texts)
    done = export_pairs(tmp_path / "ours", tmp_path / "theirs", library)
    assert not any("not checked" in check for check in done.checks)
    said = (
        said_by_open_clip(done.folder)
        if library == "open_clip"
        else said_by_huggingface(done.folder, done.architecture)
    )
    (_, logits), (tokens, expected) = ours(tmp_path / "ours"), said
    worst = float((logits - expected).abs().max())
    print(f"WORST own, {library} {worst:.2g} of deviation {float(expected.std()):.2g}")
    assert expected.std() > 0.3
    assert worst <= (RESIZED if library == "open_clip" else TOLERANCE)
    assert tokens.shape == (4, 20)
    again = import_pairs(done.folder, tmp_path / "again")
    compared("own, again", again.folder, said, RESIZED if library == "open_clip" else TOLERANCE)


def test_a_coca_of_open_clip_is_refused_by_what_differs(tmp_path: Path) -> None:
    """As its own code saves one: with the pool, the layers and the text's vector that the refusal names."""
    from open_clip.coca_model import CoCa

    parts = {
        "vision_cfg": {"layers": 1, "width": 24, "head_width": 6, "patch_size": 8, "image_size": 16,
                       "attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 5,
                       "output_tokens": True},
        "text_cfg": {"context_length": 8, "vocab_size": 526, "width": 18, "heads": 3, "layers": 1, "embed_cls": True,
                     "output_tokens": True},
        "multimodal_cfg": {"context_length": 8, "vocab_size": 526, "width": 18, "heads": 3, "layers": 1},
    }  # fmt: skip
    theirs = CoCa(embed_dim=18, **copy.deepcopy(parts))
    save_open_clip(_OPEN, tmp_path / "coca")
    tensors = {name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}
    save_file(tensors, tmp_path / "coca" / "open_clip_model.safetensors")
    config = {"model_cfg": {"embed_dim": 18, "custom_text": True, **parts}, "preprocess_cfg": {}}
    (tmp_path / "coca" / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"a CoCa, .*multimodal_cfg\).*embed_cls\).*attentional_pool\)") as caught:
        import_pairs(tmp_path / "coca", tmp_path / "out")
    assert "\n" not in str(caught.value)
    # What it says is so: one pool of all queries, two blocks a layer, a vector at the end.
    assert tensors["visual.attn_pool.query"].shape == (5, 18)
    assert not any("attn_pool_contrastive" in name for name in tensors)
    blocks = [name for name in tensors if name.startswith("text_decoder.") and name.endswith("mlp.c_fc.weight")]
    assert blocks == [f"text_decoder.{half}.0.mlp.c_fc.weight" for half in ("resblocks", "cross_attn")]
    assert tensors["text_decoder.cross_attn.0.ln_1_kv.weight"].shape == (18,)
    assert tensors["text.positional_embedding"].shape == (9, 18)


PUBLISHED = {"ViT-B-32": "vit-b32", "ViT-B-16": "vit-b16", "ViT-L-14": "vit-l14", "ViT-L-14-336": "vit-l14-336",
             **{name: name.lower() for name in ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64")}}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_of_open_clip_are_the_zoos(name: str, tmp_path: Path) -> None:
    import open_clip

    config = open_clip.get_model_config(f"{name}-quickgelu") or open_clip.get_model_config(name) | {"quick_gelu": True}
    template = Template(start=49406, end=49407, pad=49407, longest=77, highest=49407)
    told = OPEN_CLIP_MODEL.read({OPEN_CLIP_CONFIG: {"model_cfg": config}}, tmp_path, template)
    paths = differing(plain(find(f"clip-{PUBLISHED[name]}").spec), plain(told.spec), "model")
    assert [path for path in paths if ".init" not in path] == []
    assert [step.kind for step in told.augmentation.evaluation] == ["resize", "center_crop"]


@pytest.mark.parametrize("case", [*HUGGINGFACE, *OPEN_CLIP])
def test_what_was_recorded_is_what_the_libraries_compute(case: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Measured: no difference."""
    monkeypatch.setattr("record_pairs.DATA", tmp_path)
    record(case)
    again, before = (load_file(folder / case / "expected.safetensors") for folder in (tmp_path, DATA))
    assert again.keys() == before.keys()
    assert all(np.abs(again[name].double() - before[name].double()).max() <= 1e-5 for name in before)
