"""Export: what is written computes the same, or nothing is written. (With `transformers`: tests/parity.)"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny_models import make_decoder, random_tensors

from corestone.core.errors import CheckpointError, CorestoneError, DataError
from corestone.core.spec import from_yaml
from corestone.data.spec import Bytes
from corestone.data.tokenizer import Tokenizer, build_tokenizer, load_tokenizer
from corestone.interop import outgoing
from corestone.interop.agreement import agree
from corestone.interop.incoming import import_huggingface
from corestone.interop.outgoing import export_huggingface
from corestone.interop.weights import to_theirs
from corestone.models.spec import Decoder
from corestone.train.archive import read_model_files
from corestone.zoo.catalogue import find

Write = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("without_transformers")


@pytest.mark.parametrize("post_norm", [False, True], ids=["gpt2", "gpt1"])
def test_export_then_import_is_the_identity(
    checkpoint: Write, tmp_path: Path, trained_tokenizer: Tokenizer, post_norm: bool
) -> None:
    rows = trained_tokenizer.manifest.vocab_size
    spec = make_decoder(post_norm, vocab_size=rows)
    source = checkpoint(spec)
    done = export_huggingface(source, tmp_path / "out")
    assert done.dropped_rows == 0
    again = import_huggingface(done.folder, tmp_path / "again")
    first, second = read_model_files(source), read_model_files(again.folder)
    assert from_yaml(Decoder, second.model_yaml, "test") == spec
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    tokenizer = load_tokenizer(again.folder)
    assert tokenizer.manifest.separator == trained_tokenizer.manifest.separator
    sentence = "a keystone, 12 stönes\n"
    assert list(tokenizer.encode(sentence)) == list(trained_tokenizer.encode(sentence))


def test_padding_rows_of_the_table_are_left_out_and_counted(
    checkpoint: Write, tmp_path: Path, trained_tokenizer: Tokenizer
) -> None:
    rows, padded = trained_tokenizer.manifest.vocab_size, trained_tokenizer.manifest.padded_vocab_size
    assert rows < padded
    spec = make_decoder(vocab_size=padded)
    done = export_huggingface(checkpoint(spec), tmp_path / "out")
    assert done.dropped_rows == padded - rows
    assert json.loads((done.folder / "config.json").read_text())["vocab_size"] == rows
    with safe_open(done.folder / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert torch.equal(
            file.get_tensor("transformer.wte.weight"), random_tensors(spec)["embedding.token.weight"][:rows]
        )


def test_checks_made_and_not_made_are_both_told(checkpoint: Write, tmp_path: Path) -> None:
    done = export_huggingface(checkpoint(make_decoder()), tmp_path / "out")
    own, reference = done.checks
    assert "bit for bit" in own
    assert reference.startswith("transformers: not checked, the library is not installed")


def test_settings_files_name_the_separator(checkpoint: Write, tmp_path: Path, trained_tokenizer: Tokenizer) -> None:
    folder = export_huggingface(checkpoint(make_decoder()), tmp_path / "out").folder
    read = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    separator = trained_tokenizer.manifest.separator
    assert read["config.json"]["eos_token_id"] == read["generation_config.json"]["eos_token_id"] == separator
    assert read["tokenizer_config.json"]["model_max_length"] == 17
    added = {token["id"]: token for token in read["tokenizer.json"]["added_tokens"]}
    assert added[separator]["content"] == read["tokenizer_config.json"]["eos_token"]
    assert added[separator]["special"]


def _one_wrong(family, spec, tensors, rows):  # type: ignore[no-untyped-def]
    wrong = dict(tensors)
    wrong["stack.blocks.1.mixer.out.bias"] = wrong["stack.blocks.1.mixer.out.bias"] + 1e-7
    return to_theirs(family, spec, wrong, rows)


def _cannot_write(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("place", "fault", "words"),
    [("to_theirs", _one_wrong, "refused, nothing was written"), ("save_file", _cannot_write, "the disk is full")],
)
def test_a_fault_while_exporting_leaves_nothing_behind(
    checkpoint: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    fault: Callable[..., object],
    words: str,
) -> None:
    source = checkpoint(make_decoder())
    monkeypatch.setattr(outgoing, place, fault)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=words):
        export_huggingface(source, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_a_model_that_cannot_be_said_is_refused(checkpoint: Write, tmp_path: Path) -> None:
    spec = make_decoder()
    banded = spec.stack.blocks[1].model_copy(
        update={"mixer": spec.stack.blocks[1].mixer.model_copy(update={"window": 4})}
    )
    blocks = (spec.stack.blocks[0], banded, spec.stack.blocks[2])
    spec = spec.model_copy(update={"stack": spec.stack.model_copy(update={"blocks": blocks})})
    assert find("gpt3-125m").spec.stack.blocks[1].mixer.window is not None
    with pytest.raises(CheckpointError, match=r"cannot say model\.stack\.blocks\.1\.mixer\.window"):
        export_huggingface(checkpoint(spec), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_larger_than_the_table_is_refused(checkpoint: Write, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tokens, the model's table 100 rows"):
        export_huggingface(checkpoint(make_decoder(vocab_size=100)), tmp_path / "out")


def test_a_folder_that_is_there_already_is_left_alone(checkpoint: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists already"):
        export_huggingface(checkpoint(make_decoder()), out)
    assert [path.name for path in out.iterdir()] == ["precious.txt"]


def test_a_byte_tokenizer_is_exported_or_refused(checkpoint: Write, tmp_path: Path) -> None:
    """Plain bytes are exported where the tokenizer has a tokenizer.json of the same ids."""
    tokenizer = build_tokenizer(Bytes(), ())
    source = checkpoint(make_decoder(), tokenizer=tokenizer)
    done = export_huggingface(source, tmp_path / "out")
    again = import_huggingface(done.folder, tmp_path / "again")
    for sentence in ("stone 石\n", "\x00\x7f tab\t"):
        assert list(load_tokenizer(again.folder).encode(sentence)) == list(tokenizer.encode(sentence))


def test_agreement_is_decided_by_float64_and_never_by_nan() -> None:
    def at(float32: float, float64: float) -> Callable[[torch.dtype], torch.Tensor]:
        return lambda dtype: torch.tensor([1.0, float32 if dtype == torch.float32 else float64], dtype=dtype)

    zero = at(0.0, 0.0)
    assert "0 in float32 (tolerance 1e-05)" in agree("x", zero, zero, "test")
    assert "0.001 in float32, 1e-07 in float64" in agree("x", zero, at(1e-3, 1e-7), "test")
    for bad in (at(1.0, 1e-4), at(float("nan"), float("nan")), at(float("inf"), float("inf"))):
        with pytest.raises(CorestoneError, match="refused, nothing was written"):
            agree("x", zero, bad, "test")
    with pytest.raises(CorestoneError):
        agree("x", zero, lambda dtype: torch.zeros(3, dtype=dtype), "test")
