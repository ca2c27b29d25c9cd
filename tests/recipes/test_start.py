"""Runs that begin with the weights of another: exactly what is taken, and what is said of the rest."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from corestone.core.errors import CheckpointError, DataError, SpecError
from corestone.core.runlog import read_events
from corestone.core.spec import override, parse, plain
from corestone.models.captioner import build_captioner
from corestone.models.picture_spec import Captioner, ClassHead
from corestone.nn.patches import resized_positions
from corestone.nn.spec import PatchEmbedding
from corestone.parallel.collectives import World
from corestone.recipes.build import Built
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.load import open_data
from corestone.recipes.pretrain import pretrain
from corestone.recipes.spec import Run, Start
from corestone.recipes.start import START, begin
from corestone.train.archive import PICTURES as PICTURES_FILE
from corestone.train.archive import identity
from corestone.train.checkpoint import read_tensors
from corestone.zoo.coca import coca
from corestone.zoo.gpt import gpt2
from corestone.zoo.mnist_cnn import mnist_cnn
from corestone.zoo.vit import vit

QUIET = Console(quiet=True)
SHORT = [
    "training.length=4 steps",
    "schedule.warmup=1 steps",
    "training.precision=float32",
    "rhythm.checkpoint=2 steps",
]
PICTURES = [*SHORT, "training.batch_examples=16", "evaluation.pictures_while_training=40", "rhythm.keep_last=9"]
TEXT = [
    *SHORT,
    "data.tokenizer={kind: bytes}",
    "data.context_length=32",
    "training.batch_tokens=128",
    "samples.prompts=[]",
    "evaluation.tokens_while_training=2000",
]


def model_of(record) -> list[str]:
    return [f"model={json.dumps(plain(record))}"]


def small_vit(classes: int = 10, size: int = 28, hidden: bool = False):
    model = vit(16, 1, 2, 4, image_size=(size, size), head=ClassHead(classes=classes, hidden=hidden))
    return model.model_copy(update={"embedding": model.embedding.model_copy(update={"channels": 1})})


def pictures(record, *more: str) -> Run:
    return find_recipe("mnist-vit", [*model_of(record), *PICTURES, *more])


def text(*more: str, width: int = 16) -> Run:
    record = gpt2(width, 1, 2, 320, 32)
    return find_recipe("shakespeare", [*model_of(record), *TEXT, *more])


def built(run: Run) -> Built:
    world = World(rank=0, size=1, device=torch.device("cpu"))
    return Built(run, open_data(run, world), world, torch.float32)


def beginning(path: Path, **more: object) -> str:
    return f"start={json.dumps({'path': str(path), **more})}"


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> Path:
    """A ViT that was trained, of the pretraining kind: with a hidden layer in its head."""
    folder = tmp_path_factory.mktemp("start") / "vit"
    pretrain(pictures(small_vit(hidden=True)), folder, console=QUIET)
    return folder


@pytest.fixture(scope="module")
def read(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "decoder"
    pretrain(text(), folder, console=QUIET)
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> str:
    """Pictures of three classes, as an override of the source."""
    folder, draw = tmp_path_factory.mktemp("three"), np.random.default_rng(0)
    for side, count in (("train", 8), ("val", 4)):
        for name in "abc":
            (folder / side / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (28, 28), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / side / name / f"{number}.png")
    return f"data.source={{kind: folder, path: {folder}}}"


def last(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "checkpoints" / "step-0000004" / "model.safetensors")


def test_a_decoder_goes_on_with_the_loss_of_its_start(read):
    """To the last bit, where the same program scores the same text."""
    run = text(beginning(read), "seed=5")
    fresh = built(run)
    nats, *_ = fresh.data.held_out(run, fresh.objective).run(fresh.model)
    (scored,) = [event for event in read_events(read).of("evaluate") if event["step"] == 4]
    assert nats.value == scored["metrics"]["nats_per_token"]
    assert weights(fresh.model).keys() >= last(read).keys()
    assert all(torch.equal(fresh.weights.masters[name], tensor) for name, tensor in last(read).items())


def test_a_classifier_of_the_same_pictures_keeps_its_head(seen):
    fresh = built(pictures(small_vit(hidden=True), beginning(seen), "seed=5"))
    assert all(torch.equal(weights(fresh.model)[name], tensor) for name, tensor in last(seen).items())
    assert (fresh.start.why, fresh.start.left_out, fresh.start.fresh) == ("", [], [])
    assert fresh.start.taken == len(last(seen))


def test_fine_tuning_at_another_resolution(seen, caplog):
    """Head at zero, positions interpolated, everything else taken; and everything not taken is told by name."""
    sizes = [
        "data.augmentation.size=[20, 20]",
        "data.augmentation.steps=[{kind: resize}]",
        "data.augmentation.evaluation=[{kind: resize}]",
    ]
    with caplog.at_level(logging.WARNING):
        fresh = built(pictures(small_vit(size=20), beginning(seen, zero_head=True), *sizes))
    ours, theirs = weights(fresh.model), last(seen)
    assert {name for name in ours if not ours[name].any()} >= {"head.weight", "head.bias"}
    positions = "embedding.position.weight"
    assert torch.equal(ours[positions], resized_positions(theirs[positions], (7, 7), (5, 5), True))
    body = ours.keys() - {"head.weight", "head.bias", positions}
    assert body == theirs.keys() - {name for name in theirs if name.startswith("head.")} - {positions}
    assert all(torch.equal(ours[name], theirs[name]) for name in body)
    assert fresh.start.left_out == sorted(name for name in theirs if name.startswith("head."))
    (told,) = [record.getMessage() for record in caplog.records if "begins with" in record.getMessage()]
    for part in (*fresh.start.left_out, *fresh.start.fresh, "from 7x7 to 5x5", identity_of(seen), "start.zero_head"):
        assert part in told
    batch = fresh.loader.batch(0)
    assert not fresh.model.eval().head(fresh.model(batch).hidden).any()  # so the first loss is that of guessing


def identity_of(run: Path) -> str:
    return identity(run / "checkpoints" / "step-0000004")[1]


def test_a_head_for_other_classes_begins_by_chance(seen, three):
    run = pictures(small_vit(3, hidden=True), beginning(seen), three)
    fresh, chance = built(run), built(run.model_copy(update={"start": None}))
    assert fresh.start.why == "10 classes there, 3 here"
    assert fresh.start.left_out == fresh.start.fresh
    for name, tensor in weights(fresh.model).items():
        wanted = weights(chance.model) if name.startswith("head.") else last(seen)
        assert torch.equal(tensor, wanted[name]), name


def test_as_many_other_classes_are_other_classes(seen, three, tmp_path):
    begun = tmp_path / "three"
    pretrain(pictures(small_vit(3, hidden=True), three, "data.augmentation.steps=[]"), begun, console=QUIET)
    source = Path(three.partition("path: ")[2].removesuffix("}"))
    other = shutil.copytree(source, tmp_path / "other")
    for side in ("train", "val"):
        (other / side / "c").rename(other / side / "d")
    change = f"data.source={{kind: folder, path: {other}}}"
    assert built(pictures(small_vit(3, hidden=True), beginning(begun), three)).start.why == ""
    assert built(pictures(small_vit(3, hidden=True), beginning(begun), change)).start.why == "other classes there"


def test_statistics_of_batch_norms_are_taken_and_averages_where_there_are_some(tmp_path):
    run = find_recipe("mnist", [*model_of(mnist_cnn(7, (4, 4, 4, 4))), *PICTURES, "training.average={decay: 0.5}"])
    pretrain(run, tmp_path / "run", console=QUIET)
    averages = read_tensors(tmp_path / "run" / "checkpoints" / "step-0000004" / "average.safetensors")
    ours = weights(built(override(run, [beginning(tmp_path / "run")])).model)
    assert any(name.endswith("norm.variance") for name in ours)
    assert all(torch.equal(ours[name], averages[name]) for name in ours)
    assert any(not torch.equal(ours[name], tensor) for name, tensor in last(tmp_path / "run").items())


def captioner_behind(stem) -> Captioner:
    picture = PatchEmbedding(image_size=stem.image_size, channels=1, patch_size=1, class_token=False)
    spec = coca(8, 2, (1, 16), (1, 16), vocab_size=32, tied=True, picture=picture, queries=2)
    return parse(Captioner, plain(spec) | {"stem": plain(stem)}, "model")


def test_a_convolutional_network_becomes_a_captioners_stem(tmp_path):
    record = mnist_cnn(7, (4, 4, 4, 4))
    changes = [*model_of(record), *PICTURES, "training.average=null"]
    pretrain(find_recipe("mnist", changes), tmp_path / "run", console=QUIET)
    start, stem = Start(path=str(tmp_path / "run")), record.model_copy(update={"classes": None})
    model, chance = (build_captioner(captioner_behind(stem), seed=1) for _ in range(2))
    told = begin(start, model.spec, model.state_dict(), {PICTURES_FILE: "{}"})
    given = {name: tensor for name, tensor in last(tmp_path / "run").items() if not name.startswith("head.")}
    assert told.taken == len(given)
    assert {name.split(".")[0] for name in told.left_out} == {"head"}
    assert "stem.*" not in told.fresh
    for name, tensor in model.state_dict().items():
        wanted = given[name.removeprefix("stem.")] if name.startswith("stem.") else chance.state_dict()[name]
        assert torch.equal(tensor, wanted), name
    wider = build_captioner(captioner_behind(mnist_cnn(7, (4, 4, 4, 6)).model_copy(update={"classes": None})))
    with pytest.raises(CheckpointError, match=r"of another shape: stem\.layers\.3"):
        begin(start, wider.spec, wider.state_dict(), {PICTURES_FILE: "{}"})


def test_resuming_ends_with_the_same_bits_and_notices_another_start(seen, three, tmp_path):
    start = shutil.copytree(seen, tmp_path / "start")
    run = pictures(small_vit(3), beginning(start, zero_head=True), three)
    pretrain(run, tmp_path / "whole", console=QUIET)
    cut = shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(cut / "checkpoints" / "step-0000004")
    again = shutil.copytree(cut, tmp_path / "again")
    pretrain(run, cut, console=QUIET)
    assert all(torch.equal(tensor, last(cut)[name]) for name, tensor in last(tmp_path / "whole").items())
    kept = json.loads((cut / "checkpoints" / "step-0000004" / START).read_text())
    assert kept == {"path": str(start), "checkpoint": "step-0000004", "weights": identity_of(seen)}
    shutil.rmtree(start / "checkpoints" / "step-0000004")  # its newest one is another now
    with pytest.raises(CheckpointError, match=f"began with weights {identity_of(seen)} .* now holds .*step-0000002"):
        pretrain(run, again, console=QUIET)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (vit(16, 2, 2, 4, image_size=(28, 28), head=ClassHead(classes=10)), "missing: stack.blocks.1.feedforward"),
        (vit(32, 1, 2, 4, image_size=(28, 28), head=ClassHead(classes=10)), "of another shape: embedding.class_token"),
        (mnist_cnn(7, (4, 4)), "left over: embedding.class_token.weight.* and 10 more"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(seen, record, message):
    if record.kind == "image_encoder":
        record = record.model_copy(update={"embedding": record.embedding.model_copy(update={"channels": 1})})
    with pytest.raises(CheckpointError, match=f"does not fit the model .*{message}"):
        built(pictures(record, beginning(seen)))


def test_other_mistakes_are_told(seen, read, tmp_path):
    with pytest.raises(CheckpointError, match="this model reads text"):
        built(pictures(small_vit(), beginning(read)))
    with pytest.raises(CheckpointError, match=r"start\.path=.*none: no such folder; first train the run"):
        built(pictures(small_vit(), beginning(tmp_path / "none")))
    with pytest.raises(DataError, match=r"start.path=.*tokenizers differ"):
        built(text(beginning(read), "data.tokenizer={kind: byte_pair, vocab_size: 300}"))
    with pytest.raises(SpecError, match="zero_head needs a model of kind image_encoder"):
        text(beginning(read, zero_head=True))
