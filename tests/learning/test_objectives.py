"""Every objective teaches: two minutes of a small recipe beat what guessing reaches on the same questions.

The vocabulary is cut to 1,024 so that two minutes hold enough examples of each token; recipes as shipped are larger and
take longer.
"""

from __future__ import annotations

import json
import math

import pytest

from corestone.core.spec import override
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.pretrain import pretrain

COMMON = ["samples.prompts=[]", "rhythm.evaluate=10000 steps", "rhythm.checkpoint=10000 steps"]


def figures(name: str, changes: list[str], folder) -> dict[str, float]:
    """Train a recipe; its held-out figures and the floors of guessing, by name."""
    pretrain(override(find_recipe(name, []), [*COMMON, *changes]), folder)
    found = json.loads((folder / "evaluation.json").read_text())
    return {metric["name"]: metric["value"] for part in ("model", "floors") for metric in found[part]}
