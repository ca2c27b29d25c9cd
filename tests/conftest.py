"""Every test begins with the same random numbers, whatever ran before it."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:  # some tests watch that torch stays unloaded
        sys.modules["torch"].manual_seed(0)
