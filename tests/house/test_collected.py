"""No test gets lost: a folder's number of collected tests is what its reviewed line says.

`python tests/house/test_collected.py` writes the lines anew.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT = Path(__file__).with_name("collected.txt")


def collected() -> str:
    """Tests by folder, with all their parameters, slow ones and parity with reference libraries too.

    Those of the house itself follow the number of files, so they are left out.
    """
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-m", "slow or not slow", "tests"]
    done = subprocess.run([*command, "-o", "addopts="], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    counts: Counter[str] = Counter()
    for line in done.stdout.splitlines():
        if line.startswith("tests/") and ": " in line:  # tests/core/test_spec.py: 12
            path, _, number = line.rpartition(": ")
            counts[path.split("/")[1]] += int(number)
    return "".join(f"{folder} {number}\n" for folder, number in sorted(counts.items()) if folder != "house")


def test_the_number_of_tests():
    assert collected() == KEPT.read_text(encoding="utf-8"), f"python {Path(__file__).relative_to(ROOT)}"


if __name__ == "__main__":
    KEPT.write_text(collected(), encoding="utf-8")
