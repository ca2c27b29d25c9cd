"""Primer, of which no reference in torch exists, against its equations written as loops."""

from __future__ import annotations

import pytest
import torch

from corestone.core.batch import plain_batch
from corestone.models.decoder import build_decoder
from corestone.nn.norm import build_norm
from corestone.zoo.primer import NORM, primer, primer_ez

WIDTH, HEADS, HEAD_DIM, VOCAB = 12, 3, 4, 17
SPEC = primer(primer_ez(WIDTH, 2, HEADS, 20, vocab_size=VOCAB, context_length=16))
TOKENS = torch.tensor([[3, 16, 0, 7, 7, 2, 11, 5, 16, 1]])
TARGETS = torch.tensor([16, 0, 7, 7, 2, 11, 5, 16, 1, 9])


def norm(x, weights, name):
    """The published form: mean of x * (x - mean) where the variance is meant."""
    centred = x - x.mean()
    return centred / ((x * centred).mean() + 1e-6).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def convolved(made, taps):
    """Row i of `taps` is the one i tokens back."""
    return [sum(taps[back] * made[t - back] for back in range(min(3, t + 1))) for t in range(len(made))]


def attention(weights, layer, normed):
    inner, mixer = HEADS * HEAD_DIM, f"{layer}.mixer"
    made = [weights[f"{mixer}.qkv.weight"] @ n for n in normed]
    taps = weights[f"{mixer}.conv.weight"]
    keys = convolved([m[:inner] for m in made], taps[:, :inner])
    values = convolved([m[inner:] for m in made], taps[:, inner:])
    found = []
    for t in range(len(made)):
        q, heads = weights[f"{mixer}.q.weight"] @ keys[t], []
        for head in range(HEADS):
            mine = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
            # Distances below 16 have a bucket each.
            bias = [weights["stack.position.weight"][t - s, head] for s in range(t + 1)]
            scores = torch.stack([q[mine] @ keys[s][mine] + bias[s] for s in range(t + 1)])
            heads.append(sum(p * values[s][mine] for s, p in enumerate(scores.softmax(0))))
        found.append(weights[f"{mixer}.out.weight"] @ torch.cat(heads))
    return found


def feedforward(weights, layer, x):
    part = f"{layer}.feedforward"
    hidden = (weights[f"{part}.up.weight"] @ x + weights[f"{part}.up.bias"]).clamp(min=0) ** 2
    return weights[f"{part}.down.weight"] @ hidden + weights[f"{part}.down.bias"]


def logits_by_loops(weights):
    """x + Attention(norm(x)), then x + norm(MLP(x)); logits from the token table."""
    table = weights["embedding.token.weight"]
    xs = [table[token] for token in TOKENS[0]]
    for number in range(2):
        layer = f"stack.blocks.{number}"
        mixed = attention(weights, layer, [norm(x, weights, f"{layer}.mixer_norm") for x in xs])
        xs = [x + m for x, m in zip(xs, mixed, strict=True)]
        xs = [x + norm(feedforward(weights, layer, x), weights, f"{layer}.feedforward_norm") for x in xs]
    return torch.stack([table @ norm(x, weights, "stack.final_norm") / WIDTH**0.5 for x in xs])


def lively():
    """A model of which no parameter is at a special value."""
    model = build_decoder(SPEC, seed=1).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def loss_of(logits):
    return torch.nn.functional.cross_entropy(logits, TARGETS)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_logits_and_gradients_are_those_of_the_equations(dtype, bound):
    """Worst case, relative to the tensor's largest value: float32 1.8e-6, float64 6.2e-15."""
    model = lively().to(dtype)
    found = model.head(model(plain_batch(TOKENS)).hidden)[0]
    loss_of(found).backward()
    weights = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}
    wanted = logits_by_loops(weights)
    loss_of(wanted).backward()
    assert float(wanted.detach().std()) > 0.5
    distances = {"logits": float(((found - wanted).abs().max() / wanted.abs().max()).detach())}
    for name, parameter in model.named_parameters():
        gradient = weights[name].grad
        assert float(gradient.abs().max()) > 1e-4, name
        distances[name] = float((parameter.grad - gradient).abs().max() / gradient.abs().max())
    if dtype == torch.float64:
        del distances["embedding.token.weight"]  # a frequent token's gradients are summed in float32
    assert max(distances.values()) < bound, distances


def test_compiled_equals_eager():
    """Worst case of logits and gradients 6.0e-8."""
    model = lively()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    results = []
    for form in (model, compiled):
        model.zero_grad()
        logits = model.head(form(plain_batch(TOKENS)).hidden)[0]
        loss_of(logits).backward()
        results.append([logits.detach(), *(p.grad for p in model.parameters())])
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_the_layer_norm_is_the_published_norm(size):
    """In float64, values and gradients, where eps counts and where it does not. Worst case 2.8e-16 of the largest."""
    torch.manual_seed(0)
    layer = build_norm(NORM, 24).double()
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    x, onto = (torch.randn(5, 24, dtype=torch.float64) + 0.7) * size, torch.randn(5, 24, dtype=torch.float64)
    results = []
    for compute in (layer, lambda rows: torch.stack([norm(row, dict(weight_and_bias(layer)), "norm") for row in rows])):
        layer.zero_grad()
        inputs = x.clone().requires_grad_()
        out = compute(inputs)
        (out * onto).sum().backward()
        results.append([out.detach(), inputs.grad, layer.weight.grad, layer.bias.grad])
    torch.testing.assert_close(results[0], results[1], atol=0, rtol=1e-10)
    other = build_norm(NORM.model_copy(update={"eps": 1e-5}), 24).double()
    other.load_state_dict(layer.state_dict())
    if size < 1:
        assert float((other(x) - results[0][0]).detach().abs().max()) > 0.1


def weight_and_bias(layer):
    return {f"norm.{name}": parameter for name, parameter in layer.named_parameters()}
