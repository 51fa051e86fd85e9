"""ImageFolder: one sub-folder a class, images inside it; without labels, all images of a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from sousvit.data.source import decode_image, require_labels
from sousvit.errors import UserError
from sousvit.files import files_hash

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


class FolderSource:
    """Images in one folder for each class; classes are numbered in alphabetical order, as by torchvision's ImageFolder.

    Args:
        path: the folder.
        labelled: False takes every image below the folder, in whatever folder it lies; its label is then 0.
    """

    def __init__(self, path: Path, labelled: bool = True) -> None:
        if not path.is_dir():
            raise UserError("image-folder data must be a folder", path, "correct the path")
        self.name = str(path)
        folders = (entry.name for entry in path.iterdir() if entry.is_dir())
        self.class_names = sorted(name for name in folders if not name.startswith(".")) if labelled else []
        pairs = [
            (file, label)
            for label, name in enumerate(self.class_names if labelled else [""])
            for file in sorted((path / name).rglob("*"))
            if file.suffix.lower() in IMAGE_SUFFIXES
        ]
        self.files = [file for file, _ in pairs]
        self.labels = require_labels(np.array([label for _, label in pairs], dtype=np.int64), self.name)
        self.fingerprint = files_hash({file.relative_to(path).as_posix(): file for file in self.files})

    def read(self, index: int) -> Image.Image:
        """Decode file ``index``."""
        file = self.files[index]
        try:
            data = file.read_bytes()
        except OSError as error:
            raise UserError(
                "every image must be readable", f"{file}: {error.strerror}", "repair or remove it"
            ) from error
        return decode_image(data, str(file))
