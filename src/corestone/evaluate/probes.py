"""What a model's features are worth: neighbours, a linear probe, and classes described in words.

Each gives scores of classes (N, K), of which `classification.answers_of` makes answers.

Shape letters: N pictures, R reference pictures, D width, K classes, M nearest, E width of the shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from corestone.core.errors import DataError

CHUNK = 2**24  # similarities that exist at a time: 64 MB in float32
PENALTIES = tuple(10.0**power for power in range(-4, 5))
VALIDATION = 0.2


@torch.no_grad()
def neighbour_scores(
    features_ND: Tensor,
    reference_RD: Tensor,
    labels_R: Tensor,
    classes: int,
    nearest: int = 200,
    temperature: float = 0.07,
) -> Tensor:
    """Logarithm of each class's share of the votes of the nearest reference pictures by cosine, weighted by
    `exp(cosine / temperature)`; defaults of Wu et al. 2018 (section 3.4). Fewer references than `nearest`: all vote."""
    reference_RD = F.normalize(reference_RD.float(), dim=1)
    scores = []
    for some_ND in features_ND.split(max(1, CHUNK // len(reference_RD))):
        similar_NR = F.normalize(some_ND.float(), dim=1) @ reference_RD.T
        best = similar_NR.topk(min(nearest, len(reference_RD)), dim=1)
        votes_NM = (best.values.double() / temperature).softmax(dim=1)
        shares_NK = votes_NM.new_zeros(len(some_ND), classes)
        scores.append(shares_NK.scatter_add_(1, labels_R[best.indices], votes_NM).log())
    return torch.cat(scores)


@dataclass(frozen=True)
class Probe:
    """A linear classifier of features.

    Attributes:
        weight: (K, D).
        bias: (K,).
        penalty: what the summed squared weights were multiplied by.
    """

    weight: Tensor
    bias: Tensor
    penalty: float

    def __call__(self, features_ND: Tensor) -> Tensor:
        """Logits (N, K), float64."""
        return F.linear(features_ND.double(), self.weight, self.bias)


def fit_probe(features_ND: Tensor, labels_N: Tensor, classes: int, penalty: float, start: Probe | None = None) -> Probe:
    """Logistic regression by L-BFGS in float64: the summed nats plus `penalty / 2` times the summed squared weights
    (not biases), at most 1,000 iterations (Radford et al. 2021, appendix A.3). There is one minimum, so `start` only
    saves time."""
    features_ND = features_ND.detach().double()
    shape, device = (classes, features_ND.shape[1]), features_ND.device
    weight = torch.zeros(shape, dtype=torch.float64, device=device) if start is None else start.weight.clone()
    bias = torch.zeros(classes, dtype=torch.float64, device=device) if start is None else start.bias.clone()
    weight.requires_grad_()
    bias.requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=1000, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        nats = F.cross_entropy(F.linear(features_ND, weight, bias), labels_N, reduction="sum")
        total = (nats + penalty / 2 * weight.square().sum()) / len(labels_N)
        total.backward()
        return total

    with torch.enable_grad():
        optimiser.step(loss)
    return Probe(weight.detach(), bias.detach(), penalty)


def choose_probe(
    features_ND: Tensor,
    labels_N: Tensor,
    classes: int,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
) -> Probe:
    """The probe of the penalty whose nats are lowest on a fifth of the pictures that it was not fitted to, fitted again
    to all of them. Features are taken as they are.

    Raises:
        DataError: fewer than five pictures.
    """
    held = int(len(labels_N) * VALIDATION)
    if held < 1:
        raise DataError(f"evaluation: {len(labels_N)} pictures are too few for a linear probe; give at least five")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(labels_N))
    apart, rest = (torch.from_numpy(part).to(labels_N.device) for part in (order[:held], order[held:]))
    best, lowest, probe = penalties[0], float("inf"), None
    for penalty in sorted(penalties, reverse=True):
        probe = fit_probe(features_ND[rest], labels_N[rest], classes, penalty, probe)
        nats = float(F.cross_entropy(probe(features_ND[apart]), labels_N[apart]))
        if nats < lowest:
            best, lowest = penalty, nats
    return fit_probe(features_ND, labels_N, classes, best)


@torch.no_grad()
def class_vectors(embed: Callable[[list[str]], Tensor], prompts: Sequence[list[str]]) -> Tensor:
    """A unit vector (K, E) of each class: the mean of its sentences' unit vectors, brought to length one again (Radford
    et al. 2021, section 3.1.4, prompt ensembling in embedding space). A picture's logits are its own unit vector times
    these, times the model's scale.

    Args:
        embed: gives vectors (number of texts, E).
        prompts: sentences of each class (`templates.read_prompts`).
    """
    means = [F.normalize(embed(texts).float(), dim=1).mean(dim=0) for texts in prompts]
    return F.normalize(torch.stack(means), dim=1)
