"""Classification data sets of torchvision by class name, from files already on disk (nothing is downloaded)."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sousvit.data.formats.format import Format, Part
from sousvit.data.source import require_labels
from sousvit.errors import UnknownNameError, UserError, one_line
from sousvit.files import content_hash


class Torchvision(Format):
    """``format: torchvision``."""

    name = "torchvision"
    has_paths = False

    def open(self, part: Part) -> TorchvisionSource:
        name, root = part.spec.name, part.spec.root
        if not name or not root:
            raise UserError("torchvision data needs name and root", f"name={name}, root={root}", "add them")
        return TorchvisionSource(name, Path(root), part.name != "test")


class TorchvisionSource:
    """``torchvision.datasets.<name>`` at ``root``.

    Args:
        name: the class, such as ``CIFAR10`` or ``FashionMNIST``.
        root: the folder that torchvision expects.
        train: the training part or the test part.
    """

    def __init__(self, name: str, root: Path, train: bool) -> None:
        import torchvision

        known = [entry for entry in torchvision.datasets.__all__ if entry[0].isupper()]
        if name not in known:
            raise UnknownNameError("torchvision data set", name, known)
        self.name = f"torchvision {name} at {root}"
        try:
            self._set: Any = _open(getattr(torchvision.datasets, name), root, train)
        except UserError:
            raise
        except Exception as error:  # it trusts its files: broken ones fail in every way
            raise UserError(
                f"torchvision {name} must lie in its folder", f"{root}: {one_line(error)}", "put its files there"
            ) from error
        labels = getattr(self._set, "targets", None)
        labels = labels if labels is not None else getattr(self._set, "labels", None)
        labels = labels if labels is not None else getattr(self._set, "_labels", None)
        if labels is None:
            labels = [self._set[position][1] for position in range(len(self._set))]
        self.labels = require_labels(np.asarray(labels), self.name)
        self.class_names = list(getattr(self._set, "classes", []))
        pixels = getattr(self._set, "data", None)
        self._pixels = pixels if isinstance(pixels, np.ndarray | torch.Tensor) else None
        files = getattr(self._set, "samples", None) or getattr(self._set, "_image_files", None) or []
        self._files = [Path(entry[0] if isinstance(entry, tuple) else entry) for entry in files]
        content = np.ascontiguousarray(pixels).tobytes() if isinstance(pixels, np.ndarray | torch.Tensor) else None
        self.fingerprint = content_hash(name, train, self.labels.tobytes(), content or str(root.resolve()))

    def read(self, index: int) -> Image.Image:
        """Image ``index``."""
        image = self._set[index][0]
        return image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))

    def content(self, index: int) -> bytes | Path:
        """The pixels of image ``index``, or its file."""
        if self._pixels is not None:
            return np.ascontiguousarray(self._pixels[index]).tobytes()
        return self._files[index] if len(self._files) == len(self.labels) else self.read(index).tobytes()


def _open(kind: type, root: Path, train: bool) -> Any:
    parameters = inspect.signature(kind).parameters
    if "train" in parameters:
        return kind(root, train=train)
    if "split" not in parameters:
        raise UserError(
            "a torchvision data set needs a train and a test part", kind.__name__, "use format: folder instead"
        )
    if train:
        return kind(root, split="train")
    try:
        return kind(root, split="test")
    except ValueError:  # ImageNet, Imagenette: their labelled part that nobody trains on is called val
        return kind(root, split="val")
