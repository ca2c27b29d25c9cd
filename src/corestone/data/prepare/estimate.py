"""Roughly how much text sources hold: what a progress bar needs for its time remaining."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow
import pyarrow.parquet

from corestone.data.catalogue import entry
from corestone.data.files import BROKEN, Input, decompressed, inputs
from corestone.data.spec import Embedded, Files, Source

_SAMPLE_BYTES = 4 << 20


def total_bytes(sources: Iterable[Source]) -> int | None:
    """The text of some sources in bytes, about; None where one of them does not tell (hub data sets)."""
    total = 0
    for source in sources:
        if isinstance(source, Files):
            total += sum(_file_bytes(item, source) for item in inputs(source) if isinstance(item, Input))
        elif isinstance(source, Embedded) and (known := entry(source.name).text_bytes) is not None:
            total += known
        else:
            return None
    return total


def _file_bytes(item: Input, source: Files) -> int:
    """The length of a plain file; of others what their beginning or their table of contents suggests."""
    size = item.path.stat().st_size
    try:
        if item.form in ("gzip", "zstd"):
            with item.path.open("rb") as raw, decompressed(item, raw) as stream:
                return round(len(stream.read(_SAMPLE_BYTES)) * size / max(1, raw.tell()))
        if item.form == "parquet":
            contents = pyarrow.parquet.read_metadata(item.path)
            groups = [contents.row_group(number) for number in range(contents.num_row_groups)]
            columns = [group.column(number) for group in groups for number in range(group.num_columns)]
            return sum(c.total_uncompressed_size for c in columns if c.path_in_schema == source.text_key)
    except BROKEN:  # the reader will say so where it belongs
        pass
    return size
