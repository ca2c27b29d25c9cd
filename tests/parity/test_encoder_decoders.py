"""Parity with Hugging Face's T5ForConditionalGeneration, fp32 on CPU, by the real converter.

Every case has three rows on both sides: whole, padded on the right, padded on the left. Measured worst case over all
cases: WORST of logits to 13.9 (tolerance 1e-5); of gradients GRAD of the parameter's largest (or of 1).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from record_huggingface import (
    ANSWER,
    DATA,
    ENCODER_DECODERS,
    OWN_HEAD,
    answers_of,
    prompts_in,
    seq2seq_expected,
    seq2seq_inputs,
    seq2seq_logits,
    tiny_seq2seq,
)
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from corestone.cli.main import app
from corestone.core.batch import Seq2SeqBatch, TextBatch
from corestone.core.mask import Mask
from corestone.core.vocabulary import Vocabulary
from corestone.data.spec import Unigram
from corestone.data.tokenizer import Tokenizer, build_tokenizer
from corestone.generate.decode import generate
from corestone.generate.spec import Sampling
from corestone.interop.agreement import outputs_of
from corestone.interop.encoder_decoders import T5
from corestone.interop.incoming import import_huggingface, read_huggingface
from corestone.interop.outgoing import export_huggingface
from corestone.interop.vocabulary import tokenizer_texts
from corestone.interop.weights import build_with, to_theirs
from corestone.models.encoder_decoder import EncoderDecoderModel
from corestone.objectives.seq2seq import packed

TOLERANCE = 1e-5
BFLOAT16_BOUND = 0.03
"""Root-mean-square error of logits in bfloat16, in their standard deviations; worst case measured: 0.017, of t5-v1.1
(the library's own: 0.014)."""
PAD, END = 0, 1


def read(case: str) -> tuple[EncoderDecoderModel, dict[str, Tensor]]:
    spec, tensors, _ = read_huggingface(DATA / case)
    return build_with(spec, tensors, case), load_file(DATA / case / "expected.safetensors")


def batch_of(inputs: dict[str, Tensor]) -> Seq2SeqBatch:
    def text(side: str, mask: Mask) -> TextBatch:
        tokens = inputs[side]
        return TextBatch(tokens, tokens, torch.arange(tokens.shape[1]).expand_as(tokens), mask)

    source, target = (inputs[f"{side}_attention"].int() for side in ("source", "target"))
    return Seq2SeqBatch(
        text("source", Mask(causal=False, segments_BT=source)),
        text("target", Mask(segments_BT=target, sources_BS=source)),
    )


def logits_of(model: EncoderDecoderModel, inputs: dict[str, Tensor]) -> Tensor:
    return outputs_of(model, batch_of(inputs))["logits"]


def worst(found: Tensor, expected: Tensor, inputs: dict[str, Tensor]) -> float:
    """The largest difference where the target is no padding."""
    return float((found - expected)[inputs["target_attention"].bool()].detach().abs().max())


def error(found: Tensor, expected: Tensor, inputs: dict[str, Tensor]) -> float:
    """Root-mean-square error where the target is no padding, in standard deviations."""
    real = inputs["target_attention"].bool()
    return float((found.float() - expected)[real].square().mean().sqrt() / expected[real].std())


def answers(model: EncoderDecoderModel, prompts: list[list[int]]) -> Tensor:
    """Our greedy answers with a cache, as the reference pads them."""
    vocabulary = Vocabulary(size=model.vocab_size, separator=END, pad=PAD)
    rows = generate(model, vocabulary, prompts, Sampling(temperature=0.0, max_tokens=ANSWER))
    return torch.tensor([([*row, END] + [PAD] * ANSWER)[:ANSWER] for row in rows])


@pytest.mark.parametrize("case", ENCODER_DECODERS)
def test_recorded_logits_are_reproduced(case: str) -> None:
    model, expected = read(case)
    assert model.spec.head.tied == (case not in OWN_HEAD)
    assert (model.spec.head.scale == 1.0) == case.startswith("t5-v1.1")
    assert expected["logits"].std() > 0.4  # logits that hardly differ would prove nothing
    with torch.no_grad():
        assert worst(logits_of(model, expected), expected["logits"], expected) <= TOLERANCE


@pytest.mark.parametrize("case", ENCODER_DECODERS)
def test_recorded_gradients_are_reproduced(case: str) -> None:
    model, expected = read(case)
    (logits_of(model, expected) * expected["probe"]).nan_to_num().sum().backward()
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    gradients = to_theirs(T5, model.spec, ours, model.vocab_size)  # type: ignore[arg-type]
    assert {f"grad.{name}" for name in gradients} == {name for name in expected if name.startswith("grad.")}
    for name, gradient in gradients.items():
        theirs = expected[f"grad.{name}"]
        relative = float((gradient - theirs).abs().max()) / max(1.0, float(theirs.abs().max()))
        assert relative <= TOLERANCE, name


@pytest.mark.parametrize("case", ENCODER_DECODERS)
def test_texts_packed_in_one_row_compute_what_the_reference_computes_of_each(case: str) -> None:
    """All three pairs in one row, without their padding; the objectives' own packing shifts and ends them."""
    model, expected = read(case)
    sides = [(expected[side], expected[f"{side}_attention"].bool()) for side in ("source", "target")]
    sources, targets = ([row[keep].numpy() for row, keep in zip(*side, strict=True)] for side in sides)
    row = packed([list(zip(sources, targets, strict=True))], END, PAD)
    alone = [packed([[pair]], END, PAD) for pair in zip(sources, targets, strict=True)]
    with torch.no_grad():
        together = outputs_of(model, row)["logits"][0]
        each = torch.cat([outputs_of(model, batch)["logits"][0] for batch in alone])
        assert float((together - each).abs().max()) <= TOLERANCE
        # Without what packing adds at the ends, each is what the reference was given.
        for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
            inputs = {"source": torch.from_numpy(source)[None], "target": torch.from_numpy(target)[None]}
            inputs |= {f"{side}_attention": torch.ones_like(tokens) for side, tokens in list(inputs.items())}
            theirs = expected["logits"][number][expected["target_attention"][number].bool()]
            assert worst(logits_of(model, inputs), theirs[None], inputs) <= TOLERANCE


@pytest.mark.parametrize("case", ENCODER_DECODERS)
def test_recorded_answers_are_written(case: str) -> None:
    """With a cache, in one batch and alone, token for token."""
    model, expected = read(case)
    prompts = prompts_in(expected)
    assert len(expected["answers"].unique()) >= 9
    assert torch.equal(answers(model, prompts), expected["answers"])
    for row, prompt in enumerate(prompts):
        assert torch.equal(answers(model, [prompt])[0], expected["answers"][row])


@pytest.mark.parametrize("case", ENCODER_DECODERS)
def test_bfloat16_stays_within_its_bound(case: str) -> None:
    model, expected = read(case)
    with torch.no_grad():
        found = logits_of(model.to(torch.bfloat16), expected)
    assert 0 < error(found, expected["logits"], expected) <= BFLOAT16_BOUND


@pytest.mark.slow
@pytest.mark.parametrize("case", ["t5", "t5-v1.1"])
def test_compiled_equals_eager(case: str) -> None:
    model, expected = read(case)
    with torch.no_grad():
        compiled = outputs_of(torch.compile(model), batch_of(expected))["logits"]
        assert worst(compiled, logits_of(model, expected), expected) <= TOLERANCE


@pytest.mark.parametrize("case", sorted(OWN_HEAD))
def test_a_folder_of_version_4_is_the_same_model(case: str, tmp_path: Path) -> None:
    """There one setting says both that the head is not tied and that logits are not scaled, and nothing else does."""
    folder = tmp_path / case
    shutil.copytree(DATA / case, folder)
    config = json.loads((folder / "config.json").read_text())
    for later in ("scale_decoder_outputs", "dense_act_fn", "is_gated_act"):
        del config[later]
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    assert read_huggingface(folder)[0] == read_huggingface(DATA / case)[0]


# -- beside the library itself ------------------------------------------------------------------------------------


def loaded(folder: Path) -> Any:
    import transformers

    return transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parity
@pytest.mark.parametrize("case", ENCODER_DECODERS)
def test_the_recording_is_what_the_reference_computes(case: str) -> None:
    """The same library on the same weights: rounding alone."""
    expected = load_file(DATA / case / "expected.safetensors")
    again = seq2seq_expected(loaded(DATA / case))
    assert again.keys() == expected.keys()
    assert torch.equal(again["answers"], expected["answers"])
    assert worst(again["logits"], expected["logits"], expected) <= TOLERANCE
    for name in expected:
        if name.startswith("grad."):
            scale = max(1.0, float(expected[name].abs().max()))
            assert float((again[name] - expected[name]).abs().max()) <= TOLERANCE * scale, name


@pytest.mark.parity
def test_the_library_ties_new_models_of_version_1_1_and_keeps_apart_what_it_reads() -> None:
    """What the cases rest on: were this to change, `OWN_HEAD` would have to be made in another way."""
    import transformers

    config = transformers.T5Config(**ENCODER_DECODERS["t5-v1.1"])
    new = transformers.T5ForConditionalGeneration(config)
    assert (config.tie_word_embeddings, config.scale_decoder_outputs) == (True, False)
    assert new.lm_head.weight is new.shared.weight
    for case in ENCODER_DECODERS:
        model = loaded(DATA / case)
        assert (model.lm_head.weight is model.shared.weight) == (case not in OWN_HEAD)


TEXT = ["a stone wall stands where the stones were cut", "corner stones, key stones and core stones: cut"] * 20
TEXTS = ("a stone wall", "Cut  stones,\tkey", "naïve stöne 北, ")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer(Unigram(vocab_size=90, sentinels=6), TEXT)


def save(model: Any, tokenizer: Tokenizer, folder: Path, **options: Any) -> Path:
    """Save a model and a tokenizer by the library's own classes, as its users do."""
    import transformers

    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    for name, text in tokenizer_texts(tokenizer, 512, "test").items():
        (scratch / name).write_text(text)
    transformers.T5TokenizerFast.from_pretrained(scratch).save_pretrained(folder)
    shutil.rmtree(scratch)
    model.save_pretrained(folder, **options)
    return folder


@pytest.mark.parity
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "4KB"}], ids=["one-file", "shards"])
@pytest.mark.parametrize("case", ENCODER_DECODERS)
def test_import_and_export_keep_what_is_computed(
    case: str, options: dict[str, Any], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """There and back: their model -> our checkpoint -> their model, loaded by the class that the export names."""
    tokens = tokenizer.manifest.vocab_size
    model = tiny_seq2seq(case, vocab_size=tokens + 5)
    inputs = seq2seq_inputs(model.config)
    theirs = save(model, tokenizer, tmp_path / "theirs", **options)
    assert bool(options) == (theirs / "model.safetensors.index.json").exists()
    imported = import_huggingface(theirs, tmp_path / "ours")
    spec, tensors, family = read_huggingface(theirs)
    assert {block.mixer.dropout for block in spec.encoder.blocks} == {spec.decoder.dropout} == {0.2}
    mine = build_with(spec, tensors, case)
    with torch.no_grad():
        expected = seq2seq_logits(model, inputs)
        assert worst(logits_of(mine, inputs), expected, inputs) <= TOLERANCE

    exported = export_huggingface(imported.folder, tmp_path / "back")
    assert len(exported.checks) == 3
    assert exported.loading == "AutoModelForSeq2SeqLM.from_pretrained(folder)"
    again = loaded(exported.folder)
    assert type(again) is type(model)
    assert exported.dropped_rows == 5
    state, before = again.state_dict(), model.state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name][: len(state[name])]) for name in state)
    for key in {*family.settings.keys.values()} - {"vocab_size", "n_positions"}:
        assert getattr(again.config, key) == pytest.approx(getattr(model.config, key)), key
    kept = {**inputs, **{side: inputs[side].clamp(max=tokens - 1) for side in ("source", "target")}}
    with torch.no_grad():
        same, cut = seq2seq_logits(again, kept), seq2seq_logits(model, kept)[..., :tokens]
    assert worst(same, cut, inputs) <= TOLERANCE


@pytest.mark.parity
@pytest.mark.parametrize("case", ENCODER_DECODERS)
def test_answers_are_the_librarys(case: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Texts in, texts out: `corestone generate` beside tokenizer, `generate` and decoding of the library, on the
    folder as it was given and as it was exported. (Of a table's padding rows, `generate` there may choose one.)"""
    theirs = save(tiny_seq2seq(case, vocab_size=tokenizer.manifest.vocab_size), tokenizer, tmp_path / "theirs")
    ours, back = tmp_path / "ours", tmp_path / "back"
    for arguments in (["import", theirs, "--out", ours], ["export", ours, "--out", back]):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
    options = ["--greedy", "--max-tokens", str(ANSWER), "--precision", "float32", "--json"]
    done = CliRunner().invoke(app, ["generate", str(ours), *TEXTS, *options])
    assert done.exit_code == 0, done.output
    written = [json.loads(line)["text"] for line in done.output.splitlines()]
    assert len(set(written)) == len(TEXTS)
    assert written == [spoken(theirs, text) for text in TEXTS]
    assert written == [spoken(back, text) for text in TEXTS]


def spoken(folder: Path, text: str) -> str:
    """The library's greedy answer to a text."""
    import transformers

    model, tokenizer = loaded(folder), transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text)["input_ids"]
    assert ids[-1] == END
    answer = answers_of(model, [ids[:-1]])[0].tolist()
    answer = answer[: answer.index(END)] if END in answer else answer
    return str(tokenizer.decode(answer))


@pytest.mark.parity
@pytest.mark.parametrize("case", ENCODER_DECODERS)
def test_bfloat16_is_as_near_as_the_library(case: str) -> None:
    model, expected = read(case)
    with torch.no_grad():
        ours = error(logits_of(model.bfloat16(), expected), expected["logits"], expected)
        theirs = error(seq2seq_logits(loaded(DATA / case).bfloat16(), expected), expected["logits"], expected)
    assert ours <= 1.5 * theirs, (ours, theirs)
