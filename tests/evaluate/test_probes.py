"""Neighbours, linear probes and classes in words: plain loops, the minimum itself, and files that cannot be used."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F

from corestone.core.errors import DataError
from corestone.evaluate import probes
from corestone.evaluate.classification import answers_of
from corestone.evaluate.probes import choose_probe, class_vectors, fit_probe, neighbour_scores
from corestone.evaluate.templates import class_names, read_class_names, read_prompts


def clusters(rows=120, classes=4, width=6, spread=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=generator)
    means = 1.5 * torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    return means[labels] + spread * torch.randn(rows, width, generator=generator), labels


@pytest.mark.parametrize("nearest", [1, 7, 200])
def test_neighbours_vote_as_in_a_plain_loop(nearest, monkeypatch):
    (known, labels), (asked, _) = clusters(), clusters(40, seed=1)
    scores = neighbour_scores(asked, known, labels, 4, nearest).exp()
    for row, found in zip(asked.tolist(), scores.tolist(), strict=True):
        votes = []
        for other, label in zip(known.tolist(), labels.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(row, other, strict=True))
            votes.append((dot / math.hypot(*row) / math.hypot(*other), label))
        votes = sorted(votes, reverse=True)[:nearest]
        total = sum(math.exp(cosine / 0.07) for cosine, _ in votes)
        wanted = [sum(math.exp(c / 0.07) for c, label in votes if label == k) / total for k in range(4)]
        assert found == pytest.approx(wanted, abs=2e-6)  # measured 2.3e-7
    monkeypatch.setattr(probes, "CHUNK", 500)
    torch.testing.assert_close(neighbour_scores(asked, known, labels, 4, nearest).exp(), scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("penalty", [1e-2, 1.0, 100.0])
def test_a_probe_stands_at_the_minimum(penalty):
    """Its gradient is nought, and no start matters. Measured: 7.3e-8 per picture, 4.1e-8 in weights."""
    features, labels = clusters(spread=3.0)
    probe = fit_probe(features, labels, 4, penalty)
    weight, bias = probe.weight.clone().requires_grad_(), probe.bias.clone().requires_grad_()
    nats = F.cross_entropy(F.linear(features.double(), weight, bias), labels, reduction="sum")
    (nats + penalty / 2 * weight.square().sum()).backward()
    assert float(weight.grad.abs().max()) / 120 < 1e-6
    assert float(bias.grad.abs().max()) / 120 < 1e-6
    other = fit_probe(features, labels, 4, penalty, fit_probe(features, labels.flip(0), 4, 1.0))
    assert float((other.weight - probe.weight).abs().max()) < 1e-6


def test_the_penalty_is_chosen_on_pictures_apart():
    """Of 60 noisy features, 55 say nothing: a probe without penalty learns them by heart."""
    features, labels = clusters(100, width=5, spread=2.0)
    noise = 3 * torch.randn(100, 55, generator=torch.Generator().manual_seed(5))
    chosen = choose_probe(torch.cat([features, noise], 1), labels, 4)
    assert chosen.penalty >= 10
    test, truth = clusters(500, width=5, spread=2.0, seed=7)
    test = torch.cat([test, 3 * torch.randn(500, 55, generator=torch.Generator().manual_seed(6))], 1)
    free = fit_probe(torch.cat([features, noise], 1), labels, 4, 1e-4)
    mine, others = (float(answers_of(probe(test), truth).nats_N.mean()) for probe in (chosen, free))
    assert mine < 0.7 * others
    with pytest.raises(DataError, match="4 pictures are too few"):
        choose_probe(features[:4], labels[:4], 4)


@pytest.mark.parity
@pytest.mark.parametrize("penalty", [0.1, 10.0])
def test_a_probe_agrees_with_scikit_learn(penalty):
    """Worst case measured: 5.3e-8 in weights."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = clusters(spread=3.0)
    theirs = linear_model.LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000)
    theirs.fit(features.double().numpy(), labels.numpy())
    ours = fit_probe(features, labels, 4, penalty)
    assert float((ours.weight - torch.from_numpy(theirs.coef_)).abs().max()) < 1e-6


def test_class_vectors_are_means_of_unit_vectors():
    table = {
        text: torch.tensor(vector) for text, vector in {"a": [3.0, 0.0], "b": [0.0, 5.0], "c": [0.0, -2.0]}.items()
    }
    found = class_vectors(lambda texts: torch.stack([table[text] for text in texts]), [["a", "b"], ["c"]])
    torch.testing.assert_close(found, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, -1.0]]))


def test_names_and_templates_are_read_in_all_their_forms(tmp_path):
    def file(tree):
        path = tmp_path / "file.json"
        path.write_text(json.dumps(tree), encoding="utf-8")
        return path

    names = ("cat", "10% grey {dog}")
    assert read_class_names(file(list(names))) == names
    assert read_class_names(file({"pets": list(names)})) == names
    assert read_class_names(file({"pets": list(names), "cars": ["vw"]}), "pets") == names
    wanted = [["a cat.", "my cat"], ["a 10% grey {dog}.", "my 10% grey {dog}"]]
    templates = ["a {c}.", "my {}"]
    for tree in (templates, {"pets": templates, "cars": ["{c}"]}):
        assert read_prompts(file(tree), names, "pets") == wanted
    of_each = dict(zip(names, wanted, strict=True))
    assert read_prompts(file(of_each), names) == wanted
    assert read_prompts(file({"pets": of_each, "cars": ["{c}"]}), names, "pets") == wanted


@pytest.mark.parametrize(
    ("text", "dataset", "said"),
    [
        ("{", None, r"file\.json: no JSON .*"),
        ("[]", None, r"file\.json: class names must be a list of texts, at least one"),
        ('["a", 3]', None, r"file\.json: class names must be a list of texts"),
        ('{"pets": "cat"}', "pets", r"file\.json: class names must be a list of texts"),
        ('{"pet": ["a"], "cars": ["b"]}', "pets", r"file\.json: unknown data set 'pets': did you mean 'pet'\?"),
        ('{"pet": ["a"], "cars": ["b"]}', None, r"file\.json: holds 2 data sets; say which: cars, pet"),
    ],
)
def test_unusable_class_names_are_refused_by_file(tmp_path, text, dataset, said):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        read_class_names(path, dataset)


def test_unusable_templates_are_refused_by_file(tmp_path):
    path = tmp_path / "file.json"
    with pytest.raises(DataError, match=r"file\.json: cannot be read"):
        read_prompts(path, ["cat"])
    path.write_text('["a {c}", "a photo"]')
    with pytest.raises(DataError, match=r"file\.json: 'a photo' has no \{c\} where the class should stand"):
        read_prompts(path, ["cat"])
    path.write_text('{"pets": {"cat": ["x"]}, "cars": ["{c}"]}')
    with pytest.raises(DataError, match=r"file\.json: no sentences for unknown class 'bat': did you mean 'cat'"):
        read_prompts(path, ["cat", "bat"], "pets")
    with pytest.raises(DataError, match=r"file\.json: holds 2 data sets; say which: cars, pets"):
        read_prompts(path, ["cat"])


def test_names_are_the_classes_own_in_any_order_or_stand_in_their_order():
    classes = ("great_dane", "tabby")
    assert class_names(("Tabby", "great dane"), classes, "f") == ("great dane", "Tabby")
    assert class_names(("a big dog", "a cat"), classes, "f") == ("a big dog", "a cat")
    assert class_names(("great dane", "a cat"), classes, "f") == ("great dane", "a cat")
    with pytest.raises(DataError, match="f: names 3 classes, and the data has 2"):
        class_names(("a", "b", "c"), classes, "f")
    with pytest.raises(DataError, match=r"in another order; unknown class 'great danes': did you mean 'great_dane'\?"):
        class_names(("tabby", "great danes"), classes, "f")
