"""The machine, the versions and the code state a run happened on: what a reader needs to judge or repeat it."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from corestone import __version__

PACKAGES = ("torch", "numpy", "tokenizers", "tiktoken", "safetensors", "pyarrow", "pydantic", "transformers", "triton")


def environment() -> dict[str, Any]:
    """Describe the machine, the versions, the git state of the working folder and the command.

    What cannot be found out is None. Torch is not imported: a GPU is described where torch is loaded already.

    Returns:
        A JSON tree: corestone, python, platform (text); machine: {cpu, cores (usable by this process), memory_bytes,
        gpu: [{name, memory_bytes}] or None where torch is not loaded}; packages: {name: version} of those installed;
        git: {commit, branch, modified} or None; command: as it could be typed again.
    """
    return {
        "corestone": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": {"cpu": _cpu(), "cores": _cores(), "memory_bytes": _memory(), "gpu": _gpus()},
        "packages": _packages(),
        "git": _git(Path.cwd()),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


_IMPORTED = time.time()


def began() -> float:
    """When this process began, in unix seconds to a hundredth; where the system does not say, when this was loaded."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        up = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _IMPORTED
    return time.time() - (up - ticks / os.sysconf("SC_CLK_TCK"))


IDLE_SECONDS = 60.0
"""A process that is older when a run is asked for did something else before: a notebook's, or one that waited."""


def began_for(asked: float) -> float:
    """When a run that was asked for at some time began, both in unix seconds: with its process, but where that had
    been there for more than a minute already, when it was asked for."""
    start = began()
    return asked if asked - start > IDLE_SECONDS else start


def _cpu() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    if sys.platform == "darwin":
        return _output(["sysctl", "-n", "machdep.cpu.brand_string"], Path.cwd())
    return platform.processor() or platform.machine() or None


def _cores() -> int | None:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory() -> int | None:
    if sys.platform == "win32":
        return None
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _gpus() -> list[dict[str, Any]] | None:
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    found = [torch.cuda.get_device_properties(index) for index in devices]
    return [{"name": device.name, "memory_bytes": device.total_memory} for device in found]


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git(folder: Path) -> dict[str, Any] | None:
    """Commit, branch and whether tracked files were changed; None outside a repository or without git."""
    commit = _output(["git", "rev-parse", "HEAD"], folder)
    if commit is None:
        return None
    # Untracked files do not count: a run folder inside the repository would make every run look changed.
    changed = _output(["git", "status", "--porcelain", "--untracked-files=no"], folder)
    branch = _output(["git", "rev-parse", "--abbrev-ref", "HEAD"], folder)
    return {"commit": commit, "branch": branch, "modified": None if changed is None else bool(changed)}


def _output(command: list[str], folder: Path) -> str | None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
