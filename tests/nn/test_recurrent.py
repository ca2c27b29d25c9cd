"""LSTM layers against torch's own, a plain loop in numpy, and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from corestone.nn.recurrent import LSTMLayer, RecurrentStack, Restarts
from corestone.nn.spec import LSTM, Mogrifier

LAYERS = {
    "plain": LSTM(),
    "capped": LSTM(cap_input_gate=True),
    "one round": LSTM(mogrifier=Mogrifier(rounds=1)),
    "two rounds without biases": LSTM(mogrifier=Mogrifier(rounds=2, bias=False)),
    "three rounds of rank 2": LSTM(mogrifier=Mogrifier(rounds=3, rank=2), cap_input_gate=True),
    "four rounds of rank 3": LSTM(mogrifier=Mogrifier(rounds=4, rank=3), cap_input_gate=True, state_dropout=0.4),
    "five rounds": LSTM(mogrifier=Mogrifier(rounds=5, rank=3, bias=False)),
}
# Rows of 7 steps: one document; a new one at steps 3 and 4; a first token that is no beginning.
POSITIONS = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 0, 0, 1, 2], [4, 5, 6, 7, 8, 0, 1]])


def filled(module: nn.Module, seed: int = 0, std: float = 0.5) -> nn.Module:
    torch.manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


@pytest.mark.parametrize(("width", "depth", "batch", "tokens"), [(12, 1, 3, 9), (7, 2, 1, 1), (5, 3, 4, 17)])
def test_a_plain_stack_is_torchs_lstm(width, depth, batch, tokens):
    """Values and gradients; measured worst case 9.5e-7, of a gradient of 3.4."""
    ours = filled(RecurrentStack(LSTM(), width, depth, skip=False, dropout=0.0, between=0.0), std=0.3)
    theirs = nn.LSTM(width, width, depth, batch_first=True)
    x = torch.randn(batch, tokens, width, requires_grad=True)
    again = x.detach().clone().requires_grad_()
    pairs = []
    with torch.no_grad():
        for number, layer in enumerate(ours.layers):
            mine = [layer.input.weight, layer.state.weight, layer.input.bias]
            names = [f"{kind}_l{number}" for kind in ("weight_ih", "weight_hh", "bias_ih")]
            other = [getattr(theirs, name) for name in names]
            for a, b in zip(mine, other, strict=True):
                b.copy_(a)
            getattr(theirs, f"bias_hh_l{number}").zero_()
            pairs += zip(mine, other, strict=True)
    positions = torch.arange(tokens).expand(batch, tokens)
    out, expected = ours(x, positions), theirs(again)[0]
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)
    slope = torch.randn_like(out)
    out.backward(slope)
    expected.backward(slope)
    for a, b in [(x, again), *pairs]:
        torch.testing.assert_close(a.grad, b.grad, atol=5e-6, rtol=1e-5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def plain_loop(layer: LSTMLayer, x_TD: np.ndarray, positions: list[int], h: np.ndarray, c: np.ndarray) -> np.ndarray:
    """One row by the paper's equations (Melis et al. 2020, section 2), word for word, in double precision."""
    p = {name: parameter.detach().double().numpy() for name, parameter in layer.named_parameters()}
    outputs, spec = [], layer.spec.mogrifier
    for x, position in zip(x_TD, positions, strict=True):
        if position == 0:
            h, c = np.zeros_like(h), np.zeros_like(c)
        output, gated = h, x
        for i in range(1, 1 + (spec.rounds if spec else 0)):
            matrix = p[f"gates.{i - 1}.up.weight"]
            if spec.rank:
                matrix = matrix @ p[f"gates.{i - 1}.down.weight"]
            bias = p.get(f"gates.{i - 1}.up.bias", 0.0)
            if i % 2:
                gated = 2 * sigmoid(matrix @ output + bias) * gated
            else:
                output = 2 * sigmoid(matrix @ gated + bias) * output
        i, f, j, o = np.split(p["input.weight"] @ gated + p["input.bias"] + p["state.weight"] @ output, 4)
        i, f, j, o = sigmoid(i), sigmoid(f), np.tanh(j), sigmoid(o)
        c = f * c + (np.minimum(1 - f, i) if layer.spec.cap_input_gate else i) * j
        h = o * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_the_papers_equations(name, grad):
    """Measured worst case 1.3e-7."""
    layer = filled(LSTMLayer(LAYERS[name], 6)).eval()
    x, h, c = torch.randn(3, 7, 6), torch.rand(3, 6), torch.randn(3, 6)
    with torch.set_grad_enabled(grad):
        out, last_h, last_c = layer(x, Restarts(POSITIONS, fresh=False), h, c)
    for row in range(3):
        given = [tensor[row].double().numpy() for tensor in (x, h, c)]
        expected = plain_loop(layer, given[0], POSITIONS[row].tolist(), *given[1:])
        np.testing.assert_allclose(out[row].detach().numpy(), expected, atol=1e-6)
    assert torch.equal(last_h, out[:, -1])
    assert last_c.shape == (3, 6)


@pytest.mark.parametrize("name", LAYERS)
def test_backward_is_the_slope_of_forward(name):
    """Every gradient against finite differences in double precision, with restarts and state dropout."""
    layer = filled(LSTMLayer(LAYERS[name], 4)).double().train()
    names = [name for name, _ in layer.named_parameters()]
    h, c = torch.rand(3, 4).double(), torch.randn(3, 4).double()

    def outputs(x, *parameters):
        torch.manual_seed(1)  # the same dropout every time
        return functional_call(
            layer, dict(zip(names, parameters, strict=True)), (x, Restarts(POSITIONS, fresh=False), h, c)
        )[0]

    x = torch.randn(3, 7, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(outputs, (x, *layer.parameters()), atol=1e-6, rtol=1e-5)


def test_state_dropout_is_one_mask_along_a_row_and_none_in_evaluation():
    layer = filled(LSTMLayer(LSTM(state_dropout=0.5), 64))
    with torch.no_grad():
        layer.input.weight.zero_()
        layer.input.bias.zero_()
        layer.state.weight.copy_(torch.cat([torch.zeros(128, 64), 100 * torch.eye(64), torch.zeros(64, 64)]))
    x, h = torch.zeros(2, 5, 64), torch.ones(2, 64)

    def run():
        # The new memory is tanh(100 h) / 2 and half the old one: a dropped state adds nothing to it.
        _, _, c = layer(x, Restarts(torch.arange(1, 6).expand(2, 5), fresh=False), h, torch.zeros(2, 64))
        return c

    memory = run()
    assert bool(((memory > 0.9) | (memory == 0)).all())  # after five steps: all of them or none
    assert 0.3 < (memory > 0).float().mean() < 0.7
    assert not torch.equal(memory[0], memory[1])
    layer.eval()
    assert bool((run() > 0.9).all())


def test_the_stack_drops_where_it_is_told_and_sums_where_it_skips():
    plain = filled(RecurrentStack(LSTM(), 6, 3, skip=False, dropout=0.0, between=0.0)).eval()
    skipping = filled(RecurrentStack(LSTM(), 6, 3, skip=True, dropout=0.0, between=0.0)).eval()
    x, positions = torch.randn(2, 7, 6), torch.arange(7).expand(2, 7)
    with torch.no_grad():
        outputs, fed = [], x
        for layer in plain.layers:
            fed = layer(fed, Restarts(positions, fresh=True), torch.zeros(2, 6), torch.zeros(2, 6))[0]
            outputs.append(fed)
        assert torch.equal(plain(x, positions), outputs[-1])
        torch.testing.assert_close(skipping(x, positions), sum(outputs))
        for dropout, between in ((0.5, 0.0), (0.0, 0.5)):
            dropping = filled(RecurrentStack(LSTM(), 6, 3, skip=True, dropout=dropout, between=between)).train()
            first = dropping.layers[0](
                dropping.dropout(x), Restarts(positions, fresh=True), torch.zeros(2, 6), torch.zeros(2, 6)
            )[0]
            assert torch.equal(first, outputs[0]) == (dropout == 0.0)
            assert not torch.allclose(dropping(x, positions), skipping(x, positions))
            torch.testing.assert_close(dropping.eval()(x, positions), skipping(x, positions))


def test_bfloat16_stays_close_to_float32():
    """Relative distance of outputs 0.4 %, of gradients 3.5 % at most (measured)."""
    x, positions = torch.randn(3, 40, 32), torch.arange(40).expand(3, 40)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        spec = LSTM(mogrifier=Mogrifier(rounds=4, rank=8), cap_input_gate=True)
        stack = filled(RecurrentStack(spec, 32, 2, skip=True, dropout=0.0, between=0.0), std=0.15).to(dtype)
        out = stack(x.to(dtype), positions)
        assert out.dtype == torch.float32
        (out * torch.linspace(-1, 1, 32)).sum().backward()
        found[dtype] = [out.detach(), *(parameter.grad.float() for parameter in stack.parameters())]
    for low, full in zip(found[torch.bfloat16], found[torch.float32], strict=True):
        assert float((low - full).norm() / full.norm()) < 0.1
