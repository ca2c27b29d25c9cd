"""The data sets of a run's page: card, sizes, and what became of their documents or pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corestone.report.folder import Run, Tree
from corestone.report.sections import Pairs, counted, joined, kind_of, plain_text
from corestone.report.units import PICTURES, TEXT, Unit

NAMED = 20
"""Class names told of a set; of more, the first ones."""

COLUMNS = {
    TEXT.key: {"tokens": "tokens", "documents": "documents", "bytes": "bytes of text"},
    PICTURES.key: {"pictures": "pictures", "labelled": "with a class", "captions": "captions"},
}
"""What a manifest tells of each side, and its heading."""


@dataclass(frozen=True)
class DataSet:
    """A data set on the page: card, sizes and what became of its documents or pictures."""

    title: str
    card: Pairs
    not_controlled: str | None
    columns: Sequence[str]
    sizes: Sequence[tuple[str, Sequence[str]]]
    items: str
    kept: str | None
    dropped: Sequence[tuple[str, int]]


def data_sets(run: Run) -> list[DataSet]:
    """One per entry of data.json: `{manifest, card, weight}`, or a bare manifest."""
    return [_data_set(item, run.data[:place]) for place, item in enumerate(run.data)]


def _data_set(item: Tree, before: Sequence[Tree]) -> DataSet:
    manifest, card, counts = _manifest(item), _tree(item, "card"), _tree(_manifest(item), "counts")
    unit = PICTURES if manifest.get("content") == "pictures" else TEXT
    rule = card.get("split") or (f"by {card['group']}" if card.get("group") else None)
    percent = card.get("validation_percent")
    facts: Pairs = [
        ("Licence", plain_text(card.get("licence"))),
        ("Source", _source(card.get("wheel") or manifest.get("source"))),
        ("Split", joined(plain_text(rule), None if percent is None or card.get("split") else _validation(percent))),
        ("Weight", plain_text(item.get("weight"))),
        *(_of_pictures(manifest) if unit == PICTURES else _of_text(manifest)),
        ("Fingerprint", plain_text(manifest.get("fingerprint"))),
        ("Corpus sha256", plain_text(card.get("corpus_sha256"))),
    ]
    shared = unit == PICTURES and manifest in [_manifest(other) for other in before]  # parts of one prepared set
    kept = f"{counts.get('kept', '?'):,} of {counts.get('read', '?'):,} {unit.items} kept" if _whole(counts) else None
    dropped, sides = counts.get("dropped"), _sides(manifest, unit)
    columns = {
        k: name for k, name in COLUMNS[unit.key].items() if k != "captions" or any(map(_captions, sides.values()))
    }
    return DataSet(
        title=str(card.get("title") or card.get("name") or _source(manifest.get("source")) or "data set"),
        card=[(label, value) for label, value in facts if value is not None],
        not_controlled=plain_text(card.get("not_controlled")),
        columns=list(columns.values()),
        sizes=[] if shared else [(side, _size(told, list(columns))) for side, told in sides.items()],
        items=unit.items,
        kept="Its pictures are counted with those of the first part" if shared else kept,
        dropped=[(str(k), n) for k, n in dropped.items() if isinstance(n, int)]
        if isinstance(dropped, Mapping) and not shared
        else [],
    )


def _tree(node: Tree, key: str) -> Tree:
    found = node.get(key)
    return found if isinstance(found, Mapping) else {}


def _manifest(item: Tree) -> Tree:
    return _tree(item, "manifest") or item


def _validation(percent: Any) -> str:
    return f"{percent:g} % validation"


def _of_text(manifest: Tree) -> Pairs:
    tokenizer = _tree(manifest, "tokenizer")
    ratio = tokenizer.get("bytes_per_token")
    return [
        ("Tokenizer", joined(kind_of(tokenizer), counted(tokenizer.get("vocab_size"), "tokens"))),
        ("Bytes per token", f"{ratio:.3f}" if isinstance(ratio, float) else None),
        ("Encoder", joined(plain_text(manifest.get("encoder")), plain_text(manifest.get("encoder_reason")))),
    ]


def _of_pictures(manifest: Tree) -> Pairs:
    """Classes, pixels, and what reading changes."""
    names, shape, changed = manifest.get("classes"), manifest.get("shape"), _tree(_tree(manifest, "counts"), "changed")
    told = f"pictures of {manifest.get('channels', '?')} channels, each of its own height and width"
    return [
        ("Classes", _named(names) if isinstance(names, list) else None),
        ("Pixels", " x ".join(map(str, shape)) if isinstance(shape, list) else told),
        ("Changed", joined(*(f"{n:,} {what}" for what, n in changed.items() if isinstance(n, int)))),
    ]


def _named(names: Sequence[Any]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{len(names):,}: {', '.join(map(str, names[:NAMED]))}{more}" if names else "none"


def _whole(counts: Tree) -> bool:
    return isinstance(counts.get("kept"), int) and isinstance(counts.get("read"), int)


def _source(told: Any) -> str | None:
    if isinstance(told, Mapping):
        paths = told.get("paths")
        if isinstance(paths, list):
            return ", ".join(str(path) for path in paths)
        if told.get("project"):
            return f"the wheel {told['project']} {told.get('version', '')}".strip()
        return plain_text(told.get("name") or told.get("path"))
    return plain_text(told)


def _sides(manifest: Tree, unit: Unit) -> dict[str, Tree]:
    """What the manifest tells of each side: of text of these two, of pictures of those there are."""
    splits = manifest.get("splits")
    found = splits if isinstance(splits, Mapping) else manifest
    names = ["train", "validation"] + [side for side in ("test", "unlabelled") if unit == PICTURES and side in found]
    return {side: _tree(found, side) for side in names}


def _captions(side: Tree) -> bool:
    return bool(side.get("captions"))


def _size(side: Tree, keys: Sequence[str]) -> list[str]:
    return [f"{value:,}" if isinstance(value := side.get(key), int) else "not counted" for key in keys]
