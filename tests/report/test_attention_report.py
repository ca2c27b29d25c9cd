"""Maps of attention on the page of a run on pictures, and what a run keeps for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from corestone.core.batch import ImageBatch
from corestone.core.spec import plain
from corestone.data.images.augment import evaluation_picture, normalise
from corestone.evaluate.attention_maps import attention_maps
from corestone.parallel.collectives import World
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.images import open_images
from corestone.recipes.picture_model import load_picture_model
from corestone.recipes.pretrain import pretrain
from corestone.recipes.report_pictures import DENSEST, HEAT, heat
from corestone.report.attention import attention_page
from corestone.report.folder import read_run
from corestone.report.write import write_report
from corestone.zoo.mnist_cnn import mnist_cnn

SHORT = [
    "training.length=2 steps",
    "schedule.warmup=1 steps",
    "training.precision=float32",
    "training.batch_examples=16",
    "evaluation.pictures_while_training=20",
    "rhythm.evaluate=2 steps",
]


def test_heat_is_clear_at_the_least_and_densest_at_the_most() -> None:
    found = heat(torch.tensor([[0.0, 0.8], [0.2, 1.0]]))
    assert np.array_equal(found[..., 3], [[0, 164], [41, DENSEST]])
    assert (found[..., :3] == HEAT).all()
    for flat in (torch.full((2, 3), 0.2), torch.full((2, 3), float("nan"))):
        assert not heat(flat)[..., 3].any()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attending") / "run"
    pretrain(find_recipe("mnist-vit", SHORT), folder, console=Console(quiet=True))
    return folder


def test_a_run_keeps_the_maps_of_its_pictures(trained: Path) -> None:
    """The files are those that the model gives of the pictures named."""
    run = find_recipe(str(trained / "recipe.yaml"), [])
    data = open_images(run, World(rank=0, size=1, device=torch.device("cpu")))
    model = load_picture_model(trained, "float32").model
    side, told = data.sides["test"], json.loads((trained / "evaluation.json").read_text())["attention"]
    assert (told["looks"], told["layers"], len(told["shown"])) == ("the class token", len(model.stack.blocks), 12)
    assert [one[0] for one in told["shown"]] == [side.id(n * len(side) // 12) for n in range(12)]
    for number in (0, 7):
        place = number * len(side) // 12
        picture = evaluation_picture(data.spec.augmentation, side.pixels(place))
        maps = attention_maps(model, ImageBatch(normalise(data.spec.augmentation, picture)[None]))
        folder, shown = trained / "pictures", told["shown"][number]
        assert shown[1] == side.classes[side.labels[place]]
        assert np.array_equal(np.asarray(Image.open(folder / f"attention-{number:02d}.png")), picture[0].numpy())
        for name, found, peak in (("last", maps.last_BHW[0], shown[2]), ("rollout", maps.rollout_BHW[0], shown[3])):
            pixels = np.asarray(Image.open(folder / f"attention-{name}-{number:02d}.png"))
            assert np.array_equal(pixels, heat(found))
            assert peak == pytest.approx(float(found.max() / found.mean()), abs=0.006)
            assert np.unravel_index(pixels[..., 3].argmax(), found.shape) == divmod(int(found.argmax()), found.shape[1])


def test_the_page_shows_each_map_over_its_picture(trained: Path) -> None:
    page = attention_page(read_run(trained))
    assert (len(page.pictures), page.through, page.none) == (12, True, False)
    text = (trained / "report.html").read_text(encoding="utf-8")
    assert text.count('<span class="heat">') == 24
    assert "where the class token looks in the last step" in text
    assert "img-src data:" in text


@pytest.mark.parametrize(
    "found", [[], {}, {"shown": 3}, {"shown": [[1, 2], "x", None, ["id", "said", "much", None]]}, {"layers": "four"}]
)
def test_odd_values_cost_no_page(trained: Path, tmp_path: Path, found: object) -> None:
    for name in ("recipe.yaml", "metrics.jsonl", "environment.json", "data.json"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    tree = json.loads((trained / "evaluation.json").read_text()) | {"attention": found}
    (tmp_path / "evaluation.json").write_text(json.dumps(tree))
    text = write_report([tmp_path]).read_text(encoding="utf-8")
    assert 'id="attention"' not in text
    assert "no maps of attention" not in text


def test_convolutions_have_none_and_the_page_says_so(tmp_path: Path) -> None:
    model = f"model={json.dumps(plain(mnist_cnn(7, (8, 8, 8, 8))))}"
    pretrain(find_recipe("mnist", [model, *SHORT]), tmp_path / "run", console=Console(quiet=True))
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["attention"] is None
    assert attention_page(read_run(tmp_path / "run")).none
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert 'id="attention"' not in text
    assert "There are no maps of attention" in text
