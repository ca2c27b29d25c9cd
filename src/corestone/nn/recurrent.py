"""LSTM layers, plain and mogrified: a loop over time that brings its own backward.

Autograd alone would multiply and add up whole weight matrices at every step. Here backward walks the steps once, and
the gradient of each matrix is one product over all of them (measured, docs/LOG.md).

Shape letters: B batch, T tokens, D width, G the 4 D values of the four gates, R rank, L layers, I inputs, O outputs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from corestone.nn.norm import at_least_float32
from corestone.nn.spec import LSTM, Mogrifier

Start = tuple[Tensor, Tensor, Tensor | None]
"""State and memory (B, D) before the first step, and what state dropout multiplies every state by."""


@dataclass
class RecurrentCache:
    """What the layers remember of the tokens so far: of one size, however many they are.

    Attributes:
        states_LBD, memories_LBD: float32.
        capacity: the most tokens that the caller means to read; no room depends on it.
        length: tokens read so far.
        segments_BS: whose tokens are whose, for the caller; the layers go by positions (each document begins at 0).
    """

    states_LBD: Tensor
    memories_LBD: Tensor
    capacity: int
    length: int = 0
    segments_BS: Tensor | None = None

    def select(self, rows: Tensor) -> RecurrentCache:
        """A cache of some of the rows (int64 indices)."""
        return RecurrentCache(
            states_LBD=self.states_LBD[:, rows],
            memories_LBD=self.memories_LBD[:, rows],
            capacity=self.capacity,
            length=self.length,
            segments_BS=None if self.segments_BS is None else self.segments_BS[rows],
        )


class Restarts:
    """The steps at which some row of the batch begins a document and forgets everything.

    Args:
        positions_BT: of each token in its document.
        fresh: nothing was read before, so at the first step there is nothing to forget.
    """

    def __init__(self, positions_BT: Tensor, fresh: bool) -> None:
        goes_on_BT = positions_BT != 0
        every_row = goes_on_BT.all(0).tolist()
        every_row[0] = every_row[0] or fresh
        self.factors_B1 = [
            None if goes_on else goes_on_BT[:, step, None].float() for step, goes_on in enumerate(every_row)
        ]

    def __call__(self, step: int, values_BD: Tensor) -> Tensor:
        """What a step is given (or the gradient of that), 0 in the rows that restart there."""
        factor_B1 = self.factors_B1[step]
        return values_BD if factor_B1 is None else values_BD * factor_B1


class Gate(nn.Module):
    """Factors between 0 and 2 for an LSTM's input, out of its state, or the other way round."""

    def __init__(self, spec: Mogrifier, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, spec.rank, bias=False) if spec.rank is not None else None
        self.up = nn.Linear(spec.rank or width, width, bias=spec.bias)

    def forward(self, source_BD: Tensor) -> tuple[Tensor, Tensor]:
        """What `up` reads, (B, R) or (B, D), and the factors (B, D) in float32."""
        inner = source_BD if self.down is None else self.down(source_BD)
        return inner, at_least_float32(self.up(inner)).sigmoid_().mul_(2)

    @torch.no_grad()
    def start(self) -> None:
        """From 1/sqrt(inputs) each, give both matrices of a product the standard deviation (D R)^-1/4; that of the
        product stays 1/sqrt(D) (Melis et al. 2020, code)."""
        if self.down is not None:
            R, D = self.down.weight.shape
            self.down.weight *= (D / R) ** 0.25
            self.up.weight *= (R / D) ** 0.25


class LSTMLayer(nn.Module):
    """(B, T, D) in the weights' format to (B, T, D) in float32, as states and memories are.

    With i, f, g, o = `input(x) + state(h)`: c = sigmoid(f) c + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c). The order
    of the gates is torch's; `state` has no bias of its own, since it would only add to the one of `input`.
    """

    def __init__(self, spec: LSTM, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.input = nn.Linear(width, 4 * width)
        self.state = nn.Linear(width, 4 * width, bias=False)
        mogrifier = spec.mogrifier
        self.gates = nn.ModuleList(
            [] if mogrifier is None else [Gate(mogrifier, width) for _ in range(mogrifier.rounds)]
        )

    @torch.no_grad()
    def start(self) -> None:
        """What the layer adds to initialisation: it begins by remembering (Gers et al. 2000)."""
        self.input.bias.chunk(4)[1].fill_(1.0)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the compiler would unroll the loop
    def forward(self, x_BTD: Tensor, restarts: Restarts, h_BD: Tensor, c_BD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs of all steps, and the state and memory behind the last; no gradient reaches the given ones."""
        keep_BD = None
        if self.training and self.spec.state_dropout:
            keep_BD = F.dropout(torch.ones_like(h_BD), self.spec.state_dropout)
        x_TBD, start = x_BTD.transpose(0, 1), (h_BD, c_BD, keep_BD)
        if torch.is_grad_enabled():
            h_TBD, c_BD = _Loop.apply(self, restarts, start, x_TBD, *self.parameters())
        else:
            h_TBD, c_BD, _ = self.steps(restarts, start, x_TBD, taped=False)
        return h_TBD.transpose(0, 1), h_TBD[-1].detach(), c_BD

    def steps(self, restarts: Restarts, start: Start, x_TBD: Tensor, taped: bool) -> tuple[Tensor, Tensor, list[_Tape]]:
        """The loop itself, without gradients: outputs of all steps, the last memory and, on request, a tape."""
        h_BD, c_BD, keep_BD = start
        dtype, D = x_TBD.dtype, x_TBD.shape[-1]
        input_TBG = None if len(self.gates) else self.input(x_TBD)  # all steps at once
        outputs, tape = [], []
        for step, x_BD in enumerate(x_TBD.unbind()):
            h_BD, before_BD = restarts(step, h_BD), restarts(step, c_BD)
            values = [at_least_float32(x_BD), h_BD if keep_BD is None else h_BD * keep_BD]
            factors, inner = [], []
            for gate in self.gates:
                between, factor_BD = gate(values[-1].to(dtype))
                inner.append(between)
                factors.append(factor_BD)
                values.append(factor_BD * values[-2])
            last_x, last_h = _last(values)
            input_BG = self.input(last_x.to(dtype)) if input_TBG is None else input_TBG[step]
            gates_BG = at_least_float32(input_BG) + self.state(last_h.to(dtype))
            gates_BG[:, : 2 * D].sigmoid_()
            gates_BG[:, 2 * D : 3 * D].tanh_()
            gates_BG[:, 3 * D :].sigmoid_()
            i, f, g, o = gates_BG.chunk(4, dim=-1)
            c_BD = torch.addcmul(f * before_BD, torch.minimum(i, 1 - f) if self.spec.cap_input_gate else i, g)
            tanh_BD = c_BD.tanh()
            h_BD = o * tanh_BD
            outputs.append(h_BD)
            if taped:
                tape.append(_Tape(values[1:], factors, inner, gates_BG, before_BD, tanh_BD))
        return torch.stack(outputs), c_BD, tape


def _last(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The newest input and the newest state of x, h, x, h, ..."""
    return (values[-2], values[-1]) if len(values) % 2 == 0 else (values[-1], values[-2])


@dataclass(frozen=True)
class _Tape:
    """What backward needs of a step (B, ...) or, stacked, of all steps (T, B, ...).

    Attributes:
        values: the state that was read, then what each round made, input and state in turn.
        factors, inner: of each round, the factors and what stood before its last matrix.
        gates: i, f, g, o behind sigmoid or tanh.
        before: the memory that was read.
        tanh: of the memory that was written.
    """

    values: Sequence[Tensor]
    factors: Sequence[Tensor]
    inner: Sequence[Tensor]
    gates: Tensor
    before: Tensor
    tanh: Tensor

    def tensors(self) -> list[Tensor]:
        return [*self.values, *self.factors, *self.inner, self.gates, self.before, self.tanh]

    @classmethod
    def of(cls, tensors: Sequence[Tensor], rounds: int) -> _Tape:
        """From what `tensors` gave."""
        first, second = 1 + rounds, 1 + 2 * rounds
        return cls(tensors[:first], tensors[first:second], tensors[second:-3], *tensors[-3:])


class _Loop(torch.autograd.Function):
    """`LSTMLayer.steps` with gradients for the inputs and for the layer's parameters."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, layer: LSTMLayer, restarts: Restarts, start: Start, x_TBD: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        h_TBD, c_BD, tape = layer.steps(restarts, start, x_TBD, taped=True)
        ctx.layer, ctx.restarts, ctx.keep_BD = layer, restarts, start[2]
        columns = zip(*(step.tensors() for step in tape), strict=True)
        ctx.save_for_backward(*parameters, x_TBD, *(torch.stack(column) for column in columns))
        ctx.mark_non_differentiable(c_BD)
        return h_TBD, c_BD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        names = [name for name, _ in ctx.layer.named_parameters()]
        saved = ctx.saved_tensors
        weights, x_TBD = dict(zip(names, saved, strict=False)), saved[len(names)]
        rounds, capped = len(ctx.layer.gates), ctx.layer.spec.cap_input_gate
        tape = _Tape.of(saved[len(names) + 1 :], rounds)
        dx_TBD, gave = _walk_back(weights, tape, x_TBD, capped, ctx.restarts, ctx.keep_BD, gradients[0])
        dtype, found = x_TBD.dtype, {}
        for name, read_TBI in _read(tape, x_TBD).items():
            if f"{name}.weight" not in weights:  # a gate of full rank has no `down`
                continue
            dout_TBO = gave[name]
            found[f"{name}.weight"] = dout_TBO.flatten(0, 1).t().to(dtype) @ read_TBI.flatten(0, 1).to(dtype)
            found[f"{name}.bias"] = at_least_float32(dout_TBO).sum((0, 1)).to(dtype)
        return None, None, None, dx_TBD.to(dtype), *(found[name] for name in names)


def _read(tape: _Tape, x_TBD: Tensor) -> dict[str, Tensor]:
    """What each linear map of the layer read at all steps, by the map's name."""
    values = [x_TBD, *tape.values]
    last_x, last_h = _last(values)
    found = {"input": last_x, "state": last_h}
    for number, inner in enumerate(tape.inner):
        found |= {f"gates.{number}.up": inner, f"gates.{number}.down": values[number + 1]}
    return found


def _slopes(tape: _Tape, capped: bool) -> tuple[Tensor, Tensor]:
    """At all steps, (T, B, 4, D): the factors from the memory's gradient to those of the sums of i, f and g, and from
    the output's gradient to that of o; (T, B, D): from the output's gradient to the memory's."""
    i, f, g, o = tape.gates.chunk(4, dim=-1)
    toward_i, toward_f, entering = g, tape.before, i
    if capped:
        over = i > 1 - f
        toward_i, toward_f = g.masked_fill(over, 0.0), torch.where(over, tape.before - g, tape.before)
        entering = torch.minimum(i, 1 - f)
    slopes = [toward_i * (i * (1 - i)), toward_f * (f * (1 - f)), entering * (1 - g * g), tape.tanh * (o * (1 - o))]
    return torch.stack(slopes, dim=2), o * (1 - tape.tanh.square())


def _walk_back(
    weights: Mapping[str, Tensor],
    tape: _Tape,
    x_TBD: Tensor,
    capped: bool,
    restarts: Restarts,
    keep_BD: Tensor | None,
    dh_TBD: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """From the last step to the first: gradients of the inputs, and of what each linear map gave, by the map's name."""
    dtype = x_TBD.dtype
    slopes_TBGD, through_TBD = _slopes(tape, capped)
    forget_TBD = tape.gates.chunk(4, dim=-1)[1]
    # Of a round's value: its gradient to that of the value before it, and to that of the sum in its gate's sigmoid.
    rounds = [
        (factor, value * factor * (1 - factor / 2))
        for factor, value in zip(tape.factors, [x_TBD, *tape.values], strict=False)
    ]
    dgates_TBGD = torch.empty_like(slopes_TBGD)
    gave: dict[str, list[Tensor]] = defaultdict(list)
    dx: list[Tensor] = []
    dh_BD, dc_BD = torch.zeros_like(through_TBD[0]), torch.zeros_like(through_TBD[0])
    for step in range(len(x_TBD) - 1, -1, -1):
        dh_BD = dh_BD + dh_TBD[step]
        dc_BD = torch.addcmul(dc_BD, dh_BD, through_TBD[step])
        torch.mul(slopes_TBGD[step, :, :3], dc_BD[:, None], out=dgates_TBGD[step, :, :3])
        torch.mul(slopes_TBGD[step, :, 3], dh_BD, out=dgates_TBGD[step, :, 3])
        dgates_BG = dgates_TBGD[step].flatten(1).to(dtype)
        dh_BD = at_least_float32(dgates_BG @ weights["state.weight"])
        if rounds:
            dx_BD = at_least_float32(dgates_BG @ weights["input.weight"])
            at_step = [(factor_TBD[step], slope_TBD[step]) for factor_TBD, slope_TBD in rounds]
            dx_BD, dh_BD = _rounds_back(weights, at_step, dx_BD, dh_BD, gave, dtype)
            dx.append(dx_BD)
        dh_BD = restarts(step, dh_BD if keep_BD is None else dh_BD * keep_BD)
        dc_BD = restarts(step, dc_BD * forget_TBD[step])
    dgates_TBG = dgates_TBGD.flatten(2)
    dx_TBD = torch.stack(dx[::-1]) if dx else dgates_TBG.to(dtype) @ weights["input.weight"]
    outputs = {name: torch.stack(steps[::-1]) for name, steps in gave.items()}
    return dx_TBD, {"input": dgates_TBG, "state": dgates_TBG, **outputs}


def _rounds_back(
    weights: Mapping[str, Tensor],
    rounds: Sequence[tuple[Tensor, Tensor]],
    dx_BD: Tensor,
    dh_BD: Tensor,
    gave: dict[str, list[Tensor]],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Gradients of the input and the state of one step, from those of what its rounds made of them."""
    older, newer = (dx_BD, dh_BD) if len(rounds) % 2 == 0 else (dh_BD, dx_BD)
    for number, (factor_BD, slope_BD) in reversed(list(enumerate(rounds))):
        dsum_BD = (newer * slope_BD).to(dtype)
        gave[f"gates.{number}.up"].append(dsum_BD)
        dsource = dsum_BD @ weights[f"gates.{number}.up.weight"]
        if f"gates.{number}.down.weight" in weights:
            gave[f"gates.{number}.down"].append(dsource)
            dsource = dsource @ weights[f"gates.{number}.down.weight"]
        older, newer = newer * factor_BD, older + dsource
    return older, newer


class RecurrentStack(nn.Module):
    """Layers one after the other; the output is the last one's, or with `skip` the sum of all.

    `recompute` is as in `StackLayer`.

    Args:
        dropout, between: fractions dropped from what the first layer reads and from what the others read.
    """

    def __init__(self, layer: LSTM, width: int, depth: int, skip: bool, dropout: float, between: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LSTMLayer(layer, width) for _ in range(depth))
        self.skip = skip
        self.dropout, self.between = nn.Dropout(dropout), nn.Dropout(between)
        self.recompute = False

    def start(self) -> None:
        """What layers and gates add to initialisation."""
        for module in self.modules():
            if isinstance(module, LSTMLayer | Gate):
                module.start()

    def forward(self, x_BTD: Tensor, positions_BT: Tensor, cache: RecurrentCache | None = None) -> Tensor:
        """(B, T, D) in the weights' format to (B, T, D) in float32. With a cache, the rows go on behind it."""
        dtype = x_BTD.dtype
        restarts = Restarts(positions_BT, fresh=cache is None or cache.length == 0)
        zeros_BD = torch.zeros_like(x_BTD[:, 0], dtype=torch.float32)
        outputs_BTD: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            x_BTD = self.dropout(x_BTD) if number == 0 else self.between(x_BTD)
            h_BD, c_BD = (
                (zeros_BD, zeros_BD) if cache is None else (cache.states_LBD[number], cache.memories_LBD[number])
            )
            if self.recompute and torch.is_grad_enabled():
                out_BTD, h_BD, c_BD = checkpoint(layer, x_BTD, restarts, h_BD, c_BD, use_reentrant=False)
            else:
                out_BTD, h_BD, c_BD = layer(x_BTD, restarts, h_BD, c_BD)
            if cache is not None:
                cache.states_LBD[number], cache.memories_LBD[number] = h_BD, c_BD
            outputs_BTD.append(out_BTD)
            x_BTD = out_BTD.to(dtype)
        if cache is not None:
            cache.length += x_BTD.shape[1]
        return reduce(torch.add, outputs_BTD) if self.skip else outputs_BTD[-1]
