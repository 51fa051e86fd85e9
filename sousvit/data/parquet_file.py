"""Parquet files, read a piece at a time: a small one that holds a great deal is refused before it fills the memory.

Encodings of parquet repeat a value at no cost: a megabyte may announce, and be, a terabyte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sousvit.errors import UserError
from sousvit.files import in_bytes, open_file, require_file

#: Bytes in memory that the columns of a file may always take.
ALWAYS = 128 << 20
#: Above that, so many times the bytes of the file: pixels in lists of whole numbers take thirty times.
TIMES = 32
#: Rows that are decoded at a time: of the largest images of photographs, as many as fit beside each other.
_ROWS = 128


def parquet_columns(file: Path) -> list[str]:
    """The names of the columns.

    Raises:
        UserError: no parquet file.
    """
    with _as_user_errors(file), open_file(file) as stream, pq.ParquetFile(stream) as opened:
        return list(opened.schema_arrow.names)


def parquet_rows(file: Path) -> int:
    """The number of rows that a file announces; nothing else of it is read.

    Raises:
        UserError: no parquet file.
    """
    with _as_user_errors(file), open_file(file) as stream, pq.ParquetFile(stream) as opened:
        return int(opened.metadata.num_rows)


def read_parquet(file: Path, columns: Sequence[str] | None = None, rows: int = _ROWS) -> pa.Table:
    """The table in a file.

    Args:
        columns: that are read; all by default.
        rows: that are decoded at a time.

    Raises:
        UserError: no parquet file, or one that takes much more memory than its size lets expect.
    """
    with _as_user_errors(file), open_file(file) as stream, pq.ParquetFile(stream) as opened:
        most = max(ALWAYS, TIMES * require_file(file))
        chosen = None if columns is None else list(columns)
        _require_announced(opened.metadata, chosen, most, file)
        pieces, taken = [], 0
        for piece in opened.iter_batches(batch_size=rows, columns=chosen):
            pieces.append(piece)
            taken += piece.nbytes
            if taken > most:
                raise _too_large(taken, most, file)
        metadata = opened.schema_arrow.metadata
        if not pieces:
            return opened.schema_arrow.empty_table()
        return pa.Table.from_batches(pieces).replace_schema_metadata(metadata)


def _require_announced(announced: pq.FileMetaData, columns: Sequence[str] | None, most: int, file: Path) -> None:
    """Refuse a file by what its columns say that they take once they are decompressed."""
    size = 0
    for number in range(announced.num_row_groups):
        group = announced.row_group(number)
        parts = [group.column(place) for place in range(group.num_columns)]
        size += sum(
            max(0, part.total_uncompressed_size)
            for part in parts
            if columns is None or part.path_in_schema.partition(".")[0] in columns or part.path_in_schema in columns
        )
    if size > most:
        raise _too_large(size, most, file)


def _too_large(size: int, most: int, file: Path) -> UserError:
    rule = f"a parquet file takes at most {TIMES} times its size in memory, or {in_bytes(ALWAYS)}"
    received = f"{in_bytes(size)} or more where {in_bytes(most)} are expected in {file}"
    return UserError(rule, received, "correct the path, or store images as JPEG or PNG bytes")


@contextmanager
def _as_user_errors(file: Path) -> Iterator[None]:
    """All that a cut, foreign or inconsistent file fails with, as one line."""
    try:
        yield
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError, LookupError, ArithmeticError, MemoryError) as error:
        raise UserError("a parquet file must be readable", f"{file}: {error}", "write it again") from error
