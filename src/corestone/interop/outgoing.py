"""A Corestone run or checkpoint becomes a Hugging Face folder, which appears only once it computes the same."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from corestone.core.batch import Seq2SeqBatch, TextBatch
from corestone.core.errors import CheckpointError, Disagreement
from corestone.core.spec import from_yaml
from corestone.data.tokenizer import Tokenizer, load_tokenizer
from corestone.interop.agreement import Logits, agree, check_reference, fixed_batch, own_logits
from corestone.interop.family import Exchanged, Family
from corestone.interop.files import WEIGHTS
from corestone.interop.incoming import CONFIG, GENERATION, check_vocabulary, read_huggingface, refuse_existing
from corestone.interop.settings import family_of_spec, to_config
from corestone.interop.vocabulary import tokenizer_texts
from corestone.interop.weights import BY_TOKEN, Record, build_with, to_theirs
from corestone.models.spec import Decoder, Encoder, EncoderDecoder, GeneratorDiscriminator
from corestone.train.archive import MODEL, read_model_files

Part = Literal["generator", "discriminator"]
"""Which of a pair of encoders."""

EXPORTED: tuple[type[Record], ...] = (Decoder, Encoder, EncoderDecoder, GeneratorDiscriminator)
"""Records of models that a folder can be written of."""


@dataclass(frozen=True)
class Exported:
    """What was written where.

    Attributes:
        architecture: the `transformers` class that it is,
        loading: and the call that loads it.
        part: which of a pair of encoders was written; None where there is no pair.
        dropped_rows: rows of the token table that no token has (padding), left out.
        checks: one line per check made, or not made, with its measured value.
    """

    folder: Path
    architecture: str
    loading: str
    part: Part | None
    dropped_rows: int
    checks: list[str]


def export_huggingface(source: Path, out: Path, part: Part | None = None) -> Exported:
    """Write a run's newest whole checkpoint, or a checkpoint, so that `from_pretrained` loads model and tokenizer.

    The folder is written under a temporary name, read back by the importer and compared bit for bit and by its float32
    logits; where the `transformers` library is installed, its logits and token ids are compared too. Only then is it
    renamed to `out`.

    Args:
        part: which of a generator and a discriminator to write; None: the discriminator, where there are both.

    Raises:
        CheckpointError: the source is unusable, cannot be expressed there, a check failed, or the disk is full; in each
            case nothing is left behind.
        DataError: the tokenizer cannot be expressed there.
    """
    out, where = refuse_existing(out), str(source)
    files = read_model_files(source)
    whole = _read_spec(files.model_yaml, f"{where}: {MODEL}")
    spec, model, part = _chosen(whole, files.tensors, part, where)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    family = family_of_spec(spec, where)
    tokenizer = load_tokenizer(files.tokenizer_folder)
    check_vocabulary(spec.embedding.vocab_size, tokenizer, where)
    texts = _texts(family, spec, tokenizer, where)
    rows = tokenizer.manifest.vocab_size
    with appearing(out) as partial:
        write_folder(partial, to_theirs(family, spec, tensors, rows), texts)
        batch = fixed_batch(spec, rows)
        ours = own_logits(model, family, batch, rows)
        checks = [_check_own(partial, spec, tensors, ours, batch, where)]
        checks += check_reference(partial, family, ours, batch, tokenizer, where)
    dropped = spec.embedding.vocab_size - rows
    return Exported(out, family.architecture, family.loading, part, dropped, checks)


def _read_spec(text: str, where: str) -> Record:
    records: dict[str, type[Record]] = {record.model_fields["kind"].default: record for record in EXPORTED}
    try:
        kind = yaml.safe_load(text)["kind"]
    except (yaml.YAMLError, KeyError, TypeError):
        kind = "decoder"  # from_yaml says what is wrong, and where
    if kind not in records:
        raise CheckpointError(f"{where}: a model of kind '{kind}' has no counterpart in Hugging Face known here")
    return from_yaml(records[kind], text, where)


def _chosen(
    whole: Record, tensors: Mapping[str, Tensor], part: Part | None, where: str
) -> tuple[Exchanged, Any, Part | None]:
    """The record and the model to write, and which part of the whole they are."""
    model = build_with(whole, tensors, where)
    if isinstance(whole, GeneratorDiscriminator):
        part = part or "discriminator"
        return getattr(whole, part), getattr(model, part), part
    if part is not None:
        raise CheckpointError(f"{where}: has no {part}, it is one {whole.kind}; export it without --part")
    return whole, model, None


def _texts(family: Family, spec: Exchanged, tokenizer: Tokenizer, where: str) -> dict[str, str]:
    """All files but the weights, by name."""
    vocabulary = tokenizer.vocabulary
    texts = {
        CONFIG: json_text(to_config(family, spec, vocabulary)),
        **tokenizer_texts(tokenizer, spec.embedding.context_length, where),
    }
    separator = vocabulary.separator
    if isinstance(spec, Decoder):
        texts[GENERATION] = json_text({"bos_token_id": separator, "eos_token_id": separator})
    if isinstance(spec, EncoderDecoder):
        ids = {"decoder_start_token_id": vocabulary.start, "eos_token_id": separator, "pad_token_id": vocabulary.pad}
        texts[GENERATION] = json_text(ids)
    return texts


def json_text(tree: dict[str, Any]) -> str:
    """As the folders hold it."""
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A folder to write under a temporary name, which becomes `out` where nothing fails, and vanishes where something
    does. Raises CheckpointError for what the disk says, a full one by name."""
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.rename(partial, out)
    except OSError as error:
        cause = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise CheckpointError(f"{out}: could not be written ({cause})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_folder(folder: Path, tensors: dict[str, Tensor], texts: dict[str, str], weights: str = WEIGHTS) -> None:
    """Write all files into a new folder, tensors into `weights`; OSError where that fails."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    try:
        # Older readers refuse a file that does not say which library's tensors it holds.
        save_file(tensors, folder / weights, metadata={"format": "pt"})
    except SafetensorError as error:  # its I/O errors do not derive from OSError
        raise OSError(errno.ENOSPC if "space" in str(error).lower() else errno.EIO, str(error)) from None


def _check_own(
    folder: Path,
    spec: Exchanged,
    tensors: dict[str, Tensor],
    ours: Logits,
    batch: TextBatch | Seq2SeqBatch,
    where: str,
) -> str:
    """Import what was written and demand the same record, the same bits and the same logits."""
    again, read, family = read_huggingface(folder)
    rows = again.embedding.vocab_size
    embedding = spec.embedding.model_copy(update={"vocab_size": rows})
    same = again == spec.model_copy(update={"embedding": embedding, "init": again.init})
    for name, tensor in tensors.items():
        same = same and torch.equal(read[name], tensor[:rows] if name in BY_TOKEN else tensor)
    if not same:
        raise Disagreement(f"{where}: refused, nothing was written: importing the export gives another model")
    theirs = own_logits(build_with(again, read, str(folder)), family, batch, rows)
    return f"{agree('re-imported', ours, theirs, where)}; all {len(tensors)} tensors equal bit for bit"
