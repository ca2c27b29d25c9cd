"""Do two models compute the same logits? The checks that an export must pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corestone.core.errors import CheckpointError
from corestone.data.tokenizer import Tokenizer
from corestone.interop.weights import logits_of
from corestone.models.decoder import DecoderModel

TOLERANCE = 1e-5
"""Largest difference allowed between two logits."""

ROWS, LONGEST = 2, 128
"""Size of the fixed input: rows, and tokens per row (fewer where the context is shorter)."""

TEXTS = (
    "Corestone writes a model out and reads it back.",
    "  Two spaces, a tab\t, a line\nbreak, 1234567890 and (punctuation)!",
    "Größe, naïve, 北京, мир, 🙂: letters of more than one byte.",
)

Logits = Callable[[torch.dtype], Tensor]
"""A model's logits on the fixed tokens, computed in a given precision."""


def fixed_tokens(vocab_size: int, context_length: int) -> Tensor:
    """The token ids (rows, tokens) that every check uses."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocab_size, (ROWS, min(LONGEST, context_length)), generator=generator)


def own_logits(model: DecoderModel, tokens_BT: Tensor, vocab_size: int) -> Logits:
    """Logits of one of our models, the vocabulary's padding left out."""
    return lambda dtype: logits_of(model.to(dtype), tokens_BT)[..., :vocab_size]


def agree(what: str, ours: Logits, theirs: Logits, where: str) -> str:
    """Say how well two models agree, or raise CheckpointError where they do not.

    They are compared in float32. Where that differs by more than the tolerance, float64 decides between rounding, which
    large logits of deep models show, and a real difference.
    """
    found = []
    for dtype in (torch.float32, torch.float64):
        mine, other = ours(dtype), theirs(dtype)
        difference = float((mine - other).abs().max()) if mine.shape == other.shape else float("nan")
        found.append(f"{difference:.2g} in {str(dtype).removeprefix('torch.')}")
        if difference <= TOLERANCE:  # false for nan
            return f"{what}: largest difference between logits {', '.join(found)} (tolerance {TOLERANCE:g})"
    raise CheckpointError(
        f"{where}: refused, nothing was written: {what} computes other logits (largest difference {', '.join(found)}; "
        f"tolerance {TOLERANCE:g})"
    )


def check_reference(folder: Path, ours: Logits, tokens_BT: Tensor, tokenizer: Tokenizer, where: str) -> list[str]:
    """Load an exported folder with the `transformers` library and compare logits and token ids.

    Returns one line per check; where the library is not installed, one line that says so.

    Raises CheckpointError where the library cannot load the folder or disagrees.
    """
    try:
        import transformers
    except ImportError:
        return ["transformers: not checked, the library is not installed (pip install 'corestone[hf]')"]
    with _quiet(transformers):
        model, theirs = _load(transformers, folder, where)

        @torch.no_grad()
        def logits(dtype: torch.dtype) -> Tensor:
            out: Tensor = model.to(dtype)(tokens_BT).logits
            return out

        library = f"transformers {transformers.__version__}"
        line = agree(f"{library} ({type(model).__name__})", ours, logits, where)
        for text in TEXTS:
            mine, other = list(tokenizer.encode(text)), theirs.encode(text, add_special_tokens=False)
            if mine != other:
                raise CheckpointError(
                    f"{where}: refused, nothing was written: AutoTokenizer of {library} gives other ids for {text!r}: "
                    f"{other[:8]} instead of {mine[:8]}"
                )
    return [line, f"{library} (AutoTokenizer): same ids on {len(TEXTS)} texts"]


def _load(transformers: Any, folder: Path, where: str) -> tuple[Any, Any]:
    """The library's model, in evaluation mode, and tokenizer of an exported folder."""
    try:
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library's errors have no base of their own
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{where}: refused, nothing was written: transformers cannot load it ({reason})"
        ) from None
    odd = [f"{kind} {sorted(map(str, names))[:3]}" for kind, names in loading.items() if names]
    if odd:
        raise CheckpointError(f"{where}: refused, nothing was written: transformers reports {'; '.join(odd)}")
    return model.eval(), tokenizer


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without the library's progress bar and remarks (the texts may be longer than a small model's context)."""
    log = transformers.utils.logging
    shown, verbosity = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if shown:
            log.enable_progress_bar()
