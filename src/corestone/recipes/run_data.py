"""What a run needs of its data, whatever it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from corestone.core.protocols import Evaluator, Loader
from corestone.core.vocabulary import Vocabulary
from corestone.parallel.collectives import World
from corestone.plan.ending import Ending
from corestone.recipes.spec import Run


class EpochLoader(Loader, Protocol):
    """A loader that knows the length of a pass.

    Attributes:
        epoch_units: tokens or pictures of one pass over the training set.
    """

    @property
    def epoch_units(self) -> int: ...

    def close(self) -> None: ...


class RunData(Protocol):
    """A run's prepared data, opened.

    Attributes:
        unit: in what the run counts what it has seen: "tokens" or "pictures".
        more_is_better: of the first figure that `held_out` gives.
        vocabulary: what objectives know of the tokens; None where there are none.
    """

    unit: str
    more_is_better: bool

    @property
    def vocabulary(self) -> Vocabulary | None: ...

    def check(self, model: Any) -> None:
        """Raise SpecError for a model that cannot read this data."""
        ...

    def batch(self, run: Run) -> tuple[int, int]:
        """Rows and units of a step over all ranks."""
        ...

    def row_tokens(self) -> int:
        """Tokens of a row, by which an objective counts its operations; 1 where there are none."""
        ...

    def loader(self, run: Run, rows: int, world: World) -> EpochLoader: ...

    def files(self) -> Mapping[str, str]:
        """What travels with each checkpoint, so that the model can be used without the data."""
        ...

    def described(self) -> list[dict[str, Any]]:
        """Of each set its card and its manifest, for the report."""
        ...

    def summary(self) -> str:
        """One line about the training side."""
        ...

    def held_out(self, run: Run, objective: Any) -> Evaluator:
        """The scorer used while training."""
        ...

    def held_out_units(self, run: Run, objective: Any) -> int:
        """Tokens or pictures that it scores."""
        ...

    def ending(self, run: Run, objective: Any) -> Ending:
        """What the evaluation at the end of the run has to do."""
        ...

    def samples(self, run: Run, model: Any) -> Sequence[tuple[str, str]]:
        """What the model makes of the recipe's prompts; none where it makes nothing."""
        ...
