"""Checkpoints: complete or invisible.

A checkpoint is a folder of safetensors and text files with a manifest of their hashes. It is written under a temporary
name, flushed to disk and renamed, so a folder with a checkpoint's name is whole; should a disk damage it later, its
hashes tell. Nothing in it is a pickle.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from corestone.core.errors import CheckpointError
from corestone.core.format import si

MANIFEST = "manifest.json"
VERSION = 1
_NAME = re.compile(r"^step-(\d+)$")
_SPARE_BYTES = 16 << 20


def write_checkpoint(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], texts: Mapping[str, str]) -> None:
    """Write a checkpoint folder, or nothing.

    Args:
        folder: must not exist yet, or holds an older checkpoint of the same name, which is replaced.
        tensors: by file name (`.safetensors`), by tensor name.
        texts: by file name.

    Raises:
        CheckpointError: not enough room on the disk (noticed before the write), or the write failed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    needed = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
    needed += sum(len(text.encode()) for text in texts.values()) + _SPARE_BYTES
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise CheckpointError(
            f"{folder}: a checkpoint needs {si(needed, 'B')} and the disk has {si(free, 'B')} free; free some room "
            "and run the same command again to resume"
        )
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write_files(partial, tensors, texts)
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(partial, folder)
        _flush(folder.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        cause = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise CheckpointError(f"{folder}: the checkpoint could not be written ({cause})") from None


def _write_files(partial: Path, tensors: Mapping[str, Mapping[str, Tensor]], texts: Mapping[str, str]) -> None:
    partial.mkdir()
    for name, group in tensors.items():
        contiguous = {key: value.detach().cpu().contiguous() for key, value in group.items()}
        try:
            save_file(contiguous, partial / name)
        except SafetensorError as error:  # its I/O errors do not derive from OSError
            raise OSError(errno.ENOSPC if "space" in str(error).lower() else errno.EIO, str(error)) from None
    for name, text in texts.items():
        (partial / name).write_text(text, encoding="utf-8")
    files = {}
    for path in sorted(partial.iterdir()):
        files[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        _flush(path)
    manifest = partial / MANIFEST
    content = {"version": VERSION, "files": files, "sha256": _digest(files)}
    manifest.write_text(json.dumps(content, indent=1), encoding="utf-8")
    _flush(manifest)
    _flush(partial)


def _digest(files: Mapping[str, object]) -> str:
    """The manifest's own hash, so that a damaged list of files is noticed too."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None when every file has its size and hash."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        if manifest["version"] != VERSION:
            return f"is of version {manifest['version']}, this program reads version {VERSION}"
        if manifest["sha256"] != _digest(files):
            return f"has a damaged {MANIFEST}"
    except FileNotFoundError:
        return f"has no {MANIFEST}"
    except (ValueError, KeyError, TypeError, OSError):
        return f"has an unreadable {MANIFEST}"
    for name, facts in files.items():
        path = folder / name
        if not path.is_file():
            return f"lacks {name}"
        if path.stat().st_size != facts["bytes"]:
            return f"has {path.stat().st_size} of {facts['bytes']} bytes of {name}"
        if _sha256(path) != facts["sha256"]:
            return f"has a damaged {name} (its sha256 differs from the manifest's)"
    return None


def read_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Tensors of a safetensors file; CheckpointError where it cannot be read."""
    try:
        tensors: dict[str, Tensor] = load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    return tensors


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where a run's checkpoint of a step lies."""
    return run / "checkpoints" / f"step-{step:07d}"


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """All checkpoints of a run by their step, oldest first, whole or damaged."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    named = [(step_of(path), path) for path in folder.iterdir()]
    return sorted((step, path) for step, path in named if step is not None)


def step_of(checkpoint: Path) -> int | None:
    """The step in a checkpoint's name; None where it has another name."""
    match = _NAME.match(checkpoint.name)
    return int(match[1]) if match else None


def newest_whole(run: Path) -> tuple[Path | None, list[str]]:
    """The newest undamaged checkpoint, and a message for each newer one that was passed over."""
    messages: list[str] = []
    for _, path in reversed(checkpoints(run)):
        problem = damage(path)
        if problem is None:
            return path, messages
        messages.append(f"{path} {problem}; going back to the one before it")
    return None, messages


def forget_old(run: Path, keep_last: int, best_step: int | None) -> None:
    """Delete all but the newest checkpoints and the best one, and what killed writers left behind."""
    for step, path in checkpoints(run)[:-keep_last]:
        if step != best_step:
            shutil.rmtree(path)
    for path in (run / "checkpoints").glob(".step-*.partial"):
        shutil.rmtree(path, ignore_errors=True)
