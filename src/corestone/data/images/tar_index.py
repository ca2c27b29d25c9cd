"""Where the members of a tar file lie, so that any of them is read at once. Only regular files are listed.

Of the formats ustar, GNU and pax (POSIX.1-2001, pax interchange format). Unlike tarfile, it takes no file that was cut
short, or damaged between two members, for a complete one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from corestone.core.errors import DataError

BLOCK = 512
_MAX_NAME = 1 << 20
_REGULAR = (b"0", b"\0", b"7")


@dataclass(frozen=True)
class Member:
    """A file in a tar file: its name, and where its bytes lie."""

    name: str
    offset: int
    size: int


def members(path: Path) -> Iterator[Member]:
    """List the regular files of a plain tar file in their order.

    Raises DataError, with the place, where the file is damaged or ends before its closing block of zeros; what stood
    before is still given.
    """
    with path.open("rb") as stream:
        length = os.fstat(stream.fileno()).st_size
        place, name, size = 0, None, None
        while True:
            head = _read(stream, path, place, BLOCK, length)
            if head == bytes(BLOCK):
                return
            kind, data = head[156:157], place + BLOCK
            if not _checksum_holds(head):
                raise DataError(f"{path}: byte {place} is not the head of a member; fetch or write the tar file again")
            here = _number(head[124:136]) if size is None or kind in (b"x", b"g", b"L", b"K") else size
            place = data + -(-here // BLOCK) * BLOCK
            if here < 0 or data + here > length:
                raise _short(path, data + here, length)
            if kind in (b"x", b"L"):
                body = _read(stream, path, data, min(here, _MAX_NAME), length)
                if kind == b"L":
                    name = _text(body)
                else:
                    records = _pax(body)
                    name = records.get("path", name)
                    size = int(records["size"]) if records.get("size", "").isdigit() else size
            elif kind not in (b"g", b"K"):
                if kind in _REGULAR:
                    yield Member(name or _head_name(head), data, here)
                name, size = None, None


def read_member(path: Path, member: Member) -> bytes:
    """The bytes of a member."""
    with path.open("rb") as stream:
        return _read(stream, path, member.offset, member.size, os.fstat(stream.fileno()).st_size)


def _read(stream: BinaryIO, path: Path, place: int, size: int, length: int) -> bytes:
    stream.seek(place)
    data = stream.read(size)
    if len(data) < size:
        raise _short(path, place + size, length)
    return data


def _short(path: Path, needed: int, length: int) -> DataError:
    return DataError(f"{path}: cut short: {length:,} bytes, {needed:,} at least are needed; fetch or write it again")


def _checksum_holds(head: bytes) -> bool:
    try:
        said = int(_text(head[148:156]).strip() or "x", 8)
    except ValueError:
        return False
    return said == sum(head[:148]) + 8 * ord(" ") + sum(head[156:])


def _number(field: bytes) -> int:
    """An octal number, or GNU's binary form for files of 8 GiB and more."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big", signed=field[0] == 0xFF)
    try:
        return int(_text(field).strip() or "0", 8)
    except ValueError:
        return -1


def _head_name(head: bytes) -> str:
    name, prefix = _text(head[:100]), _text(head[345:500]) if head[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _pax(body: bytes) -> dict[str, str]:
    """Records `length key=value\\n`."""
    records: dict[str, str] = {}
    while body:
        digits, _, _ = body.partition(b" ")
        if not digits.isdigit() or not 0 < int(digits) <= len(body):
            break
        key, _, value = body[len(digits) + 1 : int(digits) - 1].partition(b"=")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        body = body[int(digits) :]
    return records
