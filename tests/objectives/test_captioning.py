"""Captions and pairs in one loss: the published sums by a plain loop, and one gradient however the pairs are held."""

from __future__ import annotations

import math
from dataclasses import replace
from threading import Barrier, Thread

import pytest
import torch
import torch.nn.functional as F
from pairs import gradients_of, split

from corestone.core.batch import IGNORE, ImageBatch, ImageTextBatch, plain_batch
from corestone.core.errors import DataError, SpecError
from corestone.core.mask import Mask
from corestone.core.rng import Draws
from corestone.core.spec import parse, plain
from corestone.core.vocabulary import Vocabulary
from corestone.generate.decode import caption
from corestone.generate.spec import Sampling
from corestone.models.captioner import build_captioner
from corestone.models.picture_spec import Captioner
from corestone.nn.spec import Init, PatchEmbedding
from corestone.objectives.captioning import CaptioningObjective
from corestone.objectives.contrastive import softmax_loss
from corestone.objectives.spec import Captioning
from corestone.recipes.catalogue import SMALL
from corestone.recipes.registry import OBJECTIVES
from corestone.recipes.spec import Run
from corestone.zoo.coca import coca

ROWS, SIZE, END = 9, 41, 0


def captioner(dropout: float = 0.0):
    """In float64: some gradients are small rests of what cancels, which float32 gives to 1e-5. The softmax over the
    vocabulary is float32 all the same."""
    picture = PatchEmbedding(image_size=(6, 8), patch_size=2, class_token=False, dropout=dropout)
    spec = coca(12, 3, (1, 20), (1, 16), vocab_size=SIZE, tied=True, picture=picture, queries=4)
    tree = plain(spec) | {"init": plain(Init(std=0.3, position_std=0.3)), "shared_width": 7}
    for block in (*tree["image_stack"]["blocks"], *tree["decoder"]["blocks"]):
        block["dropout"] = block["mixer"]["dropout"] = dropout
    return build_captioner(parse(Captioner, tree, "model"), seed=2).double()


def captions(rows: int = ROWS, seed: int = 0) -> ImageTextBatch:
    """Texts of unequal lengths; each is read from the separator on, and predicts it at its end."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(rows, 3, 6, 8, generator=generator)
    sizes = torch.randint(1, 9, (rows,), generator=generator).tolist()
    tokens, targets = torch.full((rows, 9), 5), torch.full((rows, 9), IGNORE)
    segments = torch.ones(rows, 9, dtype=torch.int32)
    for row, size in enumerate(sizes):
        text = torch.randint(1, SIZE, (size,), generator=generator)
        tokens[row, : size + 1] = torch.cat((torch.tensor([END]), text))
        targets[row, : size + 1] = torch.cat((text, torch.tensor([END])))
        segments[row, : size + 1] = 0
    texts = replace(plain_batch(tokens, targets), mask=Mask(segments_BT=segments))
    return ImageTextBatch(ImageBatch(images), texts)


def objective(caption: float = 2.0, contrastive: float = 1.0) -> CaptioningObjective:
    spec = Captioning(caption_weight=caption, contrastive_weight=contrastive)
    return OBJECTIVES.build(spec, None)


def by_loop(model, batch: ImageTextBatch) -> tuple[float, float, int]:
    """Nats of captions and of pairs, and tokens; each pair by itself, in Python's float64."""
    nats, tokens, vectors = 0.0, 0, []
    for row in range(len(batch)):
        real = batch.texts.targets_BT[row] != IGNORE
        text = plain_batch(batch.texts.tokens_BT[row : row + 1, real])
        with torch.no_grad():
            out = model(ImageTextBatch(batch.images.rows(row, row + 1), text))
        for logits, target in zip(model.head(out.hidden)[0].tolist(), batch.texts.targets_BT[row, real], strict=True):
            nats += math.log(sum(map(math.exp, logits))) - logits[int(target)]
            tokens += 1
        vectors.append([out.intermediates[name][0].tolist() for name in ("image", "text")])
    scale, pairs = math.exp(float(model.log_scale.detach())), 0.0
    table = [[scale * sum(a * b for a, b in zip(x, y, strict=True)) for _, y in vectors] for x, _ in vectors]
    for logits in (table, list(zip(*table, strict=True))):
        pairs += sum(math.log(sum(map(math.exp, row))) - row[own] for own, row in enumerate(logits)) / 2
    return nats, pairs, tokens


@pytest.mark.parametrize("weights", [(2.0, 1.0), (0.5, 3.0), (1.5, 0.0)])
def test_the_loss_is_the_weighted_sum_of_both(weights):
    """Worst of 100 batches: 1.7e-7."""
    model, batch = captioner(), captions()
    nats, pairs, tokens = by_loop(model, batch)
    found = objective(*weights).loss(model, objective(*weights).corrupt(batch, Draws(0, range(ROWS))))
    assert float(found.total.detach()) == pytest.approx(weights[0] * nats + weights[1] * pairs, rel=1e-6)
    assert int(found.weight) == ROWS
    assert float(found.metrics["caption_nats"]) == pytest.approx(nats, rel=1e-6)
    assert int(found.metrics["caption_tokens"]) == tokens
    assert ("pair_nats" in found.metrics) == (weights[1] > 0)
    if weights[1]:
        assert float(found.metrics["pair_nats"]) == pytest.approx(pairs, rel=1e-6)


def compare(found, wanted):
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert float((found[name] - gradient).abs().max()) <= 1e-6 * float(gradient.abs().max()), name


SPLITS = [(9,), (5, 4), (4, 4, 1), (1,) * 9]


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
def test_two_passes_give_the_gradient_of_the_whole_batch(sizes):
    """Worst case measured: 1.2e-7 of a gradient's largest entry."""
    model, batch = captioner(), captions()
    whole = objective().loss(model, batch)
    whole.total.backward()
    wanted = gradients_of(model)
    assert len(wanted) == len(list(model.parameters()))
    model.zero_grad()
    found = objective().gradients(model, split(batch, sizes), range(len(sizes)))
    assert not found.total.requires_grad
    assert float(found.total) == pytest.approx(float(whole.total.detach()), rel=1e-6)
    assert found.metrics.keys() == whole.metrics.keys()
    for name, value in whole.metrics.items():
        assert float(found.metrics[name]) == pytest.approx(float(value), rel=1e-6), name
    assert int(found.weight) == int(whole.weight) == ROWS
    compare(gradients_of(model), wanted)


@pytest.mark.parametrize("sizes", SPLITS[1:], ids=str)
def test_dropout_is_the_same_in_both_passes(sizes):
    """Against every micro-batch's graph kept, with the same draws. Worst case measured: 1.2e-7."""
    model, parts = captioner(dropout=0.3), split(captions(), sizes)
    ends, nats = [], 0.0
    for seed, part in enumerate(parts):
        torch.manual_seed(seed)
        image, text = model.image(part.images), model.text(part.texts)
        torch.manual_seed(seed)
        out = model(part)
        assert torch.equal(out.intermediates["image"], image)
        assert torch.equal(out.intermediates["text"], text)
        ends.append((out.intermediates["image"], out.intermediates["text"]))
        logits = model.head(out.hidden).flatten(0, 1)
        nats = nats + F.cross_entropy(logits, part.texts.targets_BT.flatten(), reduction="sum")
    images, texts = (torch.cat(end) for end in zip(*ends, strict=True))
    (2.0 * nats + softmax_loss(images, texts, model.log_scale)).backward()
    wanted = gradients_of(model)
    model.zero_grad()
    objective().gradients(model, parts, range(len(sizes)))
    compare(gradients_of(model), wanted)


class ThreadRanks:
    """Ranks as threads of one process, which wait for each other."""

    def __init__(self, rank: int, shelf: list, barrier: Barrier) -> None:
        self.rank, self.shelf, self.barrier = rank, shelf, barrier

    def _all(self, mine):
        self.shelf[self.rank] = mine
        self.barrier.wait()
        found = list(self.shelf)
        self.barrier.wait()
        return found

    def gather(self, rows):
        return torch.cat(self._all(rows.clone()))

    def sum_(self, tensors):
        for tensor, parts in zip(tensors, zip(*self._all([x.clone() for x in tensors]), strict=True), strict=True):
            tensor.copy_(sum(parts))


def test_ranks_sum_to_the_whole_batch():
    """Two ranks of two micro-batches each. Worst case measured: 1.2e-7 of a gradient's largest entry."""
    batch, shelf, barrier = captions(10), [None, None], Barrier(2, timeout=60)
    whole_model = captioner()
    whole = objective().loss(whole_model, batch)
    whole.total.backward()
    models, found = [captioner(), captioner()], [None, None]

    def work(rank: int) -> None:
        mine = split(batch.rows(5 * rank, 5 * rank + 5), (3, 2))
        found[rank] = objective().gradients(models[rank], mine, (0, 1), ThreadRanks(rank, shelf, barrier))

    threads = [Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(float(loss.total) for loss in found) == pytest.approx(float(whole.total.detach()), rel=1e-6)
    assert sum(int(loss.weight) for loss in found) == 10
    one, other = map(gradients_of, models)
    compare({name: one[name] + other[name] for name in one}, gradients_of(whole_model))


def test_captions_alone_add_up_and_leave_the_vectors_out():
    """Worst case measured: 7.9e-8 of a gradient's largest entry."""
    alone, batch, model = objective(2.0, 0.0), captions(), captioner()
    assert (objective().reduction, alone.reduction) == ("joint", "additive")
    alone.loss(model, batch).total.backward()
    wanted = gradients_of(model)
    left_out = {name.split(".")[0] for name, _ in model.named_parameters()} - {name.split(".")[0] for name in wanted}
    assert left_out == {"contrast_pool", "image_out", "text_token", "text_norm", "text_out", "similarity"}
    model.zero_grad()
    for part in split(batch, (4, 1, 4)):
        alone.loss(model, part).total.backward()
    compare(gradients_of(model), wanted)


def test_held_out_captions_are_scored():
    model, batch = captioner(), captions()
    nats, _, tokens = by_loop(model, batch)
    found = objective().scores(model, batch)
    assert float(found["nats_per_target"].totals.sum()) == pytest.approx(nats, rel=1e-6)
    assert int(found["nats_per_target"].weights.sum()) == int(found["accuracy"].weights.sum()) == tokens
    halves = [objective().scores(model, part)["nats_per_target"].totals for part in split(batch, (5, 4))]
    torch.testing.assert_close(torch.cat(halves), found["nats_per_target"].totals, atol=1e-5, rtol=0)


def test_operations_are_the_models():
    model = captioner()
    assert objective().training_flops(model, 9) == model.training_flops(9, contrast=True)
    assert objective(1.0, 0.0).training_flops(model, 9) == model.training_flops(9, contrast=False)
    assert model.training_flops(9, contrast=False) < model.training_flops(9, contrast=True)


def test_what_cannot_be_learnt_is_refused():
    batch = captions()
    silent = replace(batch, texts=replace(batch.texts, targets_BT=torch.full_like(batch.texts.targets_BT, IGNORE)))
    with pytest.raises(DataError, match="the texts have no targets"):
        objective().loss(captioner(), silent)
    with pytest.raises(SpecError, match="caption_weight"):
        parse(Captioning, {"caption_weight": 0.0}, "objective")
    tree = plain(SMALL["vision/mnist"]()) | {"model": plain(captioner().spec)}
    with pytest.raises(SpecError, match=r"classification trains .* of kind captioner; .*the objective captioning"):
        parse(Run, tree, "recipe")
    tree = plain(SMALL["language/shakespeare"]()) | {"objective": {"kind": "captioning"}}
    with pytest.raises(SpecError, match="captioning learns from data of kind pairs"):
        parse(Run, tree, "recipe")


def test_a_few_steps_teach_both():
    """Eight patterns in noise, each with a caption of its own, in micro-batches. Of new pictures every caption is right
    and each finds its text. Seen: 0.017 to 0.020 nats/token, four seeds; guessing among the eight takes 0.42."""
    model = captioner().float()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(5)
    patterns = torch.randn(8, 3, 6, 8, generator=generator)
    words = torch.randint(1, SIZE, (8, 4), generator=generator)
    ends = torch.full((8, 1), END)

    def batch() -> ImageTextBatch:
        images = patterns + 0.2 * torch.randn(patterns.shape, generator=generator)
        texts = plain_batch(torch.cat((ends, words), dim=1), torch.cat((words, ends), dim=1))
        return ImageTextBatch(ImageBatch(images), texts)

    for _ in range(100):
        optimiser.zero_grad()
        loss = objective().gradients(model, split(batch(), (4, 4)), (0, 1))
        for parameter in model.parameters():
            parameter.grad /= loss.weight
        optimiser.step()
    model.eval()
    new = batch()
    written = caption(model, Vocabulary(size=SIZE, separator=END), new.images, Sampling(temperature=0.0, max_tokens=8))
    assert written == words.tolist()
    with torch.no_grad():
        assert torch.equal((model.image(new.images) @ model.text(new.texts).T).argmax(dim=1), torch.arange(8))
    found = objective().loss(model, new).metrics
    assert float(found["caption_nats"].detach()) / int(found["caption_tokens"]) < 0.1


@pytest.mark.parity
def test_agrees_with_open_clips_loss():
    """Means there, over pairs and over tokens; sums here. Worst case measured: 1.7e-7 relative."""
    loss = pytest.importorskip("open_clip.loss")
    model, batch = captioner(), captions()
    with torch.no_grad():
        out = model(batch)
        labels = torch.where(batch.texts.targets_BT == IGNORE, 7777, batch.texts.targets_BT)
        theirs = loss.CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0, pad_id=7777)
        vectors = (out.intermediates["image"], out.intermediates["text"])
        pairs, words = theirs(*vectors, model.head(out.hidden), labels, model.log_scale.exp())
        ours = objective().loss(model, batch).metrics
    assert float(ours["pair_nats"]) / ROWS == pytest.approx(float(pairs), rel=1e-6)
    assert 2.0 * float(ours["caption_nats"]) / int(ours["caption_tokens"]) == pytest.approx(float(words), rel=1e-6)
