"""The gradient's noise scale against a model whose gradient noise is known, through the loop itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from corestone.core.errors import SpecError
from corestone.core.protocols import Loss
from corestone.core.units import duration
from corestone.parallel.collectives import World
from corestone.parallel.precision import MasterWeights
from corestone.train.loop import Trainer
from corestone.train.meter import Meter
from corestone.train.noise import SCALE, averaged, check_measurable, part_sums, take_estimates
from corestone.train.spec import NoiseScale, Training
from corestone.train.state import State

DIMS, SIGMA, ROWS = 20, 2.0, 32
TARGET = torch.linspace(-0.5, 0.5, DIMS)
"""At w = 0 the gradient of row x is -x, so G = -TARGET and tr(Sigma) = DIMS SIGMA^2."""

SIGNAL, NOISE = float(TARGET.square().sum()), DIMS * SIGMA**2


class Rows:
    """Points around TARGET."""

    def __init__(self, points: torch.Tensor) -> None:
        self.points = points

    def __len__(self) -> int:
        return len(self.points)

    def rows(self, start: int, stop: int) -> Rows:
        return Rows(self.points[start:stop])

    def to(self, device: torch.device) -> Rows:
        return self


class PointLoader:
    def batch(self, step: int) -> Rows:
        made = torch.Generator().manual_seed(step)
        return Rows(TARGET + SIGMA * torch.randn(ROWS, DIMS, generator=made))

    def names(self, step: int) -> list[str]:
        return []


class Quadratic:
    """Half the squared distance of the one parameter to each row's point."""

    reduction, asks = "additive", False

    def corrupt(self, batch: Rows, draws: object) -> Rows:
        return batch

    def loss(self, model: nn.Module, batch: Rows) -> Loss:
        (weight,) = model.parameters()
        return Loss((weight - batch.points).square().sum() / 2, torch.tensor(float(len(batch))))


def still(micro_batch: int, steps: int, decay: float, log: list[dict[str, float]]) -> Trainer:
    """A trainer whose learning rate is zero, so that the truth stays what it is at w = 0."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(DIMS))
    weights = MasterWeights(model, torch.float32)
    optimiser = torch.optim.SGD([{"params": [model.weight], "lr_scale": 1.0}], lr=0.0)
    spec = Training(
        length=duration(f"{steps} steps"),
        batch_examples=ROWS,
        micro_batch=micro_batch,
        clip_norm=0.1,
        noise_scale=NoiseScale(decay=decay),
    )
    device = torch.device("cpu")

    class Taking:
        every = 1

        @staticmethod
        def call(state: State, result) -> None:
            log.append(result.metrics)

    return Trainer(
        spec=spec, seed=0, total_steps=steps, step_units=3 * ROWS, model=model, objective=Quadratic(),
        loader=PointLoader(), weights=weights, optimiser=optimiser, learning_rate=lambda step: 0.0,
        world=World(0, 1, device), meter=Meter(1.0, 1.0, device), hooks=[Taking], updated=lambda: None,
        save=lambda state: None, roll_back=State, log_anomaly=lambda *told: None,
    )  # fmt: skip


@pytest.mark.parametrize("micro_batch", [4, 16])
def test_signal_noise_and_their_ratio_are_those_of_the_known_model(micro_batch):
    """3 units per target, so B_simple = 3 x 80 / 1.84 = 130. The mean over steps of both estimates is unbiased."""
    log: list[dict[str, float]] = []
    steps = 200
    still(micro_batch, steps, decay=0.999, log=log).run(State())
    signals, noises = [row["gradient_signal"] for row in log], [row["gradient_noise"] for row in log]
    for values, truth in ((signals, SIGNAL), (noises, NOISE)):
        mean = sum(values) / steps
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / steps)
        assert abs(mean - truth) < 4 * spread / math.sqrt(steps)
    assert log[-1][SCALE] == pytest.approx(3 * NOISE / SIGNAL, rel=0.3)  # measured 9.1 % and 5.0 % over 200 steps


def test_running_means_go_on_where_a_checkpoint_left_them():
    whole, first, second = [], [], []
    still(8, 30, 0.9, whole).run(State())
    state = still(8, 17, 0.9, first).run(State())
    still(8, 30, 0.9, second).run(State.from_json(state.to_json(), "here"))
    assert [row[SCALE] for row in first + second] == pytest.approx([row[SCALE] for row in whole], nan_ok=True, abs=0)


def test_ranks_of_uneven_targets_are_weighed_exactly():
    """Two ranks with parts of 3 and 5 targets out of 16, by hand: the mean square and the mean inverse."""
    small = [part_sums([torch.tensor([6.0, 0.0])], torch.tensor(3.0)), part_sums([torch.ones(2)], torch.tensor(5.0))]
    sums = {name: small[0][name] + small[1][name] for name in small[0]}
    found = take_estimates(sums, whole_norm=1.0, targets=16.0)
    square, inverse = (4.0 + 2 / 25) / 2, (1 / 3 + 1 / 5) / 2
    noise = (square - 1.0) / (inverse - 1 / 16)
    assert found["gradient_noise"] == pytest.approx(noise)
    assert found["gradient_signal"] == pytest.approx(1.0 - noise / 16)
    assert sums == {}


def test_a_part_without_a_target_gives_nothing_and_a_negative_signal_no_scale():
    sums = part_sums([torch.zeros(2)], torch.tensor(0.0))
    assert take_estimates(sums, 1.0, 16.0) == {}
    estimates = {"gradient_signal": -1.0, "gradient_noise": 2.0}
    assert averaged([], estimates, 0.5, 1.0) == [-0.5, 1.0]
    assert math.isnan(estimates[SCALE])


def test_one_batch_size_or_a_joint_loss_is_refused():
    with pytest.raises(SpecError, match=r"set training\.micro_batch to less than 8"):
        check_measurable("additive", 8, None, 1)
    with pytest.raises(SpecError, match="leave noise_scale out"):
        check_measurable("joint", 8, 2, 1)
    check_measurable("additive", 8, 4, 1)
    check_measurable("additive", 8, None, 2)
