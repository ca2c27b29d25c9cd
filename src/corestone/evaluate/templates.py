"""Class names and the sentences around them, from JSON files as CLIP_benchmark has them.

A file of class names is a list, or a mapping from data sets to lists. A file of templates is the same with sentences in
which `{c}` (or `{}`) stands for the class; or, instead of a list, a mapping from classes to sentences of their own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corestone.core.errors import DataError, unknown

PHOTO = "a photo of a {c}."
"""The sentence where no templates are given (Radford et al. 2021, section 3.1.4)."""


def read_class_names(path: Path, dataset: str | None = None) -> tuple[str, ...]:
    """Names of the classes in their order.

    Args:
        dataset: whose names to take, where the file has those of several.

    Raises:
        DataError: the file cannot be read, does not know the data set, or holds something else.
    """
    tree = _chosen(_read(path), path, dataset)
    return tuple(_texts(tree, path, "class names"))


def class_names(found: Sequence[str], classes: Sequence[str], where: str) -> tuple[str, ...]:
    """What to call the classes of a data set: names of a file that are the classes' own, by name; others in the order
    of the classes.

    Raises:
        DataError: as many names as classes there are not; or some are classes' own and others are not, and their order
            is not the classes' (a misspelt name, most likely).
    """
    if len(found) != len(classes):
        raise DataError(
            f"{where}: names {len(found):,} classes, and the data has {len(classes):,}; give one name of each"
        )
    spelled = {_spelled(name): name for name in found}
    own = [_spelled(name) for name in classes]
    if spelled.keys() == set(own):
        return tuple(spelled[name] for name in own)
    known = [place for place, name in enumerate(own) if name in spelled]
    astray = next((place for place in known if _spelled(found[place]) != own[place]), None)
    if astray is not None:
        lost = next(name for name in found if _spelled(name) not in own)
        raise DataError(
            f"{where}: has some of the data's class names, in another order; {unknown('class', lost, classes)}; make "
            "all names the data's, or put them in the order of its classes"
        )
    return tuple(found)


def _spelled(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def read_prompts(path: Path, names: Sequence[str], dataset: str | None = None) -> list[list[str]]:
    """For each class the sentences that describe it.

    Raises:
        DataError: as above; or a template has no place for the class, or a class has no sentences.
    """
    tree = _read(path)
    if isinstance(tree, dict) and dataset is None and set(names) <= tree.keys():
        chosen: Any = tree  # the file is one data set's mapping from classes
    else:
        chosen = _chosen(tree, path, dataset)
    if isinstance(chosen, dict):
        lost = next((name for name in names if name not in chosen), None)
        if lost is not None:
            raise DataError(f"{path}: no sentences for {unknown('class', lost, list(chosen)[:20])}")
        return [_texts(chosen[name], path, f"sentences for '{name}'") for name in names]
    templates = [text.replace("{}", "{c}") for text in _texts(chosen, path, "templates")]
    for template in templates:
        if "{c}" not in template:
            raise DataError(f"{path}: '{template}' has no {{c}} where the class should stand; put it in")
    return [[template.replace("{c}", name) for template in templates] for name in names]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(
            f"{path}: no JSON ({error}); give class names or templates as CLIP_benchmark has them"
        ) from None


def _chosen(tree: Any, path: Path, dataset: str | None) -> Any:
    """What the file says of a data set; a list says the same of any."""
    if not isinstance(tree, dict):
        return tree
    if dataset is None and len(tree) == 1:
        return next(iter(tree.values()))
    if dataset is None:
        raise DataError(f"{path}: holds {len(tree):,} data sets; say which: {', '.join(sorted(tree)[:20])}")
    if dataset not in tree:
        raise DataError(f"{path}: {unknown('data set', dataset, tree)}")
    return tree[dataset]


def _texts(value: Any, path: Path, what: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text for text in value):
        raise DataError(f"{path}: {what} must be a list of texts, at least one and none empty")
    return list(value)
