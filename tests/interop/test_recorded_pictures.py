"""Folders as `transformers` and timm save them, imported: the same logits from the same uint8 pictures as recorded.

Measured worst case: 1.9e-6 (of logits whose deviation is 0.6 to 4.5), with each library's own resize: torchvision's of
Hugging Face, which this house has too, and Pillow's of timm. With ours in place of Pillow's: 0.017.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from corestone.core.errors import CheckpointError
from corestone.data.images.augment_spec import Resize
from corestone.interop.files import read_json
from corestone.interop.incoming_pictures import import_pictures, read_pictures_folder
from corestone.interop.outgoing_pictures import export_pictures, read_pictures
from corestone.interop.picture_agreement import logits_of, ours
from corestone.recipes.picture_model import load_picture_model
from corestone.train.archive import read_model_files

DATA = Path(__file__).parents[1] / "parity" / "data"
CASES = ("vit", "vit-grey", "timm-vit", "timm-vit-pool", "timm-coatnet")
TOLERANCE = 1e-4
RESIZED = 5e-2
"""By how much logits may differ where the resize is not Pillow's but torchvision's, which rounds a value in some
hundreds to the next of 255 levels."""


@pytest.fixture(autouse=True)
def without_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("transformers", "timm"):
        monkeypatch.setitem(sys.modules, name, None)


def recorded(case: str) -> tuple[list[np.ndarray], torch.Tensor]:
    tensors = load_file(DATA / case / "expected.safetensors")
    return [tensors[f"picture.{place}"].numpy() for place in range(3)], tensors["logits"]


def copy(case: str, tmp_path: Path) -> Path:
    """The folder as the library wrote it."""
    shutil.copytree(DATA / case, tmp_path / case, ignore=shutil.ignore_patterns("expected*"))
    return tmp_path / case


def change(folder: Path, file: str, **changes: object) -> None:
    """Set keys of a JSON file; None takes one out."""
    tree = {**json.loads((folder / file).read_text()), **changes}
    (folder / file).write_text(json.dumps({key: value for key, value in tree.items() if value is not None}))


@pytest.mark.parametrize("case", CASES)
def test_an_imported_model_gives_the_librarys_logits(case: str, tmp_path: Path) -> None:
    done = import_pictures(copy(case, tmp_path), tmp_path / "ours")
    given, logits = recorded(case)
    model = load_picture_model(done.folder, "float32").model
    classes, seen = read_pictures(done.folder / "pictures.json")
    assert len(classes) == model.classes == done.classes == 7
    assert model.image_size == seen.size
    mine = ours(model, seen, given)
    difference = (mine.logits(mine.pixels_BCHW.float()) - logits).abs().max()
    assert difference <= (RESIZED if case.startswith("timm") else TOLERANCE)
    _, _, kind = read_pictures_folder(DATA / case)
    files = {path.name: read_json(path) for path in (DATA / case).glob("*.json")}
    if case.startswith("timm"):
        pixels = torch.stack([kind.pixels(files, picture) for picture in given]).float()
        difference = (logits_of(model)(pixels) - logits).abs().max()
        assert difference <= TOLERANCE
        assert (pixels - mine.pixels_BCHW).abs().max() <= 1.001 / 255 / min(seen.std)


@pytest.mark.parametrize("case", CASES)
def test_written_again_it_is_the_same_folder(case: str, tmp_path: Path) -> None:
    """Every tensor, bit for bit, and what is said of classes and pixels."""
    folder = copy(case, tmp_path)
    library = "timm" if case.startswith("timm") else "huggingface"
    first = import_pictures(folder, tmp_path / "ours")
    again = export_pictures(first.folder, tmp_path / "back", library)
    before, after = load_file(folder / "model.safetensors"), load_file(again.folder / "model.safetensors")
    counters = {name for name in before if name.endswith("num_batches_tracked")}
    assert after.keys() == before.keys() - counters
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    second = import_pictures(again.folder, tmp_path / "again")
    for name in ("model.yaml", "pictures.json"):
        assert (first.folder / name).read_text() == (second.folder / name).read_text()
    one, other = (read_model_files(path, ("pictures.json",)).tensors for path in (first.folder, second.folder))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_classes_are_named_as_the_folder_names_them(tmp_path: Path) -> None:
    folder = copy("vit", tmp_path)
    change(folder, "config.json", id2label={str(n): f"name {n}" for n in (3, 1, 2, 0, 6, 5, 4)}, label2id=None)
    told, _, _ = read_pictures_folder(folder)
    assert told.classes == tuple(f"name {n}" for n in range(7))
    assert read_pictures_folder(DATA / "timm-vit")[0].classes[6] == "kind 6"


def test_options_that_mean_nothing_here_are_named(tmp_path: Path) -> None:
    folder = copy("vit", tmp_path)
    change(folder, "config.json", use_something=True)
    assert read_pictures_folder(folder)[0].notes == [
        "config.json: use_something=True is not known here and was not taken over"
    ]
    folder = copy("timm-vit", tmp_path)
    args = json.loads((folder / "config.json").read_text())["model_args"]
    change(folder, "config.json", model_args={**args, "drop_path_rate": 0.1})
    assert read_pictures_folder(folder)[0].notes == [
        "config.json: drop_path_rate=0.1 is not kept; it matters only in training"
    ]


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("vit", {"hidden_act": "quick_gelu"}, "hidden_act='quick_gelu' cannot be expressed here; known: gelu"),
        ("vit", {"hidden_size": None}, "'hidden_size' must be a positive whole number"),
        ("vit", {"num_attention_heads": 4}, "hidden_size=18 is no multiple of num_attention_heads=4"),
        ("vit", {"patch_size": [4, 2]}, "only square patches can"),
        ("vit", {"image_size": "14"}, "'image_size' must be a positive whole number or two of them"),
        ("vit", {"num_channels": 4}, "pictures of 4 channels cannot be read here"),
        ("vit", {"quantization_config": {"bits": 4}}, "quantization_config="),
        ("vit", {"architectures": ["ViTModel"]}, "known for vit: ViTForImageClassification"),
        ("vit", {"id2label": {"0": "a", "2": "b"}}, "'id2label' must name the classes 0, 1, 2"),
        ("vit", {"num_hidden_layers": 3}, "they lack 'encoder.layer.2"),
        ("vit", {"num_hidden_layers": 1}, "they also hold 'encoder.layer.1"),
        ("vit", {"intermediate_size": 29}, r"has shape \[28, 18\], config.json asks for \[29, 18\]"),
        ("timm-vit", {"architecture": "resnet50"}, "architecture 'resnet50' cannot be expressed here; known: vit_base"),
        ("timm-vit", {"label_names": ["a"]}, "label_names holds 1 names and num_classes=7"),
        ("timm-vit", {"pretrained_cfg": 3}, "'pretrained_cfg' .* must be JSON objects"),
    ],
)  # fmt: skip
def test_what_config_says_and_cannot_be_expressed_is_named(case, changes, message, tmp_path) -> None:
    folder = copy(case, tmp_path)
    change(folder, "config.json", **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        import_pictures(folder, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"resample": 1},
            r"resample=1 \(lanczos\) cannot be .* here, only 2 \(bilinear\) and 3 \(bicubic\) can",
        ),
        ({"resample": 9}, "resample=9 is no resampling known; those of Pillow: 0 nearest"),
        ({"resample": "soft"}, "resample='soft' is no resampling known"),
        ({"rescale_factor": 1 / 127.5}, "only 1/255 can"),
        ({"do_rescale": False}, "do_rescale=False cannot be expressed here"),
        ({"do_pad": True}, "do_pad=True cannot be expressed here"),
        ({"crop_margin": 3}, "crop_margin=3 cannot be expressed here"),
        ({"image_mean": [0.5]}, "must have one value per channel"),
        ({"image_mean": "grey"}, "the mean of the pixels must be one number per channel"),
        ({"image_std": [0.5, 0.0, 0.5]}, "must be positive"),
        ({"size": {"longest_edge": 9}}, "size=.* cannot be expressed here"),
        ({"size": {"height": 14, "width": 24}}, "gives pictures of 14x24 .* reads 14x23"),
        ({"image_processor_type": "BlipImageProcessor"}, "image_processor_type='BlipImageProcessor' cannot be"),
    ],
)
def test_preprocessing_that_cannot_be_expressed_is_named(changes, message, tmp_path) -> None:
    folder = copy("vit", tmp_path)
    change(folder, "preprocessor_config.json", **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        import_pictures(folder, tmp_path / "out")
    assert "preprocessor_config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_or_missing_processor_is_named(tmp_path: Path) -> None:
    folder = copy("vit", tmp_path)
    path = folder / "preprocessor_config.json"
    path.write_text('{"size": {"height": 14,\n "wid')
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json, line 2: not valid JSON"):
        import_pictures(folder, tmp_path / "out")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json: no such file; without it nothing says"):
        import_pictures(folder, tmp_path / "out")


def test_old_words_of_processors_are_understood(tmp_path: Path) -> None:
    """As in folders of the first ViTs: a number for a square, a feature extractor, and defaults left out."""
    folder = copy("vit", tmp_path)
    text = {"do_normalize": True, "do_resize": True, "feature_extractor_type": "ViTFeatureExtractor", "size": 14}
    (folder / "preprocessor_config.json").write_text(json.dumps(text))
    change(folder, "config.json", image_size=[14, 14])
    tensors = load_file(folder / "model.safetensors")
    name = "vit.embeddings.position_embeddings"
    save_file({**tensors, name: tensors[name][:, :10].contiguous()}, folder / "model.safetensors")
    told, _, _ = read_pictures_folder(folder)
    assert told.augmentation.mean == told.augmentation.std == (0.5, 0.5, 0.5)
    assert [step.kind for step in told.augmentation.evaluation] == ["resize"]


@pytest.mark.parametrize(
    ("args", "pretrained", "message"),
    [
        ({"reg_tokens": 4}, {}, r"reg_tokens=4 cannot be expressed here \(only reg_tokens=0 can\)"),
        ({"swiglu": True}, {}, "model_args.swiglu=True cannot be expressed here"),
        ({"fc_norm": None}, {}, "fc_norm=None cannot be expressed here"),
        ({"global_pool": "avgmax"}, {}, "global_pool='avgmax' cannot be expressed here; known: token, avg, map"),
        ({"depth": 0}, {}, "'depth' must be a positive whole number"),
        ({"mlp_ratio": "4"}, {}, "'mlp_ratio' must be a number"),
        (
            {},
            {"interpolation": "lanczos"},
            "interpolation='lanczos' cannot be expressed here, only bilinear",
        ),
        ({}, {"interpolation": 3}, "interpolation=3 cannot be expressed here, only bilinear and bicubic can"),
        ({}, {"crop_mode": "border"}, "crop_mode='border' with crop_pct=1 cannot be expressed here"),
        ({}, {"crop_pct": 0.9}, "crop_mode='squash' with crop_pct=0.9"),
        ({}, {"input_size": 224}, "'input_size' must be"),
    ],
)
def test_what_timm_says_and_cannot_be_expressed_is_named(args, pretrained, message, tmp_path) -> None:
    folder = copy("timm-vit", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    changes = {name: {**config[name], **new} for name, new in (("model_args", args), ("pretrained_cfg", pretrained))}
    change(folder, "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        import_pictures(folder, tmp_path / "out")


def test_published_preprocessing_is_read(tmp_path: Path) -> None:
    """Bicubic, as most folders of both libraries have it; timm's where they say nothing."""
    folder = copy("timm-vit", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for told in ({"interpolation": "bicubic"}, {}):
        pretrained = {key: value for key, value in config["pretrained_cfg"].items() if key != "interpolation"}
        change(folder, "config.json", pretrained_cfg={**pretrained, **told})
        assert read_pictures_folder(folder)[0].augmentation.evaluation == (Resize(interpolation="bicubic"),)
    folder = copy("vit", tmp_path)
    change(folder, "preprocessor_config.json", resample=3)
    assert read_pictures_folder(folder)[0].augmentation.evaluation == (Resize(interpolation="bicubic"),)
    done = import_pictures(folder, tmp_path / "out")
    again = export_pictures(done.folder, tmp_path / "back", "huggingface")
    assert json.loads((again.folder / "preprocessor_config.json").read_text())["resample"] == 3


def test_a_coatnet_of_the_librarys_own_pools_is_refused(tmp_path: Path) -> None:
    """Published ones take means where the paper, and this house, take maxima."""
    folder = copy("timm-coatnet", tmp_path)
    change(folder, "config.json", model_args=None)
    with pytest.raises(CheckpointError, match="conv_pool_type='avg2' cannot be expressed here"):
        import_pictures(folder, tmp_path / "out")


@pytest.mark.parametrize("case", ["vit", "timm-coatnet"])
def test_tensors_that_do_not_fit_are_named(case: str, tmp_path: Path) -> None:
    folder = copy(case, tmp_path)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    name = {"vit": "classifier.bias", "timm-coatnet": "head.fc.bias"}[case]
    for changed, message in (
        ({key: value for key, value in tensors.items() if key != name}, name),
        ({**tensors, "more": torch.zeros(2)}, "more"),
        ({**tensors, name: torch.zeros(9)}, rf"'{name}' has shape \[9\]"),
        ({**tensors, name: torch.full((7,), float("nan"))}, "not finite"),
        ({**tensors, name: torch.zeros(7, dtype=torch.int8)}, "int8"),
    ):
        save_file(changed, weights)
        with pytest.raises(CheckpointError, match=message):
            import_pictures(folder, tmp_path / "out")
