"""The same six images in every form of data, for tests of one form and of all."""

from __future__ import annotations

import csv
import io
import json
import tarfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sousvit.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
LABELS = [0, 1, 2, 0, 1, 2]
NAMES = ["ant", "bee", "cat"]
WORDS = [NAMES[label] for label in LABELS]


def refused(call, *args, **options):
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    message = str(caught.value)
    assert "\n" not in message and " at 0x" not in message and len(message) < 600
    return message


def encoded(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def pictures(root, count=6):
    root.mkdir(parents=True, exist_ok=True)
    names = [f"{number}.png" for number in range(count)]
    for name, pixels in zip(names, PIXELS, strict=False):
        (root / name).write_bytes(encoded(pixels))
    return names


def hugging_face(label=None, image=None):
    features = datasets.Features(
        {"image": image or datasets.Image(), "label": label or datasets.ClassLabel(names=NAMES)}
    )
    rows = {"image": [{"bytes": encoded(one), "path": None} for one in PIXELS], "label": LABELS}
    return datasets.Dataset.from_dict(rows, features=features)


def write_folder(root):
    for number, (word, pixels) in enumerate(zip(WORDS, PIXELS, strict=True)):
        (root / "in" / word).mkdir(parents=True, exist_ok=True)
        (root / "in" / word / f"{number}.png").write_bytes(encoded(pixels))
    return root / "in"


def write_csv(root):
    rows = [["image", "label"], *zip(pictures(root), WORDS, strict=True)]
    with (root / "in.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return root / "in.csv"


def write_table(root, images, labels=WORDS, name="in.parquet", **columns):
    pq.write_table(pa.table({"image": images, "label": labels, **columns}), root / name)
    return root / name


def write_hf_parquet(root):
    hugging_face().to_parquet(root / "in.parquet")
    return root / "in.parquet"


def write_saved(root):
    hugging_face().save_to_disk(str(root / "in"), num_shards=2)
    return root / "in"


def write_tar(root, labels=WORDS, ending="cls"):
    with tarfile.open(root / "in.tar", "w") as tar:
        for number, (pixels, label) in enumerate(zip(PIXELS, labels, strict=True)):
            for name, data in (
                (f"d/{number:03}.png", encoded(pixels)),
                (f"d/{number:03}.{ending}", str(label).encode()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return root / "in.tar"


FORMS = {
    "folder": write_folder,
    "CSV of paths and words": write_csv,
    "parquet of bytes and words": lambda root: write_table(root, [encoded(one) for one in PIXELS]),
    "parquet of paths and words": lambda root: write_table(root, pictures(root)),
    "parquet of pixels and words": lambda root: write_table(root, PIXELS.tolist()),
    "Hugging Face parquet": write_hf_parquet,
    "save_to_disk": write_saved,
    "WebDataset with words": write_tar,
    "WebDataset with JSON": lambda root: write_tar(root, [json.dumps({"label": word}) for word in WORDS], "json"),
}


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8))


def write(root, *names, seed=0):
    """Images of their own at these paths below ``root``."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed + number).save(path, "PNG")
    return root
