"""`training.compile` reaches models that objectives enter by other ways than calling them, and changes no gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pairs import gradients_of, split
from texts import VOCABULARY, packed_text, tiny_pair

from corestone.core.batch import ImageBatch, ImageTextBatch, plain_batch
from corestone.core.rng import Draws
from corestone.core.spec import parse, plain
from corestone.models.captioner import build_captioner
from corestone.models.picture_spec import Captioner, ImageEncoder, TextTower, TwoTower
from corestone.models.two_tower import build_two_tower
from corestone.nn.spec import Norm, PatchEmbedding, TokenEmbedding
from corestone.objectives.captioning import CaptioningObjective
from corestone.objectives.contrastive import ContrastiveObjective
from corestone.objectives.replaced_token import ReplacedTokenObjective
from corestone.objectives.spec import Captioning, Contrastive, ReplacedToken
from corestone.parallel.compiled import Compiled
from corestone.zoo.clip import stack
from corestone.zoo.coca import coca

DROPOUT = 0.2


def dropping(*stacks: dict[str, Any]) -> None:
    """Put dropout on every branch of some stacks' records."""
    for block in (block for one in stacks for block in one["blocks"]):
        block["dropout"] = DROPOUT


def two_tower():
    """In float64, as the captioner: some gradients are small rests of what cancels."""
    image = ImageEncoder(
        embedding=PatchEmbedding(image_size=(8, 12), patch_size=4, bias=False, norm=Norm()), stack=stack(64, 1)
    )
    text = TextTower(embedding=TokenEmbedding(vocab_size=31, context_length=9), stack=stack(64, 1))
    tree = plain(TwoTower(image=image, text=text, embed_dim=16))
    dropping(tree["image"]["stack"], tree["text"]["stack"])
    return build_two_tower(parse(TwoTower, tree, "model")).double()


def captioner():
    picture = PatchEmbedding(image_size=(8, 12), patch_size=4, class_token=False)
    tree = plain(coca(32, 2, (1, 48), (1, 48), vocab_size=31, picture=picture, queries=3))
    dropping(tree["image_stack"], tree["decoder"])
    return build_captioner(parse(Captioner, tree, "model")).double()


def some_pairs() -> ImageTextBatch:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(31, (9, 9), generator=generator)
    texts = plain_batch(tokens[:, :-1], tokens[:, 1:])
    return ImageTextBatch(ImageBatch(torch.randn(9, 3, 8, 12, generator=generator)), texts)


def additive(objective: Any, model: Any, parts: list[Any]) -> None:
    for seed, part in enumerate(parts):
        torch.manual_seed(seed)
        objective.loss(model, part).total.backward()


def joint(objective: Any, model: Any, parts: list[Any]) -> None:
    objective.gradients(model, parts, range(len(parts)))


def replaced_rows() -> Any:
    objective = ReplacedTokenObjective(ReplacedToken(), VOCABULARY)
    return objective.corrupt(packed_text(9, 16), Draws(0, range(9)))


CASES = {  # model, objective, rows, how its gradient is found, graphs of one kind at least
    "contrastive": (two_tower, ContrastiveObjective(Contrastive()), some_pairs, joint, 4),
    "captioning": (captioner, CaptioningObjective(Captioning()), some_pairs, joint, 3),
    "captions alone": (captioner, CaptioningObjective(Captioning(contrastive_weight=0)), some_pairs, additive, 2),
    "replaced tokens": (
        tiny_pair,
        ReplacedTokenObjective(ReplacedToken(), VOCABULARY),
        replaced_rows,
        additive,
        2,
    ),
}


# The second compiler makes kernels, which takes a minute a case.
COMPILERS = [("aot_eager", (3, 3, 3)), pytest.param("inductor", (4, 4, 1), marks=pytest.mark.slow)]


@pytest.mark.parametrize(("backend", "sizes"), COMPILERS)
@pytest.mark.parametrize("name", CASES)
def test_compiled_gradients_are_the_plain_ones(name, backend, sizes):
    """With dropout, in micro-batches. Worst distance of a tensor, in its norm: 2.0e-7 by the first compiler."""
    make, objective, rows, gradient, graphs = CASES[name]
    found = []
    for wrap in (lambda model: model, lambda model: Compiled(model, backend)):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model = make()
        gradient(objective, wrap(model), split(rows(), sizes))
        found.append(gradients_of(model))
    assert torch._dynamo.utils.counters["frames"]["ok"] >= graphs
    plain_ones, compiled_ones = found
    assert plain_ones.keys() == compiled_ones.keys()
    for name, one in plain_ones.items():
        distance = float((one - compiled_ones[name]).norm() / one.norm().clamp(min=1e-6))
        assert distance < 1e-5, name


def test_the_model_itself_stays_as_it_is():
    """Evaluation, which goes on with the model, is not compiled."""
    model = two_tower()
    Compiled(model, "aot_eager").image(some_pairs().images)
    torch._dynamo.utils.counters.clear()
    model.image(some_pairs().images)
    assert not torch._dynamo.utils.counters["frames"]["total"]
