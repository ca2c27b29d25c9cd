"""Records: small frozen keyword-only values that say what to build, and their text form.

A record never builds itself. A choice with parameters of its own is a record with a `kind`; `None` means absent.
This module and every `spec.py` of the house import no torch, so that a recipe can be shown or refused at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from corestone.core.errors import SpecError, nearest, unknown

S = TypeVar("S", bound="Spec")


class Spec(BaseModel):
    """Base of every record: frozen, keyword-only, unknown keys refused with the nearest known one named."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            for key in value:
                if key not in cls.model_fields:
                    guess = nearest(str(key), cls.model_fields)
                    hint = f"; did you mean '{guess}'?" if guess else ""
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key '{key}'{hint} (keys of {record}: {known})",
                        {"key": str(key), "hint": hint, "record": cls.__name__, "known": ", ".join(cls.model_fields)},
                    )
        return value


def parse(cls: type[S], tree: Any, where: str) -> S:
    """Validate a plain tree (dicts, lists, scalars) into a record.

    Raises SpecError with one line per problem: `where`, the path of the key, what was wrong.
    """
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        raise SpecError("; ".join(_problem(item, tree, where) for item in error.errors())) from None


def _problem(item: Any, tree: Any, where: str) -> str:
    path = ".".join(_keys(item["loc"], tree, item["type"] == "missing"))
    place = f"{where}: {path}" if path else where
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in item["ctx"]["expected_tags"].split(",")]
        message = unknown(item["ctx"]["discriminator"].strip("'"), item["ctx"]["tag"], tags)
    shown = "" if item["type"] == "unknown_key" or isinstance(item["input"], Mapping) else f" (got {item['input']!r})"
    return f"{place}: {message}{shown}"


def _keys(location: Sequence[str | int], tree: Any, missing: bool) -> list[str]:
    """A place in a tree as the user writes it: without the kinds by which records of a choice are told apart.

    Those are the parts that are no keys of the tree, unless it is the last one that is `missing`.
    """
    keys = []
    for place, part in enumerate(location, start=1):
        inner = tree if isinstance(tree, Mapping) else vars(tree) if isinstance(tree, Spec) else None
        if inner is not None and part not in inner and not (missing and place == len(location)):
            continue
        keys.append(str(part))
        if inner is not None:
            tree = inner.get(str(part))
        else:
            tree = tree[part] if isinstance(tree, Sequence) and isinstance(part, int) and part < len(tree) else None
    return keys


def plain(value: Any) -> Any:
    """Turn records into dicts and lists. Equal records of one list become the same dict, which YAML prints once."""
    if isinstance(value, Spec):
        dumped = value.model_dump(mode="json")
        if not isinstance(dumped, dict):  # a record with a text form of its own, like Duration
            return dumped
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, (tuple, list)):
        done: dict[Spec, Any] = {}
        return [done.setdefault(item, plain(item)) if isinstance(item, Spec) else plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


class _Dumper(yaml.SafeDumper):
    """Flow style for lists of scalars; aliases only for repeated records."""

    def ignore_aliases(self, data: Any) -> bool:
        return not (isinstance(data, dict) and data)


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    flow = all(not isinstance(item, (dict, list)) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


_Dumper.add_representer(list, _represent_list)


def to_yaml(spec: Spec) -> str:
    """Print a record as YAML; `from_yaml` gives an equal record back."""
    return yaml.dump(plain(spec), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


def from_yaml(cls: type[S], text: str, where: str) -> S:
    """Read a record from YAML text. `where` names the file in errors."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise SpecError(f"{where}{line}: not valid YAML ({getattr(error, 'problem', None) or 'unreadable'})") from None
    if not isinstance(tree, dict):
        raise SpecError(f"{where}: expected a mapping of keys, found {type(tree).__name__}")
    return parse(cls, tree, where)


def read_yaml(cls: type[S], path: Path) -> S:
    """Read a record from a YAML file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read ({error})") from None
    return from_yaml(cls, text, str(path))


def override(spec: S, assignments: Sequence[str]) -> S:
    """Apply typed `path=value` assignments, such as `training.batch_tokens=8192`.

    The value is YAML; a path steps through keys and list indices, `*` means every item of a list. The result is
    validated as a whole, so a misspelt key or an out-of-range value is refused with its path.
    """
    tree = json.loads(json.dumps(plain(spec)))  # unshared copies: an alias must not spread an override
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator or not path:
            raise SpecError(f"override '{assignment}': expected path=value, for example training.batch_tokens=8192")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise SpecError(f"override '{assignment}': '{text}' is not a YAML value") from None
        _assign(tree, path.split("."), value, assignment)
    return parse(type(spec), tree, "override" if assignments else "recipe")


def _assign(node: Any, path: list[str], value: Any, assignment: str) -> None:
    key, rest = path[0], path[1:]
    if isinstance(node, list):
        for index in _indices(key, len(node), assignment):
            if rest:
                _assign(node[index], rest, value, assignment)
            else:
                node[index] = value
    elif isinstance(node, dict):
        if key not in node:
            raise SpecError(f"override '{assignment}': {unknown('key', key, node)}")
        if rest:
            _assign(node[key], rest, value, assignment)
        else:
            node[key] = value
    else:
        raise SpecError(f"override '{assignment}': there is nothing inside '{node}' to set '{key}' in")


def _indices(key: str, length: int, assignment: str) -> Sequence[int]:
    if key == "*":
        return range(length)
    if not key.isdigit() or int(key) >= length:
        raise SpecError(f"override '{assignment}': '{key}' must be * or an index from 0 to {length - 1}")
    return [int(key)]


def differing(old: Any, new: Any, path: str) -> list[str]:
    """Paths at which two plain trees differ."""
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        return [deeper for key in old for deeper in differing(old[key], new[key], f"{path}.{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [deeper for index, (a, b) in pairs for deeper in differing(a, b, f"{path}.{index}")]
    return [] if old == new else [path]


def fingerprint(value: Any) -> str:
    """Hash a record or plain tree to 16 hex digits; equal values have equal fingerprints on every machine."""
    text = json.dumps(plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
