"""Retrieval: a plain loop over sorted similarities, whatever the chunks and the batch size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import TinyTowers, pairs

from corestone.core.errors import DataError
from corestone.evaluate import retrieval
from corestone.evaluate.retrieval import RetrievalScore, retrieval_metrics


def described(pictures=30, seed=0, coarse=False):
    """Unit vectors of pictures and of one to four texts each, in random order, somewhat alike; coarse: with ties."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(pictures, 6, generator=generator)
    owner = torch.arange(pictures).repeat_interleave(torch.randint(1, 5, (pictures,), generator=generator))
    owner = owner[torch.randperm(len(owner), generator=generator)]
    texts = images[owner] + 1.5 * torch.randn(len(owner), 6, generator=generator)
    images, texts = (x.sign() if coarse else F.normalize(x, dim=1) for x in (images, texts))
    return images, texts, owner


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), coarse=st.booleans(), pictures=st.integers(2, 30), alike=st.integers(1, 60))
def test_recall_equals_a_plain_loop(seed, coarse, pictures, alike):
    """`alike`: texts whose numbers have the same rest say the same, and are as right as each other."""
    images, texts, owner = described(pictures, seed, coarse)
    wording = torch.arange(len(owner)) % alike
    texts = texts[wording]
    similar, owners, words = (images @ texts.T).tolist(), owner.tolist(), wording.tolist()
    own = {
        (i, t)
        for i in range(pictures)
        for t in range(len(owners))
        if i in {owners[other] for other in range(len(owners)) if words[other] == words[t]}
    }
    metrics = {metric.name: metric for metric in retrieval_metrics(images, texts, owner, "", wording)}
    assert len(metrics) == 6
    for first in (1, 5, 10):
        hits = 0
        for i in range(pictures):
            order = sorted(range(len(owners)), key=lambda t: (-similar[i][t], (i, t) in own))  # own ones last
            hits += any((i, t) in own for t in order[:first])
        found = metrics[f"text_recall_at_{first}"]
        assert (found.value, found.n) == (hits / pictures, pictures)
        hits = 0
        for t in range(len(owners)):
            order = sorted(range(pictures), key=lambda i: (-similar[i][t], (i, t) in own))
            hits += any((i, t) in own for i in order[:first])
        found = metrics[f"image_recall_at_{first}"]
        assert (found.value, found.n) == (hits / len(owners), len(owners))
        low, high = metrics[f"text_recall_at_{first}"].interval
        assert low - 1e-12 <= metrics[f"text_recall_at_{first}"].value <= high + 1e-12
        assert (found.interval is None) == (pictures < 8)


def test_one_vector_for_everything_finds_nothing():
    same = torch.ones(20, 4)
    assert [m.value for m in retrieval_metrics(same, same, torch.arange(20))] == [0.0] * 6


def test_chunks_change_nothing(monkeypatch):
    """Ties could differ with the shape of a matrix product; random vectors have none."""
    whole = list(retrieval_metrics(*described()))
    monkeypatch.setattr(retrieval, "CHUNK", 200)
    assert list(retrieval_metrics(*described())) == whole


def test_a_model_is_scored_alike_at_any_batch_size():
    model, batch = TinyTowers(dropout=0.5), pairs(20)
    owner = torch.arange(20)

    def run(size):
        def of(part):
            return lambda size: (part.rows(start, start + size) for start in range(0, 20, size))

        return list(RetrievalScore(of(batch.images), of(batch.texts), owner, size, "tiny").run(model))

    assert run(20) == run(3) == run(7)
    assert run(20)[0].convention == "among 20 texts, any of the picture's own; tiny"
    assert model.training


def test_texts_and_pictures_that_do_not_fit_are_refused():
    images, texts, owner = described()
    with pytest.raises(DataError, match="picture 3 has no text; leave it out"):
        list(retrieval_metrics(images, texts[owner != 3], owner[owner != 3]))
    with pytest.raises(DataError, match=r"name pictures up to number 29 .* there are 20 pictures"):
        list(retrieval_metrics(images[:20], texts, owner))
