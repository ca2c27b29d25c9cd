"""Texts that say what a recipe means, reviewed in diffs. `python tests/golden/record.py` writes them anew."""

from __future__ import annotations

from pathlib import Path

from corestone.core.spec import to_yaml
from corestone.models.decoder import build_decoder
from corestone.nn.init import init_std
from corestone.optim.build import claim
from corestone.recipes.catalogue import RECIPES

HERE = Path(__file__).parent


def parameters(run) -> str:
    """One line per parameter: name, shape, initial standard deviation, weight decay."""
    named = dict(build_decoder(run.model, device="meta").named_parameters())
    rules = claim(list(named), run.optimiser.rules)
    lines = []
    for name, parameter in named.items():
        std = init_std(name, run.model.init, 2 * len(run.model.stack.blocks))
        start = "constant" if std is None else f"std {std:.6g}"
        lines.append(f"{name:45} {list(parameter.shape)!s:15} {start:15} decay {rules[name].weight_decay:g}")
    return "\n".join(lines) + "\n"


def texts() -> dict[str, str]:
    """What every recipe's golden files should hold, by file name."""
    found = {}
    for name, build in RECIPES.items():
        stem, run = name.replace("/", "-"), build()
        found[f"{stem}.yaml"] = to_yaml(run)
        found[f"{stem}.parameters.txt"] = parameters(run)
    return found


if __name__ == "__main__":
    for file, text in texts().items():
        (HERE / file).write_text(text, encoding="utf-8")
