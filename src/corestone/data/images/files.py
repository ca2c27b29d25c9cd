"""Readers of own pictures in files: folders of classes, COCO's captions, webdataset shards.

Files are given as they are; whether they can be decoded shows in preparation.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from corestone.core.errors import DataError
from corestone.core.paths import expanded
from corestone.data.document import Problem
from corestone.data.files import missing
from corestone.data.images.arrays import own_side
from corestone.data.images.decode import ENDINGS
from corestone.data.images.picture import Label, Picture, several
from corestone.data.images.spec import CocoCaptions, ImageFolder, WebDataset
from corestone.data.images.tar_index import Member, members, read_member

MAX_FILE_BYTES = 1 << 28
"""Longest picture file: what a hostile or mistaken file can make the reader hold."""

_SIDES = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


def read_file(path: Path, where: str) -> bytes | Problem:
    """The bytes of a picture file; a problem where it is not there, too long, or cannot be read."""
    try:
        if not path.is_file():
            return Problem("missing picture", f"{where}: {missing(path)}")
        if path.stat().st_size > MAX_FILE_BYTES:
            return Problem(
                "file too long", f"{where}: {path} is longer than {MAX_FILE_BYTES >> 20} MiB; store it smaller"
            )
        return path.read_bytes()
    except OSError as error:
        return Problem("cannot be read", f"{where}: {path} cannot be read ({error.strerror}); check its permissions")


def shown(path: Path) -> str:
    """A path as valid Unicode: bytes of a file name that are not UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


# -- a folder of class folders ------------------------------------------------------------------------------------


def read_folder(source: ImageFolder) -> Iterator[Picture | Problem]:
    """Pictures by name; ids are paths below the folder, the group is the id without the folder of a side."""
    root = expanded(source.path)
    tops = _folders(root)
    if tops and all(top in _SIDES for top in tops):
        for top in tops:
            yield from _classes(source, root, root / top, _SIDES[top])
    else:
        yield from _classes(source, root, root, None)


def folder_files(root: Path) -> Iterator[Path]:
    """All files below a folder that are not hidden, by name; links to folders are followed, each folder once."""
    visited: set[Path] = set()
    for here, folders, files in os.walk(root, followlinks=True):
        real = Path(here).resolve()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        yield from (Path(here) / name for name in sorted(files) if not name.startswith("."))


def _folders(root: Path) -> list[str]:
    if not root.is_dir():
        raise DataError(missing(root) if not root.exists() else f"{root}: is a file; give the folder of class folders")
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _classes(source: ImageFolder, root: Path, folder: Path, fixed: str | None) -> Iterator[Picture | Problem]:
    for path in folder_files(folder):
        if path.suffix.lower() not in ENDINGS:
            message = f"{shown(path)}: files of this type are not read as pictures; known: {' '.join(ENDINGS)}"
            yield Problem(f"file type not read ({path.suffix or 'no ending'})", message, fatal=False)
            continue
        data = read_file(path, shown(path))
        if isinstance(data, Problem):
            yield data
            continue
        below = path.relative_to(folder)
        label = shown(Path(below.parts[0])) if len(below.parts) > 1 else None
        name = shown(path.relative_to(root))
        side = source.side or fixed or own_side(source, name)
        yield Picture(name, data, side, shown(path), label)


# -- COCO captions ------------------------------------------------------------------------------------------------


def read_coco(source: CocoCaptions) -> Iterator[Picture | Problem]:
    """One picture per entry of `images`, with all its captions; ids are file names, the group is the file name."""
    path = expanded(source.annotations)
    tree = _coco_tree(path)
    captions: dict[Any, list[str]] = defaultdict(list)
    for number, one in enumerate(tree["annotations"]):
        if isinstance(one, dict) and isinstance(one.get("caption"), str) and "image_id" in one:
            captions[one["image_id"]].append(one["caption"].strip())
        else:
            message = f"{path}: annotation {number} has no image_id or no caption; is it the captions file?"
            yield Problem("no caption", message)
    for number, image in enumerate(tree["images"]):
        where = f"{path}, image {number}"
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str) or "id" not in image:
            yield Problem("no file name", f"{where}: has no file_name or no id; mend the entry")
            continue
        name = image["file_name"]
        data = read_file(expanded(source.images) / name, where)
        if isinstance(data, Problem):
            yield data
            continue
        if not captions[image["id"]]:
            yield Problem("no caption", f"{where}: no caption for {name}", fatal=False)
            continue
        yield Picture(name, data, own_side(source, name), str(path), None, tuple(captions[image["id"]]))


def _coco_tree(path: Path) -> dict[str, list[Any]]:
    if not path.exists():
        raise DataError(missing(path))
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); fetch it again") from None
    if not isinstance(tree, dict) or not all(isinstance(tree.get(key), list) for key in ("images", "annotations")):
        raise DataError(f"{path}: has no lists 'images' and 'annotations'; give COCO's captions_*.json")
    return tree


# -- webdataset shards --------------------------------------------------------------------------------------------


def read_webdataset(source: WebDataset) -> Iterator[Picture | Problem]:
    """One picture per run of members of one name; ids are `shard:name`, which is the group too."""
    for path in shard_paths(source.shards):
        if not path.exists():
            yield Problem("missing shard", missing(path))
            continue
        group: list[Member] = []
        found = members(path)
        while True:
            try:
                member = next(found, None)
            except (DataError, OSError) as error:
                yield Problem("corrupt tar", str(error))
                member = None
            if group and (member is None or _key(member) != _key(group[0])):
                yield _sample(source, path, group)
                group = []
            if member is None:
                break
            if not Path(member.name).name.startswith("."):
                group.append(member)


def shard_paths(patterns: tuple[str, ...]) -> list[Path]:
    """The paths that brace patterns stand for: {000..127} counts with leading zeros, {a,b} chooses."""
    return [expanded(one) for pattern in patterns for one in braces(pattern)]


def braces(pattern: str) -> list[str]:
    """Expand the brace patterns of a path. Raises DataError where a brace stands open or a range runs backwards."""
    pieces = re.split(r"\{([^{}]*)\}", pattern)
    if any(brace in piece for piece in pieces for brace in "{}"):
        raise DataError(f"'{pattern}': braces that do not close; write {{000..127}} or {{a,b}}")
    choices = [_choices(piece, pattern) if place % 2 else [piece] for place, piece in enumerate(pieces)]
    return ["".join(parts) for parts in product(*choices)]


def _choices(piece: str, pattern: str) -> list[str]:
    counted = re.fullmatch(r"(\d+)\.\.(\d+)", piece)
    if not counted:
        return piece.split(",")
    first, last = counted.groups()
    if int(last) < int(first):
        raise DataError(f"'{pattern}': {{{piece}}} runs backwards; write {{{last}..{first}}}")
    width = len(first) if first.startswith("0") and len(first) > 1 else 0
    return [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]


def _key(member: Member) -> str:
    folder, _, name = member.name.rpartition("/")
    return f"{folder}/{name.split('.', 1)[0]}"


def _ending(member: Member) -> str:
    return "." + member.name.rpartition("/")[2].partition(".")[2].lower()


def _sample(source: WebDataset, path: Path, group: list[Member]) -> Picture | Problem:
    key = _key(group[0]).lstrip("/")
    where = f"{path}, {key}"
    parts = {_ending(member): member for member in group}
    pictures = [member for ending, member in parts.items() if ending in ENDINGS]
    if len(pictures) != 1:
        held = ", ".join(sorted(parts))
        return Problem("not one picture", f"{where}: {len(pictures)} pictures where one belongs (it has {held})")
    if pictures[0].size > MAX_FILE_BYTES:
        return Problem("file too long", f"{where}: longer than {MAX_FILE_BYTES >> 20} MiB; store it smaller")
    try:
        facts = json.loads(read_member(path, parts[".json"])) if ".json" in parts else {}
        label = _label_of(source, path, parts.get(".cls"), facts)
        captions = _captions_of(path, parts.get(".txt"), facts, source.caption_key)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one
        return Problem("unreadable text beside the picture", f"{where}: {error}; mend the shard")
    name = f"{path.name}:{key}"
    side = own_side(source, name)
    return Picture(name, read_member(path, pictures[0]), side, str(path), label, captions)


def _captions_of(path: Path, member: Member | None, facts: Any, key: str) -> tuple[str, ...]:
    """The caption in a member of its own, or else what the .json has of them; empty ones are left out."""
    many = facts.get(key) if member is None and isinstance(facts, dict) else None
    if isinstance(many, list):
        return tuple(one.strip() for one in many if isinstance(one, str) and one.strip())
    caption = _text_of(path, member, facts, key)
    return (caption,) if caption else ()


def _label_of(source: WebDataset, path: Path, member: Member | None, facts: Any) -> Label:
    """The class, or all that apply, in a member of its own or else in the .json."""
    value = facts.get(source.label_key) if member is None and isinstance(facts, dict) else None
    if not source.label_list and not isinstance(value, list):
        return _text_of(path, member, facts, source.label_key)
    if member is not None:
        value = read_member(path, member).decode("utf-8").splitlines()
    found = several(value) if source.label_list else None
    if found is None:
        wanted = "a list of classes" if source.label_list else "a class (or set label_list)"
        raise ValueError(f"'{source.label_key}' is {value!r:.80}, where {wanted} belongs")
    return found


def _text_of(path: Path, member: Member | None, facts: Any, key: str) -> str | None:
    """What stands in a member of its own, or else in the .json."""
    if member:
        return read_member(path, member).decode("utf-8").strip()
    value = facts.get(key) if isinstance(facts, dict) else None
    return None if value is None else str(value).strip()
