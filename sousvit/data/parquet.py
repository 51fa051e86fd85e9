"""Parquet files: an ``image`` column of encoded bytes (or a struct with ``bytes``) and a ``label`` column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from sousvit.data.source import decode_image, require_labels
from sousvit.errors import UserError
from sousvit.files import file_hash


class ParquetSource:
    """One parquet file, or a folder of them in name order; ``labelled`` False needs no labels, all are 0."""

    def __init__(self, path: Path, labelled: bool = True) -> None:
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not files or not all(file.is_file() for file in files):
            raise UserError("parquet data must exist", path, "correct the path")
        self.name = str(path)
        self.fingerprint = "".join(file_hash(file) for file in files)
        try:
            table = pa.concat_tables([pq.read_table(file) for file in files])
        except (pa.ArrowException, OSError) as error:
            raise UserError("a parquet file must be readable", f"{path}: {error}", "write it again") from error
        needed = ["image", "label"] if labelled else ["image"]
        if not set(needed) <= set(table.column_names):
            rule = f"parquet data has {'the columns' if labelled else 'a column'} {' and '.join(needed)}"
            raise UserError(rule, f"{table.column_names} in {path}", "rename the columns")
        labels = table["label"].to_numpy() if labelled else np.zeros(len(table), np.int64)
        self.labels = require_labels(labels, self.name)
        self.class_names: list[str] = []
        column = table["image"]
        if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
            column = pa.chunked_array([chunk.field("bytes") for chunk in column.chunks])
        if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
            raise UserError("the image column holds encoded image bytes", column.type, "store JPEG or PNG bytes")
        self._images = column

    def read(self, index: int) -> Image.Image:
        """Decode row ``index``."""
        data = self._images[index].as_py()
        return decode_image(data or b"", f"{self.name} row {index}")
