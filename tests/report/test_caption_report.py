"""Pages of runs on pictures with captions: pictures beside their nearest captions, and how alike they all are."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from corestone.report.captions import caption_page, short, similarity_chart
from corestone.report.folder import read_run
from corestone.report.write import write_report

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)> $x^2 & \"quoted'"
SHOWN = [
    {
        "id": "row:1",
        "own": [EVIL, 0.5],
        "before": 0,
        "nearest": [[EVIL, 0.5, True], ["a cat", 0.25, False], ["a dog", -0.125, False]],
    },
    {
        "id": "row:2",
        "own": ["a cat", -0.3],
        "before": 6,
        "nearest": [["a dog", 0.75, False], ["a cow", 0.5, False], [EVIL, 0.25, False]],
    },
]
TOLD = {
    "pictures": 1234,
    "captions": 1200,
    "mistakes": 56,
    "shown": SHOWN,
    "mistaken": SHOWN[1:],
    "cosines": [[[0.5, True], [0.25, False]], [[-0.004, False], [-0.3, True]]],
}


def _run(folder: Path, told: Any) -> Path:
    (folder / "pictures").mkdir(parents=True)
    (folder / "recipe.yaml").write_text("name: pets\ndata: {kind: pairs}\nobjective: {kind: contrastive}\n")
    evaluation = {"checkpoint": "step-1", "split": "validation", "model": [], "floors": [], "nearest_captions": told}
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    (folder / "environment.json").write_text("{}")
    (folder / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "pictures": 5, "loss": 1.0}\n')
    for name in ("augmented", "shown-00", "shown-01", "mistaken-00"):
        stream = io.BytesIO()
        Image.new("L", (6, 4), 9).save(stream, "png")
        (folder / "pictures" / f"{name}.png").write_bytes(stream.getvalue())
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report([_run(tmp_path_factory.mktemp("runs") / "pets", TOLD)]).read_text("utf-8")


def _words(page: str) -> str:
    text = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


@pytest.mark.parametrize(
    "words",
    [
        "the nearest of 1,200 different captions",
        "a cat −0.30 a dog 0.75 a cow 0.50",
        "own caption: place 7 of 1,200",
        "56 of 1,234 held-out pictures are mistaken for one with another caption; these are the 1 where",
        "What the model saw",
    ],
)
def test_the_page_says_what_the_evaluation_found(page: str, words: str) -> None:
    assert words in _words(page)


def test_an_own_caption_is_marked_and_nothing_else_is(page: str) -> None:
    marked = re.findall(r"<li><mark>(.*?)</mark> <span class=\"unit\">([^<]*)<", page)
    assert [cosine for _, cosine in marked] == ["0.50"]
    assert marked[0][0].startswith("&lt;script&gt;")


def test_a_caption_is_words_and_never_a_part_of_the_page(page: str) -> None:
    """In the list, in a picture's description, in the drawing: wherever it stands, it is escaped."""
    assert page.count("alert(1)") >= 4
    assert "<script" not in page
    assert len(re.findall("<img", page)) == len(re.findall('<img src="data:image/png;base64,', page)) == 4
    for tag in re.findall(r"<[a-zA-Z][^>]*>", page):
        outside = re.sub(r'"[^"]*"', "", tag)
        assert "onerror" not in outside, tag
    assert "img-src data:" in page


def test_the_matrix_has_a_cell_of_each_pair_in_the_pages_colours() -> None:
    chart = similarity_chart(TOLD)
    assert chart is not None
    assert chart.svg is not None
    shown = re.findall(r">(−?\.\d\d)<", chart.svg)
    assert shown == [".50", ".25", ".00", "−.30"]
    colours = re.findall(r"fill: (var\(--c\d\))[^\"]*opacity: ([\d.]+)", chart.svg)
    assert [colour for colour, _ in colours] == ["var(--c2)", "var(--c1)", "var(--c1)", "var(--c2)"]
    strengths = [float(strength) for _, strength in colours]
    assert strengths[0] > strengths[1] > strengths[2] > strengths[3]
    rest = set(re.findall(r"(?:stroke|fill): ([^;\"]+)", chart.svg))
    assert rest <= {"none", "var(--c1)", "var(--c2)", "var(--line)", "var(--muted)", "var(--ink)"}


ODD = (None, 7, "text", {}, [], [[]], [1, [2]], [[["a", 1]]], [{"own": ["a"]}], [[[None, True]]], [[1, True]] * 2)


@pytest.mark.parametrize("value", ODD, ids=str)
def test_odd_values_cost_their_part_alone(tmp_path: Path, value: Any) -> None:
    whole = caption_page(read_run(_run(tmp_path / "whole", TOLD)))
    assert (len(whole.shown), len(whole.mistaken)) == (2, 1)
    for number, key in enumerate(TOLD):
        page = caption_page(read_run(_run(tmp_path / str(number), {**TOLD, key: value})))
        assert len(page.shown) == (0 if key == "shown" else 2)
        assert len(page.mistaken) == (0 if key == "mistaken" else 1)
        assert (page.matrix is None) == (key in ("shown", "cosines"))
    text = write_report([_run(tmp_path / "odd", value)]).read_text("utf-8")
    assert 'id="captions"' not in text
    assert 'id="mistaken"' not in text


def test_a_picture_whose_file_is_missing_is_left_out(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", TOLD)
    (run / "pictures" / "shown-00.png").unlink()
    assert [look.own.text for look in caption_page(read_run(run)).shown] == ["a cat"]


def test_a_long_caption_is_cut() -> None:
    assert short("a  b\nc", 5) == "a b c"
    assert short("word " * 50, 10) == "word word…"
