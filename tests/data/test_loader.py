"""Batches are what a token-by-token loop makes; ranks, epochs and prefetching neither drop nor repeat a sample."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import Stream, data

from corestone.core.batch import IGNORE, TextBatch
from corestone.core.errors import DataError
from corestone.data.ledger import documents_of_step, steps_of_document
from corestone.data.loader import TextLoader
from corestone.data.mixture import Mixture
from corestone.data.packing import evaluation_batches
from corestone.data.prepare.pipeline import prepare
from corestone.data.spec import Bytes, Files, Prepare
from corestone.data.tokenizer import build_tokenizer
from corestone.data.tokens import open_token_set

LENGTHS = [3, 1, 30, 2, 2, 9, 55, 1, 1, 18, 7, 64, 5]


def streams() -> list[Stream]:
    return [Stream(LENGTHS, "a", shard_tokens=37), Stream([200, 3, 80], "b", seed=1), Stream([40] * 9, "c", seed=2)]


def equal(one: TextBatch, other: TextBatch) -> bool:
    segments, others = one.mask.segments_BT, other.mask.segments_BT
    same = (segments is None) == (others is None)
    if segments is not None and others is not None:
        same = torch.equal(segments, others)
    return (
        same
        and torch.equal(one.tokens_BT, other.tokens_BT)
        and torch.equal(one.targets_BT, other.targets_BT)
        and torch.equal(one.positions_BT, other.positions_BT)
    )


def joined(parts: list[TextBatch]) -> TextBatch:
    segments = [part.mask.segments_BT for part in parts]
    assert len({segment is None for segment in segments}) == 1, "ranks chose different kernels"
    mask = parts[0].mask if segments[0] is None else type(parts[0].mask)(segments_BT=torch.cat(segments))  # type: ignore[arg-type]
    return TextBatch(
        tokens_BT=torch.cat([part.tokens_BT for part in parts]),
        targets_BT=torch.cat([part.targets_BT for part in parts]),
        positions_BT=torch.cat([part.positions_BT for part in parts]),
        mask=mask,
    )


@settings(deadline=None, max_examples=40)
@given(T=st.integers(2, 24), batch_size=st.integers(1, 9), step=st.integers(0, 400), seed=st.integers(0, 99))
@pytest.mark.parametrize("apart", [True, False])
def test_a_batch_equals_a_token_by_token_loop(T: int, batch_size: int, step: int, seed: int, apart: bool) -> None:
    sets, weights = streams(), (1.0, 2.5, 0.7)
    batch = TextLoader(sets, data(T, weights, apart), seed, batch_size).batch(step)
    mixture = Mixture([(one.n_tokens - 1) // T for one in sets], weights, seed)
    components, indices = mixture.samples(np.arange(step * batch_size, (step + 1) * batch_size))
    expected_segments = []
    for row, (component, index) in enumerate(zip(components.tolist(), indices.tolist(), strict=True)):
        stream, begin = sets[component], index * T
        segment = position = 0
        segments = []
        for column in range(T):
            if apart and column and begin + column in stream.starts:
                segment, position = segment + 1, 0
            assert batch.tokens_BT[row, column] == stream.tokens[begin + column]
            assert batch.targets_BT[row, column] == stream.tokens[begin + column + 1]
            assert batch.positions_BT[row, column] == position
            segments.append(segment)
            position += 1
        expected_segments.append(segments)
    found = batch.mask.segments_BT
    assert batch.mask.causal
    if any(map(any, expected_segments)):
        assert found is not None
        assert found.dtype == torch.int32
        assert found.tolist() == expected_segments
    else:
        assert found is None
    assert batch.tokens_BT.dtype == batch.targets_BT.dtype == batch.positions_BT.dtype == torch.int64
    assert batch.targets_BT.is_contiguous()
    assert IGNORE not in batch.targets_BT


@settings(deadline=None, max_examples=40)
@given(
    world=st.integers(1, 6),
    rows_per_rank=st.integers(1, 4),
    step=st.integers(0, 300),
    seed=st.integers(0, 99),
    mixed=st.booleans(),
)
def test_the_ranks_together_hold_the_single_ranks_batch(
    world: int, rows_per_rank: int, step: int, seed: int, mixed: bool
) -> None:
    sets = streams() if mixed else streams()[:1]
    spec = data(8, (1.0, 2.0, 3.0) if mixed else (1.0,))
    batch_size = world * rows_per_rank
    parts = [TextLoader(sets, spec, seed, batch_size, rank, world).batch(step) for rank in range(world)]
    assert all(len(part) == rows_per_rank for part in parts)
    assert equal(joined(parts), TextLoader(sets, spec, seed, batch_size).batch(step))


@settings(deadline=None, max_examples=25)
@given(
    worlds=st.lists(st.sampled_from([1, 2, 3, 4, 6, 12]), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    epochs=st.integers(1, 3),
    T=st.integers(2, 9),
)
def test_an_epoch_covers_each_sample_once_though_the_world_changes(
    worlds: list[int], seed: int, epochs: int, T: int
) -> None:
    """The world size changes from step to step; after e epochs of whole steps each sample was seen e times."""
    batch_size, samples = 12, 12 * 7
    stream = Stream([samples * T])  # unique tokens would not fit a document, so samples are known by where they begin
    stream.tokens[:] = np.arange(samples * T + 1)
    spec = data(T)
    loaders = {w: [TextLoader([stream], spec, seed, batch_size, rank, w) for rank in range(w)] for w in worlds}
    seen: list[int] = []
    for step in range(epochs * samples // batch_size):
        for loader in loaders[worlds[step % len(worlds)]]:
            seen += loader.batch(step).tokens_BT[:, 0].tolist()
    for epoch in range(epochs):
        part = seen[epoch * samples : (epoch + 1) * samples]
        assert sorted(part) == [i * T for i in range(samples)]


@pytest.fixture
def loader() -> Iterator[TextLoader]:
    with TextLoader(streams(), data(16, (1, 2, 3), prefetch=3), 5, 4) as opened:
        yield opened


def test_prefetched_equals_direct_through_jumps(loader: TextLoader) -> None:
    direct = TextLoader(streams(), data(16, (1, 2, 3), prefetch=0), 5, 4)
    for step in [0, 1, 2, 3, 4, 4, 4, 100, 101, 102, 7, 8, 0, 5000]:
        assert equal(loader.batch(step), direct.batch(step))


def test_one_thread_works_ahead_and_close_ends_it(loader: TextLoader) -> None:
    def workers() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "corestone-loader"]

    assert not workers()
    first = loader.batch(0)
    for step in [9, 4, 5]:
        loader.batch(step)
        assert len(workers()) == 1
        assert workers()[0].daemon
    loader.close()
    assert not workers()
    assert equal(loader.batch(0), first)


class Damaged(Stream):
    """A stream whose documents cannot be looked up beyond a place, as with a file that a disk fails to give."""

    broken = False

    @property
    def starts(self) -> np.ndarray:
        if self.broken:
            raise DataError("train-00003.bin: cannot be read at token 1,234")
        return self._starts

    @starts.setter
    def starts(self, value: np.ndarray) -> None:
        self._starts = value


def test_an_error_of_the_thread_reaches_the_caller_and_the_loader_recovers() -> None:
    stream = Damaged(LENGTHS)
    with TextLoader([stream], data(16, prefetch=2), 0, 4) as loader:
        good = loader.batch(0)
        stream.broken = True
        for _ in range(2):
            with pytest.raises(DataError, match=r"train-00003.bin: cannot be read at token 1,234"):
                loader.batch(1000)
        stream.broken = False
        assert equal(loader.batch(0), good)


def test_without_a_boundary_in_the_whole_step_there_are_no_segments() -> None:
    stream = Stream([16] * 10)
    batch = TextLoader([stream], data(8), 0, 4).batch(0)
    assert batch.mask.segments_BT is None
    assert batch.positions_BT.tolist() == [list(range(8))] * 4


def test_names_lists_each_document_of_the_step_over_all_ranks() -> None:
    stream = Stream(LENGTHS)
    loader = TextLoader([stream], data(16), 0, stream.n_tokens // 16, rank=0, world_size=1)
    used = (stream.n_tokens - 1) // 16 * 16
    inside = [f"doc-{i}" for i in range(stream.n_documents) if stream.starts[i] < used]
    one_epoch = TextLoader([stream], data(16), 0, used // 16).names(0)
    assert sorted(one_epoch) == sorted(inside)
    assert loader.epoch_units == used
    assert loader.unused_tokens == (stream.n_tokens - 1 - used,)
    half = TextLoader([stream], data(16), 0, 4, rank=1, world_size=2)
    assert half.names(3) == TextLoader([stream], data(16), 0, 4).names(3)


def test_wrong_sizes_are_refused_with_the_cure() -> None:
    stream = Stream(LENGTHS)
    with pytest.raises(DataError, match=r"batch of 10 samples .* 4 ranks; make batch_tokens a multiple of .* \(64\)"):
        TextLoader([stream], data(16), 0, 10, 0, 4)
    with pytest.raises(DataError, match=r"rank 4 lies outside 0..3"):
        TextLoader([stream], data(16), 0, 8, 4, 4)
    with pytest.raises(DataError, match="too short for one sample"):
        TextLoader([stream], data(1000), 0, 8)


def test_a_prepared_folder_gives_every_token_of_every_document(tmp_path: Path) -> None:
    """Real files through preparation, several shards, the loader, the ledger and the evaluation view."""
    texts = {f"t{i}.txt": f"Text {i}: " + "räksmörgås " * (7 * i + 1) for i in range(40)}
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    tokenizer = build_tokenizer(Bytes(), [])
    source = Files(paths=(str(tmp_path / "*.txt"),), validation_percent=20)
    prepare(source, tokenizer, Prepare(shard_tokens=1024), tmp_path / "out")
    train, validation = (open_token_set(tmp_path / "out", split, verify=True) for split in ("train", "validation"))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    files = [tmp_path / "out" / shard["file"] for shard in manifest["splits"]["train"]["shards"]]
    assert len(files) > 5
    stream = np.concatenate([np.fromfile(file, dtype="<u2") for file in files])
    spec, samples = data(100), (train.n_tokens - 1) // 100
    loader = TextLoader([train], spec, 3, 7)
    assert loader.unused_tokens == (len(stream) - 1 - samples * 100,)
    rows = torch.cat([loader.batch(step).tokens_BT for step in range(-(-samples // 7))])[:samples]
    assert sorted(rows.tolist()) == sorted(stream[: samples * 100].reshape(-1, 100).astype(int).tolist())
    seen = documents_of_step([train], spec, 3, 7, 5)
    read = np.concatenate([train.slice(part.start, part.stop) for part in seen])
    assert np.array_equal(read, loader.batch(5).tokens_BT.numpy().reshape(-1))
    assert loader.names(5) == list(dict.fromkeys(part.document for part in seen))
    assert 5 in steps_of_document([train], spec, 3, 7, seen[0].document, 6)
    targets = torch.cat([batch.targets_BT.reshape(-1) for batch in evaluation_batches(validation, 100, 3, True)])
    text = tokenizer.decode([token for token in targets.tolist() if token not in (IGNORE, int(stream[0]))])
    held_out = [validation.document_id(i) for i in range(validation.n_documents)]
    assert text == "".join(texts[Path(name).name] for name in held_out)
