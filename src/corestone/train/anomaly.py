"""Is a step's loss to be trusted?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from corestone.train.spec import Anomaly


def verdict(spec: Anomaly, recent: Sequence[float], loss: float, grad_norm: float) -> str | None:
    """Say in words what is wrong with a step, or None.

    Args:
        recent: losses of the trusted steps before, nats per token.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(grad_norm):
        return f"the gradient norm is {grad_norm}"
    if spec.spike_deviations is None or len(recent) < spec.window:
        return None
    mean = statistics.fmean(recent)
    spread = max(statistics.pstdev(recent), 0.01 * abs(mean))
    if loss > mean + spec.spike_deviations * spread:
        return f"the loss leapt to {loss:.4g} from a mean of {mean:.4g} over {len(recent)} steps"
    return None
