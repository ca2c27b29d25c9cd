"""Our index of tar files against tarfile's reading of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestone.core.errors import DataError
from corestone.data.images.tar_index import Member, members, read_member

NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1, max_size=150)
FILES = st.lists(st.tuples(NAMES.filter(lambda name: name not in (".", "..")), st.binary(max_size=1500)), max_size=6)


def pack(path: Path, files: list[tuple[str, bytes]], form: int) -> None:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in files:
            folder = tarfile.TarInfo("folder")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@given(files=FILES)
def test_members_are_those_of_tarfile(form: int, files: list[tuple[str, bytes]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "t.tar"
        pack(path, files, form)
        found = list(members(path))
        with tarfile.open(path) as tar:
            expected = [Member(m.name, m.offset_data, m.size) for m in tar if m.isreg()]
        assert found == expected
        assert [read_member(path, member) for member in found] == [data for _, data in files]


def test_long_names_of_ustar(tmp_path: Path) -> None:
    name = "a" * 120 + "/" + "b" * 90
    pack(tmp_path / "t.tar", [(name, b"x")], tarfile.USTAR_FORMAT)
    assert [member.name for member in members(tmp_path / "t.tar")] == [name]


def test_sizes_beyond_eight_gibibytes(tmp_path: Path) -> None:
    """The heads alone: the data are a hole in the file."""
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("big")
        info.size = 9 << 30
        head = info.tobuf(form)
        path = tmp_path / f"{form}.tar"
        with path.open("wb") as stream:
            stream.write(head)
            stream.truncate(len(head) + info.size + 1024)
        assert list(members(path)) == [Member("big", len(head), info.size)]


@given(st.integers(0, 3 * 1024 + 511))
def test_every_cut_is_noticed(length: int) -> None:
    """tarfile takes a cut between two members for the end."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "t.tar"
        with tarfile.open(path, "w") as tar:
            for number in range(3):
                info = tarfile.TarInfo(str(number))
                info.size = 100
                tar.addfile(info, io.BytesIO(bytes([number]) * 100))
        path.write_bytes(path.read_bytes()[:length])
        found: list[Member] = []
        with pytest.raises(DataError, match="cut short"):
            found.extend(members(path))
        assert [member.name for member in found] == [str(n) for n in range(len(found))]
        # A member counts once its padded block is announced within the file.
        assert len(found) in (length // 1024, (length + 412) // 1024)


@pytest.mark.parametrize("place", [0, 100, 130, 148, 156, 300])
def test_a_damaged_head_is_noticed(tmp_path: Path, place: int) -> None:
    pack(tmp_path / "t.tar", [("one", b"x"), ("two", b"y")], tarfile.USTAR_FORMAT)
    data = bytearray((tmp_path / "t.tar").read_bytes())
    data[3 * 512 + place] ^= 0x41
    (tmp_path / "t.tar").write_bytes(data)
    with pytest.raises(DataError, match="byte 1536 is not the head of a member"):
        list(members(tmp_path / "t.tar"))


def test_another_file_is_no_tar(tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(b"hello " * 200)
    with pytest.raises(DataError, match="byte 0 is not the head"):
        list(members(tmp_path / "t.tar"))
