"""Every recipe that ships with Corestone, and how a recipe is found by name or file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from corestone.core.errors import SpecError, unknown
from corestone.core.spec import override, read_yaml
from corestone.recipes.language import bert, bloom, encoder_decoders, encoders, gptj, opt, palm, primer, small, t5
from corestone.recipes.language.gpt2 import gpt2_124m
from corestone.recipes.language.h3 import h3_125m
from corestone.recipes.language.penn_treebank import mogrifier_ptb_char
from corestone.recipes.language.shakespeare import shakespeare
from corestone.recipes.multimodal import basic, basic_emoji, clip, coca, emoji, emoji_captions, siglip
from corestone.recipes.spec import Run
from corestone.recipes.vision import cifar10, imagenet, mnist, photographs

SMALL: dict[str, Callable[[], Run]] = {
    "language/shakespeare": shakespeare,
    "language/shakespeare-gptj": small.small_gptj,
    "language/shakespeare-primer": small.small_primer,
    "language/shakespeare-primer-full": small.small_primer_full,
    "language/shakespeare-opt": small.small_opt,
    "language/shakespeare-bloom": small.small_bloom,
    "language/shakespeare-palm": small.small_palm,
    "language/shakespeare-bert": encoders.small_bert,
    "language/shakespeare-bert-pairs": encoders.small_bert_pairs,
    "language/shakespeare-electra": encoders.small_electra,
    "language/shakespeare-t5": encoder_decoders.small_t5,
    "language/shakespeare-alexatm": encoder_decoders.small_alexatm,
    "language/shakespeare-h3": small.small_h3,
    "language/shakespeare-mogrifier": small.small_mogrifier,
    "vision/mnist": mnist.mnist,
    "vision/mnist-m5": mnist.mnist_m5,
    "vision/mnist-m7": mnist.mnist_m7,
    "vision/mnist-vit": mnist.mnist_vit,
    "vision/mnist-gpt": mnist.mnist_gpt,
    "vision/photographs-h3": photographs.photographs_h3,
    "multimodal/clip-emoji": emoji.clip_emoji,
    "multimodal/basic-emoji-1": basic_emoji.basic_emoji_1,
    "multimodal/basic-emoji-2": basic_emoji.basic_emoji_2,
    "multimodal/basic-emoji-3": basic_emoji.basic_emoji_3,
    "multimodal/coca-emoji": emoji_captions.coca_emoji,
}
"""Minutes on a laptop, with data that is fetched."""

PUBLISHED: dict[str, Callable[[], Run]] = {
    "language/gpt2-124m": gpt2_124m,
    "language/gptj-6b": gptj.gptj_6b,
    "language/primer-ez-537m": primer.primer_ez_537m,
    "language/primer-537m": primer.primer_537m,
    "language/opt-125m": opt.opt_125m,
    "language/opt-175b": opt.opt_175b,
    "language/bloom-560m": bloom.bloom_560m,
    "language/bloom-176b": bloom.bloom_176b,
    "language/palm-8b": palm.palm_8b,
    "language/palm-540b": palm.palm_540b,
    "language/h3-125m": h3_125m,
    "language/bert-base": bert.bert_base,
    "language/electra-small": bert.electra_small,
    "language/t5-base": t5.t5_base,
    "language/alexatm-20b": t5.alexatm_20b,
    "language/mogrifier-ptb-char": mogrifier_ptb_char,
    "vision/vit-b16": imagenet.vit_b16,
    "vision/vit-l16-cifar10": cifar10.vit_l16_cifar10,
    "vision/coatnet-0": imagenet.coatnet_0,
    "multimodal/clip-vit-b32": clip.clip_vit_b32,
    "multimodal/clip-vit-l14": clip.clip_vit_l14,
    "multimodal/clip-vit-l14-336": clip.clip_vit_l14_336,
    "multimodal/siglip-b16": siglip.siglip_b16,
    "multimodal/coca-base": coca.coca_base,
    "multimodal/basic-s-1": partial(basic.basic_s, 1),
    "multimodal/basic-s-2": partial(basic.basic_s, 2),
    "multimodal/basic-s-3": partial(basic.basic_s, 3),
    "multimodal/basic-l-1": partial(basic.basic_l, 1),
    "multimodal/basic-l-2": partial(basic.basic_l, 2),
    "multimodal/basic-l-3": partial(basic.basic_l, 3),
    "multimodal/basic-l-lion-1": partial(basic.basic_l, 1, lion=True),
    "multimodal/basic-l-lion-2": partial(basic.basic_l, 2, lion=True),
    "multimodal/basic-l-lion-3": partial(basic.basic_l, 3, lion=True),
}
"""Published models with the settings of their papers, for GPUs and mostly for your own files."""

RECIPES = {**SMALL, **PUBLISHED}


def find_recipe(name: str, assignments: list[str]) -> Run:
    """The resolved run of a recipe and its overrides.

    Args:
        name: a shipped recipe (`language/shakespeare`, or `shakespeare` alone), a YAML file as `show` prints it, or a
            Python file with a function `recipe() -> Run`.
        assignments: typed `path=value` overrides.
    """
    return override(_base(name), assignments)


def _base(name: str) -> Run:
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        return read_yaml(Run, path)
    if path.suffix == ".py":
        return _from_python(path)
    matching = [recipe for recipe in RECIPES if name == recipe or recipe.endswith(f"/{name}")]
    if len(matching) != 1:
        short = {recipe.rsplit("/", 1)[-1] for recipe in RECIPES}
        raise SpecError(unknown("recipe", name, short) + "; or a .yaml or .py file")
    return RECIPES[matching[0]]()


def _from_python(path: Path) -> Run:
    if not path.is_file():
        raise SpecError(f"{path}: no such recipe file")
    spec = importlib.util.spec_from_file_location(f"corestone_recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise SpecError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise SpecError(f"{path}, line {error.lineno}: not valid Python ({error.msg})") from None
    if "recipe" not in vars(module):
        raise SpecError(f"{path}: needs a function `recipe()` that returns a Run")
    run = module.recipe()
    if not isinstance(run, Run):
        raise SpecError(f"{path}: recipe() returned {type(run).__name__}, not a Run")
    return run
