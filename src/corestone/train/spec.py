"""Records of how long, how large and how carefully to train."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from corestone.core.spec import Spec
from corestone.core.units import Duration, duration


class Anomaly(Spec):
    """What to do when a loss or gradient is not finite, or a loss leaps.

    A loss leaps when it exceeds the mean of the last `window` steps by `spike_deviations` standard deviations (of at
    least 1 % of the mean); None watches for non-finite values alone.

    Attributes:
        policy: "stop" ends the run with an error; "skip" makes no update from that batch; "roll_back" returns to the
            last checkpoint and makes no update from that batch when it comes again (Chowdhery et al. 2022,
            section 5.1).
        most: after this many anomalies the run stops whatever the policy.
    """

    policy: Literal["stop", "skip", "roll_back"] = "stop"
    spike_deviations: float | None = Field(default=None, gt=0)
    window: int = Field(default=50, ge=10)
    most: int = Field(default=10, ge=1)


class Average(Spec):
    """An exponential average of the weights, which is what the run is scored by and gives away.

    Attributes:
        decay: weight of the average in a step's update.
        ramp: step n decays by (1 + n) / (10 + n) where that is less, so that a short run forgets its start.
    """

    decay: float = Field(default=0.9999, ge=0, lt=1)
    ramp: bool = False


class NoiseScale(Spec):
    """Measure the gradient's noise scale, which predicts the critical batch size (McCandlish et al. 2018).

    Attributes:
        decay: of the running means of signal and noise, per step; 0.99 averages over about a hundred.
    """

    decay: float = Field(default=0.99, ge=0, lt=1)


class Training(Spec):
    """The loop's own settings.

    Attributes:
        length: of the whole run.
        batch_tokens: tokens per optimiser step over all ranks, of text; a multiple of the context length.
        batch_examples: pictures per optimiser step over all ranks. One of the two is given.
        micro_batch: samples per forward pass on one rank; None takes a rank's whole share at once. How many passes
            make a step follows from it.
        precision: format of the arithmetic; master weights are float32 always.
        recompute: drop activations and compute them again in backward.
        compile: torch.compile every way by which the objective enters the model; off by default, since it gains little
            on CPU and costs start-up time.
        clip_norm: largest global gradient norm; None does not clip.
        anomaly: what to do about losses that are not finite or leap.
        average: of the weights; None: the run gives the last ones.
        noise_scale: measured from the gradients of one micro-batch and of the whole step, so a step needs several
            micro-batches or ranks; None: it is not.
    """

    length: Duration
    batch_tokens: int | None = Field(default=None, ge=1)
    batch_examples: int | None = Field(default=None, ge=1)
    micro_batch: int | None = Field(default=None, ge=1)
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    recompute: bool = False
    compile: bool = False
    clip_norm: float | None = Field(default=1.0, gt=0)
    anomaly: Anomaly = Anomaly()
    average: Average | None = None
    noise_scale: NoiseScale | None = None

    @model_validator(mode="after")
    def _one_size(self) -> Training:
        if (self.batch_tokens is None) == (self.batch_examples is None):
            raise ValueError("give batch_tokens (for text) or batch_examples (for pictures), and not both")
        return self


class Rhythm(Spec):
    """How often the run looks at itself. Everything also happens once at the end; None: only there.

    Attributes:
        keep_last: this many newest checkpoints are kept, and the best one by held-out loss.
    """

    log: Duration = duration("10 steps")
    evaluate: Duration | None = duration("200 steps")
    sample: Duration | None = duration("200 steps")
    checkpoint: Duration | None = duration("200 steps")
    keep_last: int = Field(default=2, ge=1)
