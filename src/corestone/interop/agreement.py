"""Do two models compute the same? The checks that an export must pass.

Shape letters: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corestone.core.batch import Seq2SeqBatch, TextBatch, plain_batch
from corestone.core.errors import CheckpointError, Disagreement
from corestone.core.mask import Mask
from corestone.data.tokenizer import Tokenizer
from corestone.interop.family import Exchanged, Family
from corestone.models.decoder import DecoderModel
from corestone.models.encoder import EncoderModel
from corestone.models.encoder_decoder import EncoderDecoderModel
from corestone.models.spec import Encoder, EncoderDecoder

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
"""What a model computes of the fixed batch in a given precision, all outputs one behind the other."""


def fixed_batch(spec: Exchanged, vocab_size: int) -> TextBatch | Seq2SeqBatch:
    """The batch that every check uses: whole rows, of two types where the model tells them apart; targets are shorter
    than their sources."""
    generator, T = torch.Generator().manual_seed(0), min(LONGEST, spec.embedding.context_length)
    batch = plain_batch(torch.randint(vocab_size, (ROWS, T), generator=generator))
    if isinstance(spec, EncoderDecoder):
        written = plain_batch(torch.randint(vocab_size, (ROWS, (T + 1) // 2), generator=generator))
        return Seq2SeqBatch(replace(batch, mask=Mask(causal=False)), written)
    if not isinstance(spec, Encoder):
        return batch
    types_BT = torch.randint(spec.embedding.types, (ROWS, T), generator=generator) if spec.embedding.types else None
    return replace(batch, mask=Mask(causal=False), types_BT=types_BT)


def outputs_of(
    model: DecoderModel | EncoderModel | EncoderDecoderModel, batch: TextBatch | Seq2SeqBatch
) -> dict[str, Tensor]:
    """Everything that a model computes.

    Returns:
        By name: `logits` (B, T, V); of encoders also `hidden` (B, T, D); `replaced` (B, T), the detector's logits;
        `pooled` (B, D), and `next` (B, classes), its logits.
    """
    hidden_BTD = model(batch).hidden
    if not isinstance(model, EncoderModel):
        return {"logits": model.head(hidden_BTD)}
    found = {"hidden": hidden_BTD}
    if model.head is not None:
        found["logits"] = model.head(hidden_BTD)
    if model.detector is not None:
        found["replaced"] = model.detector(hidden_BTD)
    if model.pooler is not None:
        found["pooled"] = model.pooler(hidden_BTD)
        if model.pooler.out is not None:
            found["next"] = model.pooler.out(found["pooled"])
    return found


def own_logits(
    model: DecoderModel | EncoderModel | EncoderDecoderModel,
    family: Family,
    batch: TextBatch | Seq2SeqBatch,
    vocab_size: int,
) -> Logits:
    """What one of our models computes of the family's outputs, the vocabulary's padding left out."""

    @torch.no_grad()
    def compute(dtype: torch.dtype) -> Tensor:
        found = outputs_of(model.to(dtype), batch)
        if "logits" in found:
            found["logits"] = found["logits"][..., :vocab_size]
        return torch.cat([found[name].flatten() for name in family.outputs])

    return compute


def agree(what: str, ours: Logits, theirs: Logits, where: str, tolerance: float = TOLERANCE) -> str:
    """Say how well two models agree, or raise CheckpointError where they do not.

    They are compared in float32. Where that differs by more than the tolerance, float64 decides between rounding, which
    large logits of deep models show, and a real difference.
    """
    found = []
    for dtype in (torch.float32, torch.float64):
        mine, other = ours(dtype), theirs(dtype)
        difference = float((mine - other).abs().max()) if mine.shape == other.shape else float("nan")
        found.append(f"{difference:.2g} in {str(dtype).removeprefix('torch.')}")
        if difference <= tolerance:  # false for nan
            return f"{what}: largest difference between logits {', '.join(found)} (tolerance {tolerance:g})"
    raise Disagreement(
        f"{where}: refused, nothing was written: {what} computes other logits (largest difference {', '.join(found)}; "
        f"tolerance {tolerance:g})"
    )


def check_reference(
    folder: Path, family: Family, ours: Logits, batch: TextBatch | Seq2SeqBatch, tokenizer: Tokenizer, where: str
) -> list[str]:
    """Load an exported folder with the `transformers` library and compare logits and token ids.

    Returns one line per check; where the library is not installed, one line that says so.

    Raises CheckpointError where the library cannot load the folder or disagrees.
    """
    try:
        import transformers
    except ImportError:
        return ["transformers: not checked, the library is not installed (pip install 'corestone[hf]')"]
    with quiet(transformers):
        model, theirs = _load(transformers, family, folder, where)
        given = _given(batch)

        @torch.no_grad()
        def logits(dtype: torch.dtype) -> Tensor:
            out = model.to(dtype)(**given)
            return torch.cat([out[name].flatten() for name in family.outputs.values()])

        library = f"transformers {transformers.__version__}"
        line = agree(f"{library} ({type(model).__name__})", ours, logits, where)
        for text in TEXTS:
            mine, other = list(tokenizer.encode(text)), theirs.encode(text, add_special_tokens=False)
            if mine != other:
                raise Disagreement(
                    f"{where}: refused, nothing was written: AutoTokenizer of {library} gives other ids for {text!r}: "
                    f"{other[:8]} instead of {mine[:8]}"
                )
    return [line, f"{library} (AutoTokenizer): same ids on {len(TEXTS)} texts"]


def _given(batch: TextBatch | Seq2SeqBatch) -> dict[str, Tensor]:
    """A batch as the library's models take it."""
    if isinstance(batch, Seq2SeqBatch):
        return {"input_ids": batch.source.tokens_BT, "decoder_input_ids": batch.target.tokens_BT}
    types = {} if batch.types_BT is None else {"token_type_ids": batch.types_BT}
    return {"input_ids": batch.tokens_BT, **types}


def _load(transformers: Any, family: Family, folder: Path, where: str) -> tuple[Any, Any]:
    """The library's model, in evaluation mode, and tokenizer of an exported folder."""
    try:
        model, loading = getattr(transformers, family.loader).from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True, **family.loader_options
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library's errors have no base of their own
        raise cannot_load("transformers", error, where) from None
    check_loading(loading, where)
    return model.eval(), tokenizer


def cannot_load(library: str, error: Exception, where: str) -> CheckpointError:
    """What to say where a library fails on an exported folder."""
    reason = " ".join(str(error).split())
    return Disagreement(f"{where}: refused, nothing was written: {library} cannot load it ({reason})")


def check_loading(loading: Mapping[str, Sequence[object]], where: str) -> None:
    """CheckpointError for the tensors that `transformers` missed, did not know or could not take."""
    odd = [f"{kind} {sorted(map(str, names))[:3]}" for kind, names in loading.items() if names]
    if odd:
        raise Disagreement(f"{where}: refused, nothing was written: transformers reports {'; '.join(odd)}")


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
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
