"""Runs on pictures with captions keep the promises of other runs, though their loss is one of all pairs together."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from corestone.core.errors import CorestoneError
from corestone.core.spec import override, parse
from corestone.core.units import duration
from corestone.data.images.augment_spec import Augmentation, RandomResizedCrop
from corestone.data.images.spec import ImageTable, Pairs
from corestone.data.spec import Bytes, TokenizerFile
from corestone.interop.incoming_pairs import import_pairs
from corestone.interop.outgoing_pairs import export_pairs
from corestone.models.captioner import build_captioner
from corestone.models.picture_spec import ImageEncoder, Similarity, TextTower, TwoTower
from corestone.models.two_tower import build_two_tower
from corestone.nn.patches import resized_positions
from corestone.nn.spec import Norm, PatchEmbedding, TokenEmbedding
from corestone.objectives.spec import Captioning, Contrastive
from corestone.optim.spec import AdamW, Constant
from corestone.parallel.collectives import World
from corestone.recipes.build import Built
from corestone.recipes.load import open_data
from corestone.recipes.pretrain import pretrain
from corestone.recipes.spec import Evaluation, Run, Start
from corestone.train.checkpoint import read_tensors
from corestone.train.spec import Rhythm, Training
from corestone.zoo.clip import stack
from corestone.zoo.coca import coca

QUIET = Console(quiet=True)
CLIP = Path(__file__).parents[1] / "parity" / "data" / "clip"
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "grey": (120, 120, 120)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Sixty pictures of four colours and five shades, named by both."""
    folder = tmp_path_factory.mktemp("colours")
    generator, lines = np.random.default_rng(0), []
    for number in range(60):
        name, colour = list(COLOURS.items())[number % 4]
        shade = number // 4 % 5
        pixels = np.clip(np.array(colour) + 10 * shade + generator.integers(-5, 5, (16, 16, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        lines.append(json.dumps({"path": f"{number}.png", "caption": f"{name} in shade {shade}"}))
    (folder / "table.jsonl").write_text("\n".join(lines))
    image = ImageEncoder(
        embedding=PatchEmbedding(image_size=(16, 16), patch_size=8, bias=False, norm=Norm()), stack=stack(64, 1)
    )
    text = TextTower(embedding=TokenEmbedding(vocab_size=320, context_length=24), stack=stack(64, 1))
    return Run(
        name="colours",
        model=TwoTower(image=image, text=text, embed_dim=16, similarity=Similarity(scale=99.0)),
        objective=Contrastive(),
        data=Pairs(
            source=ImageTable(
                paths=(str(folder / "table.jsonl"),), image_key="path", caption_key="caption", validation_percent=30
            ),
            augmentation=Augmentation(
                size=(16, 16), steps=(RandomResizedCrop(scale=(0.5, 1.0)),), mean=(0.5,) * 3, std=(0.25,) * 3
            ),
            tokenizer=Bytes(),
            context_length=24,
        ),
        optimiser=AdamW(learning_rate=3e-3),
        schedule=Constant(),
        training=Training(length=duration("8 steps"), batch_examples=12, precision="float32", clip_norm=None),
        rhythm=Rhythm(evaluate=duration("4 steps"), sample=None, checkpoint=duration("4 steps"), keep_last=9),
        evaluation=Evaluation(batch_size=7),
    )


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "run"
    pretrain(run, folder, console=QUIET)
    return folder


def weights(folder, step: int, file: str = "model.safetensors"):
    return read_tensors(folder / "checkpoints" / f"step-{step:07d}" / file)


def test_a_resumed_run_ends_with_the_same_bits(run, trained, tmp_path):
    cut = tmp_path / "cut"
    shutil.copytree(trained, cut)
    shutil.rmtree(cut / "checkpoints" / "step-0000008")
    pretrain(run, cut, console=QUIET)
    for file in ("model.safetensors", "optimizer.safetensors"):
        whole, resumed = weights(trained, 8, file), weights(cut, 8, file)
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_micro_batches_make_the_same_steps(run, tmp_path):
    """Every pair is compared with all twelve, however many activations are held at a time; by SGD, since AdamW divides
    what is almost nothing by almost nothing. Worst relative distance of a tensor after four steps seen: 6.3e-7."""
    plain = override(run, ["optimiser={kind: sgd, learning_rate: 0.01}", "training.length=4 steps"])
    ended = {}
    for rows in (12, 4, 5):
        pretrain(override(plain, [f"training.micro_batch={rows}"]), tmp_path / str(rows), console=QUIET)
        ended[rows] = weights(tmp_path / str(rows), 4)
    whole = ended.pop(12)
    for parts in ended.values():
        worst = max(float((whole[n] - parts[n]).norm() / whole[n].norm().clamp(min=1e-3)) for n in whole)
        assert worst < 1e-5, worst


def test_the_scale_stays_below_a_hundred(trained):
    """It begins at 99 and is pushed up: the pairs are not told apart yet."""
    (scale,) = [value for name, value in weights(trained, 8).items() if name.endswith("log_scale")]
    assert scale <= math.log(100.0) + 1e-6


def test_retrieval_is_reported_beside_floors(trained):
    found = json.loads((trained / "evaluation.json").read_text())
    values = {metric["name"]: metric for metric in found["model"]}
    assert set(values) >= {"text_recall_at_1", "image_recall_at_10"}
    assert all(metric["interval"] for metric in values.values())
    floors = {floor["name"]: floor["value"] for floor in found["floors"]}
    n = values["text_recall_at_1"]["n"]
    assert floors["recall_at_1_by_chance"] == 1 / n
    assert 0 < floors["nearest_picture_has_the_caption"] <= 1
    assert (trained / "report.html").is_file()


def test_pictures_stand_beside_their_nearest_captions(run, trained):
    """Those in the folder are those of the ids, and the report shows each."""
    found = json.loads((trained / "evaluation.json").read_text())
    told = found["nearest_captions"]
    data = open_data(run, World(rank=0, size=1, device=torch.device("cpu")))
    side = data.sides["validation"]
    places = {side.id(place): place for place in range(len(side))}
    assert [places[one["id"]] for one in told["shown"]] == [n * len(side) // 12 for n in range(12)]
    for key in ("shown", "mistaken"):
        for number, one in enumerate(told[key]):
            pixels = np.asarray(Image.open(trained / "pictures" / f"{key}-{number:02d}.png"))
            assert np.array_equal(pixels, side.pixels(places[one["id"]]))
            assert one["own"][0] in side.captions(places[one["id"]])
            assert [own for _, _, own in one["nearest"]] == [
                text in side.captions(places[one["id"]]) for text, _, _ in one["nearest"]
            ]
            assert (one["before"] == 0) == one["nearest"][0][2]
    assert all(one["before"] for one in told["mistaken"])
    diagonal = [told["cosines"][number][number] for number in range(12)]
    assert diagonal == [[one["own"][1], True] for one in told["shown"]]
    captions = {caption for place in range(len(side)) for caption in side.captions(place)}
    assert told["captions"] == len(captions) <= told["pictures"] == len(side)
    files = list((trained / "pictures").iterdir())
    assert len(files) == 1 + 12 + min(12, told["mistakes"]) + 3 * 12
    assert sum(file.stat().st_size for file in files) <= 300_000
    shown_again = 2 * 12  # a picture lies under each of its two maps too
    assert (trained / "report.html").read_text().count("<img") == len(files) + shown_again


LARGER = ["data.augmentation.size=[24, 16]"]


def begun(run: Run, start, *changes: str) -> dict[str, torch.Tensor]:
    """The weights that a run begins with."""
    world = World(rank=0, size=1, device=torch.device("cpu"))
    later = override(run, [f"start={{path: {start}}}", *changes])
    return Built(later, open_data(later, world), world, torch.float32).weights.masters


def test_positions_follow_the_size_of_the_pictures(run, trained):
    """Of the image tower; everything else is the start's, to the bit."""
    found, old = begun(run, trained, *LARGER, "model.image.embedding.image_size=[24, 16]"), weights(trained, 8)
    name = "image_tower.embedding.position.weight"
    old[name] = resized_positions(old[name], (2, 2), (3, 2), class_token=True)
    assert found.keys() == old.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in old.items())


def test_a_captioner_learns_from_the_same_pairs(run, tmp_path):
    """Captions and pairs at once; resumed in the middle it ends with the same bits."""
    patches = PatchEmbedding(image_size=(16, 16), patch_size=8, class_token=False)
    model = coca(32, 2, (1, 64), (1, 64), vocab_size=320, picture=patches, queries=3)
    captioned = run.model_copy(update={"model": model, "objective": Captioning()})
    pretrain(captioned, tmp_path / "whole", console=QUIET)
    found = json.loads((tmp_path / "whole" / "evaluation.json").read_text())
    assert "text_recall_at_1" in {metric["name"] for metric in found["model"]}
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-0000008")
    pretrain(captioned, tmp_path / "cut", console=QUIET)
    whole, resumed = weights(tmp_path / "whole", 8), weights(tmp_path / "cut", 8)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    found = begun(captioned, tmp_path / "whole", *LARGER, "model.image_embedding.image_size=[24, 16]")
    name = "image_embedding.position.weight"
    whole[name] = resized_positions(whole[name], (2, 2), (3, 2), class_token=False)
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize("rows", ["{start: 65, end: 66, fill: 67}", "{start: null, end: 256, fill: 256}"])
def test_a_captioner_learns_no_rows_that_it_would_not_write(run, rows):
    """Captions are written from separator to separator: learnt between other ids they would begin and end anywhere."""
    world = World(rank=0, size=1, device=torch.device("cpu"))
    patches = PatchEmbedding(image_size=(16, 16), patch_size=8, class_token=False)
    captioner = build_captioner(coca(32, 2, (1, 64), (1, 64), vocab_size=320, picture=patches), device="meta")
    open_data(run, world).check(captioner)
    odd = open_data(override(run, [f"data.rows={rows}"]), world)
    with pytest.raises(CorestoneError, match=r"writes from the tokenizer's separator \(256\)"):
        odd.check(captioner)
    odd.check(build_two_tower(run.model, device="meta"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.augmentation.mix=[{kind: mixup}]", "no caption"),
        ("objective={kind: classification}", "data of kind images"),
        ("data.context_length=30", "30 tokens do not fit"),
        ("model.text.embedding.vocab_size=100", "the captions' tokenizer 257"),
    ],
)
def test_mistakes_are_told(run, tmp_path, change, message):
    with pytest.raises(CorestoneError, match=message):
        pretrain(override(run, [change]), tmp_path / "run", console=QUIET)


def test_a_clip_of_another_library_is_trained_further(run, tmp_path, monkeypatch):
    """Imported, it brings its tokenizer and says how its texts become rows; a run that reads them otherwise is refused,
    and one that exports goes back there."""
    monkeypatch.setitem(sys.modules, "transformers", None)  # with it: tests/parity
    ours = import_pairs(CLIP, tmp_path / "ours")
    told = json.loads((ours.folder / "pictures.json").read_text())
    spec = run.model_copy(
        update={
            "model": ours.spec,
            "start": Start(path=str(ours.folder)),
            "data": run.data.model_copy(
                update={
                    "tokenizer": TokenizerFile(path=str(ours.folder / "tokenizer.json")),
                    "context_length": told["context_length"],
                    "augmentation": parse(Augmentation, told["augmentation"], "test"),
                }
            ),
        }
    )
    spec = override(spec, ["training.length=4 steps", "data.augmentation.steps=[{kind: resize}]"])
    with pytest.raises(CorestoneError, match=r"rows of another kind; set data\.rows\.start=524, data\.rows\.end"):
        pretrain(spec, tmp_path / "refused", console=QUIET)
    pretrain(override(spec, [f"data.rows={json.dumps(told['rows'])}"]), tmp_path / "run", console=QUIET)
    begun, ended = read_tensors(ours.folder / "model.safetensors"), weights(tmp_path / "run", 4)
    assert begun.keys() == ended.keys()
    moved = max(float((ended[name] - begun[name]).abs().max()) for name in begun)
    assert 0 < moved < 0.1  # by a few steps, not begun anew
    back = export_pairs(tmp_path / "run", tmp_path / "back", "huggingface")
    assert json.loads((back.folder / "config.json").read_text())["text_config"]["eos_token_id"] == 525
