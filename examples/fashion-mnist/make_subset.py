"""The embedded subset of Fashion-MNIST, written from the four full IDX files.

    python examples/fashion-mnist/make_subset.py DIR

Train: 10,000 images drawn from the first 58,000 training images. Validation: the last 2,000 training images,
which the base model never trained on. Test: 5,000 images drawn from the official test file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from sousvit.data.formats.idx import read_idx, write_idx

HELD_OUT = 2_000
TRAIN, TEST = 10_000, 5_000


def main(source: Path, out: Path) -> None:
    """Write the six files into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    images = read_idx(source / "train-images-idx3-ubyte.gz")
    labels = read_idx(source / "train-labels-idx1-ubyte.gz")
    rng = np.random.default_rng(0)
    drawn = np.sort(rng.permutation(len(images) - HELD_OUT)[:TRAIN])
    held_out = np.arange(len(images) - HELD_OUT, len(images))
    _write(out, "train", images[drawn], labels[drawn])
    _write(out, "validation", images[held_out], labels[held_out])
    test_images = read_idx(source / "t10k-images-idx3-ubyte.gz")
    test_labels = read_idx(source / "t10k-labels-idx1-ubyte.gz")
    drawn = np.sort(rng.permutation(len(test_images))[:TEST])
    _write(out, "test", test_images[drawn], test_labels[drawn])


def _write(out: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    write_idx(out / f"{part}-images-idx3-ubyte.gz", images)
    write_idx(out / f"{part}-labels-idx1-ubyte.gz", labels)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent / "data")
