"""State-space models and the H3 layer made of them.

A state-space model maps a signal to another of the same length, each channel by itself:

    x_t = A x_(t-1) + B u_t        y_t = C x_t + D u_t        x before the first token is 0

so y is a causal convolution of u with the kernel D + CB, CAB, CA²B, ... A whole row is convolved by Fourier transforms
in O(T log T); in generation the recurrence itself takes the same time and memory for every token. Parameters and
arithmetic are float32 (or wider) in a low-precision model too: rounded to bfloat16, a step or a frequency is off by so
much that after a hundred tokens an oscillation says something else.

Shape letters: B batch, T tokens, L taps of a kernel, D channels, N values of a state, I and J coarse and fine steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corestone.nn.cache import H3State, KVCache
from corestone.nn.exact import Exact
from corestone.nn.lowered import Lowered
from corestone.nn.norm import at_least_float32
from corestone.nn.spec import H3

Seeded = Callable[[str], torch.Generator]
"""A generator for each parameter of a module, by its name there."""


def convolve(u_BDT: Tensor, kernel_DL: Tensor) -> Tensor:
    """Causal convolution per channel, `y_t = sum over l of kernel_l u_(t-l)`, by Fourier transforms."""
    y_BDT: Tensor = _Convolution.apply(u_BDT, kernel_DL[:, : u_BDT.shape[-1]])
    return y_BDT


class _Convolution(torch.autograd.Function):
    """Backward adds the kernel's gradient up over the batch before its one inverse transform, and stays real."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: torch.autograd.function.FunctionCtx, u_BDT: Tensor, kernel_DL: Tensor
    ) -> Tensor:
        T, L = u_BDT.shape[-1], kernel_DL.shape[-1]
        n = _transform_length(T + L - 1)  # so long that the end does not wrap around to the beginning
        u, kernel = torch.fft.rfft(u_BDT, n), torch.fft.rfft(kernel_DL, n)
        ctx.save_for_backward(u, kernel)
        ctx.sizes = n, T, L  # type: ignore[attr-defined]
        y_BDT: Tensor = torch.fft.irfft(u * kernel, n)[..., :T]
        return y_BDT

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        u, kernel = ctx.saved_tensors  # type: ignore[attr-defined]
        n, T, L = ctx.sizes  # type: ignore[attr-defined]
        dy = torch.fft.rfft(gradients[0], n)
        du_BDT = torch.fft.irfft(dy * kernel.conj(), n)[..., :T]
        return du_BDT, torch.fft.irfft((dy * u.conj()).sum(0), n)[..., :L]


def _transform_length(least: int) -> int:
    """The next length with small prime factors only, for which transforms are fast."""
    return min(odd << max(0, math.ceil(math.log2(least / odd))) for odd in (1, 3, 5, 9, 15))


class ShiftSSM(Exact):
    """The state is the last N inputs, each times an entry of B and the earlier ones moved on: A is a shift matrix.

    So y_t = sum over l < N of (sum over n of B_n C_(n+l)) u_(t-l) + D u_t (Fu et al. 2023, section 3.2).
    """

    def __init__(self, channels: int, state_dim: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.empty(channels, state_dim))  # B, (D, N)
        self.output = nn.Parameter(torch.empty(channels, state_dim))  # C, (D, N)
        self.skip = nn.Parameter(torch.empty(channels))  # D

    @torch.no_grad()
    def start(self, seeded: Seeded) -> None:
        """B reads into the first entry; C is uniform, like the taps of torch's convolution (the paper's code)."""
        bound = 1 / math.sqrt(self.output.shape[1])
        self.input.zero_()
        self.input[:, 0] = 1.0
        self.output.copy_(torch.empty(self.output.shape).uniform_(-bound, bound, generator=seeded("output")))
        self.skip.copy_(torch.empty(self.skip.shape).normal_(generator=seeded("skip")))

    def kernel(self) -> Tensor:
        """(D, N) taps, the skip included."""
        n = 2 * self.input.shape[1]
        spectrum = torch.fft.rfft(self.input, n).conj() * torch.fft.rfft(self.output, n)
        taps_DL = torch.fft.irfft(spectrum, n)[:, : n // 2]
        return torch.cat((taps_DL[:, :1] + self.skip[:, None], taps_DL[:, 1:]), dim=1)

    def state_behind(self, u_BDT: Tensor) -> Tensor:
        """The state (B, D, N) after the last token: entry n holds `sum over m <= n of B_m u_(T-1-(n-m))`."""
        N = self.input.shape[1]
        latest_BDN = F.pad(u_BDT[..., -N:].flip(-1), (0, max(0, N - u_BDT.shape[-1])))
        return convolve(latest_BDN, self.input)

    def step(self, state_BDN: Tensor, u_BD: Tensor) -> tuple[Tensor, Tensor]:
        """One token by recurrence: the new state and y (B, D)."""
        state_BDN = F.pad(state_BDN[..., :-1], (1, 0)) + self.input * u_BD[..., None]
        return state_BDN, (state_BDN * self.output).sum(-1) + self.skip * u_BD


class DiagonalSSM(Exact):
    """S4D: A is diagonal and complex; each of its N entries stands for its conjugate too (Gu, Gupta et al. 2022).

    A continuous system of its own time step per channel, made discrete by the bilinear rule:
    A' = (1 + dt A/2) / (1 - dt A/2), B' = dt B / (1 - dt A/2), y_t = 2 Re(C x_t) + D u_t. Complex parameters are stored
    as pairs of real values.
    """

    def __init__(self, channels: int, modes: int) -> None:
        super().__init__()
        self.log_dt = nn.Parameter(torch.empty(channels))  # (D,)
        self.log_decay = nn.Parameter(torch.empty(channels, modes))  # log of -Re A, (D, N)
        self.frequency = nn.Parameter(torch.empty(channels, modes))  # Im A, (D, N)
        self.input = nn.Parameter(torch.empty(channels, modes, 2))  # B
        self.output = nn.Parameter(torch.empty(channels, modes, 2))  # C
        self.skip = nn.Parameter(torch.empty(channels))  # D

    @torch.no_grad()
    def start(self, seeded: Seeded) -> None:
        """S4D-Lin: A_n = -1/2 + i pi n, B = 1, C complex normal, dt log-uniform from 0.001 to 0.1."""
        low, high = math.log(1e-3), math.log(1e-1)
        self.log_dt.copy_(torch.empty(self.log_dt.shape).uniform_(low, high, generator=seeded("log_dt")))
        self.log_decay.fill_(math.log(0.5))
        self.frequency.copy_(math.pi * torch.arange(self.frequency.shape[1]).expand(self.frequency.shape))
        self.input.copy_(torch.tensor([1.0, 0.0]).expand(self.input.shape))
        half = math.sqrt(0.5)  # of the variance is in either part
        self.output.copy_(torch.empty(self.output.shape).normal_(0, half, generator=seeded("output")))
        self.skip.copy_(torch.empty(self.skip.shape).normal_(generator=seeded("skip")))

    def discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        """log A', B' and C, complex (D, N).

        The logarithm is taken without forming A', whose distance from the unit circle float32 would round.
        """
        dt_D1 = self.log_dt.exp()[:, None]
        re, im = -dt_D1 / 2 * self.log_decay.exp(), dt_D1 / 2 * self.frequency
        size = (1 - re) ** 2 + im**2  # of the denominator, squared; the numerator's is 4 re more
        log_A = torch.complex(torch.log1p(4 * re / size) / 2, torch.atan2(2 * im, 1 - re**2 - im**2))
        B, C = torch.view_as_complex(self.input), torch.view_as_complex(self.output)
        return log_A, B * dt_D1 / torch.complex(1 - re, -im), C

    def kernel(self, tokens: int) -> Tensor:
        """(D, tokens) taps, the skip included.

        Tap J i + j holds A'^(J i) times A'^j of every mode: sqrt(tokens) powers of either kind are enough, and the sum
        over modes is a product of matrices.
        """
        log_A, B, C = self.discrete()
        coarse_DNI, fine_DNJ = self._powers(log_A, tokens)
        coarse_DNI = coarse_DNI * (2 * B * C)[..., None]
        left = torch.cat((coarse_DNI.real, -coarse_DNI.imag), dim=1)
        right = torch.cat((fine_DNJ.real, fine_DNJ.imag), dim=1)
        taps_DL = torch.bmm(left.transpose(1, 2), right).flatten(1)[:, :tokens]
        return torch.cat((taps_DL[:, :1] + self.skip[:, None], taps_DL[:, 1:]), dim=1)

    def _powers(self, log_A: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """A'^(J i) (D, N, I) and A'^j (D, N, J) with I J at least `tokens`."""
        J = math.isqrt(tokens - 1) + 1
        i, j = torch.arange(-(-tokens // J), device=log_A.device), torch.arange(J, device=log_A.device)
        re, im = log_A.real[..., None], log_A.imag[..., None]
        coarse_DNI, fine_DNJ = (torch.polar((re * steps).exp(), im * steps) for steps in (J * i, j))
        return coarse_DNI, fine_DNJ

    def state_behind(self, u_BDT: Tensor) -> Tensor:
        """The complex state (B, D, N) after the last token: `sum over l of A'^l B' u_(T-1-l)`."""
        log_A, B, _ = self.discrete()
        coarse_DNI, fine_DNJ = self._powers(log_A, u_BDT.shape[-1])
        sizes = coarse_DNI.shape[-1], fine_DNJ.shape[-1]
        back_BDL = F.pad(u_BDT.flip(-1), (0, math.prod(sizes) - u_BDT.shape[-1]))
        back_BDIJ = back_BDL.unflatten(-1, sizes).to(fine_DNJ.dtype)
        return B * torch.einsum("bdij,dnj,dni->bdn", back_BDIJ, fine_DNJ, coarse_DNI)

    def coefficients(self) -> tuple[Tensor, Tensor, Tensor]:
        """A', B' and C of the recurrence, complex (D, N)."""
        log_A, B, C = self.discrete()
        return torch.polar(log_A.real.exp(), log_A.imag), B, C

    def step(self, state_BDN: Tensor, u_BD: Tensor, coefficients: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """One token by recurrence: the new state and y (B, D)."""
        A, B, C = coefficients
        state_BDN = A * state_BDN + B * u_BD[..., None]
        return state_BDN, 2 * (C * state_BDN).sum(-1).real + self.skip * u_BD


class H3Layer(nn.Module):
    """`q * diagonal(shift(k) * v)` of (B, T, D) to (B, T, D) (Fu et al. 2023, section 3.2, heads of one channel).

    `qkv` holds the queries', keys' and values' maps, in that order. Each document is read from an empty state.
    """

    def __init__(self, spec: H3, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.shift = ShiftSSM(width, spec.state_dim)
        self.diagonal = DiagonalSSM(width, spec.state_dim // 2)
        self.out = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor, lowered: Lowered, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        made_BTC = self.qkv(x_BTD)
        if cache is not None and cache.length > 0:
            mixed_BTD = self._recur(made_BTC, lowered.positions_BT, cache.of(layer, H3State))
        else:
            mixed_BTD = self._convolve(made_BTC, lowered, None if cache is None else cache.of(layer, H3State))
        out: Tensor = self.out(mixed_BTD.to(x_BTD.dtype))
        return out

    def _convolve(self, made_BTC: Tensor, lowered: Lowered, state: H3State | None) -> Tensor:
        """Whole documents at once. A state is left as it is behind each row's last token."""
        B, T, C = made_BTC.shape
        shift_DL, diagonal_DL, documents = self.shift.kernel(), self.diagonal.kernel(T), lowered.documents
        mixed, read = [], []
        for part in [made_BTC] if documents is None else documents.split(made_BTC):
            q, k, v = at_least_float32(part).transpose(1, 2).chunk(3, dim=1)
            kv_BDT = convolve(k, shift_DL) * v
            mixed.append((q * convolve(kv_BDT, diagonal_DL)).transpose(1, 2))
            read.append(kv_BDT.transpose(1, 2))

        def whole(parts: list[Tensor]) -> Tensor:
            return parts[0] if documents is None else documents.join(parts, torch.Size((B, T, C // 3)))

        if state is not None:
            last_BT = torch.arange(T, device=made_BTC.device) >= T - 1 - lowered.positions_BT[:, -1:]
            k_BTD, kv_BTD = at_least_float32(made_BTC.chunk(3, dim=2)[1]), whole(read)
            k, kv = ((x * last_BT[..., None]).transpose(1, 2) for x in (k_BTD, kv_BTD))
            state.shift_BDN, state.diagonal_BDN = self.shift.state_behind(k), self.diagonal.state_behind(kv)
        return whole(mixed)

    def _recur(self, made_BTC: Tensor, positions_BT: Tensor, state: H3State) -> Tensor:
        """Token by token from the state, which moves on."""
        mixed = []
        if state.coefficients is None:  # the weights stay the same while a cache is in use
            state.coefficients = self.diagonal.coefficients()
        for t in range(made_BTC.shape[1]):
            q, k, v = at_least_float32(made_BTC[:, t]).chunk(3, dim=1)
            goes_on = (positions_BT[:, t] > 0)[:, None, None]
            state.shift_BDN, shifted = self.shift.step(state.shift_BDN * goes_on, k)
            state.diagonal_BDN, y = self.diagonal.step(state.diagonal_BDN * goes_on, shifted * v, state.coefficients)
            mixed.append(q * y)
        return torch.stack(mixed, dim=1)
