"""The report says what the run folder says, escapes it, needs no network and survives whatever is missing."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestone.core.errors import CheckpointError
from corestone.core.runlog import RunLog
from corestone.report.compare import System, differences, held_out_curves
from corestone.report.folder import flatten, read_run
from corestone.report.plots import Series, plot, smooth, thin
from corestone.report.write import write_comparison, write_report

EVIL = "<script>alert(1)</script> & \"quoted\" <img src=x onerror='y'>"
RECIPE = """\
name: small
description: {description}
seed: {seed}
model: {{kind: decoder, stack: {{width: 64, blocks: [{{num_heads: 4}}, {{num_heads: 4}}]}}}}
data: {{context_length: 128, tokenizer: {{kind: byte_pair, vocab_size: 512}}}}
optimiser: {{kind: adamw, learning_rate: {rate}}}
training: {{batch_tokens: 1024, length: 20 steps}}
"""


def _metric(name: str, value: float, unit: str, n: int, interval: list[float] | None = None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "n": n, "interval": interval}


def _run(folder: Path, *, rate: float = 0.001, seed: int = 0, end: bool = True, model: float = 2.118) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE.format(description="'tests'", rate=rate, seed=seed))
    environment = {
        "corestone": "0.1.0",
        "python": "3.11.7",
        "machine": {"cpu": "A processor", "cores": 2, "memory_bytes": 16_000_000_000, "gpu": []},
        "git": {"commit": "ab" * 20, "branch": "main", "modified": True},
        "command": "corestone pretrain small --run here",
        "gemm_peak_flops": {"float32": 1.3e11, "bfloat16": 2.9e11},
        "parameters": 4_272_384,
        **{"device": "cpu", "precision": "bfloat16", "ranks": 1, "threads": 2},
    }
    manifest = {
        "fingerprint": "f1n6e12",
        "source": {"kind": "embedded", "name": "plays"},
        "tokenizer": {"kind": "byte_pair", "vocab_size": 512, "bytes_per_token": 3.25},
        "train": {"tokens": 10_240, "documents": 35, "bytes": 33_280},
        "validation": {"tokens": 1_111, "documents": 3, "bytes": 3_333},
        "counts": {"read": 41, "kept": 38, "dropped": {"duplicate": 2, "too short": 1}},
    }
    card = {"title": "Plays", "licence": "MIT", "not_controlled": "One author wrote all plays."}
    evaluation = {
        "checkpoint": "step-0000020",
        "split": "validation",
        "model": [
            _metric("bits_per_byte", model, "bits/byte", 541_882, [2.09, 2.14]),
            _metric("word perplexity", 5210.2, "per word", 96_000, [4800.0, 5600.0]),
        ],
        "others": [
            {"source": "chitchat", "split": "validation", "model": [_metric("bits_per_byte", 1.9, "bits/byte", 0)]}
        ],
        "floors": [_metric("xz", 2.602, "bits/byte", 541_882), _metric("5-gram", 2.41, "bits/byte", 541_882)],
    }
    for name, tree in (("environment", environment), ("data", [{"manifest": manifest, "card": card}])):
        (folder / f"{name}.json").write_text(json.dumps(tree))
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    (folder / "checkpoints" / "step-0000020").mkdir(parents=True)
    (folder / "checkpoints" / "step-0000020" / "weights").write_bytes(b"0" * 1234)
    (folder / "checkpoints" / ".step-0000021.7.partial").mkdir()
    _events(folder, end)
    return folder


def _events(folder: Path, end: bool) -> None:
    with RunLog(folder) as log:
        for step in range(1, 21):
            numbers = {"tokens_per_second": 1000.0 + step, "utilisation": 0.66, "flops_per_second": 1.9e11}
            loss = math.nan if step == 7 else 3 + 5 / step
            more = {"learning_rate": 1e-3, "grad_norm": 0.5, "data_wait_share": 0.002, "memory_bytes": 1.5e9}
            log.log("train", step=step, tokens=step * 1024, loss=loss, **numbers, **more)
        log.log("evaluate", step=20, tokens=20480, metrics={"nats_per_token": 3.5, "bits_per_byte": 2.2})
        log.log("anomaly", step=7, tokens=7168, problem="the loss is nan", documents=["macbeth.md"])
        log.log("sample", step=20, tokens=20480, samples=[{"prompt": "To be", "text": "To be" + EVIL}])
        log.log("checkpoint", step=20, tokens=20480)
        if end:
            log.log("end", step=20, tokens=20480, reason="finished", seconds=75.0)


class _Page(HTMLParser):
    """The page's visible text, its tags, and whether they nest."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)
        self.close()
        self.wrong += self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for key, value in attrs if key == "id"]
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


def _page(path: Path) -> _Page:
    return _Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _run(tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture(scope="module")
def page(whole: Path) -> _Page:
    path = write_report([whole])
    assert path == whole / "report.html"
    return _page(path)


@pytest.mark.parametrize(
    "words",
    [
        "small",
        "Finished at step 20.",
        "Bits per byte 2.118 bits/byte held-out text, 95 % interval 2.090 to 2.140",
        "Best floor 2.410 bits/byte 5-gram; the model is 12.1 % below it",
        "Tokens seen 20.5 k tokens 2.00 epochs of 10.2 k tokens",
        "Training time 0:20 min:s",
        "Parameters 4.27 M 4,272,384 in all",
        "this model best 2.118 2.090 to 2.140 541,882 5-gram 2.410 none 541,882 xz 2.602",
        "word perplexity 5,210 per word 4,800 to 5,600 96,000",
        "split validation, checkpoint step-0000020 Lower is better",
        "chitchat, split validation Lower is better bits/byte 95 % interval n this model 1.900 none not given",
        "Computed on cpu, bfloat16, 1 rank(s), 2 thread(s) in each",
        "1,010 tokens/s median of 20 log lines",
        "190 GFLOP/s",
        "66.0 % of the GEMM peak",
        "290 GFLOP/s matrix products in bfloat16, measured here; 130 GFLOP/s in float32",
        "0.20 % of the time",
        "1.5 GB highest logged",
        "decoder, 2 layers, width 64, 4 heads",
        "byte pair, 512 tokens",
        "A processor, 2 usable cores",
        "GPU none",
        "abababababab on main, with uncommitted changes",
        "train 10,240 35 33,280 validation 1,111 3 3,333",
        "38 of 41 documents kept; dropped: duplicate (2), too short (1).",
        "What the split cannot control. One author wrote all plays.",
        "step 7, after 7.17 k tokens problem: the loss is nan; documents: macbeth.md",
        "step-0000020 1.23 kB",
        "corestone pretrain small --run here",
        f"git checkout {'ab' * 20}",
    ],
)
def test_the_page_says_what_the_folder_says(page: _Page, words: str) -> None:
    assert words in page.text


def test_the_page_is_whole_html_and_reaches_for_nothing(page: _Page, whole: Path) -> None:
    text = (whole / "report.html").read_text(encoding="utf-8")
    assert page.wrong == []
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert re.findall(r"(?:https?:)?//[a-z]|@import|url\((?!#)", text) == []
    assert len(page.ids) == len(set(page.ids))
    missing = [name for name in re.findall(r'(?:url\(#|href="#)([^")]+)', text) if name not in page.ids]
    assert missing == []
    assert page.tags.count("svg") == 6


def test_texts_are_escaped_and_a_prompt_is_told_once(page: _Page, whole: Path) -> None:
    assert f"To be {EVIL}" in page.text  # prompt and text are two elements
    assert "To be To be" not in page.text
    assert "<mark>To be</mark>&lt;script&gt;" in (whole / "report.html").read_text(encoding="utf-8")


def test_partial_checkpoints_are_not_listed(page: _Page) -> None:
    assert "partial" not in page.text


@given(text=st.text(alphabet=st.characters(), max_size=60))
def test_any_sample_leaves_the_page_whole(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("run")
    with RunLog(folder) as log:
        log.log("sample", step=1, tokens=1, samples=[{"prompt": text, "text": text}])
    page = _page(write_report([folder]))
    assert page.wrong == []
    assert "script" not in page.tags


def test_a_killed_run_is_reported_as_far_as_it_went(tmp_path: Path) -> None:
    run = _run(tmp_path / "killed", end=False)
    (run / "evaluation.json").unlink()
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"event": "train", "step": 21, "lo')
    text = _page(write_report([run])).text
    assert "No end was logged: still going, or stopped at step 20." in text
    assert "Bits per byte 2.200 bits/byte last while training; not evaluated" in text
    assert "Best floor not evaluated" in text
    assert "metrics.jsonl: 1 unreadable line left out (line 25)" in text
    assert "evaluation.json: missing" in text


FILES = ("recipe.yaml", "environment.json", "data.json", "evaluation.json", "metrics.jsonl")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _odd(path: Path) -> None:
    path.write_text('{"machine": 3, "git": 4, "model": 5, "floors": {}, "gemm_peak_flops": [1], "event": 1, "step": 2}')


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [Path.unlink, _cut, _odd], ids=["missing", "cut", "odd values"])
def test_a_damaged_file_costs_its_section_alone(
    whole: Path, tmp_path: Path, name: str, damage: Callable[[Path], object]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    damage(run / name)
    page = _page(write_report([run]))
    assert page.wrong == []
    assert ("2.410 bits/byte" in page.text) == (name != "evaluation.json")
    assert ("tokens/s median of 20" in page.text) == (name != "metrics.jsonl")
    assert ("The resolved recipe" in page.text) == (name != "recipe.yaml" or damage is not Path.unlink)


@pytest.mark.parametrize("content", [b"", b"7", b"\xff\xfe\x00", b'[{"a": 1}, [2], null]', b'"text"', b"{}"])
def test_a_run_of_which_no_file_is_whole_still_gives_a_page(whole: Path, tmp_path: Path, content: bytes) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for name in FILES:
        (run / name).write_bytes(content)
    page = _page(write_report([run]))
    assert page.wrong == []
    assert "Bits per byte not evaluated" in page.text


def test_an_empty_run_says_what_was_not_measured(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: bare\n")
    page = _page(write_report([tmp_path]))
    for words in (
        "No event was logged.",
        "Bits per byte not evaluated",
        "Tokens seen not measured",
        "Training time not measured",
        "Parameters not measured",
        "Not evaluated.",
        "No samples.",
        "None was logged.",
        "No complete checkpoint in the folder.",
        "Training speed not measured",
        "Machine and versions Not recorded.",
        "Data Not recorded.",
    ):
        assert words in page.text
    assert page.text.count("Not logged.") == 6
    assert not re.search(r"\d+(\.\d+)? (bits/byte|tokens/s|GFLOP/s)", page.text)


def test_a_folder_that_is_no_run_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, words in (
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path / "file", "is a file, not a run folder"),
        (tmp_path, "neither recipe.yaml nor metrics.jsonl"),
    ):
        with pytest.raises(CheckpointError, match=words) as caught:
            write_report([path])
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="no run folder was given"):
        write_report([])


def test_the_report_goes_where_it_is_asked_and_replaces_the_old_one(whole: Path, tmp_path: Path) -> None:
    assert write_report([whole], tmp_path) == tmp_path / "report.html"
    deep = tmp_path / "a" / "b.html"
    deep.parent.mkdir()
    deep.write_text("old")
    assert write_report([whole], deep) == deep
    assert deep.read_bytes() == (tmp_path / "report.html").read_bytes()  # the same run gives the same bytes
    assert sorted(path.name for path in deep.parent.iterdir()) == ["b.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_report([whole], tmp_path / "file" / "report.html")


def test_runs_are_compared_by_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = _run(tmp_path / "a" / "run")
    second = _run(tmp_path / "b" / "run", rate=0.002, seed=1, model=2.05)
    third = _run(tmp_path / "c" / "run", end=False)
    (third / "evaluation.json").unlink()
    path = write_report([first, second, third])
    assert path == Path("comparison.html")
    page = _page(path)
    assert page.wrong == []
    assert "differ in 2 keys, shown beside the result; the other 12 are the same" in page.text
    assert "a/run Finished at step 20. 2.118" in page.text
    assert "b/run best Finished at step 20. 2.050 95 %: 2.090 to 2.140 1 0.002" in page.text
    assert "stopped at step 20. not measured 0 0.001 4.27 M" in page.text
    assert page.tags.count("svg") == 5
    same = _page(write_report([first, first], tmp_path / "same.html"))
    assert "The recipes do not differ." in same.text


def test_a_comparison_says_what_does_not_compare(tmp_path: Path) -> None:
    first, second = _run(tmp_path / "a"), _run(tmp_path / "b")
    told = json.loads((second / "evaluation.json").read_text())
    told["model"][0]["n"] = 99
    (second / "evaluation.json").write_text(json.dumps(told))
    environment = json.loads((second / "environment.json").read_text())
    environment["machine"]["cpu"] = "Another"
    (second / "environment.json").write_text(json.dumps(environment))
    text = _page(write_report([first, second], tmp_path)).text
    assert "different amounts of text (n = 99, 541,882)" in text
    assert "different machines" in text


def test_differences_tell_a_list_of_equal_items_once(tmp_path: Path) -> None:
    runs = []
    for depth in (2, 3):
        folder = tmp_path / str(depth)
        folder.mkdir()
        blocks = ", ".join(["{heads: 4}"] * depth)
        (folder / "recipe.yaml").write_text(f"name: r{depth}\nwidth: 8\nblocks: [{blocks}]\n")
        runs.append(read_run(folder))
    assert differences([System(run.name, [run]) for run in runs]) == (["blocks.length"], 2)
    assert flatten({"a": [{"b": 1}, {"b": 2}], "c": [1, 2], "d": {}}) == {
        "a.length": 2,
        "a.0.b": 1,
        "a.1.b": 2,
        "c": [1, 2],
        "d": {},
    }


@given(st.lists(st.floats(-100, 100) | st.just(math.nan), max_size=80), st.floats(0, 30))
def test_a_smoothed_line_stays_within_its_values(values: list[float], span: float) -> None:
    out = smooth(values, span)
    assert len(out) == len(values)
    known = [value for value in values if math.isfinite(value)]
    for value in out:
        # measured worst excess 3e-14, from rounding in the two sums
        assert math.isnan(value) or min(known) - 1e-9 <= value <= max(known) + 1e-9


def test_smoothing_keeps_a_straight_line_and_does_not_lag() -> None:
    out = smooth([float(x) for x in range(100)], 10)
    # measured worst error away from the ends 2e-14
    assert max(abs(out[place] - place) for place in range(10, 90)) < 1e-9


@given(st.integers(0, 5000), st.integers(0, 4999))
def test_thinning_keeps_ends_and_spikes(count: int, spike: int) -> None:
    x = [float(place) for place in range(count)]
    y = [math.sin(place) for place in range(count)]
    if count:
        y[spike % count] = 50.0
    kept_x, kept_y = thin(x, y)
    assert len(kept_x) == len(kept_y) <= 604
    assert kept_x == sorted(set(kept_x))
    if count:
        assert (kept_x[0], kept_x[-1]) == (0.0, count - 1.0)
        assert max(kept_y) == 50.0


def test_a_plot_takes_its_colours_from_the_page() -> None:
    values = [3.0, math.nan, 1.25]
    svg = plot("loss", [Series([1e6, 2e6, 3e6], values, "a", "c1"), Series((), (2.0,), "b", "c3", "level")], 'x "y"')
    colours = set(re.findall(r"(?:stroke|fill): ([^;\"]+)", svg))
    assert colours <= {"none", "var(--c1)", "var(--c3)", "var(--line)", "var(--muted)", "var(--ink)"}
    assert {"var(--c1)", "var(--c3)", "var(--muted)"} <= colours
    assert 'aria-label="x &quot;y&quot;"' in svg
    assert ">2.4 M<" in svg
    assert "<style" not in svg


def test_seeds_of_one_recipe_are_one_row_with_their_spread(tmp_path: Path) -> None:
    runs = [_run(tmp_path / "x" / f"seed-{seed}", seed=seed, model=model) for seed, model in enumerate((2.0, 2.1, 2.3))]
    other = [_run(tmp_path / "y" / f"seed-{seed}", seed=seed, rate=0.5, model=2.2) for seed in (0, 1)]
    unfinished = _run(tmp_path / "y" / "seed-2", seed=2, rate=0.5, end=False)
    (unfinished / "evaluation.json").unlink()
    path = write_comparison({"x": runs, "y": [*other, unfinished]}, tmp_path / "out")
    page = _page(path)
    assert page.wrong == []
    assert (
        "2 recipes compared The budget of each run: 20 steps, 1,024 tokens per step, 128 tokens of context."
        in page.text
    )
    assert "differ in 1 key, shown beside the result; the other 12 are the same in all. Numbers are means" in page.text
    assert "x best seeds 0, 1, 2 2.133 ± 0.153 2.000 to 2.300 0.001 4.27 M" in page.text
    assert "y seeds 0, 1, 2 2.200 ± 0.000 2.200 to 2.200 0.5 4.27 M" in page.text
    assert "y/seed-2: No end was logged: still going, or stopped at step 20." in page.text
    told = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [run["held_out"] for run in told["systems"][1]["runs"]] == [2.2, 2.2, None]
    assert told["systems"][0]["mean"]["held_out"] == pytest.approx((2.0 + 2.1 + 2.3) / 3)
    names = ["comparison.html", "comparison.json", "held-out-by-time.png", "held-out-by-tokens.png"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == names


def test_many_differences_get_a_table_of_their_own(tmp_path: Path) -> None:
    runs = {}
    for name, values in (("a", (1, 2, 3, 4, 5)), ("b", (1, 3, 4, 5, None)), ("c", (6, 7, 8, 9))):
        (tmp_path / name).mkdir()
        text = "".join(f"k{place}: {'null' if value is None else value}\n" for place, value in enumerate(values))
        (tmp_path / name / "recipe.yaml").write_text(f"name: {name}\n{text}")
        runs[name] = [tmp_path / name]
    page = _page(write_comparison(runs, tmp_path / "out"))
    assert page.wrong == []
    assert "differ in 5 keys, shown in a table below; the other 0 are the same" in page.text
    assert "Where the recipes differ Key a b c k0 1 1 6 k1 2 3 7 k2 3 4 8 k3 4 5 9 k4 5 none –" in page.text


def _logged(folder: Path, speeds: list[float], scores: dict[int, float]) -> Path:
    """A run of 100 tokens per step with so many tokens per second in each, scored after some steps."""
    with RunLog(folder) as log:
        for step, speed in enumerate(speeds, start=1):
            log.log("train", step=step, tokens=100 * step, tokens_per_second=speed)
            if step in scores:
                log.log("evaluate", step=step, tokens=100 * step, metrics={"bits_per_byte": scores[step]})
    return folder


def test_a_line_is_the_mean_of_seeds_at_equal_tokens_and_knows_the_time_of_training(tmp_path: Path) -> None:
    first = _logged(tmp_path / "a", [100, 100, 100, 50], {2: 4.0, 4: 2.0})
    second = _logged(tmp_path / "b", [50, 50, 50, 50], {2: 5.0, 4: 3.0})
    short = _logged(tmp_path / "c", [100, 100], {2: 6.0})
    system = System("x", [read_run(folder) for folder in (first, second, short)])
    tokens, time = (series[0] for _, _, _, series, _ in held_out_curves([system]))
    assert (tokens.x, tokens.y, tokens.band) == ([200, 400], [5.0, 2.5], ([4.0, 2.0], [6.0, 3.0]))
    assert time.x == pytest.approx([(2 + 4 + 2) / 3, (5 + 8) / 2])
    assert time.y == tokens.y
    alone = held_out_curves([System("x", [read_run(first)])])
    assert [series[0].band for _, _, _, series, _ in alone] == [None, None]


def test_numbers_that_are_not_finite_are_spelled(tmp_path: Path) -> None:
    run = _logged(tmp_path / "a", [100, math.inf], {1: math.nan, 2: 2.0})
    write_comparison({"a": [run]}, tmp_path)
    told = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert told["systems"][0]["curve"]["held_out"] == ["nan", 2.0]
