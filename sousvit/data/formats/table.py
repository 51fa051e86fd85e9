"""Tables with a column of images and one of labels, whatever file they came from (parquet, Arrow)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from sousvit.data.numbering import MOST_LETTERS, from_words
from sousvit.data.source import decode_file, decode_image, require_count, require_labels
from sousvit.errors import UserError
from sousvit.specs import Columns

#: What columns are called where the user does not say, the likeliest first.
IMAGE_COLUMNS = ("image", "img", "images", "picture", "photo", "pixels", "pixel_values", "image_bytes", "jpg", "png")
LABEL_COLUMNS = ("label", "labels", "class", "target", "targets", "fine_label", "category", "class_id", "label_id", "y")


class TableSource:
    """Rows of an Arrow table.

    Args:
        name: where it came from.
        table: with images as encoded bytes, as a struct of ``bytes`` and ``path``, as paths of files, or as nested
            lists of pixels; and labels as numbers or words.
        fingerprint: what identifies the content.
        folder: where relative paths in it start.
        labelled: False needs no labels, all are 0.
        columns: which columns; found by their names and types where they are not named.
    """

    def __init__(
        self, name: str, table: pa.Table, fingerprint: str, folder: Path, labelled: bool, columns: Columns
    ) -> None:
        self.name, self.fingerprint, self._folder = name, fingerprint, folder
        features = _features(table.schema)
        there = table.column_names
        image = find_column(columns.image, "image", there, IMAGE_COLUMNS, name) or _images_by_type(table, features)
        label = find_column(columns.label, "label", there, LABEL_COLUMNS, name) or _labels_by_type(features)
        if image is None or (labelled and label is None):
            rule = f"the data has {'the columns image and label' if labelled else 'a column image'}"
            action = "rename the columns, or say which in data.columns: {image: ..., label: ...}"
            raise UserError(rule, f"{there} in {name}", action)
        require_count(len(table), name)
        self.labels, self.class_names = np.zeros(len(table), np.int64), list[str]()
        if labelled:
            assert label is not None
            self.labels, self.class_names = _labels(table[label], _class_names(features.get(label)), name)
        require_labels(self.labels, name)
        self._images = table[image]
        self._bytes, self._paths = _parts(self._images)
        if self._bytes is None and self._paths is None and not _are_pixels(self._images.type):
            raise UserError("the image column holds encoded image bytes or paths", self._images.type, _STORE)
        if self._bytes is None and self._paths is not None:
            self._require_file(self._paths)

    def read(self, index: int) -> Image.Image:
        """Decode row ``index``."""
        content = self.content(index)
        if isinstance(content, Path):
            return decode_file(content)
        if self._bytes is None and self._paths is None:
            return _of_pixels(self._images[index].as_py(), f"{self.name} row {index}")
        return decode_image(content, f"{self.name} row {index}")

    def content(self, index: int) -> bytes | Path:
        """The encoded bytes of row ``index``, or its file."""
        if self._bytes is None and self._paths is None:
            return str(self._images[index].as_py()).encode()
        data = None if self._bytes is None else self._bytes[index].as_py()
        path = None if self._paths is None or data is not None else self._paths[index].as_py()
        return self._folder / path if path else data or b""

    def _require_file(self, paths: pa.ChunkedArray) -> None:
        """Text that is no path is told at once, and not with the first image."""
        first = paths[0].as_py()
        if not first or not (self._folder / first).is_file():
            received = f"{first!r} in {self.name}, and no such file"
            raise UserError("the image column holds encoded image bytes, or paths of images", received, _STORE)


_STORE = "store JPEG or PNG bytes, or correct the paths: relative ones start in the folder of the file"


def find_column(asked: str | None, what: str, there: list[str], usual: tuple[str, ...], where: str) -> str | None:
    """The column that the user named, or the likeliest by its name; None where no name is usual.

    Raises:
        UserError: the user's column is not there.
    """
    if asked is not None:
        if asked not in there:
            raise UserError(f"data.columns.{what} is a column", repr(asked), f"{where} has {', '.join(there)}")
        return asked
    by_lower = {name.lower(): name for name in reversed(there)}
    return next((by_lower[name] for name in usual if name in by_lower), None)


def _features(schema: pa.Schema) -> Mapping[str, Any]:
    """What the ``datasets`` library writes of the columns: which are images, which are labels, and their names."""
    text = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(text)["info"]["features"] if text else {}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(feature: Any) -> list[str]:
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    return [str(name) for name in names] if isinstance(names, list) else []


def class_metadata(names: list[str]) -> dict[bytes, bytes]:
    """The metadata with which ``datasets`` tells the names of labels, for a table of the columns image and label."""
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def _images_by_type(table: pa.Table, features: Mapping[str, Any]) -> str | None:
    """The only column that can be one of images."""
    told = [name for name, feature in features.items() if isinstance(feature, dict) and feature.get("_type") == "Image"]
    found = told or [name for name in table.column_names if _parts(table[name])[0] is not None]
    return found[0] if len(found) == 1 and found[0] in table.column_names else None


def _labels_by_type(features: Mapping[str, Any]) -> str | None:
    found = [name for name, feature in features.items() if _class_names(feature)]
    return found[0] if len(found) == 1 else None


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or kind == pa.binary_view())


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view())


def _parts(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray | None, pa.ChunkedArray | None]:
    """Encoded bytes and paths, as far as a column has them."""
    kind = column.type
    if pa.types.is_struct(kind):
        fields = {
            name: pa.chunked_array([chunk.field(name) for chunk in column.chunks], kind.field(name).type)
            for name in ("bytes", "path")
            if kind.get_field_index(name) >= 0
        }
        data, paths = fields.get("bytes"), fields.get("path")
        data = data if data is not None and _is_binary(data.type) else None
        return data, paths if paths is not None and _is_text(paths.type) else None
    return column if _is_binary(kind) else None, column if _is_text(kind) else None


def _are_pixels(kind: pa.DataType) -> bool:
    """Lists of lists of numbers."""
    inner = kind.value_type if _is_list(kind) else None
    return inner is not None and _is_list(inner)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _of_pixels(value: Any, where: str) -> Image.Image:
    try:
        array = np.array(value)
        if array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255 or array.shape[2:] not in ((), (3,)):
            raise ValueError(f"{array.dtype} {list(array.shape)}")
        return Image.fromarray(array.astype(np.uint8))
    except (ValueError, TypeError) as error:
        rule = "pixels are whole numbers from 0 to 255, [H, W] or [H, W, 3]"
        raise UserError(rule, f"{error} in {where}", "store JPEG or PNG bytes") from error


def _require_short(column: pa.ChunkedArray, where: str) -> None:
    """Check the words before they become Python's: a repeated one costs nothing in a file."""
    longest = pc.max(pc.binary_length(_values(column))).as_py() or 0
    if longest > 4 * MOST_LETTERS:  # a letter takes up to four bytes
        received = f"one of {longest:,} bytes in {where}"
        raise UserError(f"the name of a class has at most {MOST_LETTERS} letters", received, "name another column")


def _values(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """What a column holds, of one that numbers its values each value once."""
    if not pa.types.is_dictionary(column.type):
        return column
    return pa.chunked_array([chunk.dictionary for chunk in column.chunks], column.type.value_type)


def _labels(column: pa.ChunkedArray, names: list[str], where: str) -> tuple[np.ndarray, list[str]]:
    """Labels, and their names where they have some."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if _is_list(kind) or pa.types.is_struct(kind):
        raise UserError("an image has one label", f"{kind} in {where}", "name another column in data.columns.label")
    if _is_text(kind):
        _require_short(column, where)
        return from_words(column.to_pylist(), where)
    if column.null_count:
        row = column.is_null().index(True).as_py()
        raise UserError("every image has a label", f"none in row {row} of {where}", "add it or remove the row")
    if pa.types.is_dictionary(column.type):
        column = column.cast(kind)
    labels = require_labels(column.to_numpy(), where)
    if names and labels.max() >= len(names):
        received = f"label {labels.max()} and {len(names)} names in {where}"
        raise UserError("every label has its class name", received, "write the file again")
    return labels, names
