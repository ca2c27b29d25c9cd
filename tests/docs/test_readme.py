"""The README's commands do what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def tour() -> list[str]:
    (block,) = re.findall(r"<!-- tour -->\n```\n(.*?)```", README, re.DOTALL)
    return block.strip().splitlines()


def test_the_tour_runs(tmp_path):
    for command in tour():
        words = shlex.split(command)
        assert words[0] == "corestone"
        done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, command + "\n" + done.stdout + done.stderr
    assert (tmp_path / "runs/tiny/report.html").is_file()


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_paths_named_in_the_documents_exist():
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text()
        for path in re.findall(r"`([a-z_]+/[A-Za-z_./-]*)`", text):
            if path.startswith(("runs/", "texts/", "exports/")):
                continue
            assert (ROOT / path).exists() or (ROOT / "src" / "corestone" / path).exists(), f"{name}: {path}"


def test_help_is_quick_to_import():
    """The promise behind `corestone --help`: no heavy library is loaded (timing is no test)."""
    code = "import corestone, sys; print(len([m for m in sys.modules if m.startswith(('torch', 'numpy', 'pydantic'))]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "0"
