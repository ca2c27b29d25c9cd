"""What the command line's words mean as a picture source, and what is said of those that mean none."""

from __future__ import annotations

import pytest

from corestone.core.errors import CorestoneError
from corestone.data.images.named import parse_pictures
from corestone.data.images.spec import Cifar10, CocoCaptions, EmbeddedImages, Idx, ImageFolder, ImageTable, WebDataset


def test_each_form_is_its_record(tmp_path):
    (tmp_path / "folder" / "cats").mkdir(parents=True)
    (tmp_path / "cifar").mkdir()
    files = ("cifar/test_batch.bin", "t.csv", "s-0.tar", "c.json", "t10k-images-idx3-ubyte.gz")
    for name in files:
        (tmp_path / name).write_bytes(b"")
    root = str(tmp_path)
    forms = {
        "digits": EmbeddedImages(name="digits"),
        "emoji?split=concept": EmbeddedImages(name="emoji", split="concept"),
        f"{root}/folder": ImageFolder(path=f"{root}/folder"),
        f"{root}/folder?validation_percent=20": ImageFolder(path=f"{root}/folder", validation_percent=20),
        f"{root}/cifar": Cifar10(path=f"{root}/cifar"),
        f"{root}/*.csv?label_key=kind&columns=[a, b]": ImageTable(
            paths=(f"{root}/*.csv",), label_key="kind", columns=("a", "b")
        ),
        f"{root}/t.csv?label_key=1&label_list=true&label_separator=|": ImageTable(
            paths=(f"{root}/t.csv",), label_key="1", label_list=True, label_separator="|"
        ),
        f"{root}/s-{{0..3}}.tar": WebDataset(shards=(f"{root}/s-{{0..3}}.tar",)),
        f"{root}/c.json?images={root}": CocoCaptions(annotations=f"{root}/c.json", images=root),
        f"{root}/t10k-images-idx3-ubyte.gz": Idx(images=f"{root}/t10k-images-idx3-ubyte.gz"),
    }
    for text, record in forms.items():
        assert parse_pictures(text) == record, text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("digit", "unknown data set of pictures 'digit': did you mean 'digits'.*no file or folder has this name"),
        ("shakespeare", "holds text, and pictures are wanted"),
        ("digits?splitt=x", "unknown key 'splitt'; did you mean 'split'"),
        ("digits?split=[", r"digits\?split=\[: split: '\[' is no YAML list"),
        ("no/where", "no: no such file or folder"),
        ("ROOT/notes.txt", "is no picture source; give a folder of class folders"),
        ("ROOT/c.json", "c.json: images: Field required"),
    ],
)
def test_mistakes_are_told(tmp_path, text, said):
    for name in ("notes.txt", "c.json"):
        (tmp_path / name).write_text("x")
    with pytest.raises(CorestoneError, match=said):
        parse_pictures(text.replace("ROOT", str(tmp_path)))
