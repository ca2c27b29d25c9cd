"""Recipes that may be compared: the same data, tokens per step and length. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from corestone.core.errors import SpecError
from corestone.core.spec import differing, plain
from corestone.recipes.catalogue import RECIPES, find_recipe
from corestone.recipes.language.shakespeare import shakespeare
from corestone.recipes.spec import Run


@dataclass(frozen=True)
class Contender:
    """A recipe as it was named, the overrides on it, and what both resolve to."""

    recipe: str
    assignments: tuple[str, ...]
    run: Run

    @property
    def folder(self) -> str:
        """Its folder's name."""
        return self.run.name.replace("/", "-")


def contenders(recipes: Sequence[str], assignments: Sequence[str]) -> list[Contender]:
    """Resolve recipes with the same overrides; none named: the shipped ones of the main job's budget.

    Raises SpecError where a recipe cannot be read, two have one name, or their budgets differ.
    """
    found = [Contender(name, tuple(assignments), find_recipe(name, [*assignments])) for name in recipes or shoot_out()]
    for place, contender in enumerate(found):
        twin = next((other for other in found[:place] if other.folder == contender.folder), None)
        if twin is not None:
            raise SpecError(
                f"compare: {twin.recipe} and {contender.recipe} both give a run named '{contender.run.name}'; "
                "set another `name` in one recipe file"
            )
        paths = differing(budget(found[0].run), budget(contender.run), "")
        if paths:
            raise SpecError(
                f"compare: {found[0].recipe} and {contender.recipe} have different budgets (they differ in "
                f"{', '.join(path[1:] for path in paths[:5])}); set them alike for all with path=value"
            )
    return found


def budget(run: Run) -> dict[str, Any]:
    """What a run may learn from: data (with tokenizer and context), tokens per step, length."""
    training = plain(run.training)
    return {
        "data": plain(run.data),
        "training": {key: training[key] for key in ("batch_tokens", "batch_examples", "length")},
    }


def shoot_out() -> list[str]:
    """Every shipped recipe with the main job's budget and objective."""
    main, shipped = shakespeare(), {name: build() for name, build in RECIPES.items()}
    return [n for n, run in shipped.items() if run.objective == main.objective and budget(run) == budget(main)]
