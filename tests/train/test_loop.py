"""The loop: one global division, any split of a batch, anomalies, signals."""

from __future__ import annotations

import copy
import os
import signal

import pytest
import torch
from parts import CountingLoader, Poison, trainer

from corestone.core.errors import CorestoneError, Interrupted
from corestone.core.units import duration
from corestone.train.loop import Hook
from corestone.train.spec import Anomaly, Training
from corestone.train.state import State


def training(**given) -> Training:
    return Training(length=duration("20 steps"), batch_tokens=128, **given)


def gradient(**given):
    parts, _ = trainer(training(clip_norm=None, **given))
    parts._gradients(0)
    return {name: master.grad for name, master in parts.weights.masters.items()}


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5, 7])
def test_any_split_into_micro_batches_gives_the_same_gradient(micro_batch):
    """Design, promise 2: rows have 1 to 16 targets, so a mean of means would differ."""
    whole, split = gradient(), gradient(micro_batch=micro_batch)
    for name in whole:
        torch.testing.assert_close(split[name], whole[name], atol=1e-7, rtol=1e-4)  # worst measured 3.0e-8


def test_the_gradient_is_that_of_the_mean_over_all_targets():
    parts, _ = trainer(training(clip_norm=None))
    batch = CountingLoader().batch(0)
    logits = parts.model.head(parts.model(batch).hidden)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=-100)
    wanted = torch.autograd.grad(loss, list(parts.weights.masters.values()))
    result = parts._gradients(0)
    assert result.loss == pytest.approx(loss.item(), rel=1e-6)
    for master, other in zip(parts.weights.masters.values(), wanted, strict=True):
        torch.testing.assert_close(master.grad, other, atol=1e-7, rtol=1e-4)
    norm = torch.cat([g.flatten() for g in wanted]).norm().item()
    assert result.grad_norm == pytest.approx(norm, rel=1e-5)


def test_clipping_bounds_the_global_norm():
    parts, _ = trainer(training(clip_norm=0.01))
    assert parts._gradients(0).grad_norm > 0.01
    assert torch.cat([g.flatten() for g in parts.weights.gradients()]).norm().item() == pytest.approx(0.01, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_learns_to_count(dtype):
    """Counting is certain after one token: the loss must fall far below the uniform guess, log 32 = 3.47."""
    parts, log = trainer(training(), dtype=dtype, steps=150)
    parts.run(State())
    assert log[0].loss == pytest.approx(3.47, abs=0.1)
    assert log[-1].loss < 0.3


def test_bfloat16_gradients_are_near_float32_ones():
    one, other = gradient(), {}
    parts, _ = trainer(training(clip_norm=None), dtype=torch.bfloat16)
    parts._gradients(0)
    other = {name: master.grad for name, master in parts.weights.masters.items()}
    difference = sum((one[name] - other[name]).square().sum() for name in one).sqrt()
    norm = sum(grad.square().sum() for grad in one.values()).sqrt()
    assert (difference / norm).item() < 0.02  # measured 0.0060


def test_skip_makes_no_update_from_a_poisoned_batch_and_names_its_documents():
    told = []
    parts, log = trainer(
        training(anomaly=Anomaly(policy="skip")),
        objective=Poison(lambda call: float("nan") if call == 4 else 1.0),
        steps=6,
        log_anomaly=lambda state, problem, documents: told.append((state.step, problem, documents)),
    )
    state = parts.run(State())
    assert (state.step, state.skipped, state.anomalies) == (6, [3], 1)
    assert told[0][0] == 3
    assert "nan" in told[0][1]
    assert told[0][2] == CountingLoader().names(3)
    assert len(log) == 5
    assert all(torch.isfinite(master).all() for master in parts.weights.masters.values())


def test_stop_names_step_documents_and_cure():
    parts, _ = trainer(training(), objective=Poison(lambda call: float("inf") if call == 3 else 1.0))
    with pytest.raises(CorestoneError, match=r"step 3: the loss is inf; documents of the batch: document-2-0.*policy"):
        parts.run(State())


def test_a_leap_is_noticed_and_rolled_back_to_the_same_weights_as_if_never_seen():
    saved: dict = {}

    def save(state, result=None):
        saved["state"] = copy.deepcopy(state)
        saved["weights"] = {k: v.detach().clone() for k, v in parts.weights.masters.items()}
        saved["optimiser"] = copy.deepcopy(parts.optimiser.state_dict())

    def roll_back():
        with torch.no_grad():
            for name, master in parts.weights.masters.items():
                master.copy_(saved["weights"][name])
        parts.optimiser.load_state_dict(copy.deepcopy(saved["optimiser"]))
        return copy.deepcopy(saved["state"])

    spec = training(anomaly=Anomaly(policy="roll_back", spike_deviations=8, window=10))
    poison = Poison(lambda call: 40.0 if call == 15 else 1.0)
    parts, _ = trainer(spec, objective=poison, hooks=[Hook(6, save)], roll_back=roll_back)
    state = parts.run(State())
    assert state.skipped == [14]
    assert poison.calls == 15 + (20 - 12) - 1  # steps 12 and 13 again, 14 never
    clean, _ = trainer(spec)
    clean.run(State(skipped=[14]))
    for name, master in parts.weights.masters.items():
        assert torch.equal(master, clean.weights.masters[name])


def test_too_many_anomalies_stop_any_policy():
    parts, _ = trainer(training(anomaly=Anomaly(policy="skip", most=3)), objective=Poison(lambda call: float("nan")))
    with pytest.raises(CorestoneError, match="3 anomalies before it"):
        parts.run(State())


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_between_steps(signum):
    saved = []
    stop = Hook(4, lambda state, result: os.kill(os.getpid(), signum))
    parts, log = trainer(training(), hooks=[stop], save=lambda state: saved.append(state.step))
    before = signal.getsignal(signum)
    with pytest.raises(Interrupted, match="after step 4") as caught:
        parts.run(State())
    assert (saved, len(log), caught.value.signum) == ([4], 4, signum)
    assert signal.getsignal(signum) is before


def test_hooks_run_on_their_steps_and_once_at_the_end():
    seen: dict = {"seven": [], "never": []}
    hooks = [
        Hook(7, lambda state, result: seen["seven"].append(state.step)),
        Hook(None, lambda state, result: seen["never"].append(state.step)),
    ]
    parts, _ = trainer(training(), hooks=hooks)
    parts.run(State())
    assert seen == {"seven": [7, 14, 20], "never": [20]}
