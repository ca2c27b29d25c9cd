"""PaLM, of which no reference exists, against its equations written as loops."""

from __future__ import annotations

import math

import torch

from corestone.core.batch import plain_batch
from corestone.models.decoder import build_decoder
from corestone.zoo.palm import palm

WIDTH, HEADS, HEAD_DIM = 12, 3, 4


def norm(x, gain):
    x = x - x.mean()
    return x / (x.square().mean() + 1e-5).sqrt() * gain


def turned(x, position):
    """Value r pairs with value r + H/2 (Su et al. 2021, in halves)."""
    out, half = x.clone(), HEAD_DIM // 2
    for r in range(half):
        angle = position * 10000 ** (-2 * r / HEAD_DIM)
        out[r] = x[r] * math.cos(angle) - x[r + half] * math.sin(angle)
        out[r + half] = x[r + half] * math.cos(angle) + x[r] * math.sin(angle)
    return out


def attention(weights, layer, normed):
    """One head of keys and values for all heads of queries."""
    qkv, out = weights[f"{layer}.mixer.qkv.weight"], weights[f"{layer}.mixer.out.weight"]
    made = [qkv @ n for n in normed]
    keys = [turned(m[HEADS * HEAD_DIM : (HEADS + 1) * HEAD_DIM], t) for t, m in enumerate(made)]
    values = [m[(HEADS + 1) * HEAD_DIM :] for m in made]
    found = []
    for t, m in enumerate(made):
        heads = []
        for head in range(HEADS):
            q = turned(m[head * HEAD_DIM : (head + 1) * HEAD_DIM], t)
            p = torch.stack([q @ k / math.sqrt(HEAD_DIM) for k in keys[: t + 1]]).softmax(0)
            heads.append(sum(weight * v for weight, v in zip(p, values, strict=False)))
        found.append(out @ torch.cat(heads))
    return found


def feedforward(weights, layer, n):
    gate = weights[f"{layer}.feedforward.gate.weight"] @ n
    return weights[f"{layer}.feedforward.down.weight"] @ (
        gate * torch.sigmoid(gate) * (weights[f"{layer}.feedforward.up.weight"] @ n)
    )


def test_logits_are_those_of_the_equations():
    """Chowdhery et al. 2022, section 2: y = x + MLP(LN(x)) + Attention(LN(x)). Worst case 5.0e-7, of logits of 1.2."""
    model = build_decoder(palm(WIDTH, 2, HEADS, HEAD_DIM, vocab_size=17, context_length=9)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
    tokens = torch.tensor([[3, 16, 0, 7, 7, 2, 11]])
    with torch.no_grad():
        found = model.head(model(plain_batch(tokens)).hidden)[0]
        weights = {name: parameter.double() for name, parameter in model.named_parameters()}
        xs = [weights["embedding.token.weight"][token] for token in tokens[0]]
        for number in range(2):
            layer = f"stack.blocks.{number}"
            normed = [norm(x, weights[f"{layer}.mixer_norm.weight"]) for x in xs]
            mixed = attention(weights, layer, normed)
            xs = [x + feedforward(weights, layer, n) + m for x, n, m in zip(xs, normed, mixed, strict=True)]
        final = weights["stack.final_norm.weight"]
        wanted = torch.stack([weights["embedding.token.weight"] @ norm(x, final) / math.sqrt(WIDTH) for x in xs])
    assert wanted.std() > 0.3
    assert float((found - wanted).abs().max()) < 5e-6
