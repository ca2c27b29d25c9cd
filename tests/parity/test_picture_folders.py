"""Exported picture classifiers in the hands of `transformers` and timm, from uint8 pictures to logits, in float32.

Measured worst cases stand beside the tolerances. `transformers` resizes with torchvision as this house
does, so nothing is lost; timm (and `transformers` without torchvision) with Pillow, which rounds some values to the
next of 255 levels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from record_pictures import DATA, TIMMS, VITS, lively, pillow, record
from safetensors.torch import load_file

from corestone.core.spec import plain, to_yaml
from corestone.data.images.augment_spec import Augmentation, CenterCrop, Resize
from corestone.interop.incoming_pictures import import_pictures
from corestone.interop.outgoing_pictures import export_pictures
from corestone.interop.picture_agreement import ours
from corestone.interop.timm_pictures import COATNETS, TIMM_VIT
from corestone.interop.timm_pictures import VITS as TIMM_VITS
from corestone.models.coatnet import build_coatnet
from corestone.models.image_encoder import build_image_encoder
from corestone.models.picture_spec import ClassHead, CoAtNet, ImageEncoder, Stage
from corestone.nn.spec import GridTransformer, MBConv, MeanPool
from corestone.recipes.picture_model import load_picture_model
from corestone.train.archive import read_model_files
from corestone.train.checkpoint import write_checkpoint
from corestone.zoo.coatnet import stem
from corestone.zoo.vit import entries, vit

pytestmark = pytest.mark.parity
TOLERANCE = 1e-4
CLASSES = ["cat", "dog", "größer", "a b", "5"]

Size = tuple[int, int]


def encoder(size: Size, channels: int = 3, **changes: Any) -> ImageEncoder:
    spec = vit(24, 3, 3, 4, 40, size, ClassHead(classes=5)).model_copy(update=changes)
    return spec.model_copy(update={"embedding": spec.embedding.model_copy(update={"channels": channels})})


def coatnet(stride_at: str) -> CoAtNet:
    blocks = (MBConv(stride_at=stride_at),) * 2 + (GridTransformer(head_dim=4),) * 2
    stages = tuple(
        Stage(depth=d, width=w, block=b) for d, w, b in zip((1, 2, 1, 2), (8, 12, 16, 20), blocks, strict=True)
    )
    return CoAtNet(image_size=(64, 64), classes=5, stem=stem(6), stages=stages)


def seen(size: Size, steps: tuple[Any, ...], channels: int = 3) -> Augmentation:
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.25)[:channels]
    return Augmentation(size=size, channels=channels, evaluation=steps, mean=mean, std=std)


WHOLE, CUT = (Resize(),), (Resize(shorter=24), CenterCrop())
BICUBIC = (Resize(shorter=24, interpolation="bicubic"), CenterCrop())
"""As both libraries' published folders say it most often."""
ODD = [(40, 31), (16, 70), (25, 25), (9, 13)]
"""Heights and widths of pictures, some smaller than the model's."""

TRANSFORMERS = {
    "resize": (encoder((12, 20)), seen((12, 20), WHOLE), ODD),
    "grey, as it is": (encoder((12, 20), 1), seen((12, 20), (), 1), [(12, 20)] * 3),
    "resize and crop": (encoder((16, 16)), seen((16, 16), CUT), [(24, 24), (48, 32), (30, 60), (13, 13)]),
    "crop": (encoder((12, 20)), seen((12, 20), (CenterCrop(),)), [(12, 20), (22, 25), (17, 34)]),
    "bicubic, whole": (encoder((12, 20)), seen((12, 20), (Resize(interpolation="bicubic"),)), ODD),
    "bicubic and crop": (encoder((16, 16)), seen((16, 16), BICUBIC), [(24, 24), (48, 32), (30, 60), (13, 13)]),
}
TIMM = {
    "resize": (encoder((12, 20)), seen((12, 20), WHOLE), ODD),
    "grey, as it is": (encoder((12, 20), 1), seen((12, 20), (), 1), [(12, 20)] * 3),
    "mean, resize and crop": (encoder((16, 16), pool=MeanPool()), seen((16, 16), CUT), [*ODD, (29, 61)]),
    "bicubic and crop": (encoder((16, 16)), seen((16, 16), BICUBIC), [*ODD, (29, 61)]),
    "coatnet": (coatnet("expand"), seen((64, 64), (Resize(shorter=73), CenterCrop())), [(73, 73), (64, 91), (99, 75)]),
    "coatnet, whole": (coatnet("depthwise"), seen((64, 64), WHOLE), [(64, 64), (73, 91)]),
}


def exported(case: tuple[Any, Augmentation, list[Size]], library: str, tmp_path: Path) -> Path:
    """A folder of a lively model; its checks have run."""
    spec, augmentation, _ = case
    model = lively((build_coatnet if isinstance(spec, CoAtNet) else build_image_encoder)(spec), "exported")
    if isinstance(spec, CoAtNet):
        generator = torch.Generator().manual_seed(7)
        for name, buffer in model.named_buffers():
            if name.endswith("variance"):
                buffer.copy_(1 + torch.rand(buffer.shape, generator=generator))
    texts = {
        "model.yaml": to_yaml(spec),
        "pictures.json": json.dumps({"classes": CLASSES, "augmentation": plain(augmentation)}),
    }
    write_checkpoint(tmp_path / "ours", {"model.safetensors": model.state_dict()}, texts)
    done = export_pictures(tmp_path / "ours", tmp_path / "theirs", library)
    assert not any("not checked" in check for check in done.checks)
    assert len(done.checks) == (5 if library == "huggingface" else 4)
    return done.folder


def shown(case: tuple[Any, Augmentation, list[Size]]) -> list[np.ndarray]:
    generator = np.random.default_rng(11)
    return [generator.integers(0, 256, (*shape, case[1].channels), dtype=np.uint8) for shape in case[2]]


def own(case: tuple[Any, Augmentation, list[Size]], tmp_path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Our pixels and logits, of the checkpoint as it lies there."""
    mine = ours(load_picture_model(tmp_path / "ours", "float32").model, case[1], shown(case))
    logits = mine.logits(mine.pixels_BCHW.float())
    assert logits.std() > 0.3  # logits that hardly differ would prove nothing
    return mine.pixels_BCHW.float(), logits


def worst(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_gives_our_logits(name: str, tmp_path: Path) -> None:
    """Of pictures as arrays and as Pillow's. Measured: pixels 4.8e-7, logits 1.7e-6 at most, resized or not."""
    import transformers

    case = TRANSFORMERS[name]
    folder = exported(case, "huggingface", tmp_path)
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels, logits = own(case, tmp_path)
    for given in (shown(case), [pillow(picture) for picture in shown(case)]):
        theirs = torch.cat([processor(one, return_tensors="pt")["pixel_values"] for one in given])
        with torch.inference_mode():
            found = model(theirs).logits
        assert worst(theirs, pixels) <= 1e-5
        assert worst(found, logits) <= TOLERANCE
    assert [model.config.id2label[number] for number in range(5)] == CLASSES


@pytest.mark.parametrize("name", ["resize", "resize and crop"])
def test_what_pillows_resize_contributes_in_transformers(name: str, tmp_path: Path) -> None:
    """Measured: at most one level of 255, which moves logits by 0.021; of the same pixels they are the same."""
    import transformers

    case = TRANSFORMERS[name]
    folder = exported(case, "huggingface", tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    pixels, logits = own(case, tmp_path)
    theirs = torch.cat([processor(pillow(one), return_tensors="pt")["pixel_values"] for one in shown(case)])
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        moved, same = worst(model(theirs).logits, logits), worst(model(pixels).logits, logits)
    assert type(processor).__name__.endswith("Pil")
    assert same <= TOLERANCE
    assert worst(theirs, pixels) <= 1.001 / 255 / 0.2
    assert moved <= 0.05


def test_transformers_cuts_one_pixel_further_where_the_note_says_so(tmp_path: Path) -> None:
    """And nowhere else: of 0 to 11 pixels that are cut off."""
    import transformers

    case = (encoder((16, 16)), seen((16, 16), (CenterCrop(),)), [(16, 16 + more) for more in range(12)])
    folder = exported(case, "huggingface", tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels, _ = own(case, tmp_path)
    theirs = torch.cat([processor(one, return_tensors="pt")["pixel_values"] for one in shown(case)])
    other = [more for more in range(12) if worst(theirs[more], pixels[more]) > 1e-5]
    assert other == [3, 7, 11]
    assert all(worst(theirs[more][..., 1:], pixels[more][..., :-1]) <= 1e-5 for more in other)


@pytest.mark.parametrize("name", TIMM)
def test_timm_gives_our_logits(name: str, tmp_path: Path) -> None:
    """Measured: of the same pixels logits differ by 1.5e-6 at most; pixels by a level of 255 where Pillow resizes,
    which moves logits by 0.021 at most."""
    import timm

    case = TIMM[name]
    folder = exported(case, "timm", tmp_path)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    pixels, logits = own(case, tmp_path)
    theirs = torch.stack([transform(pillow(one)) for one in shown(case)])
    with torch.inference_mode():
        same, moved = worst(model(pixels), logits), worst(model(theirs), logits)
    assert same <= TOLERANCE
    if case[1].evaluation:
        assert worst(theirs, pixels) <= 1.001 / 255 / 0.2
        assert moved <= 0.05
    else:
        assert worst(theirs, pixels) <= 1e-5
        assert moved <= TOLERANCE
    assert model.pretrained_cfg["label_names"] == CLASSES


@pytest.mark.parametrize(
    ("library", "case"),
    [*(("huggingface", case) for case in TRANSFORMERS.values()), *(("timm", case) for case in TIMM.values())],
)
def test_there_and_back_every_tensor_is_the_same(library: str, case: Any, tmp_path: Path) -> None:
    folder = exported(case, library, tmp_path)
    again = import_pictures(folder, tmp_path / "again").folder
    first, second = (read_model_files(path, ("pictures.json",)) for path in (tmp_path / "ours", again))
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)


@pytest.mark.parametrize("name", [*TIMM_VITS, *COATNETS])
def test_entry_points_of_timm_have_the_sizes_written_down(name: str) -> None:
    """Names and shapes of all tensors, with our arguments and without."""
    import timm

    sizes = {**TIMM_VITS, **COATNETS}[name]
    with torch.device("meta"):
        plain_model, told = timm.create_model(name), timm.create_model(name, **sizes)
    shapes = [{key: tensor.shape for key, tensor in model.state_dict().items()} for model in (plain_model, told)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_a_folder_that_names_an_entry_point_alone_is_read(entry: Any, tmp_path: Path) -> None:
    """As published ones do: what is written of the zoo's sizes names their entry points, and is read without sizes."""
    spec, names = entry.spec, [str(number) for number in range(1000)]
    files = TIMM_VIT.files(spec, names, seen((224, 224), WHOLE))
    config = {key: value for key, value in files["config.json"].items() if key != "model_args"}
    again = TIMM_VIT.read({"config.json": config}, tmp_path).spec
    assert again.model_copy(update={"init": spec.init}) == spec
    assert config["architecture"].endswith(f"patch{spec.embedding.patch_size}_224")


@pytest.mark.parametrize("case", [*VITS, *TIMMS])
def test_what_was_recorded_is_what_the_libraries_compute(case: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Measured: no difference."""
    monkeypatch.setattr("record_pictures.DATA", tmp_path)
    record(case)
    again, before = (load_file(folder / case / "expected.safetensors") for folder in (tmp_path, DATA))
    assert again.keys() == before.keys()
    assert all(worst(again[name].float(), before[name].float()) <= 1e-5 for name in before)
    weights = [load_file(folder / case / "model.safetensors") for folder in (tmp_path, DATA)]
    assert all(torch.equal(weights[0][name], tensor) for name, tensor in weights[1].items())
