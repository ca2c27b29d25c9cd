"""Prepare data on its own: a recipe's, or any source's into a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from corestone.core.format import si
from corestone.data.cache import cache_dir
from corestone.data.prepare.pipeline import prepare, prepare_data, prepare_tokenizer
from corestone.data.sources import parse_source
from corestone.data.spec import Component, Data, OnBad, Prepare, Tokenizer
from corestone.parallel.collectives import World
from corestone.recipes.images import open_sides
from corestone.recipes.show_progress import PrepareProgress
from corestone.recipes.spec import Run
from corestone.recipes.text import text_of


def prepare_recipe(run: Run, workers: int, console: Console) -> list[Path]:
    """Prepare what a recipe needs, in the cache; `pretrain` finds it there."""
    if not isinstance(run.data, Data):
        folder, _ = open_sides(run.data, World(rank=0, size=1, device=torch.device("cpu")))
        _tell_pictures(console, json.loads((folder / "manifest.json").read_text(encoding="utf-8")), folder)
        return [folder]
    with PrepareProgress(console) as progress:
        _, folders = prepare_data(text_of(run), cache_dir(), workers, progress)
    for folder in folders:
        _tell(console, json.loads((folder / "manifest.json").read_text(encoding="utf-8")), folder)
    return folders


def prepare_folder(
    text: str, tokenizer: Tokenizer, on_bad: OnBad, out: Path, workers: int, console: Console
) -> dict[str, Any]:
    """Prepare one source into a folder of its own, with a tokenizer trained on its training side."""
    source = parse_source(text)
    options = Prepare(on_bad=on_bad)
    data = Data(components=(Component(source=source),), tokenizer=tokenizer, prepare=options, context_length=2)
    with PrepareProgress(console) as progress:
        made = prepare_tokenizer(data, cache_dir(), progress)
        manifest = prepare(source, made, options, out, workers, progress)
    _tell(console, manifest, out)
    return manifest


def _tell_pictures(console: Console, manifest: dict[str, Any], folder: Path) -> None:
    counts = manifest["counts"]
    dropped = ", ".join(f"{n:,} {reason}" for reason, n in counts["dropped"].items()) or "none"
    console.print(f"[bold]{folder}[/]", highlight=False, soft_wrap=True)
    console.print(f"pictures   {counts['read']:,} read, {counts['kept']:,} kept; dropped: {dropped}", highlight=False)
    for side, facts in manifest["splits"].items():
        console.print(f"{side:<10} {facts['pictures']:,} pictures", highlight=False)
    if manifest["classes"]:
        console.print(f"classes    {len(manifest['classes']):,}", highlight=False)


def _tell(console: Console, manifest: dict[str, Any], folder: Path) -> None:
    counts, tokenizer = manifest["counts"], manifest["tokenizer"]
    dropped = ", ".join(f"{n:,} {reason}" for reason, n in counts["dropped"].items()) or "none"
    console.print(f"[bold]{folder}[/]", highlight=False, soft_wrap=True)
    console.print(f"documents  {counts['read']:,} read, {counts['kept']:,} kept; dropped: {dropped}", highlight=False)
    for split, facts in manifest["splits"].items():
        ratio = facts["bytes"] / max(1, facts["tokens"])
        console.print(
            f"{split:<10} {facts['documents']:,} documents, {si(facts['bytes'], 'B')}, "
            f"{si(facts['tokens'], 'tokens')}, {ratio:.3f} bytes/token",
            highlight=False,
        )
    console.print(f"tokenizer  {tokenizer['kind']}, {tokenizer['vocab_size']:,} tokens", highlight=False)
