"""Images that lie in memory: synthesised ones, and those of a source with other labels."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from sousvit.data.source import ImageSet, Source
from sousvit.files import content_hash


class MemorySource:
    """uint8 pixels ``[N, C, H, W]`` (C is 1 or 3) with labels ``[N]``.

    Args:
        fingerprint: what identifies the content.
    """

    def __init__(self, name: str, pixels: torch.Tensor, labels: torch.Tensor, fingerprint: str) -> None:
        self.name, self.fingerprint, self.class_names = name, fingerprint, list[str]()
        self.labels = labels.numpy().astype(np.int64)
        self._pixels = pixels

    def read(self, index: int) -> Image.Image:
        """Image ``index``."""
        array = self._pixels[index].permute(1, 2, 0).contiguous().numpy()
        return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


class _Relabelled:
    """A source whose images have other labels."""

    def __init__(self, source: Source, labels: np.ndarray) -> None:
        self.name, self.class_names, self.labels = source.name, list[str](), labels
        self.fingerprint = content_hash(source.fingerprint, labels.tobytes())
        self.read = source.read


def relabelled(images: ImageSet, labels: torch.Tensor) -> ImageSet:
    """The same images with ``labels`` ``[N]``."""
    own = np.zeros(len(images.source.labels), np.int64)
    own[images.indices] = labels.numpy()
    return ImageSet(_Relabelled(images.source, own), images.indices, images.size, images.channels, images.preprocess)


def memory_set(name: str, pixels: torch.Tensor, labels: torch.Tensor, fingerprint: str) -> ImageSet:
    """All of uint8 ``[N, C, H, W]`` as an image set of that size."""
    count, channels, height, width = pixels.shape
    source = MemorySource(name, pixels, labels, fingerprint)
    return ImageSet(source, np.arange(count), (height, width), channels)
