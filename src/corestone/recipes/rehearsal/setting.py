"""What the stages of a rehearsal share: the recipe at toy width, its folders, and how it is trained by processes."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from corestone.core.errors import CorestoneError
from corestone.core.spec import to_yaml
from corestone.recipes.checks.children import ended, start_ranks
from corestone.recipes.rehearsal.process import TRAIN
from corestone.recipes.rehearsal.stand_in import Instead
from corestone.recipes.spec import Run

SAID = "processes.log"
"""What the processes said, in the rehearsal's folder."""
_ERROR = re.compile(
    r"^(?:\[rank\d+\]: *)?(?:[\w.]+\.)?(\w+(?:Error|Exception|Interrupted|Disagreement): .*)$", re.MULTILINE
)


@dataclass(frozen=True)
class Setting:
    """A rehearsal.

    Attributes:
        recipe, assignments: what a process of its own finds the recipe by.
        processes: that stand for devices; other: another number of them, which divides a batch too.
        instead: what is read in the place of each source of the recipe; None: the source itself.
        run: at toy width.
        folder: of the run that is killed and resumed; scratch: for whatever else is to be written.
    """

    recipe: str
    assignments: tuple[str, ...]
    processes: int
    other: int
    instead: tuple[Instead | None, ...]
    run: Run
    folder: Path
    scratch: Path

    @property
    def whole(self) -> Path:
        """Where the run that nobody kills is."""
        return self.scratch / "whole"

    @property
    def middle(self) -> Path:
        """Where a copy of the checkpoint is with which the killed run goes on."""
        return self.scratch / "middle"

    def begin(self, folder: Path, run: Run) -> None:
        """Make the folder of a run that has not begun."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.yaml").write_text(to_yaml(run), encoding="utf-8")

    def start(self, folder: Path, processes: int, alike: bool = False) -> list[subprocess.Popen[bytes]]:
        """Processes that train in a folder, from its newest whole checkpoint on."""
        told = {
            "recipe": self.recipe,
            "assignments": self.assignments,
            "folder": folder,
            "processes": self.processes,
            "instead": self.instead,
            "precision": self.run.training.precision,
            "alike": alike,
        }
        with (self.folder / SAID).open("ab") as said:
            return start_ranks(TRAIN, told, processes, said)

    def train(self, folder: Path, processes: int, alike: bool = False) -> None:
        """Train in a folder to the end. Raises CorestoneError, with what was said, where a process fails."""
        before = self.said_bytes()
        codes = ended(self.start(folder, processes, alike))
        if any(codes):
            raise CorestoneError(f"{processes} processes ended with exit codes {codes}: {self.error(before)}")

    def said_bytes(self) -> int:
        """Bytes of what processes have said so far."""
        return (self.folder / SAID).stat().st_size if (self.folder / SAID).exists() else 0

    def error(self, before: int) -> str:
        """What processes said went wrong, behind so many bytes of what all have said."""
        said = (self.folder / SAID).read_bytes()[before:].decode("utf-8", "replace")
        found = _ERROR.findall(said)
        own = [line for line in found if "gloo" not in line.lower()]  # the others only say that one is gone
        return next(iter(own or found), f"they said nothing that names an error; see {self.folder / SAID}")


Verdict = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Outcome:
    """What came of a stage.

    Attributes:
        ran: what was done.
        shown: what it showed.
        reason: why it failed or was skipped.
    """

    verdict: Verdict
    ran: str = ""
    shown: str = ""
    reason: str = ""


def passed(ran: str, shown: str) -> Outcome:
    """All was as it should be."""
    return Outcome("passed", ran, shown)


def failed(ran: str, reason: str, shown: str = "") -> Outcome:
    """Something was not."""
    return Outcome("failed", ran, shown, reason)


def skipped(reason: str) -> Outcome:
    """It does not apply to this recipe, or could not be tried."""
    return Outcome("skipped", reason=reason)


def told(processes: int) -> str:
    """A number of processes in words."""
    return "1 process" if processes == 1 else f"{processes} processes over gloo"
