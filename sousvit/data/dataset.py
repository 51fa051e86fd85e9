"""A torch ``Dataset`` in memory as a data source that every process can read: parquet with lossless images.

The file is named by its content, so the same images are written once a folder, and a run that is resumed with others
is noticed.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from sousvit.data.formats.table import class_metadata
from sousvit.data.source import require_labels
from sousvit.errors import UserError
from sousvit.files import content_hash, disk_errors_as_user_errors

#: Images of a row group: so many are in memory at once while they are written.
GROUP = 1000
#: Of 1/255, how far a float pixel may lie from a whole number: what float32 loses is a thousandth of it.
PIXEL_TOLERANCE = 1e-2
SCHEMA = pa.schema({"image": pa.binary(), "label": pa.int64()})
GREY_MODES, COLOUR_MODES = ("1", "L", "LA"), ("RGB", "RGBA", "P", "CMYK", "YCbCr")


def is_dataset(value: object) -> bool:
    """Whether ``value`` gives items by number and knows how many there are, as a map-style torch Dataset does."""
    return hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, str | dict)


def write_dataset(dataset: Any, folder: Path, part: str) -> Path:
    """The parquet file in ``folder`` with the images and labels of ``dataset``, written unless it is there.

    Args:
        dataset: ``dataset[i]`` is (image, label). The image is a PIL image, uint8 ``[C, H, W]`` or ``[H, W]``, or float
            of the same shapes in [0, 1] as torchvision's ``ToTensor`` gives it; C is 1, 3, or 4 with alpha.
        part: what it is for (train, validation, test), in messages and the file's name.

    Raises:
        UserError: an item is not of this form, is another each time it is read, or was already normalised.
    """
    digest, labels = _digest(_pairs(dataset, part))
    require_labels(np.array(labels, np.int64), f"the {part} data set")
    path, names = folder / f"{part}-{digest}.parquet", _class_names(dataset)
    if names and not path.is_file():  # a file without names was written by an earlier version, and is the run's
        path = folder / f"{part}-{content_hash(digest, names, length=12)}.parquet"
    if path.is_file():
        return path
    with new_file(path, part, SCHEMA.with_metadata(class_metadata(names) if names else None)) as writer:
        again, _ = _digest(_written(_pairs(dataset, part), writer))
        if again != digest:
            raise UserError(
                "a data set gives the same images each time it is read",
                f"other images of the {part} data set at the second reading",
                "give it without random transforms: a search augments by itself",
            )
    return path


@contextmanager
def new_file(path: Path, part: str, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A writer whose file appears whole at ``path``, or not at all."""
    folder = path.parent
    with disk_errors_as_user_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{part}.") as work:
            unfinished = Path(work) / path.name
            with pq.ParquetWriter(unfinished, schema, compression="none") as writer:
                yield writer
            unfinished.replace(path)


def _class_names(dataset: Any) -> list[str]:
    """What torchvision's data sets call their classes, in the order of the labels; of a ``Subset`` too."""
    while not hasattr(dataset, "classes") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    told = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return list(names) if told and names is not None else []


def _digest(pairs: Iterator[tuple[np.ndarray, int]]) -> tuple[str, list[int]]:
    """Content identity of the images (shapes, pixels) and labels, and the labels."""
    parts, labels = [], []
    for pixels, label in pairs:
        parts.append(content_hash(pixels.shape, pixels.tobytes()))
        labels.append(label)
    return content_hash(parts, labels, length=12), labels


def _written(pairs: Iterator[tuple[np.ndarray, int]], writer: pq.ParquetWriter) -> Iterator[tuple[np.ndarray, int]]:
    """Passes the pairs on, and writes them."""
    images: list[bytes] = []
    labels: list[int] = []

    def flush() -> None:
        writer.write_table(pa.table({"image": images, "label": labels}, schema=writer.schema))
        images.clear()
        labels.clear()

    for pixels, label in pairs:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        images.append(buffer.getvalue())
        labels.append(label)
        if len(images) == GROUP:
            flush()
        yield pixels, label
    flush()


def _pairs(dataset: Any, part: str) -> Iterator[tuple[np.ndarray, int]]:
    """uint8 pixels ``[H, W]`` or ``[H, W, 3]`` and the label of every item."""
    for index in range(len(dataset)):
        item, where = dataset[index], f"item {index} of the {part} data set"
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise UserError("a data set gives (image, label)", f"{type(item).__name__} as {where}", "return a pair")
        yield _pixels(item[0], where), _label(item[1], where)


def _label(label: Any, where: str) -> int:
    array = np.asarray(label)
    if array.ndim or not np.issubdtype(array.dtype, np.integer):
        raise UserError("a label is a whole number", f"{label!r} in {where}", "give one class an image")
    return int(array)


def _pixels(image: Any, where: str) -> np.ndarray:
    if isinstance(image, Image.Image):
        if image.mode not in GREY_MODES + COLOUR_MODES:
            action = "convert it to grey (L) or RGB"
            raise UserError("an image has 8 bits a channel", f"mode {image.mode} in {where}", action)
        kept = "RGBA" if image.mode == "RGBA" else "RGB"  # a model may take four channels
        return np.asarray(image.convert("L" if image.mode in GREY_MODES else kept))
    if not isinstance(image, torch.Tensor):
        kind = f"{type(image).__name__} in {where}"
        raise UserError("an image is a PIL image or a tensor", kind, "return one of these")
    if image.ndim == 3 and image.shape[0] == 1:
        image = image[0]
    if image.ndim != 2 and (image.ndim != 3 or image.shape[0] not in (3, 4)):
        action = "channels come first, 1, 3 or 4 of them"
        raise UserError("an image's tensor is [C, H, W]", f"{list(image.shape)} in {where}", action)
    image = image if image.ndim == 2 else image.permute(1, 2, 0)
    return np.ascontiguousarray(_bytes(image, where).numpy())


def _bytes(image: torch.Tensor, where: str) -> torch.Tensor:
    """The tensor as uint8, exactly."""
    if image.dtype == torch.uint8:
        return image.cpu()
    if not image.is_floating_point():
        raise UserError("an image's tensor is uint8 or float", f"{image.dtype} in {where}", "convert it to uint8")
    scaled = image.detach().double().cpu() * 255
    whole = scaled.round()
    if not bool(((scaled - whole).abs() <= PIXEL_TOLERANCE).all()) or whole.min() < 0 or whole.max() > 255:
        raise UserError(
            "a float image holds pixels / 255, as ToTensor gives them",
            f"other values (from {float(image.min()):.3g} to {float(image.max()):.3g}) in {where}",
            "give the data set without normalising, resizing or augmenting: the model's own preprocessing does it",
        )
    return whole.to(torch.uint8)
