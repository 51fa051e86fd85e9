"""A ``datasets.Dataset`` in memory as a data source that every process can read: parquet with its encoded images.

The images are written as they are encoded, and a transform that was set on the data set is passed over: the model's own
preprocessing does that. Class names come along.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sousvit.data.dataset import GROUP, SCHEMA, new_file
from sousvit.data.formats.table import IMAGE_COLUMNS, LABEL_COLUMNS, class_metadata, find_column
from sousvit.data.numbering import from_words
from sousvit.data.source import MOST_ENCODED, require_labels
from sousvit.errors import UserError
from sousvit.files import content_hash, read_bytes


def is_hugging_face(value: object) -> bool:
    """Whether ``value`` is a ``datasets.Dataset`` (or one that is streamed); the library is not imported for it."""
    return any(kind.__module__.partition(".")[0] == "datasets" for kind in type(value).__mro__) and hasattr(
        value, "features"
    )


def write_hugging_face(dataset: Any, folder: Path, part: str) -> Path:
    """The parquet file in ``folder`` with the images and labels of ``dataset``, written unless it is there.

    Args:
        dataset: with a column of the type ``Image`` and one of labels: ``ClassLabel``, numbers or words.
        part: what it is for (train, validation, test), in messages and the file's name.

    Raises:
        UserError: it has no such columns, is streamed, or has no images.
    """
    where = f"the {part} data set"
    if not hasattr(dataset, "__len__") or dataset.features is None:
        raise UserError("a data set has its images at hand", f"a streamed one as {where}", "load it without streaming")
    image, label = _columns(dataset, where)
    labels, names = _labels(dataset, label, where)
    digests = [content_hash(data, length=32) for data in _encoded(dataset, image)]
    path = folder / f"{part}-{content_hash(digests, labels.tolist(), names, length=12)}.parquet"
    if path.is_file():
        return path
    with new_file(path, part, SCHEMA.with_metadata(class_metadata(names) if names else None)) as writer:
        rows: list[bytes] = []
        for number, data in enumerate(_encoded(dataset, image), start=1):
            rows.append(data)
            if len(rows) == GROUP or number == len(labels):
                table = pa.table({"image": rows, "label": labels[number - len(rows) : number]}, schema=writer.schema)
                writer.write_table(table)
                rows = []
    return path


def _columns(dataset: Any, where: str) -> tuple[str, str]:
    kinds = {name: type(feature).__name__ for name, feature in dataset.features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    classes = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    image = find_column(None, "image", images, IMAGE_COLUMNS, where) or (images[0] if len(images) == 1 else None)
    label = find_column(None, "label", list(kinds), LABEL_COLUMNS, where) or (classes[0] if len(classes) == 1 else None)
    if image is None or label is None:
        shown = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        action = "rename them to image and label with rename_column, and cast images to datasets.Image"
        raise UserError("a data set has a column of images and one of labels", f"{shown} in {where}", action)
    return image, label


def _labels(dataset: Any, column: str, where: str) -> tuple[np.ndarray, list[str]]:
    names = list(getattr(dataset.features[column], "names", None) or ())
    values = dataset.with_format(None)[column][:]
    if values and all(isinstance(value, str) for value in values):
        return from_words(values, where)
    return require_labels(np.asarray(values), where), names


def _encoded(dataset: Any, column: str) -> Iterator[bytes]:
    """The bytes of every image, as they are encoded."""
    from datasets import Image  # whoever hands over a data set has the library

    undecoded = dataset.with_format(None).select_columns([column]).cast_column(column, Image(decode=False))
    for batch in undecoded.iter(batch_size=GROUP):
        for entry in batch[column]:
            if entry["bytes"] is not None:
                yield entry["bytes"]
            else:
                yield read_bytes(Path(entry["path"]), "an image", MOST_ENCODED)
