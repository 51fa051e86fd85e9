"""Parquet files: a column of images (encoded bytes, ``datasets`` structs, or paths) and one of labels."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from sousvit.data.formats.format import Format, Part
from sousvit.data.formats.table import TableSource
from sousvit.data.parquet_file import parquet_rows, read_parquet
from sousvit.data.source import require_count
from sousvit.errors import UserError
from sousvit.files import file_hash
from sousvit.specs import Columns


class Parquet(Format):
    """``format: parquet``."""

    name = "parquet"

    def suits(self, path: Path) -> bool:
        if path.is_dir():
            return next(path.glob("*.parquet"), None) is not None
        return path.suffix == ".parquet"

    def open(self, part: Part) -> ParquetSource:
        return ParquetSource(part.path, part.labelled, part.spec.columns)


class ParquetSource(TableSource):
    """One parquet file, or a folder of them in name order.

    Args:
        labelled: False needs no labels, all are 0.
        columns: where images and labels stand; found where they are not named.
    """

    def __init__(self, path: Path, labelled: bool = True, columns: Columns | None = None) -> None:
        is_folder = path.is_dir()
        files = sorted(path.glob("*.parquet")) if is_folder else [path]
        if not files or not all(file.is_file() for file in files):
            raise UserError("parquet data must exist", path, "correct the path")
        require_count(sum(map(parquet_rows, files)), str(path))
        try:
            table = pa.concat_tables([read_parquet(file) for file in files])
        except pa.ArrowException as error:  # files of different columns
            raise UserError("a parquet file must be readable", f"{path}: {error}", "write it again") from error
        fingerprint = "".join(file_hash(file) for file in files)
        folder = path if is_folder else path.parent
        super().__init__(str(path), table, fingerprint, folder, labelled, columns or Columns())
