"""The rows of a recorded table's file, CSV or parquet, read within stated bounds.

A table is compared row by row, and each process that replays keeps every configuration of it in memory. So one that is
too large is refused by a look at it, before it is parsed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pandas as pd

from sousvit.data.parquet_file import parquet_columns, parquet_rows, read_parquet
from sousvit.errors import UserError
from sousvit.files import in_bytes, open_inflated, require_file

#: Told what is done, how much of it, and of how much.
Progress = Callable[[str, int, int], None]

#: Rows, cells (rows times columns) and bytes of text that a table may have; and bytes of one row.
MOST_ROWS, MOST_CELLS, MOST_BYTES, _MOST_ROW = 1_000_000, 50_000_000, 512 << 20, 1 << 20
_SMALLER = "record fewer, or take a sample of the rows"


def read_rows(file: Path, columns: list[str], progress: Progress) -> pd.DataFrame:
    """The rows of a file, as they are.

    Args:
        file: CSV, which may be compressed by gzip, or parquet.
        columns: that are needed; of parquet only they are read, as far as they are there.

    Raises:
        UserError: no such file, another kind of file, or one beyond the bounds.
    """
    try:
        require_file(file)
        progress(f"looking at {file.name}", 0, 1)
        return _of_parquet(file, columns, progress) if file.suffix == ".parquet" else _of_csv(file, progress)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError("a table's file must exist", file, "correct file: in its description") from error
    except (OSError, ValueError, ArithmeticError, EOFError, LookupError, MemoryError) as error:
        raise UserError("a table is CSV or parquet", f"{file}: {error}", "convert it") from error


def _of_parquet(file: Path, columns: list[str], progress: Progress) -> pd.DataFrame:
    rows, there = parquet_rows(file), parquet_columns(file)
    twice = sorted({name for name in columns if there.count(name) > 1})
    if twice:
        raise UserError("a table names its columns once", f"{', '.join(twice)} in {file}", "rename one")
    read = [name for name in columns if name in there] or there[:1]
    _require_small(rows, len(read), file)
    progress(f"reading {rows:,} rows of {file.name}", 0, 1)
    frame: pd.DataFrame = read_parquet(file, read, rows=1024).to_pandas(ignore_metadata=True)
    # A message on a column that is missing lists all that are there.
    return frame if set(columns) <= set(read) else frame.reindex(columns=pd.Index(dict.fromkeys(there)))


def _of_csv(file: Path, progress: Progress) -> pd.DataFrame:
    with open_inflated(file) as stream:
        rows = _count_rows(stream, file)
    progress(f"reading {rows:,} rows of {file.name}", 0, 1)
    with open_inflated(file) as stream:
        return pd.read_csv(stream)


def _count_rows(stream: BinaryIO, file: Path) -> int:
    """The lines of a text, without the first."""
    lines = size = columns = 0
    while block := stream.read(_MOST_ROW):
        # Old systems end lines by \r alone.
        found = max(block.count(b"\n"), block.count(b"\r"))
        if not found and len(block) == _MOST_ROW:
            raise UserError(
                f"a row of a CSV has at most {in_bytes(_MOST_ROW)}", f"a longer one in {file}", "convert it"
            )
        if not size:
            columns = 1 + block.replace(b"\r", b"\n").partition(b"\n")[0].count(b",")
        lines, size = lines + found, size + len(block)
        _require_small(lines - 1, columns, file)
        if size > MOST_BYTES:
            raise UserError(f"a table has at most {in_bytes(MOST_BYTES)} of text", f"more in {file}", _SMALLER)
    return lines - 1


def _require_small(rows: int, columns: int, file: Path) -> None:
    if rows > MOST_ROWS:
        raise UserError(f"a table has at most {MOST_ROWS:,} rows", f"{rows:,} or more in {file}", _SMALLER)
    if rows * columns > MOST_CELLS:
        rule, received = f"a table has at most {MOST_CELLS:,} cells", f"{rows:,} rows of {columns:,} columns in {file}"
        raise UserError(rule, received, "leave out columns that are not named")
