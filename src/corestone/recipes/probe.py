"""A few steps of a run in a process of its own: how long they take here, and how much memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from corestone.core.errors import CorestoneError
from corestone.core.spec import to_yaml
from corestone.parallel.allocator import TUNABLES
from corestone.plan.probed import Probed
from corestone.recipes.registry import MODELS, OBJECTIVES
from corestone.recipes.spec import Run

COMMAND = "from corestone.recipes.probe_process import main; main()"
FOUND = "found.json"
PATIENCE_SECONDS = 900
STEPS = (4, 100)
"""At least and at most so many are taken, the first, which is not timed, among them."""
SECONDS = 6.0
"""After which no more steps are begun, where the fewest are taken."""


def probe(run: Run, precision: str, seconds: float = SECONDS, peak: float | None = None) -> Probed:
    """Train some steps of a run on made-up data, on this machine's processor.

    Args:
        precision: the format that it computes in.
        seconds: that the steps may take, where these are more than the fewest.
        peak: FLOP/s of this machine's matrix products in that format; None: they are measured, too.

    Raises:
        SpecError: a kind of model or objective is the user's own. CorestoneError: the process failed or took too long;
            the message ends with what it said last.
    """
    for registry, spec in ((MODELS, run.model), (OBJECTIVES, run.objective)):
        registry.require_shipped(spec, "probe", "plan it without --probe")
    settings = {"CUDA_VISIBLE_DEVICES": "", "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", TUNABLES)}
    with tempfile.TemporaryDirectory(prefix="corestone-probe-") as name:
        folder = Path(name)
        (folder / "recipe.yaml").write_text(to_yaml(run), encoding="utf-8")
        try:
            done = subprocess.run(
                [
                    sys.executable,
                    "-c",
                    COMMAND,
                    str(folder),
                    precision,
                    str(seconds),
                    *([] if peak is None else [str(peak)]),
                ],
                env=os.environ | settings,
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise CorestoneError(
                f"probe: {run.name} took more than {PATIENCE_SECONDS} s for a few steps; plan it without --probe"
            ) from None
        if done.returncode or not (folder / FOUND).is_file():
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise CorestoneError(f"probe: {run.name} cannot be tried here ({last}); plan it without --probe")
        return Probed(**json.loads((folder / FOUND).read_text(encoding="utf-8")))
