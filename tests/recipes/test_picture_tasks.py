"""Tasks of models that see pictures, on emoji of two artists and on digits: figures by plain means, mistakes, what is
kept and shown; captions as the verb gives them; classifiers that begin with another model's picture tower."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from corestone.cli.main import app
from corestone.core.batch import ImageBatch
from corestone.core.errors import CorestoneError
from corestone.core.runlog import read_events
from corestone.core.spec import override, plain
from corestone.core.units import duration
from corestone.data.images.augment_spec import Augmentation, Resize
from corestone.data.images.caption_rows import caption_batch, caption_rows
from corestone.data.images.embedded import read_embedded_images
from corestone.data.images.loader import evaluation_batches
from corestone.data.images.spec import EmbeddedImages, Images, ImageTable, Pairs, PrepareImages, Together
from corestone.data.spec import BytePair
from corestone.evaluate.spec import Captions, LinearProbe, Neighbours, Retrieval, ZeroShot
from corestone.generate.spec import Sampling
from corestone.models.picture_spec import ClassHead, ImageEncoder, TextTower, TwoTower
from corestone.nn.spec import AttentionPool, PatchEmbedding, TokenEmbedding
from corestone.objectives.spec import Captioning, Classification, Contrastive
from corestone.optim.spec import AdamW, Constant
from corestone.parallel.collectives import World
from corestone.recipes.build import Built
from corestone.recipes.caption import captions
from corestone.recipes.evaluate import evaluate
from corestone.recipes.evaluate_images import evaluate_images
from corestone.recipes.images import open_images
from corestone.recipes.load import open_data, open_run
from corestone.recipes.picture_model import load_picture_model, picture_batch
from corestone.recipes.picture_tasks import evaluate_pictures
from corestone.recipes.pretrain import pretrain
from corestone.recipes.spec import Evaluation, Run, Start
from corestone.report.write import write_report
from corestone.train.checkpoint import read_tensors
from corestone.train.spec import Rhythm, Training
from corestone.zoo.clip import stack
from corestone.zoo.coca import coca

QUIET = Console(quiet=True)
SEEN = Augmentation(size=(16, 16), steps=(Resize(),), evaluation=(Resize(),), mean=(0.5,) * 3, std=(0.25,) * 3)
WHOLE = PrepareImages(deduplicate=False)
PATCHES = PatchEmbedding(image_size=(16, 16), patch_size=8, class_token=False)
SAME = {
    "optimiser": AdamW(learning_rate=3e-3),
    "schedule": Constant(),
    "training": Training(length=duration("6 steps"), batch_examples=16, precision="float32"),
    "rhythm": Rhythm(
        evaluate=duration("2 steps"), sample=duration("6 steps"), checkpoint=duration("2 steps"), keep_last=1
    ),
    "evaluation": Evaluation(batch_size=30),
}


@pytest.fixture(scope="module")
def emoji(tmp_path_factory) -> Pairs:
    """Sixty emoji that both artists drew: one's are learnt, the other's held out."""
    folder, drawn = tmp_path_factory.mktemp("emoji"), {"noto": {}, "twemoji": {}}
    for picture in read_embedded_images(EmbeddedImages(name="emoji", split="artist")):
        if hasattr(picture, "captions"):
            artist, code = picture.id.split("/")
            drawn[artist][code] = picture
    chosen = sorted(drawn["noto"].keys() & drawn["twemoji"].keys())[::40][:60]
    parts = []
    for artist, side in (("noto", "train"), ("twemoji", "validation")):
        lines = []
        for code in chosen:
            (folder / f"{artist}-{code}.png").write_bytes(drawn[artist][code].content)
            lines.append({"path": f"{artist}-{code}.png", "caption": drawn[artist][code].captions[0]})
        (folder / f"{artist}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        parts.append(
            ImageTable(paths=(str(folder / f"{artist}.jsonl"),), image_key="path", caption_key="caption", side=side)
        )
    return Pairs(
        source=Together(parts=tuple(parts)),
        augmentation=SEEN,
        tokenizer=BytePair(vocab_size=300),
        context_length=20,
    )


@pytest.fixture(scope="module")
def captioner(emoji, tmp_path_factory) -> Path:
    spec = coca(32, 2, (1, 64), (1, 64), vocab_size=320, picture=PATCHES, queries=3)
    folder = tmp_path_factory.mktemp("runs") / "coca"
    pretrain(Run(name="coca", model=spec, objective=Captioning(), data=emoji, **SAME), folder, console=QUIET)
    return folder


@pytest.fixture(scope="module")
def towers(emoji, tmp_path_factory) -> Path:
    image = ImageEncoder(embedding=PATCHES.model_copy(update={"class_token": True}), stack=stack(64, 1))
    text = TextTower(embedding=TokenEmbedding(vocab_size=320, context_length=20), stack=stack(64, 1))
    model = TwoTower(image=image, text=text, embed_dim=16)
    folder = tmp_path_factory.mktemp("runs") / "clip"
    pretrain(Run(name="clip", model=model, objective=Contrastive(), data=emoji, **SAME), folder, console=QUIET)
    return folder


def naming_digits(start: Path | None = None, **model: object) -> Run:
    """A classifier of digits that sees pictures as the others do."""
    spec = {"embedding": PATCHES, "stack": stack(64, 1), "head": ClassHead(classes=10), "pool": {"kind": "mean"}}
    return Run(
        name="digits",
        model=ImageEncoder.model_validate(spec | model),
        start=None if start is None else Start(path=str(start)),
        objective=Classification(),
        data=Images(source=EmbeddedImages(name="digits"), prepare=WHOLE, augmentation=SEEN),
        **SAME,
    )


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    pretrain(naming_digits(), folder, console=QUIET)
    return folder


def values(result) -> dict[str, float]:
    return {metric["name"]: metric["value"] for metric in result["model"]}


def digits(side: str) -> tuple[torch.Tensor, np.ndarray]:
    """The catalogue's digits as these models see them, and their classes."""
    pictures = open_images(naming_digits(), World(rank=0, size=1, device=torch.device("cpu"))).sides[side]
    images = torch.cat([batch.images_BCHW for batch in evaluation_batches(pictures, SEEN, 500)])
    return images, np.array(pictures.labels)


def vectors(path: Path, images: torch.Tensor) -> np.ndarray:
    """What each kind of model's vector is, by its parts."""
    model, batch = load_picture_model(path, "float32").model, ImageBatch(images)
    with torch.no_grad():
        match model.spec.kind:
            case "captioner":
                found = model.contrast_pool(model.encode(batch))
            case "two_tower":
                found = model.image_tower(batch).hidden
            case _:
                found = model(batch).hidden
    return found.numpy()


@pytest.mark.parametrize("kind", ["captioner", "towers", "classifier"])
def test_the_nearest_neighbour_by_a_plain_loop(kind, request):
    path = request.getfixturevalue(kind)
    result = evaluate_pictures(path, Neighbours(nearest=1), "digits", "float32", 50, QUIET)
    (known, classes), (asked, truth) = digits("train"), digits("test")
    known, asked = vectors(path, known), vectors(path, asked)
    hits = 0
    for vector, label in zip(asked, truth, strict=True):
        cosines = known @ vector / np.linalg.norm(known, axis=1) / np.linalg.norm(vector)
        hits += classes[cosines.argmax()] == label
    # At most two of 181 measured (of the captioner, on one thread), whose nearest two are within 2e-6 of each other.
    assert values(result)["top1_accuracy"] == pytest.approx(hits / len(truth), abs=2.5 / len(truth))
    assert hits / len(truth) > 0.5
    assert "nats" not in values(result)
    assert {floor["name"] for floor in result["floors"]} >= {"majority_class_accuracy", "pixel_ridge_accuracy"}
    assert sum(map(sum, result["confusion"])) == len(truth)
    (top,) = [metric for metric in result["model"] if metric["name"] == "top1_accuracy"]
    assert top["n"] == len(truth)
    assert top["interval"][0] < top["value"] < top["interval"][1]


def test_a_linear_probe_is_beside_the_floors_and_the_penalty_is_told(classifier):
    """Of a hardly trained ViT; 0.85 measured, guessing is 0.1."""
    result = evaluate_pictures(classifier, LinearProbe(penalty=0.1), None, "float32", None, QUIET)
    assert values(result)["top1_accuracy"] > 0.5
    assert "penalty 0.1" in result["variant"]
    assert result["data"] is None
    own = {floor["name"]: floor["value"] for floor in result["floors"]}
    (usual,) = evaluate_images(classifier, naming_digits(), "float32", None, QUIET)
    assert own == {floor["name"]: floor["value"] for floor in usual["floors"]}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Names and templates of two data sets, as CLIP_benchmark has them."""
    folder = tmp_path_factory.mktemp("words")
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    trees = {
        "names": {"digits": words, "pets": ["cat", "dog"]},
        "own": [str(number) for number in reversed(range(10))],
        "sentences": {"digits": ["the number {c}", "a {c}", "keycap {c}"], "pets": ["a {c}"]},
        "misspelt": [*words[:8], "eigth"],
    }
    for name, tree in trees.items():
        (folder / f"{name}.json").write_text(json.dumps(tree))
    return {name: str(folder / f"{name}.json") for name in trees}


@pytest.mark.parametrize("kind", ["captioner", "towers"])
def test_zero_shot_by_a_plain_loop(kind, request, files):
    """Each sentence's vector, their mean of each class, the nearest one. Confidence is the softmax with the scale."""
    path = request.getfixturevalue(kind)
    task = ZeroShot(class_names=files["names"], templates=files["sentences"], dataset="digits")
    result = evaluate_pictures(path, task, "digits", "float32", 7, QUIET)
    pictured = load_picture_model(path, "float32")
    model, tokenizer = pictured.model, pictured.tokenizer
    names, sentences = (json.loads(Path(files[name]).read_text())["digits"] for name in ("names", "sentences"))
    images, truth = digits("test")
    with torch.no_grad():
        rows = []
        for name in names:
            ids = [tokenizer.encode(sentence.replace("{c}", name)) for sentence in sentences]
            mean = torch.stack(
                [model.text(caption_batch([one], caption_rows(None, tokenizer.vocabulary), 20))[0] for one in ids]
            ).mean(0)
            rows.append(mean / mean.norm())
        logits = model.log_scale.exp() * model.image(ImageBatch(images)) @ torch.stack(rows).T
    wanted = float((logits.argmax(1).numpy() == truth).mean())
    nats = float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(truth).long()))
    assert values(result)["top1_accuracy"] == pytest.approx(wanted, abs=1.5 / len(truth))
    assert values(result)["nats"] == pytest.approx(nats, abs=1e-4)  # 1.1e-7 measured
    floors = {floor["name"]: floor["value"] for floor in result["floors"]}
    assert floors["chance_accuracy"] == pytest.approx(0.1)
    assert result["variant"].startswith("test side; class_names=")


def test_names_in_another_order_change_nothing(towers, files):
    """`own` has the data's names the other way round; without a file they are the data's."""
    plainly = evaluate_pictures(towers, ZeroShot(), "digits", "float32", None, QUIET)
    turned = evaluate_pictures(towers, ZeroShot(class_names=files["own"]), "digits", "float32", None, QUIET)
    assert values(plainly) == values(turned)


def test_a_folder_without_sides_is_scored_whole(towers, tmp_path):
    for number, picture in enumerate(read_embedded_images(EmbeddedImages(name="digits"))):
        if number % 90 == 0:
            (tmp_path / f"digit {picture.label}").mkdir(exist_ok=True)
            Image.fromarray(picture.content[:, :, 0]).save(tmp_path / f"digit {picture.label}" / f"{number}.png")
    result = evaluate_pictures(towers, ZeroShot(), str(tmp_path), "float32", None, QUIET)
    assert {metric["n"] for metric in result["model"] if metric["name"] == "top1_accuracy"} == {20}
    assert result["split"] == "all of it"
    assert [floor["name"] for floor in result["floors"]] == ["chance_accuracy"]
    half = evaluate_pictures(towers, ZeroShot(), f"{tmp_path}?validation_percent=50", "float32", None, QUIET)
    assert half["split"] == "validation side"


def test_a_captioner_is_scored_by_what_it_writes(captioner, emoji):
    """In evaluation.json beside retrieval, as a task the same, word for word what the verb prints."""
    (own,) = evaluate(captioner, precision="float32", console=QUIET)
    assert values(own) == values(json.loads((captioner / "evaluation.json").read_text()))
    assert {"text_recall_at_1", "image_recall_at_1", "exact_name_rate", "token_f1"} <= values(own).keys()
    assert {"nearest_picture_has_the_caption", "nearest_picture_token_f1"} <= {one["name"] for one in own["floors"]}
    task = evaluate_pictures(captioner, Captions(), None, "float32", 7, QUIET)
    found = evaluate_pictures(captioner, Retrieval(), None, "float32", 7, QUIET)
    assert values(task) | values(found) == pytest.approx(values(own), abs=1e-6)
    folder = Path(emoji.source.parts[1].paths[0]).parent
    pictures = [folder / json.loads(line)["path"] for line in (folder / "twemoji.jsonl").read_text().splitlines()]
    written = dict(captions(captioner, pictures, Sampling(temperature=0.0), "float32"))
    sampled = read_events(captioner).of("sample")[-1]["samples"]
    assert len(sampled) == 8
    for sample in sampled:
        line, own_caption = re.fullmatch(r".*jsonl:(\d+) \((.*)\):", sample["prompt"]).groups()
        picture = pictures[int(line) - 1]
        assert picture.name in (folder / "twemoji.jsonl").read_text().splitlines()[int(line) - 1]
        assert own_caption in (folder / "twemoji.jsonl").read_text()
        assert sample["text"].strip() == written[picture].strip(), sample


def test_the_verb_prints_a_caption_per_picture(captioner, emoji):
    folder = Path(emoji.source.parts[1].paths[0]).parent
    pictures = [str(path) for path in sorted(folder.glob("twemoji-*.png"))[:3]]
    lines = (
        CliRunner().invoke(app, ["caption", str(captioner), *pictures, "--precision", "float32"]).output.splitlines()
    )
    assert [line.split(": ")[0] for line in lines] == pictures
    told = CliRunner().invoke(app, ["caption", str(captioner), *pictures, "--precision", "float32", "--json"]).output
    for line, row in zip(lines, map(json.loads, told.splitlines()), strict=True):
        assert line == f"{row['picture']}: {row['caption']}"
    short = CliRunner().invoke(app, ["caption", str(captioner), pictures[0], "--max-tokens", "1", "--json"])
    assert len(json.loads(short.output)["caption"]) <= len(json.loads(told.splitlines()[0])["caption"])
    for precision in ("bfloat16", "int8"):  # matrices of other kinds, the patches' map as it was
        done = CliRunner().invoke(app, ["caption", str(captioner), *pictures, "--precision", precision])
        assert done.exit_code == 0, done.exception
        assert len(done.output.splitlines()) == 3


def test_mistakes_are_told(captioner, towers, classifier, files, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    misspelt = ZeroShot(class_names=files["misspelt"])
    several = ZeroShot(class_names=files["names"])
    for path, task, data, said in (
        (
            classifier,
            ZeroShot(),
            "digits",
            "needs a model that reads texts too .*is image_encoder; knn and",
        ),
        (towers, Captions(), None, "needs a model of kind captioner, and that of .* is two_tower"),
        (towers, Neighbours(), None, "have no classes, and knn needs them; name others with --data"),
        (towers, misspelt, "digits", "misspelt.json: names 9 classes, and the data has 10"),
        (towers, several, "digits", "names.json: holds 2 data sets; say which: digits, pets"),
        (towers, Retrieval(), "digits", "has no caption"),
        (towers, ZeroShot(), "digist", "did you mean 'digits'"),
        (towers / "checkpoints" / "step-0000006", Retrieval(), None, "a checkpoint has no pictures of its own"),
    ):
        with pytest.raises(CorestoneError, match=said):
            evaluate_pictures(path, task, data, "float32", None, QUIET)
    for path, file, said in (
        (captioner, tmp_path / "notes.png", "notes.png: not an image of a known kind"),
        (captioner, tmp_path / "note.png", "note.png: no such file.*did you mean .*notes.png"),
        (captioner, tmp_path, "is a folder; give picture files"),
        (towers, tmp_path / "notes.png", "caption: needs a model of kind captioner"),
    ):
        with pytest.raises(CorestoneError, match=said):
            list(captions(path, [file], Sampling(temperature=0.0)))
    for words, said in (
        (["--task", "knn", "neares=3"], "did you mean 'nearest'"),
        (["--task", "zero_shot", "dataset=digits"], "dataset names one of those in a file; give class_names=FILE"),
        (["--task", "knn", "--shots", "1"], "takes no --shots"),
        (["--task", "ptb", "--data", "x"], "scores text, and .* sees pictures; its tasks: zero_shot, knn"),
        (["nearest=3"], "is a setting of dynamic evaluation or a task on pictures"),
    ):
        done = CliRunner().invoke(app, ["evaluate", str(towers), *words])
        assert re.search(said, str(done.exception)), done.exception


def test_evaluations_are_kept_and_shown(classifier):
    for nearest in (3, 5, 3):
        evaluate_pictures(classifier, Neighbours(nearest=nearest), "digits", "float32", None, QUIET)
    kept = [json.loads(line) for line in (classifier / "evaluations.jsonl").read_text().splitlines()]
    named = [one["variant"] for one in kept if one["task"] == "knn" and one["variant"].startswith("test side; ")]
    assert sorted(named)[-2:] == ["test side; 3 nearest, temperature 0.07", "test side; 5 nearest, temperature 0.07"]
    page = write_report([classifier]).read_text()
    assert "knn: digits" in page
    assert "Accuracy of each of the 10 classes" in page


def test_pairs_are_judged_by_recall_on_the_page(captioner):
    page = write_report([captioner]).read_text()
    tiles = re.findall(r"<dt>(.*?)</dt>", page)[:7]
    assert tiles[:4] == ["Text recall@1", "Image recall@1", "Exact names", "Best floor"]
    assert "the model saw the picture alone" in page


def test_the_best_checkpoint_is_that_of_the_highest_recall(captioner, tmp_path):
    """More is better here, other than of the losses that runs on text are watched by."""
    run = override(
        open_run(captioner), ["training.length=40 steps", "rhythm.evaluate=10 steps", "rhythm.checkpoint=40 steps"]
    )
    pretrain(run, tmp_path / "run", console=QUIET)
    recall = [event["metrics"]["text_recall_at_1"] for event in read_events(tmp_path / "run").of("evaluate")]
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-0000040" / "state.json").read_text())
    assert state["best"] == max(recall)
    assert min(recall) < max(recall)  # else this says nothing


def test_a_classifier_begins_with_a_picture_tower(captioner, towers, tmp_path):
    """CoCa's encoder without its pools, CLIP's tower whole; the head begins by chance, and fine-tuning goes on."""
    pool = plain(AttentionPool(attention={"num_heads": 2, "head_dim": 16}, feedforward=None))
    block = coca(32, 2, (1, 64), (1, 64), vocab_size=320, picture=PATCHES).image_stack
    runs = {
        captioner: naming_digits(captioner, stack=block, pool=pool),
        towers: naming_digits(
            towers, embedding=PATCHES.model_copy(update={"class_token": True}), pool={"kind": "class_token"}
        ),
    }
    for path, run in runs.items():
        world = World(rank=0, size=1, device=torch.device("cpu"))
        fresh = Built(run, open_data(run, world), world, torch.float32)
        theirs = read_tensors(sorted((path / "checkpoints").iterdir())[-1] / "model.safetensors")
        fresh_names, taken = {"head.weight", "head.bias"}, 0
        for name, tensor in fresh.model.state_dict().items():
            tower = (
                {"embedding": "image_embedding.", "stack": "image_stack."}[name.split(".")[0]]
                if (path == captioner and name.split(".")[0] in ("embedding", "stack"))
                else None
            )
            source = tower + name.split(".", 1)[1] if tower else f"image_tower.{name}"
            if source in theirs:
                assert torch.equal(tensor, theirs[source]), name
                taken += 1
            else:
                fresh_names.add(name)
        assert set(fresh.start.fresh) == fresh_names
        assert fresh.start.taken == taken
        assert f"{len(theirs) - taken} others left out" in fresh.start.told()
        assert all(name.startswith(("head.", "pool.")) for name in fresh_names)
        pretrain(run, tmp_path / path.name, console=QUIET)


def test_pictures_of_other_sizes_are_resized_where_the_checkpoint_has_no_steps(captioner, emoji):
    pictured = load_picture_model(captioner, "float32")
    folder = Path(emoji.source.parts[1].paths[0]).parent
    (picture, *_) = sorted(folder.glob("twemoji-*.png"))
    bare = pictured.seen.model_copy(update={"augmentation": SEEN.model_copy(update={"evaluation": ()})})
    other = type(pictured)(pictured.path, pictured.model, bare, pictured.tokenizer)
    assert other.augmentation.evaluation == (Resize(),)
    assert picture_batch([picture], other.augmentation).images_BCHW.shape == (1, 3, 16, 16)
