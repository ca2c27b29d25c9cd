"""Records of the optimiser axis."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from corestone.core.spec import Spec
from corestone.core.units import Duration, duration


class Rule(Spec):
    """Settings of the parameters whose name matches one of the glob patterns.

    Attributes:
        decay_vectors: False spares parameters with one axis, gains and biases, from the decay.
        lr_scale: multiplies the learning rate.
        frozen: they keep their values, get no gradient and cost no state; a module of nothing else computes as in
            evaluation, without dropout and by the running statistics of its batch norms.
    """

    match: tuple[str, ...] = Field(min_length=1)
    weight_decay: float = Field(default=0.0, ge=0)
    decay_vectors: bool = True
    lr_scale: float = Field(default=1.0, ge=0)
    frozen: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Rule:
        if self.frozen and (self.weight_decay or self.lr_scale != 1):
            raise ValueError("frozen=true leaves nothing to decay or to scale; leave weight_decay and lr_scale out")
        return self


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
        beta2: decay of the second moments, with Adam's correction for their start at zero (CoCa, Yu et al. 2022:
            0.999); None: 1 - t^-0.8 at step t.
        squared_decay: each step also shrinks all weights by the square of the learning rate (PaLM).
        weight_decay: decoupled, of matrices and tables (CoCa: 0.01). Only where there are no rules.
        rules: as AdamW's.
    """

    kind: Literal["adafactor"] = "adafactor"
    learning_rate: float = Field(gt=0)
    beta1: float | None = Field(default=None, ge=0, lt=1)
    beta2: float | None = Field(default=None, ge=0, lt=1)
    factored: bool = True
    squared_decay: bool = False
    weight_decay: float = Field(default=0.0, ge=0)
    rules: tuple[Rule, ...] | None = None


class Lion(Spec):
    """Steps along the sign of a mean of gradients, with decoupled weight decay (Chen et al. 2023, algorithm 2).

    Every value moves by the learning rate, so that is 3 to 10 times smaller than AdamW's, and the decay as much larger
    (section 5). The paper trains language models with betas of 0.95 and 0.98.

    Attributes:
        weight_decay, rules: as AdamW's.
    """

    kind: Literal["lion"] = "lion"
    learning_rate: float = Field(gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    rules: tuple[Rule, ...] | None = None


class SGD(Spec):
    """Stochastic gradient descent with momentum (fine-tuning of Dosovitskiy et al. 2021, appendix B.1.1).

    Attributes:
        weight_decay: is not decoupled: it is added to the gradient (L2), and so enters the momentum, as in the vision
            papers. Of matrices and tables, only where there are no rules.
        rules: as AdamW's.
    """

    kind: Literal["sgd"] = "sgd"
    learning_rate: float = Field(gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    rules: tuple[Rule, ...] | None = None


class LAMB(Spec):
    """Adam's step made as long as the parameter's norm, for very large batches (You et al. 2020, algorithm 2).

    Attributes:
        weight_decay: part of the step that is measured. Parameters without decay take Adam's step unmeasured, as in the
            authors' code. Of matrices and tables, only where there are no rules.
        rules: as AdamW's.
    """

    kind: Literal["lamb"] = "lamb"
    learning_rate: float = Field(gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: float = Field(default=1e-6, gt=0)
    weight_decay: float = Field(default=0.01, gt=0)
    rules: tuple[Rule, ...] | None = None


Optimiser = Annotated[AdamW | Adafactor | Lion | SGD | LAMB, Field(discriminator="kind")]


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


class ExponentialRise(Spec):
    """From `initial` of the full learning rate at the first step to all of it at the last, by one factor each step.

    It is made to find a rate, not to train by: the range test of Smith 2017 (Cyclical learning rates, section 3.3), who
    raises the rate along a line, where this one spends as many steps on each power of ten.
    """

    kind: Literal["exponential_rise"] = "exponential_rise"
    initial: float = Field(gt=0, lt=1)


Schedule = Annotated[
    Constant | Cosine | Linear | InverseSquareRoot | WarmupStableDecay | ExponentialRise, Field(discriminator="kind")
]
