"""Import: a Hugging Face folder becomes a checkpoint, or a refusal of one line that leaves nothing behind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_decoder, random_tensors

from corestone.core.errors import CheckpointError, CorestoneError, DataError
from corestone.core.spec import from_yaml
from corestone.data.tokenizer import load_tokenizer
from corestone.interop.incoming import import_huggingface, read_huggingface
from corestone.models.spec import Decoder
from corestone.train.archive import read_model_files
from corestone.train.checkpoint import damage

Write = Callable[..., Path]


@pytest.mark.parametrize("post_norm", [False, True], ids=["gpt2", "gpt1"])
def test_an_import_is_a_whole_checkpoint_of_the_same_model(huggingface: Write, tmp_path: Path, post_norm: bool) -> None:
    spec = make_decoder(post_norm)
    theirs = huggingface(spec)
    done = import_huggingface(theirs, tmp_path / "deep" / "out")
    assert damage(done.folder) is None
    text, tensors, folder = read_model_files(done.folder)
    assert from_yaml(Decoder, text, "test") == spec == done.spec
    expected = random_tensors(spec)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    raw = tokenizers.Tokenizer.from_file(str(theirs / "tokenizer.json"))
    tokenizer = load_tokenizer(folder)
    sentence = "cornerstones cut: 12, ünïcode\n"
    assert list(tokenizer.encode(sentence)) == raw.encode(sentence).ids
    assert tokenizer.manifest.separator == raw.token_to_id("<|endoftext|>")
    assert tokenizer.manifest.vocab_size == raw.get_vocab_size() < done.spec.embedding.vocab_size == 320


def shard(folder: Path) -> None:
    """Split a folder's weights over two files and an index, as large models are saved."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(sorted(tensors))}
    for place in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == place}, folder / place)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_shards_are_read_as_one(huggingface: Write) -> None:
    folder = huggingface(make_decoder())
    _, whole, _ = read_huggingface(folder)
    shard(folder)
    _, parts, _ = read_huggingface(folder)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_shards_that_are_not_what_the_index_says_are_refused(huggingface: Write) -> None:
    folder = huggingface(make_decoder())
    shard(folder)
    index = folder / "model.safetensors.index.json"
    tree = json.loads(index.read_text())
    moved = dict(tree["weight_map"])
    moved["transformer.wte.weight"] = "../model.safetensors"
    index.write_text(json.dumps({"weight_map": moved}))
    with pytest.raises(CheckpointError, match=re.escape("names the shard '../model.safetensors'")):
        read_huggingface(folder)
    places = dict(tree["weight_map"])
    del places["transformer.wte.weight"]
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CheckpointError, match=r"not those that .* lists \(first: 'transformer.wte.weight'\)"):
        read_huggingface(folder)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="weight_map"):
        read_huggingface(folder)


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{\n "n_layer": 2,\n')


def _config_is_a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def _other_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama"}')


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": 3}')


def _larger_tokenizer(folder: Path) -> None:
    path = str(folder / "tokenizer.json")
    raw = tokenizers.Tokenizer.from_file(path)
    raw.add_tokens([f"extra{number}" for number in range(50)])
    raw.save(path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_pickle_only, "a pickle, which is not loaded here; .* corestone convert .*pytorch_model.bin --out DIR"),
        (_no_weights, "has no weights"),
        (_cut_weights, "model.safetensors: cannot be read"),
        (_no_config, "has no config.json"),
        (_broken_config, "config.json, line 3: not valid JSON"),
        (_config_is_a_list, "config.json: expected a JSON object"),
        (
            _other_config,
            "model_type 'llama' cannot be expressed here; known: bert, bloom, electra, gpt2, gptj, openai-gpt, opt",
        ),
        (_no_tokenizer, "has no tokenizer .looked for tokenizer.json, vocab.txt, and for vocab.json with merges.txt"),
        (_broken_tokenizer, "none that the tokenizers library can read"),
        (_larger_tokenizer, "the tokenizer has 330 tokens, the model's table 320 rows"),
    ],
)
def test_a_folder_that_cannot_be_taken_is_refused_and_nothing_is_written(
    huggingface: Write, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    folder = huggingface(make_decoder())
    spoil(folder)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CorestoneError, match=words) as refusal:
        import_huggingface(folder, tmp_path / "out")
    assert str(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_is_there_already_is_left_alone(huggingface: Write, tmp_path: Path) -> None:
    folder = huggingface(make_decoder())
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists already"):
        import_huggingface(folder, out)
    assert (out / "precious.txt").read_text() == "mine"
    with pytest.raises(CheckpointError, match="no such folder"):
        import_huggingface(tmp_path / "nowhere", tmp_path / "other")


def _in_parts(folder: Path) -> tokenizers.Tokenizer:
    """Keep the tokenizer only as vocab.json and merges.txt, as older folders do."""
    raw = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    (folder / "tokenizer.json").unlink()
    raw.model.save(str(folder))
    return raw


def test_a_tokenizer_in_parts_gives_the_same_ids(huggingface: Write, tmp_path: Path) -> None:
    folder = huggingface(make_decoder())
    raw = _in_parts(folder)
    done = import_huggingface(folder, tmp_path / "out")
    tokenizer = load_tokenizer(done.folder)
    for sentence in ("a stone wall", "  keystone\n\ncornerstone 12", "naïve 石"):
        assert list(tokenizer.encode(sentence)) == raw.encode(sentence).ids
    assert any("vocab.json" in note for note in done.notes)


@pytest.mark.parametrize("begins", [True, False])
def test_a_tokenizer_in_parts_that_begins_texts_says_so(huggingface: Write, tmp_path: Path, begins: bool) -> None:
    """OPT's folder: `add_bos_token` in tokenizer_config.json."""
    folder = huggingface(make_decoder())
    _in_parts(folder)
    settings = {"add_bos_token": begins, "bos_token": {"content": "<|endoftext|>"}, "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(import_huggingface(folder, tmp_path / "out").folder)
    assert tokenizer.begins_texts == begins
    library = tokenizers.Tokenizer.from_str(tokenizer.files()["tokenizer.json"])
    assert library.encode("a wall").ids == [tokenizer.manifest.separator] * begins + tokenizer.encode("a wall")


def test_the_separator_is_the_folders_own_end_of_text(huggingface: Write, tmp_path: Path) -> None:
    """tokenizer_config.json speaks first, then config.json, then the usual name."""
    folder = huggingface(make_decoder())
    raw = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    raw.add_special_tokens(["</s>", "<eot>"])
    raw.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text())
    for number, (setting, eos_id, expected) in enumerate(
        [
            ({"eos_token": {"content": "</s>"}}, raw.token_to_id("<eot>"), "</s>"),
            ({"eos_token": "</s>"}, None, "</s>"),
            ({}, [raw.token_to_id("<eot>"), 5], "<eot>"),
            ({"eos_token": "<unknown>"}, None, "<|endoftext|>"),
            ({}, None, "<|endoftext|>"),
        ]
    ):
        (folder / "tokenizer_config.json").write_text(json.dumps(setting))
        (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": eos_id}))
        done = import_huggingface(folder, tmp_path / f"out{number}")
        assert load_tokenizer(done.folder).manifest.separator == raw.token_to_id(expected)
        assert done.notes == []


def test_gpt1_words_without_an_end_of_text_are_separated_by_the_unknown_token(
    huggingface: Write, tmp_path: Path
) -> None:
    folder = huggingface(make_decoder(post_norm=True))
    (folder / "tokenizer.json").unlink()
    pieces = ["<unk>", *"stone", *(f"{letter}</w>" for letter in "stone"), "st", "one</w>", "on"]
    (folder / "vocab.json").write_text(json.dumps({piece: place for place, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\ns t\no n\non e</w>\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": None}))
    done = import_huggingface(folder, tmp_path / "out")
    assert any("'<unk>' separates documents" in note for note in done.notes)
    tokenizer = load_tokenizer(done.folder)
    assert tokenizer.manifest.separator == 0
    assert list(tokenizer.encode("STONE so")) == [pieces.index(piece) for piece in ("st", "one</w>", "s", "o</w>")]


def test_a_tokenizer_without_anything_to_separate_documents_is_refused(huggingface: Write, tmp_path: Path) -> None:
    folder = huggingface(make_decoder())
    tree = json.loads((folder / "tokenizer.json").read_text())
    tree["added_tokens"] = []
    tree["model"]["vocab"]["ordinary"] = tree["model"]["vocab"].pop("<|endoftext|>")
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": None}))
    with pytest.raises(DataError, match="no end-of-text token"):
        import_huggingface(folder, tmp_path / "out")
