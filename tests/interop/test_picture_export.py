"""Picture classifiers written for other libraries: what is refused, what is told, and the verbs. (With the libraries
themselves: tests/parity.)"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from tiny_models import make_decoder, random_tensors
from typer.testing import CliRunner

from corestone.cli import main
from corestone.cli.interop import export, import_
from corestone.core.errors import CheckpointError
from corestone.core.spec import plain, to_yaml
from corestone.data.images.augment_spec import Augmentation, CenterCrop, RandomCrop, Resize
from corestone.interop import outgoing_pictures
from corestone.interop.huggingface_pictures import HUGGINGFACE_VIT
from corestone.interop.incoming_pictures import read_pictures_folder
from corestone.interop.outgoing_pictures import export_pictures
from corestone.interop.picture_agreement import Seen, compare
from corestone.interop.timm_pictures import TIMM_VIT
from corestone.models.coatnet import build_coatnet
from corestone.models.picture_spec import ClassHead, CoAtNet, ImageEncoder, Stage
from corestone.nn.spec import Attention, AttentionPool, GridTransformer, MBConv, MeanPool, Norm
from corestone.train.checkpoint import write_checkpoint
from corestone.zoo.coatnet import stem
from corestone.zoo.vit import vit

CLASSES = ["cat", "dog", "größer", "a b", "5"]


@pytest.fixture(autouse=True)
def without_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("transformers", "timm"):
        monkeypatch.setitem(sys.modules, name, None)


def encoder(image_size: tuple[int, int] = (12, 16), **changes: object) -> ImageEncoder:
    return vit(12, 2, 3, 4, 20, image_size, ClassHead(classes=5)).model_copy(update=changes)


def changed(spec: ImageEncoder, part: str, **changes: object) -> ImageEncoder:
    """With every block's part (or, of "block", every block itself) changed."""
    blocks = tuple(
        block.model_copy(update=changes if part == "block" else {part: getattr(block, part).model_copy(update=changes)})
        for block in spec.stack.blocks
    )
    return spec.model_copy(update={"stack": spec.stack.model_copy(update={"blocks": blocks})})


def coatnet(halve: bool = True, depths: tuple[int, ...] = (1, 1, 1, 1)) -> CoAtNet:
    blocks = (MBConv(), MBConv(), GridTransformer(head_dim=4), GridTransformer(head_dim=4))
    sizes = zip(depths, (8, 12, 16, 20), blocks, (True, True, True, halve), strict=True)
    stages = tuple(Stage(depth=d, width=w, block=b, halve=h) for d, w, b, h in sizes)
    return CoAtNet(image_size=(64, 64), classes=5, stem=stem(6), stages=stages)


def seen(size: tuple[int, int] = (12, 16), steps: tuple[object, ...] = (Resize(),), **changes: object) -> Augmentation:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    return Augmentation(**{"size": size, "evaluation": steps, "mean": mean, "std": std, **changes})


def saved(tmp_path: Path, spec: ImageEncoder | CoAtNet, augmentation: Augmentation, name: str = "ours") -> Path:
    tensors = build_coatnet(spec).state_dict() if isinstance(spec, CoAtNet) else random_tensors(spec)
    pictures = {"classes": CLASSES, "augmentation": plain(augmentation)}
    texts = {"model.yaml": to_yaml(spec), "pictures.json": json.dumps(pictures)}
    write_checkpoint(tmp_path / name, {"model.safetensors": tensors}, texts)
    return tmp_path / name


STEPS = {
    "none": ((12, 16), ()),
    "resize": ((12, 16), (Resize(),)),
    "crop": ((12, 16), (CenterCrop(),)),
    "resize and crop": ((12, 16), (Resize(shorter=21), CenterCrop())),
    "square": ((16, 16), (Resize(shorter=24), CenterCrop())),
    "shorter alone": ((16, 16), (Resize(shorter=16),)),
    "a crop of nothing": ((12, 16), (Resize(), CenterCrop())),
}


@pytest.mark.parametrize("name", STEPS)
def test_preprocessing_survives_transformers_words(name: str, tmp_path: Path) -> None:
    size, steps = STEPS[name]
    given = seen(size, steps)
    with_training = given.model_copy(update={"steps": (RandomCrop(padding=2),)})
    done = export_pictures(saved(tmp_path, encoder(size), with_training), tmp_path / "out", "huggingface")
    told, _, _ = read_pictures_folder(done.folder)
    assert told.augmentation == given  # what is done in training has no word there
    assert told.classes == tuple(CLASSES)
    assert any("cuts one pixel further" in note for note in done.notes) == (
        name in {"crop", "resize and crop", "square"}
    )
    assert "transformers: not checked, the library is not installed" in done.checks[-1]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shorter", [None, *range(16, 300, 7)])
def test_preprocessing_survives_timms_words(shorter: int | None, channels: int, tmp_path: Path) -> None:
    """Every length of the shorter side comes back through a share of it."""
    steps = (Resize(),) if shorter is None else (Resize(shorter=shorter), CenterCrop())
    spec = encoder((16, 16))
    spec = spec.model_copy(update={"embedding": spec.embedding.model_copy(update={"channels": channels})})
    scale = {"channels": channels, "mean": (0.4, 0.5, 0.6)[:channels], "std": (0.2, 0.3, 0.25)[:channels]}
    given = seen((16, 16), steps, **scale)
    kind = TIMM_VIT
    told = kind.read(kind.files(spec, CLASSES, given), tmp_path)
    assert told.augmentation == given
    assert told.classes == tuple(CLASSES)


LOOKING = AttentionPool(attention=Attention(num_heads=3, head_dim=4), feedforward=encoder().stack.blocks[0].feedforward)
NOT_THERE = {
    "mean": ("huggingface", encoder(pool=MeanPool()), "ViTForImageClassification of huggingface cannot say model.pool"),
    "attention": (
        "huggingface",
        encoder(pool=LOOKING),
        "cannot say model.pool",
    ),
    "tanh": ("huggingface", encoder(head=ClassHead(classes=5, hidden=True)), "cannot say model.head.hidden"),
    "tanh, timm": ("timm", encoder(head=ClassHead(classes=5, hidden=True)), "cannot say model.head.hidden"),
    "no head": ("huggingface", encoder(head=None), "has no head, so it tells no classes apart"),
    "other classes": ("timm", encoder(head=ClassHead(classes=6)), "names 6 classes and its pictures.json 5"),
    "gate": ("timm", changed(encoder(), "feedforward", gated=True), "blocks.0.feedforward.gated"),
    "squares": ("huggingface", changed(encoder(), "feedforward", activation="relu_squared"), "feedforward.activation"),
    "post-norm": ("timm", changed(encoder(), "block", norm_at="after"), "blocks.0.norm_at"),
    "eps": ("timm", changed(encoder(), "block", norm=Norm(eps=1e-4)), "blocks.0.norm.eps"),
    "bias": ("huggingface", changed(encoder(), "mixer", bias_out=False), "mixer.bias_out"),
    "heads": ("huggingface", changed(encoder(), "mixer", num_heads=5), "hidden_size=12 is no multiple of"),
    "map not halved": ("timm", coatnet(halve=False), "cannot say model.stages.3.halve"),
    "coatnet": ("huggingface", coatnet(), "kind 'coatnet' cannot be written for huggingface; --format timm can"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_THERE)
def test_a_model_that_cannot_be_said_there_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    library, spec, message = NOT_THERE[name]
    size = spec.image_size if isinstance(spec, CoAtNet) else spec.embedding.image_size
    source = saved(tmp_path, spec, seen(size))
    with pytest.raises(CheckpointError, match=message):
        export_pictures(source, tmp_path / "out", library)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


@pytest.mark.parametrize(
    ("library", "size", "steps", "message"),
    [
        ("huggingface", (12, 16), (CenterCrop(), Resize()), "evaluation is center_crop, resize"),
        ("timm", (12, 16), (Resize(shorter=20), Resize()), "evaluation is resize, resize"),
        ("huggingface", (16, 16), (Resize(shorter=19), CenterCrop()), "cuts 16 out, one pixel further up or left"),
        ("timm", (12, 16), (CenterCrop(),), r"timm cannot do data.augmentation.evaluation \(center_crop; size 12x16\)"),
        ("timm", (12, 16), (Resize(shorter=20), CenterCrop()), r"timm cannot do .*cuts a square out"),
        ("timm", (16, 16), (Resize(shorter=16),), "timm cannot do"),
    ],
)
def test_preprocessing_that_cannot_be_said_there_is_refused(library, size, steps, message, tmp_path) -> None:
    with pytest.raises(CheckpointError, match=message):
        export_pictures(saved(tmp_path, encoder(size), seen(size, steps)), tmp_path / "out", library)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_dropout_that_has_no_word_there_is_told_not_refused(tmp_path: Path) -> None:
    spec = changed(encoder(), "feedforward", dropout=0.2)
    done = export_pictures(saved(tmp_path, spec, seen()), tmp_path / "out", "huggingface")
    assert "model.stack.blocks.0.feedforward.dropout is not kept; it matters only in training" in done.notes


def test_coatnet_with_its_statistics_comes_back_whole(tmp_path: Path) -> None:
    done = export_pictures(saved(tmp_path, coatnet(), seen((64, 64))), tmp_path / "out", "timm")
    told, tensors, _ = read_pictures_folder(done.folder)
    wanted = build_coatnet(coatnet()).state_dict()
    assert told.spec == coatnet()
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)


def _one_wrong(spec: ImageEncoder, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = HUGGINGFACE_VIT.to_theirs(spec, tensors)
    return {**found, "classifier.bias": found["classifier.bias"] + 1e-6}


def _cannot_write(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("fault", ["a tensor", "a mean", "a full disk"])
def test_a_fault_while_exporting_leaves_nothing_behind(fault, tmp_path, monkeypatch) -> None:
    kind = HUGGINGFACE_VIT
    source, words = saved(tmp_path, encoder(), seen()), "importing the export gives another model"
    if fault == "a tensor":
        monkeypatch.setattr(outgoing_pictures, "FORMATS", (replace(kind, to_theirs=_one_wrong),))
    elif fault == "a mean":

        def off(spec, classes, augmentation):
            return kind.files(spec, classes, augmentation.model_copy(update={"mean": (0.4, 0.5, 0.61)}))

        monkeypatch.setattr(outgoing_pictures, "FORMATS", (replace(kind, files=off),))
    else:
        monkeypatch.setattr(outgoing_pictures, "write_folder", _cannot_write)
        words = "the disk is full"
    with pytest.raises(CheckpointError, match=words):
        export_pictures(source, tmp_path / "out", "huggingface")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_pixels_decide_between_rounding_and_another_preprocessing() -> None:
    """A level of 255 is excused where pictures are resized, and nowhere else; two are never."""
    std, zeros = 0.25, torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    level = 1 / 255 / std

    def side(shift: float) -> Seen:
        return Seen(zeros + shift, lambda pixels: pixels.flatten(1))

    def judge(levels: float, steps: tuple[object, ...]) -> list[str]:
        given = Augmentation(size=(2, 2), channels=1, evaluation=steps, mean=(0.0,), std=(std,))
        return compare("it", side(0.0), side(levels * level), given, "test")

    assert "from 1 pictures on: largest difference between logits" in judge(1e-3, ())[1]
    assert "rounds 100.00% of the values to another level" in judge(1.0, (Resize(),))[1]
    for levels, steps in ((1.0, ()), (2.0, (Resize(),)), (float("nan"), (Resize(),))):
        with pytest.raises(CheckpointError, match="it gives other pixels"):
            judge(levels, steps)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`run(word, ...)`: the command line's exit code and what it prints on standard error."""

    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["corestone", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return call


def test_bad_input_is_one_line_and_exit_code_2(run, checkpoint, tmp_path) -> None:
    source = saved(tmp_path, encoder(), seen())
    folder = export_pictures(source, tmp_path / "theirs", "huggingface").folder
    out = tmp_path / "out"
    processor = folder / "preprocessor_config.json"
    good = processor.read_text()
    cases = [
        (
            ("export", checkpoint(make_decoder(), name="text"), "--format", "timm"),
            "this model reads text, and timm holds models that read pictures",
        ),
        (("export", source, "--part", "generator"), "this model reads pictures and has no generator"),
        (("export", source, "--format", "tim"), "did you mean 'timm'"),
        (("import", folder), "line 1: not valid JSON", "{'size': 3"),
        (("import", folder), "resample=11 is no resampling known", good.replace('"resample": 2', '"resample": 11')),
    ]
    for words, message, *text in cases:
        processor.write_text(text[0] if text else good)
        code, said = run(*words, "--out", out)
        assert code == 2
        assert message in said
        assert said.count("\n") == 1
        assert not out.exists()


def test_export_and_import_by_the_command_line(tmp_path: Path) -> None:
    verbs, runner = typer.Typer(), CliRunner()
    verbs.command("import")(import_)
    verbs.command("export")(export)
    source = saved(tmp_path, encoder(), seen())
    done = runner.invoke(verbs, ["export", str(source), "--format", "timm", "--out", str(tmp_path / "theirs")])
    assert done.exit_code == 0, done.output
    assert "check: re-imported: all 32 tensors equal bit for bit" in done.output
    assert "check: timm: not loaded" in done.output
    done = runner.invoke(verbs, ["import", str(tmp_path / "theirs"), "--out", str(tmp_path / "again")])
    assert done.exit_code == 0, done.output
    assert "5 classes of pictures" in done.output
    assert (tmp_path / "again" / "pictures.json").is_file()
