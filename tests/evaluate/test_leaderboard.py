"""The table of best results: nothing unverified becomes a record, figures compare only where all is the same, and the
dump of Papers With Code is read piece by piece, whatever it holds."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestone.core.errors import DataError, SpecError
from corestone.core.spec import plain
from corestone.evaluate.leaderboard import (
    Benchmark,
    Measured,
    Protocol,
    Row,
    benchmarks,
    comparable,
    find,
    records,
    reference,
    standings,
    told,
    way_label,
)
from corestone.evaluate.papers_with_code import CHUNK, items, number, read_dump
from corestone.evaluate.published import published
from corestone.recipes.tasks import TASKS

WAY = Protocol(measure="word_perplexity", counted="words", split="test", learning="trained", extra_data="none")


def row(value: float, date: str | None = "2020", **changes: Any) -> Row:
    tree = plain(WAY) | {
        "system": f"model {value}",
        "value": value,
        "date": date,
        "source": "a",
        "evidence": "verified",
    }
    return Row(**(tree | changes))


def board(*rows: Row, lower: bool | None = True) -> Benchmark:
    return Benchmark(name="Words (test)", metric="perplexity", unit="perplexity", lower_is_better=lower, rows=rows)


def test_the_books_tables_are_whole_and_every_row_is_marked() -> None:
    tables = {
        number: [(one.name, row) for one in benchmarks() for row in one.rows if row.table == number]
        for number in ("1.1", "1.2")
    }
    vision = ["ImageNet", "CIFAR-10", "COCO", "STL-10", "ObjectNet", "MNIST"]
    language = ["WikiText-103", "Penn Treebank (word)", "Penn Treebank (character)", "LAMBADA", "C4"]
    assert [[name for name, _ in rows] for rows in tables.values()] == [vision, language]
    for _, one in (*tables["1.1"], *tables["1.2"]):
        assert one.transformer
        assert one.date
        assert one.extra_data
        assert one.evidence in ("verified", "secondary")
    values = {name: one.value for name, one in (*tables["1.1"], *tables["1.2"])}
    assert (values["CIFAR-10"], values["LAMBADA"], values["Penn Treebank (character)"]) == (99.5, 89.7, 1.083)


@pytest.mark.parametrize("benchmark", benchmarks(), ids=lambda one: one.name)
def test_each_benchmark_holds_together(benchmark: Benchmark) -> None:
    assert {row.measure for row in benchmark.rows} <= set(benchmark.measures)
    assert set(benchmark.tasks) <= set(TASKS)
    assert len({(row.system, row.value, row.split, row.source) for row in benchmark.rows}) == len(benchmark.rows)
    shown = [standing for group in standings(benchmark) for standing in group]
    assert sorted(map(id, benchmark.rows)) == sorted(id(one.row) for one in shown)
    assert shown[0].row.way == reference(benchmark).way
    for one in shown:
        assert one.reasons is None or len(set(one.reasons)) == len(one.reasons)
        assert not (one.record and one.row.evidence == "unverified")
    assert [one["compares_with"] for one in told(benchmark)["rows"]] == [[]] * len(benchmark.rows)
    assert json.loads(json.dumps(told(benchmark)))["dataset"] == benchmark.name


def test_the_published_rows_beside_a_task_are_records_of_the_table() -> None:
    known = {(row.system, row.value, row.measure) for one in benchmarks() for row in one.rows}
    for task in TASKS:
        assert {(row.system, row.value, row.metrics[0]) for row in published(task)} <= known
    assert 17.48 in {row.value for row in published("wikitext103_natural") if row.metrics == ("word_perplexity",)}
    assert published("last_word") == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"measure": "token_perplexity"}, "figure: token perplexity, not word perplexity"),
        ({"counted": "tokens"}, "form: tokens, not words"),
        ({"split": "validation"}, "split: validation, not test"),
        ({"learning": "zero-shot"}, "learning: zero-shot, not trained"),
        ({"shots": 8}, "examples: 8, not 0"),
        ({"extra_data": "the Pile"}, "extra data: the Pile, not none"),
        ({"split": None}, "split not told"),
    ],
)
def test_one_difference_is_one_reason_and_none_is_comparable(change: dict[str, Any], reason: str) -> None:
    other = WAY.model_copy(update=change)
    assert comparable(other, WAY) == (reason,)
    assert len(comparable(WAY, other)) == 1
    assert comparable(WAY, WAY) == ()


def test_what_neither_side_tells_does_not_compare() -> None:
    assert len(comparable(Protocol(shots=None), Protocol(shots=None))) == 6
    assert comparable(WAY, WAY.model_copy(update={"split": None})) == ("split of the other one not told",)


@pytest.mark.parametrize("lower", [True, False])
@given(data=st.data())
def test_records_are_the_running_best_of_their_way(lower: bool, data: st.DataObject) -> None:
    entries = st.tuples(st.integers(1, 30), st.integers(2000, 2012), st.sampled_from(["trained", "zero-shot"]))
    drawn = data.draw(st.lists(entries, max_size=12))
    rows = [row(float(value), str(year), learning=how) for value, year, how in drawn]
    won = records(board(*rows, lower=lower))
    better = min if lower else max
    for how in ("trained", "zero-shot"):
        found = [one for one in won if one.learning == how]
        expected = []
        for year in range(2000, 2013):
            sofar = [value for value, when, learning in drawn if when <= year and learning == how]
            if sofar and better(sofar) not in expected:
                expected.append(better(sofar))
        assert [one.value for one in found] == expected
        assert [one.date for one in found] == sorted(str(one.date) for one in found)


def test_unverified_undated_and_own_rows_are_no_records_nor_are_any_where_no_direction_is_told() -> None:
    own = Measured(run="r", checkpoint="c", weights="0" * 16)
    better = (row(5, evidence="unverified"), row(4, None), row(3, evidence="measured", measured=own))
    assert [one.value for one in records(board(row(9), *better))] == [9]
    assert records(board(row(9), *better, lower=None)) == []
    (group,) = standings(board(row(9), *better))
    assert [one.row.value for one in group] == [3, 4, 5, 9]
    assert group[0].peers == ("model 9", "model 5", "model 4")
    assert [one.row.value for one in standings(board(row(9), *better, lower=None))[0]] == [9, 5, 4, 3]


def test_a_data_set_is_found_by_any_of_its_names() -> None:
    for name in ("WikiText-103", "wikitext103", "wikitext103_natural", "Wikitext 103"):
        assert [one.name for one in find(name, benchmarks())] == ["WikiText-103"]
    assert [one.name for one in find("lambada", benchmarks())] == ["LAMBADA", "LAMBADA (perplexity)"]
    with pytest.raises(SpecError, match="did you mean 'WikiText-103'"):
        find("WikiTxt-103", benchmarks())


def test_a_way_is_named_by_what_tells_it_from_others() -> None:
    ways = [("word_perplexity", "test", "trained"), ("word_perplexity", "test", None)]
    assert [way_label(way, ways) for way in ways] == ["trained", "learning not told"]
    assert way_label(ways[0], ways[:1]) == "word perplexity, test, trained"


# -- the dump of Papers With Code ---------------------------------------------------------------------------------


def result(name: Any, metrics: Any, **more: Any) -> dict[str, Any]:
    return {"model_name": name, "metrics": metrics, "paper_title": "A title", "uses_additional_data": False} | more


def table(name: str, metrics: list[str], *rows: Any) -> dict[str, Any]:
    return {"dataset": name, "sota": {"metrics": metrics, "rows": list(rows)}, "subdatasets": []}


H3 = result("Hybrid H3 (2.7B)", {"Test perplexity": "10.60"}, paper_url="https://arxiv.org/abs/2212.14052v3")
RETRO = result(
    "RETRO (7.5B)",
    {"Test perplexity": "2.4", "Number of params": "7532M"},
    paper_url="https://arxiv.org/abs/2112.04426v3",
    paper_date="2021-12-08",
    uses_additional_data=True,
)
EXCERPT: list[Any] = [
    {
        "task": "Language Modelling",
        "datasets": [table("WikiText-103", ["Test perplexity"], H3, RETRO)],
        "subtasks": [
            {
                "task": "Cloze",
                "datasets": [table("LAMBADA", ["Accuracy"], result("A", {"Accuracy": "71,5", "Perplexity": 4}))],
            }
        ],
    },
    {
        "task": "Classification",
        "datasets": [table("Ponds", ["Score"], result("B", {"Score": "99.5%"}), result("C", {"Score": "98"}))],
    },
]


def dump(folder: Path, content: Any, compressed: bool = False) -> Path:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    path = folder / "evaluation-tables.json"
    path.write_bytes(gzip.compress(text) if compressed else text)
    return path


@pytest.mark.parametrize("compressed", [False, True])
def test_rows_on_known_data_sets_are_taken_over_and_the_others_counted(tmp_path: Path, compressed: bool) -> None:
    got = read_dump(dump(tmp_path, EXCERPT, compressed), benchmarks())
    assert (got.read, got.elsewhere) == (2, 2)
    assert got.bad == {"a row whose value is no number": 1}  # 71,5
    boards = {one.name: [row for row in one.rows if row.evidence == "imported"] for one in got.benchmarks}
    (retro,) = boards["WikiText-103"]  # H3 is there already
    assert (retro.system, retro.value, retro.parameters, retro.date) == ("RETRO (7.5B)", 2.4, 7.532e9, "2021-12-08")
    assert (retro.source, retro.split, retro.extra_data) == ("arXiv 2112.04426", "test", "some, not named")
    assert (retro.learning, retro.shots, retro.counted) == (None, None, None)
    (one,) = boards["LAMBADA (perplexity)"]
    assert (one.value, one.source, one.extra_data) == (4.0, "A title", None)
    assert len(comparable(retro, benchmarks()[6].rows[0])) >= 4


def test_a_data_set_that_is_asked_for_gets_a_benchmark_without_a_direction(tmp_path: Path) -> None:
    got = read_dump(dump(tmp_path, EXCERPT), benchmarks(), "ponds")
    (ponds,) = find("Ponds", got.benchmarks)
    assert [(row.system, row.value) for row in ponds.rows] == [("B", 99.5), ("C", 98.0)]
    assert (ponds.lower_is_better, ponds.metric, records(ponds), got.elsewhere) == (None, "Score", [], 0)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (7, "a task that is no object"),
        ({"datasets": 3}, "datasets that are no list"),
        ({"datasets": [4]}, "a data set that is no object"),
        ({"datasets": [{"sota": []}]}, "a data set without a name or a table"),
        ({"datasets": [{"dataset": "C4", "sota": {"rows": {}}}]}, "rows that are no list"),
        ({"datasets": [table("C4", ["Perplexity"], 5)]}, "a row without metrics"),
        ({"datasets": [table("C4", ["Perplexity"], result("A", None))]}, "a row without metrics"),
        (
            {"datasets": [table("C4", ["Perplexity"], result("A", {"Perplexity": "n/a"}))]},
            "a row whose value is no number",
        ),
        (
            {"datasets": [table("C4", ["Perplexity"], result(None, {"Perplexity": "9"}))]},
            "a row without a model's name",
        ),
    ],
)
def test_what_cannot_be_read_is_counted_and_the_rest_is_read(tmp_path: Path, item: Any, reason: str) -> None:
    got = read_dump(dump(tmp_path, [item, *EXCERPT]), benchmarks())
    assert got.bad == {"a row whose value is no number": 1} | {reason: 1 + (reason == "a row whose value is no number")}
    assert got.read == 2


@given(cut=st.integers(1, 10_000), compressed=st.booleans())
def test_a_file_that_ends_early_gives_what_stood_before(
    tmp_path_factory: pytest.TempPathFactory, cut: int, compressed: bool
) -> None:
    path = dump(tmp_path_factory.mktemp("cut"), EXCERPT, compressed)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(1, len(whole) - cut)])
    bad: Counter[str] = Counter()
    try:
        got = list(items(path, bad))
    except DataError:
        assert compressed or len(whole) - cut < 1  # too little is left to begin a list
        return
    assert got == EXCERPT[: len(got)]
    assert sum(bad.values()) == 1 or got == EXCERPT


@given(
    tasks=st.lists(
        st.recursive(
            st.none() | st.integers() | st.text(max_size=8),
            lambda x: st.lists(x) | st.dictionaries(st.text(max_size=3), x),
            max_leaves=9,
        )
    ),
    indent=st.sampled_from([None, 1]),
)
def test_items_are_those_of_json_and_nothing_crashes(
    tmp_path_factory: pytest.TempPathFactory, tasks: list[Any], indent: int | None
) -> None:
    path = tmp_path_factory.mktemp("any") / "d.json"
    path.write_text(json.dumps(tasks, indent=indent), encoding="utf-8")
    bad: Counter[str] = Counter()
    assert list(items(path, bad)) == tasks
    assert not bad
    read_dump(path, benchmarks(), "ponds")


def test_a_large_dump_is_never_whole_in_memory(tmp_path: Path) -> None:
    """30 MB of tasks of 75 kB; measured peak 0.64 MB, of which the text in hand is at most two tasks."""
    task = {"task": "x", "description": "y" * (CHUNK + 10_000), "datasets": []}
    path = tmp_path / "large.json"
    with path.open("w") as stream:
        stream.write("[" + ",\n".join([json.dumps(task)] * 400) + "]")
    tracemalloc.start()
    try:
        assert sum(1 for _ in items(path, Counter())) == 400
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size / 10


@pytest.mark.parametrize("content", [b"", b"{}", b"no json", b"\x1f\x8bno gzip"])
def test_another_file_is_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"evaluation-tables.json: holds no JSON array; give"):
        read_dump(dump(tmp_path, content), benchmarks())


@pytest.mark.parametrize("content", [b"[" * 100_000, b'[{"a": 1} {"b": 2}]', b'[{"a": tru'])
def test_nonsense_is_counted(tmp_path: Path, content: bytes) -> None:
    got = read_dump(dump(tmp_path, content), benchmarks())
    assert got.bad == {"a task that is cut off or no JSON, and all behind it": 1}


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("99.5%", 99.5), ("10.60", 10.6), (" 58.6", 58.6), ("65.0 ± 0.1", 65.0), ("65.0+/-0.1", 65.0),
        ("1,542M", 1.542e9), ("2.7 B", 2.7e9), ("95.2 (x)", 95.2), (".5", 0.5), ("-3", -3.0), ("1e-3", 1e-3), (3, 3.0),
        ("", None), ("-", None), ("n/a", None), ("nan", None), ("inf", None), ("1e999", None), ("1.2.3", None),
        ("71,5", None), (True, None),
        (None, None), ([1], None),
    ],
)  # fmt: skip
def test_numbers_as_the_dump_spells_them(said: Any, value: float | None) -> None:
    got = number(said)
    assert got == (None if value is None else pytest.approx(value, rel=1e-12))
