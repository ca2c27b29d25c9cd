"""Records of the optimiser axis."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from corestone.core.spec import Spec
from corestone.core.units import Duration, duration


class Rule(Spec):
    """Settings of the parameters whose name matches one of the glob patterns.

    Attributes:
        lr_scale: multiplies the learning rate.
    """

    match: tuple[str, ...] = Field(min_length=1)
    weight_decay: float = Field(default=0.0, ge=0)
    lr_scale: float = Field(default=1.0, ge=0)


class AdamW(Spec):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), on float32 weights.

    Attributes:
        weight_decay: of matrices and tables; gains and biases, which have one axis, do not decay (Brown et al. 2020,
            appendix B; nanoGPT's practice). Only where there are no rules.
        rules: settings by name, each parameter claimed by exactly one; None: the above.
    """

    kind: Literal["adamw"] = "adamw"
    learning_rate: float = Field(gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    rules: tuple[Rule, ...] | None = None


class Adafactor(Spec):
    """Steps as large as the weights they change, from second moments kept per row and column (Shazeer and Stern 2018).

    Attributes:
        beta1: decay of the mean of past steps, PaLM's (Chowdhery et al. 2022, section 5); None keeps none.
        factored: False keeps second moments of every weight (PaLM).
        squared_decay: each step also shrinks all weights by the square of the learning rate (PaLM).
    """

    kind: Literal["adafactor"] = "adafactor"
    learning_rate: float = Field(gt=0)
    beta1: float | None = Field(default=None, ge=0, lt=1)
    factored: bool = True
    squared_decay: bool = False


Optimiser = Annotated[AdamW | Adafactor, Field(discriminator="kind")]


class Constant(Spec):
    """Warm-up, then the full learning rate."""

    kind: Literal["constant"] = "constant"
    warmup: Duration = duration("0 steps")


class Cosine(Spec):
    """Warm-up, then half a cosine down to `final` of the full learning rate (Loshchilov and Hutter 2017).

    Attributes:
        until: where it reaches `final`, counted from the start; the rate stays there (GPT-3, GPT-J), or the run ends
            before (BLOOM). None: the end of the run.
    """

    kind: Literal["cosine"] = "cosine"
    warmup: Duration = duration("0 steps")
    until: Duration | None = None
    final: float = Field(default=0.1, ge=0, le=1)


class Linear(Spec):
    """Warm-up, then a straight line down to `final` of the full learning rate."""

    kind: Literal["linear"] = "linear"
    warmup: Duration = duration("0 steps")
    final: float = Field(default=0.0, ge=0, le=1)


class InverseSquareRoot(Spec):
    """The full learning rate for a while, then as 1/sqrt(step) (Raffel et al. 2020, section 3.1.2)."""

    kind: Literal["inverse_square_root"] = "inverse_square_root"
    warmup: Duration = duration("0 steps")
    flat: Duration


class WarmupStableDecay(Spec):
    """Warm-up, the full learning rate, then a line down to `final` over `decay` (Hu et al. 2024, section 4)."""

    kind: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    warmup: Duration = duration("0 steps")
    decay: Duration
    final: float = Field(default=0.0, ge=0, le=1)


Schedule = Annotated[Constant | Cosine | Linear | InverseSquareRoot | WarmupStableDecay, Field(discriminator="kind")]
