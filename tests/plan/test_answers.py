"""Results without values by the house's rules of shape, against torch's own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from corestone.plan.answers import _RULES, NOT_KNOWN, answer

aten = torch.ops.aten
B = torch.bfloat16
X, Y, V = torch.empty(3, 4, 5), torch.empty(4, 1), torch.empty(5, dtype=B)
TURNED = torch.empty(5, 4, 3).permute(2, 1, 0)
GAPS = torch.empty(3, 4, 10)[..., ::2]
IDS = torch.zeros(3, 2, 5, dtype=torch.int64)

CALLS = [
    *[(getattr(aten, name).default, (x,), {}) for name in ("neg", "exp", "gelu", "silu") for x in (X, TURNED, GAPS)],
    *[(getattr(aten, name).default, (X,), {}) for name in ("sin", "cos", "rsqrt", "sqrt", "sigmoid", "tanh", "relu")],
    *[(getattr(aten, name).Tensor, (x, y), {}) for name in ("add", "sub", "mul", "div") for x, y in ((X, Y), (Y, X))],
    (aten.add.Tensor, (X, V), {}),
    (aten.add.Tensor, (V, X), {"alpha": 2}),
    (aten.mul.Tensor, (TURNED, TURNED), {}),
    (aten.mul.Tensor, (V, 2.0), {}),
    (aten.mul.Tensor, (V, torch.tensor(2.0)), {}),
    (aten.mul.Tensor, (torch.empty(3, 1), torch.empty(1, 4)), {}),
    (aten.pow.Tensor_Scalar, (X, 2), {}),
    (aten.exp_.default, (X,), {}),
    (aten.log_.default, (X,), {}),
    (aten.add_.Tensor, (X, Y), {}),
    (aten.add_.Scalar, (X, 1.0), {}),
    (aten.mul_.Tensor, (X, Y), {}),
    (aten.div_.Scalar, (X, 2.0), {}),
    (aten.bernoulli_.float, (X, 0.5), {}),
    (aten.scatter_add_.default, (X, 1, IDS, torch.empty(3, 2, 5)), {}),
    (aten.sum.default, (X,), {}),
    (aten.sum.default, (V,), {"dtype": torch.float32}),
    (aten.sum.dim_IntList, (X, [0, -1]), {}),
    (aten.sum.dim_IntList, (X, [1], True), {"dtype": torch.float64}),
    (aten.mean.dim, (X, [-1], True), {}),
    (aten.amax.default, (X, [-1], True), {}),
    (aten._softmax.default, (TURNED, 1, False), {}),
    (aten._log_softmax.default, (TURNED, 1, False), {}),
    (aten.mm.default, (X[0], torch.empty(5, 6)), {}),
    (aten.mm.out, (X[0], torch.empty(5, 6)), {"out": torch.empty(4, 6)}),
    (aten.bmm.default, (X, torch.empty(3, 5, 2)), {}),
    (aten.addmm.default, (torch.empty(6), X[0], torch.empty(5, 6)), {}),
    (aten.cat.default, ([X, X],), {}),
    (aten.cat.default, ([X, torch.empty(3, 4, 1)], -1), {}),
    (aten.stack.default, ([X, X], -1), {}),
    (aten.gather.default, (X, 1, IDS), {}),
    (aten.embedding.default, (X[0], IDS), {}),
    (aten.native_layer_norm.default, (X, [5], None, None, 1e-5), {}),
    (aten.native_layer_norm.default, (TURNED, [4, 5], None, None, 1e-5), {}),
    (aten.full_like.default, (X, 1.0), {"dtype": B}),
    (aten.empty_like.default, (TURNED,), {}),
]


def described(found):
    tensors = found if isinstance(found, tuple) else (found,)
    return [(one.shape, one.stride(), one.dtype, one.device.type) for one in tensors]


def on_meta(value):
    if isinstance(value, list):
        return [on_meta(one) for one in value]
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


@pytest.mark.parametrize("call", CALLS, ids=lambda call: str(call[0]))
def test_a_rule_gives_what_torch_gives(call):
    function, args, kwargs = call[0], [on_meta(one) for one in call[1]], {k: on_meta(v) for k, v in call[2].items()}
    found = answer(function, args, kwargs)
    assert found is not NOT_KNOWN
    assert described(found) == described(function(*args, **kwargs))


def test_every_rule_is_tried():
    assert {call[0] for call in CALLS} == set(_RULES)


def test_what_no_rule_knows_is_left_to_torch():
    whole = torch.empty(3, dtype=torch.int64, device="meta")
    assert answer(aten.topk.default, (on_meta(X), 2), {}) is NOT_KNOWN
    assert answer(aten.add.Tensor, (whole, whole), {}) is NOT_KNOWN
    assert answer(aten.neg.default, (X,), {}) is NOT_KNOWN


QUICK = """
import subprocess
import sys
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.plan import Wanted, plan_recipe
plan = plan_recipe(find_recipe("palm-540b", []), Wanted())
assert plan["parameters"]["total"] > 5e11
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""


def test_the_largest_plan_loads_no_compiler():
    """Which would take longer than all of the plan."""
    done = subprocess.run([sys.executable, "-c", QUICK], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
