"""What a check found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["pass", "fail", "skipped"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        compared: what with what.
        worst: the largest difference; None where nothing was compared.
        tolerance: the largest that passes.
        note: why it was skipped, where it failed, or what else is worth knowing.
        details: further figures by name, for the certificate.
    """

    compared: str
    worst: float | None
    tolerance: float | None
    verdict: Verdict
    note: str = ""
    details: Mapping[str, float] = field(default_factory=dict)


def judged(
    compared: str, worst: float, tolerance: float, note: str = "", details: Mapping[str, float] | None = None
) -> Finding:
    """Passed where the worst difference is within the tolerance; one that is no number fails."""
    return Finding(compared, worst, tolerance, "pass" if worst <= tolerance else "fail", note, details or {})


def failed(compared: str, note: str) -> Finding:
    """Something was wrong that no difference tells."""
    return Finding(compared, None, None, "fail", note)


def skipped(why: str) -> Finding:
    """It means nothing for this recipe, or could not be looked at here."""
    return Finding("", None, None, "skipped", why)
