"""Pictures with captions become batches: the same ones whoever asks, each text as its picture's."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from corestone.core.batch import IGNORE
from corestone.core.errors import DataError
from corestone.data.images.augment_spec import Augmentation
from corestone.data.images.pairs import (
    HeldOutPairs,
    PairLoader,
    caption_batch,
    caption_rows,
    caption_tokenizer,
    longest_of,
)
from corestone.data.images.prepared import open_pictures, prepare_images
from corestone.data.images.spec import CaptionRows, ImageTable, Pairs
from corestone.data.spec import BytePair, Bytes
from corestone.data.tokenizer import build_tokenizer

SEEN = Augmentation(size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
NUMBER = 12


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Twelve pictures of one colour each, with one to three captions that begin with its number."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = []
    for number in range(NUMBER):
        Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(folder / f"{number}.png")
        captions = [f"{number}: said in way {way}" for way in range(1 + number % 3)]
        lines.append(json.dumps({"path": f"{number}.png", "caption": captions}))
    (folder / "table.jsonl").write_text("\n".join(lines))
    source = ImageTable(paths=(str(folder / "table.jsonl"),), image_key="path", caption_key="caption", side="train")
    return open_pictures(prepare_images(source, folder / "cache"), "train"), source


def loader(prepared, tokenizer=None, rank=0, size=1, seed=0, prefetch=0):
    pictures, source = prepared
    spec = Pairs(source=source, augmentation=SEEN, tokenizer=Bytes(), context_length=40, prefetch=prefetch)
    return PairLoader(pictures, tokenizer or build_tokenizer(Bytes(), ()), spec, seed, 6, rank, size)


def said(batch, row: int) -> str:
    ids = batch.texts.tokens_BT[row][batch.texts.mask.segments_BT[row] == 0]
    return bytes(ids[1:-1].tolist()).decode()


def shown(batch, row: int) -> int:
    return round(batch.images.images_BCHW[row].mean().item() * 255 / 20)


def test_a_text_is_its_pictures(prepared):
    seen = set()
    for step in range(60):
        batch = loader(prepared).batch(step)
        for row in range(len(batch)):
            number, _, rest = said(batch, row).partition(":")
            assert int(number) == shown(batch, row)
            seen.add((int(number), rest))
    assert len(seen) == sum(1 + number % 3 for number in range(NUMBER))  # every caption has its turn


def test_steps_ranks_and_prefetching_change_nothing(prepared):
    whole, ahead = loader(prepared), loader(prepared, prefetch=2)
    for step in (3, 0, 1, 2):
        batch = whole.batch(step)
        halves = [loader(prepared, rank=rank, size=2).batch(step) for rank in (0, 1)]
        texts = [said(batch, row) for row in range(6)]
        assert texts == [said(half, row) for half in halves for row in range(3)]
        assert texts == [said(ahead.batch(step), row) for row in range(6)]
        assert torch.equal(batch.images.images_BCHW, torch.cat([half.images.images_BCHW for half in halves]))
    ahead.close()
    other = loader(prepared, seed=1).batch(0)
    assert [said(whole.batch(0), row) for row in range(6)] != [said(other, row) for row in range(6)]


def test_rows_of_captions():
    vocabulary = build_tokenizer(Bytes(), ()).vocabulary
    end = vocabulary.separator
    batch = caption_batch([[1, 2, 3, 4, 5], [6]], caption_rows(None, vocabulary), context_length=5)
    assert batch.tokens_BT.tolist() == [[end, 1, 2, 3, end], [end, 6, end, end, end]]
    assert batch.targets_BT.tolist() == [[1, 2, 3, end, IGNORE], [6, end, IGNORE, IGNORE, IGNORE]]
    assert batch.mask.segments_BT.tolist() == [[0] * 5, [0, 0, 0, -1, -1]]


def test_rows_of_other_libraries():
    """CLIP's: another token behind than in front. SigLIP's: none in front, and whole rows that are read."""
    clip = caption_batch([[1, 2, 3, 4, 5], [6]], CaptionRows(start=8, end=9, fill=0), context_length=5)
    assert clip.tokens_BT.tolist() == [[8, 1, 2, 3, 9], [8, 6, 9, 0, 0]]
    assert clip.mask.segments_BT.tolist() == [[0] * 5, [0, 0, 0, -1, -1]]
    siglip = caption_batch([[1, 2], []], CaptionRows(end=9, fill=7, whole=True), context_length=5)
    assert siglip.tokens_BT.tolist() == [[1, 2, 9, 7, 7], [9, 7, 7, 7, 7]]
    assert siglip.targets_BT.tolist() == [[2, 9, IGNORE, IGNORE, IGNORE], [IGNORE] * 5]
    assert siglip.mask.segments_BT is None


@pytest.mark.parametrize("start", [None, 1])
def test_the_longest_caption_stays_whole(start):
    """And one more token is cut, whatever stands in front."""
    rows = CaptionRows(start=start, end=2, fill=0)
    longest = longest_of(rows, 7)
    for count, kept in ((longest, longest), (longest + 1, longest)):
        tokens = caption_batch([[9] * count], rows, 7).tokens_BT[0].tolist()
        assert tokens == [*([] if start is None else [start]), *[9] * kept, 2]
        assert len(tokens) == 7


def test_rows_of_a_run_are_those_of_its_record_and_its_vocabulary(prepared):
    pictures, source = prepared
    tokenizer = build_tokenizer(Bytes(), ())
    rows = CaptionRows(start=3, end=4, fill=5)
    spec = Pairs(source=source, augmentation=SEEN, tokenizer=Bytes(), context_length=40, rows=rows)
    loader = PairLoader(pictures, tokenizer, spec, 0, 2, 0, 1)
    learnt = loader.batch(0).texts
    loader.close()
    held_out = next(HeldOutPairs(pictures, tokenizer, spec.augmentation, spec.context_length, spec.rows).texts(2))
    for batch in (held_out, learnt):
        assert batch.tokens_BT[:, 0].tolist() == [3, 3]
        assert (batch.tokens_BT == 4).sum(1).tolist() == [1, 1]
    beyond = spec.model_copy(update={"rows": CaptionRows(end=257, fill=0)})
    with pytest.raises(DataError, match=r"data\.rows\.end=257: the tokenizer has 257 tokens"):
        HeldOutPairs(pictures, tokenizer, beyond.augmentation, beyond.context_length, beyond.rows)


def test_held_out_pairs_know_their_owners(prepared):
    pictures, source = prepared
    tokenizer = build_tokenizer(Bytes(), ())
    spec = Pairs(source=source, augmentation=SEEN, tokenizer=Bytes(), context_length=40)
    pairs = HeldOutPairs(pictures, tokenizer, spec.augmentation, spec.context_length, most=5)
    assert sum(map(len, pairs.images(2))) == 5
    assert sum(map(len, pairs.texts(4))) == len(pairs.captions) == len(pairs.owner_T)
    for caption, owner in zip(pairs.captions, pairs.owner_T.tolist(), strict=True):
        assert caption in pictures.captions(owner)


def test_the_tokenizer_is_trained_on_captions_once(prepared, tmp_path):
    pictures, source = prepared
    spec = Pairs(source=source, augmentation=SEEN, tokenizer=BytePair(vocab_size=270), context_length=40)
    first = caption_tokenizer(spec, pictures, tmp_path)
    assert first.encode(" said in way") != list(b" said in way")
    assert len(first.encode(" said in way")) < len(" said in way")
    made = next((tmp_path / "tokenizers").iterdir()).stat().st_mtime_ns
    assert caption_tokenizer(spec, pictures, tmp_path).manifest == first.manifest
    assert next((tmp_path / "tokenizers").iterdir()).stat().st_mtime_ns == made


def test_a_picture_without_a_caption_is_named(prepared):
    pictures, _ = prepared

    class Silent:
        def __len__(self):
            return 2

        def captions(self, place):
            return ("x",) if place == 0 else ()

        def id(self, place):
            return f"picture {place}"

    with pytest.raises(DataError, match="'picture 1' has no caption"):
        HeldOutPairs(Silent(), build_tokenizer(Bytes(), ()), None, 8)
    assert len(pictures) == NUMBER
