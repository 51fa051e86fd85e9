"""Parquet files: an ``image`` column of encoded bytes (or a struct with ``bytes``) and a ``label`` column."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from sousvit.common.data.source import decode_image, require_labels
from sousvit.common.errors import UserError
from sousvit.common.files import file_hash


class ParquetSource:
    """One parquet file, or a folder of them in name order."""

    def __init__(self, path: Path) -> None:
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not files or not all(file.is_file() for file in files):
            raise UserError("parquet data must exist", path, "correct the path")
        self.name = str(path)
        self.fingerprint = "".join(file_hash(file) for file in files)
        try:
            table = pa.concat_tables([pq.read_table(file) for file in files])
        except (pa.ArrowException, OSError) as error:
            raise UserError("a parquet file must be readable", f"{path}: {error}", "write it again") from error
        missing = {"image", "label"} - set(table.column_names)
        if missing:
            raise UserError(
                "parquet data has the columns image and label", f"{table.column_names} in {path}", "rename the columns"
            )
        self.labels = require_labels(table["label"].to_numpy(), self.name)
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
