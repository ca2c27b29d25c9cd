"""BERT and ELECTRA in Hugging Face folders, without the library: which class, which names, which refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_weights import BERT, PAIR, SPECS
from tiny_models import random_tensors
from torch import Tensor
from typer.testing import CliRunner

from corestone.cli.main import app
from corestone.core.batch import plain_batch
from corestone.core.errors import CheckpointError, CorestoneError, SpecError
from corestone.core.mask import Mask
from corestone.core.spec import from_yaml
from corestone.core.vocabulary import Vocabulary
from corestone.data.spec import WordPiece
from corestone.data.tokenizer import Tokenizer, build_tokenizer
from corestone.interop.agreement import outputs_of
from corestone.interop.incoming import import_huggingface, read_huggingface
from corestone.interop.outgoing import Part, export_huggingface
from corestone.interop.settings import families_of_config, family_of_spec, to_config, to_spec
from corestone.interop.weights import build_with, nearest, to_theirs
from corestone.models.spec import Encoder, GeneratorDiscriminator, PoolerHead, Transform
from corestone.nn.spec import Init, Norm
from corestone.train.archive import read_model_files
from corestone.zoo.bert import bert
from corestone.zoo.electra import electra

Write = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("without_transformers")

CLASSES = {
    "bert": "BertForPreTraining",
    "bert-masked": "BertForMaskedLM",
    "bert-pooler": "BertModel",
    "bert-bare": "BertModel",
    "electra-generator": "ElectraForMaskedLM",
    "electra-discriminator": "ElectraForPreTraining",
}


def with_rows(spec: Encoder, rows: int) -> Encoder:
    return spec.model_copy(update={"embedding": spec.embedding.model_copy(update={"vocab_size": rows})})


def as_read(spec: Encoder) -> Encoder:
    """The record as config.json gives it back: it has one deviation for all tables."""
    return spec.model_copy(update={"init": Init(std=0.02, position_std=0.02)})


@pytest.fixture(scope="module")
def word_pieces() -> Tokenizer:
    return build_tokenizer(WordPiece(vocab_size=90), ["a stone wall of corner stones, key stones and core stones"] * 9)


# -- the class ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_the_class_follows_from_the_parts(name: str) -> None:
    assert family_of_spec(SPECS[name], "test").architecture == CLASSES[name]


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("prefixed", [True, False])
def test_the_tensors_tell_the_class(name: str, prefixed: bool) -> None:
    """Whatever class config.json names, with and without prefix."""
    family, spec = family_of_spec(SPECS[name], "test"), SPECS[name]
    config = to_config(family, spec, Vocabulary(size=37, separator=0))
    theirs = [key.split(".", 1)[1] if key.startswith(("bert.", "electra.")) and not prefixed else key
              for key in to_theirs(family, spec, random_tensors(spec), 37)]  # fmt: skip
    for told in (config["architectures"], None):
        found = nearest(families_of_config({**config, "architectures": told}, "test"), theirs)
        assert found is family


def test_a_folder_with_more_than_its_config_says_is_read_and_told(huggingface: Write, tmp_path: Path) -> None:
    """As the first published BERT: config.json says BertForMaskedLM, the file has the heads of pretraining."""
    folder = huggingface(with_rows(BERT, 320))
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**tree, "architectures": ["BertForMaskedLM"]}))
    done = import_huggingface(folder, tmp_path / "out")
    assert done.architecture == "BertForPreTraining"
    assert "config.json says BertForMaskedLM; the weights are those of BertForPreTraining" in done.notes
    text, tensors, _ = read_model_files(done.folder)
    assert from_yaml(Encoder, text, "test") == done.spec == as_read(with_rows(BERT, 320))
    assert all(torch.equal(tensors[name], value) for name, value in random_tensors(with_rows(BERT, 320)).items())


@st.composite
def encoders(draw: st.DrawFn) -> Encoder:
    """Any Encoder that a class can express."""
    heads, head_dim = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    width, depth = heads * head_dim, draw(st.integers(1, 3))
    dropout, attention_dropout = draw(st.floats(0, 0.9)), draw(st.floats(0, 0.9))
    eps, std = draw(st.floats(1e-12, 0.1)), draw(st.floats(1e-4, 1))
    if draw(st.booleans()):
        pair = electra(width, depth, heads, draw(st.integers(1, 40)), (1, 1), 99, draw(st.integers(1, 999)), dropout)
        spec = draw(st.sampled_from([pair.generator, pair.discriminator]))
    else:
        whole = bert(width, depth, heads, 99, draw(st.integers(1, 999)), draw(st.integers(1, 99)), dropout)
        parts = draw(st.sampled_from([{}, {"pooler": None}, {"head": None, "pooler": None}]))
        spec = whole.model_copy(update=parts)
    norm = Norm(eps=eps)
    head = spec.head and spec.head.model_copy(update={"transform": Transform(norm=norm)})
    table = spec.embedding.model_copy(update={"norm": norm, "types": draw(st.integers(1, 4))})
    blocks = tuple(
        block.model_copy(update={"norm": norm, "mixer": block.mixer.model_copy(update={"dropout": attention_dropout})})
        for block in spec.stack.blocks
    )
    init = spec.init.model_copy(update={"std": std, "position_std": std, "token_std": None})
    stack = spec.stack.model_copy(update={"blocks": blocks})
    return spec.model_copy(update={"embedding": table, "stack": stack, "head": head, "init": init})


@settings(deadline=None, max_examples=50)
@given(encoders())
def test_a_record_survives_config_json(spec: Encoder) -> None:
    family = family_of_spec(spec, "test")
    config = json.loads(json.dumps(to_config(family, spec, Vocabulary(size=99, separator=0))))
    assert family in families_of_config(config, "test")
    assert to_spec(family, config, "test") == spec


def test_a_record_that_no_class_can_say_is_refused() -> None:
    block = BERT.stack.blocks[0]
    drop, pre_norm = block.model_copy(update={"dropout": 0.5}), block.model_copy(update={"norm_at": "in"})
    classes = BERT.model_copy(update={"pooler": PoolerHead(classes=3)})
    typeless = BERT.model_copy(update={"embedding": BERT.embedding.model_copy(update={"types": None})})
    tanh = block.model_copy(update={"feedforward": block.feedforward.model_copy(update={"activation": "gelu_tanh"})})
    odd = {
        "cannot say model.stack.blocks.1.dropout": (block, drop),
        "cannot say model.stack.blocks.0.norm_at": (pre_norm, pre_norm),
        "no model class of Hugging Face known here can express it": (tanh, tanh),
    }
    for words, blocks in odd.items():
        with pytest.raises(CheckpointError, match=re.escape(words)):
            family_of_spec(BERT.model_copy(update={"stack": BERT.stack.model_copy(update={"blocks": blocks})}), "run")
    with pytest.raises(CheckpointError, match=r"cannot say model\.pooler\.classes"):
        family_of_spec(classes, "run")
    with pytest.raises(CheckpointError, match="no model class of Hugging Face known here can express it"):
        family_of_spec(typeless, "run")
    both = BERT.model_copy(update={"detector": True})
    with pytest.raises(CheckpointError, match=r"BertForPreTraining comes nearest and cannot say model\.detector"):
        family_of_spec(both, "run")


# -- what a folder may not say ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type='relative_key' cannot be expressed here",
        ),
        ({"is_decoder": True}, "is_decoder=True cannot be expressed here"),
        ({"add_cross_attention": True}, "add_cross_attention=True"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads={'0': [1]}"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ({"hidden_act": "relu"}, "hidden_act='relu' cannot be expressed here; known: gelu"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": 21}, "hidden_size=21 is no multiple of num_attention_heads=5"),
        ({"type_vocab_size": None}, "'type_vocab_size' must be a positive whole number (got None)"),
        ({"intermediate_size": None}, "'intermediate_size' must be a positive whole number (got None)"),
        ({"architectures": 5}, "architectures=5 cannot be expressed here; known for bert"),
        ({"architectures": [["BertModel"]]}, "architectures=[['BertModel']] cannot be expressed here"),
        ({"model_type": "roberta"}, "model_type 'roberta' cannot be expressed here; known: bert, bloom, electra"),
        (
            {"architectures": ["BertForSequenceClassification"]},
            "architectures=['BertForSequenceClassification'] cannot be expressed here; known for bert: "
            "BertForMaskedLM, BertForPreTraining, BertModel",
        ),
        ({"layer_norm_eps": 0}, "eps"),
    ],
)
def test_a_config_that_says_something_else_is_refused_by_name(
    huggingface: Write, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    folder = huggingface(with_rows(BERT, 320))
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**tree, **changes}))
    done = CliRunner().invoke(app, ["import", str(folder), "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, CorestoneError)
    message = str(done.exception)
    assert words in message
    assert message.startswith(str(folder / "config.json"))
    assert "\n" not in message
    assert not (tmp_path / "out").exists()


def test_a_model_without_heads_may_have_other_activations() -> None:
    spec = SPECS["bert-bare"]
    config = to_config(family_of_spec(spec, "test"), spec, Vocabulary(size=37, separator=0))
    for theirs, ours in (("relu", "relu"), ("gelu_new", "gelu_tanh"), ("gelu", "gelu")):
        again = to_spec(family_of_spec(spec, "test"), {**config, "hidden_act": theirs}, "test")
        assert again.stack.blocks[0].feedforward.activation == ours


# -- names of tensors ---------------------------------------------------------------------------------------------


def spoil(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def test_early_names_buffers_and_repeated_tensors_are_understood(huggingface: Write) -> None:
    """As published folders are: gamma and beta, position ids, the tied head once more with a second bias."""
    spec = with_rows(BERT, 320)
    folder = huggingface(spec)

    def age(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            old = re.sub(r"LayerNorm\.weight$", "LayerNorm.gamma", re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", name))
            tensors[old] = tensors.pop(name)
        tensors["bert.embeddings.position_ids"] = torch.arange(11)[None]
        tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
        tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias")

    spoil(folder, age)
    again, tensors, _ = read_huggingface(folder)
    assert again == as_read(spec)
    assert all(torch.equal(tensors[name], value) for name, value in random_tensors(spec).items())


def _drop(tensors: dict[str, Tensor]) -> None:
    del tensors["bert.encoder.layer.1.attention.self.key.bias"]


def _classifier(tensors: dict[str, Tensor]) -> None:
    tensors["classifier.weight"] = torch.zeros(2, 20)


def _further_layer(tensors: dict[str, Tensor]) -> None:
    tensors["bert.encoder.layer.2.output.LayerNorm.gamma"] = torch.zeros(20)


def _misshape(tensors: dict[str, Tensor]) -> None:
    tensors["bert.encoder.layer.0.attention.self.value.weight"] = torch.zeros(20, 19)


def _untie(tensors: dict[str, Tensor]) -> None:
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"] + 1


def _twice(tensors: dict[str, Tensor]) -> None:
    tensors["bert.embeddings.LayerNorm.gamma"] = tensors["bert.embeddings.LayerNorm.weight"].clone()


def _half_a_pooler(tensors: dict[str, Tensor]) -> None:
    del tensors["bert.pooler.dense.weight"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_drop, "read as that of BertForPreTraining: they lack 'encoder.layer.1.attention.self.key.bias'"),
        (_classifier, "also hold 'classifier.weight (without prefix)'"),
        (_further_layer, "also hold 'encoder.layer.2.output.LayerNorm.weight'"),
        (_misshape, "'encoder.layer.0.attention.self.value.weight' has shape [20, 19], config.json asks for [20, 20]"),
        (_untie, "'cls.predictions.decoder.weight' differs from 'embeddings.word_embeddings.weight'"),
        (_twice, "'embeddings.LayerNorm.weight' is stored twice, under an old and a new name"),
        (_half_a_pooler, "they lack 'pooler.dense.weight'"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    huggingface: Write, change: Callable[[dict[str, Tensor]], None], words: str
) -> None:
    folder = huggingface(with_rows(BERT, 320))
    spoil(folder, change)
    with pytest.raises(CheckpointError, match=re.escape(words)) as refusal:
        read_huggingface(folder)
    assert str(refusal.value).startswith(f"{folder}: ")
    assert "\n" not in str(refusal.value)


# -- out ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_export_then_import_is_the_identity(
    checkpoint: Write, tmp_path: Path, word_pieces: Tokenizer, name: str
) -> None:
    spec = with_rows(SPECS[name], word_pieces.manifest.vocab_size)
    source = checkpoint(spec, tokenizer=word_pieces)
    done = export_huggingface(source, tmp_path / "out")
    assert (done.architecture, done.part, done.dropped_rows) == (CLASSES[name], None, 0)
    assert done.loading.endswith("(folder, add_pooling_layer=False)") == (name == "bert-bare")
    assert not (done.folder / "generation_config.json").exists()
    config = json.loads((done.folder / "config.json").read_text())
    assert config["pad_token_id"] == word_pieces.manifest.pad
    again = import_huggingface(done.folder, tmp_path / "again")
    first, second = read_model_files(source), read_model_files(again.folder)
    assert from_yaml(Encoder, second.model_yaml, "test") == as_read(spec)
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(first.tensors[key], second.tensors[key]) for key in first.tensors)


def pair_of(rows: int) -> GeneratorDiscriminator:
    parts = {name: with_rows(getattr(PAIR, name), rows) for name in ("generator", "discriminator")}
    return GeneratorDiscriminator(**parts)


@pytest.mark.parametrize(
    ("part", "output"), [("generator", "logits"), ("discriminator", "replaced"), (None, "replaced")]
)
def test_each_of_a_pair_is_exported_by_itself(
    checkpoint: Write, tmp_path: Path, word_pieces: Tokenizer, part: Part | None, output: str
) -> None:
    rows = word_pieces.manifest.vocab_size
    spec = pair_of(rows)
    pair = build_with(spec, random_tensors(spec), "test")
    out = tmp_path / "out"
    words = ["export", str(checkpoint(spec, tokenizer=word_pieces)), "--out", str(out)]
    done = CliRunner().invoke(app, [*words, *(["--part", part] if part else [])])
    assert done.exit_code == 0, done.output
    assert f"note: this is the {part or 'discriminator'} alone; --part chooses" in done.output
    alone, tensors, _ = read_huggingface(out)
    mine = getattr(pair, part or "discriminator")
    batch = replace(plain_batch(torch.arange(11)[None]), mask=Mask(causal=False))
    with torch.no_grad():
        found, expected = (outputs_of(model, batch)[output] for model in (build_with(alone, tensors, "test"), mine))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found.std() > 0.1


def test_a_part_of_what_is_no_pair_is_refused(checkpoint: Write, tmp_path: Path, word_pieces: Tokenizer) -> None:
    source = checkpoint(with_rows(BERT, word_pieces.manifest.vocab_size), tokenizer=word_pieces)
    with pytest.raises(CheckpointError, match="has no generator, it is one encoder; export it without --part"):
        export_huggingface(source, tmp_path / "out", "generator")
    assert not (tmp_path / "out").exists()


def test_an_encoder_asked_to_generate_says_so(checkpoint: Write, word_pieces: Tokenizer) -> None:
    rows = word_pieces.manifest.vocab_size
    for name, spec in (("one", with_rows(BERT, rows)), ("two", pair_of(rows))):
        source = checkpoint(spec, name=name, tokenizer=word_pieces)
        done = CliRunner().invoke(app, ["generate", str(source), "a stone"])
        assert isinstance(done.exception, SpecError)
        assert "this model is an encoder: it reads texts and writes none" in str(done.exception)
        assert done.output == ""


def test_an_encoder_without_a_head_asked_for_scores_says_so(
    checkpoint: Write, tmp_path: Path, word_pieces: Tokenizer
) -> None:
    (tmp_path / "text.txt").write_text("a stone wall")
    for name in ("bert-pooler", "electra-discriminator"):
        spec = with_rows(SPECS[name], word_pieces.manifest.vocab_size)
        source = checkpoint(spec, name=name, tokenizer=word_pieces)
        done = CliRunner().invoke(app, ["evaluate", str(source), "--data", str(tmp_path / "text.txt")])
        assert isinstance(done.exception, CheckpointError)
        assert "has no head that predicts tokens" in str(done.exception)


def test_a_tokenizer_of_more_tokens_than_the_model_has_rows_is_refused(
    checkpoint: Write, tmp_path: Path, word_pieces: Tokenizer
) -> None:
    rows = word_pieces.manifest.vocab_size
    source = checkpoint(with_rows(BERT, rows - 1), tokenizer=word_pieces)
    words = f"the tokenizer has {rows} tokens, the model's table {rows - 1} rows"
    for line in (["embed", str(source), "a"], ["export", str(source), "--out", str(tmp_path / "out")]):
        done = CliRunner().invoke(app, line)
        assert isinstance(done.exception, CorestoneError)
        assert words in str(done.exception)
