"""The generated program's pixels are those that the model was judged on, whatever the image and the steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sousvit.models.preprocess import Preprocess
from sousvit.search.bundle.program import predict_program
from sousvit.spaces.export.artifact import Artifact

STEPS = {
    "timm": Preprocess(resize="short", crop_pct=0.875, interpolation="bicubic"),
    "squash": Preprocess(resize="squash", interpolation="bilinear"),
    "squash and crop": Preprocess(resize="squash", resize_size=(60, 52)),
    "longest": Preprocess(resize="longest", mean=(0.4, 0.5, 0.6), std=(0.2,) * 3),
    "longest, filled": Preprocess(resize="longest", fill=(7, 8, 9), interpolation="lanczos"),
    "oblong": Preprocess(resize="short", resize_size=(50, 70), odd_margin="floor"),
    "smaller than the input": Preprocess(resize="short", resize_size=31),
    "bgr, longest": Preprocess(resize="longest", fill=(7, 8, 9), channel_order="bgr"),
    "bgr, turned": Preprocess(channel_order="bgr", exif=True, crop_pct=0.9, odd_margin="floor"),
}
SIZE = (44, 40)


@pytest.fixture
def pixels_of(tmp_path):
    """The function ``pixels`` of a program for some steps; its model is never opened."""

    def make(how: Preprocess, channels: int):
        artifact = Artifact(tmp_path, "torch", "model.pt2", (1, channels, *SIZE), (0.5,) * channels, (0.3,) * channels,
                            how.steps)  # fmt: skip
        text = predict_program(artifact, None, None)
        kept = [line for line in text.splitlines() if not line.startswith(("MODEL", "LABELS", "HERE", "import torch"))]
        space: dict = {"__name__": "predict"}
        exec("\n".join(kept), space)
        return space["pixels"]

    return make


def images(folder: Path) -> list[Path]:
    """Files of many kinds and shapes."""
    rng = np.random.default_rng(0)
    colour = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((90, 133), (131, 57), (44, 40), (20, 33))]
    found = []
    for number, array in enumerate(colour):
        found.append(folder / f"colour{number}.png")
        Image.fromarray(array).save(found[-1])
    found.append(folder / "photo.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(colour[0]).save(found[-1], exif=turned, quality=95)
    others = {
        "grey.png": Image.fromarray(colour[0][..., 0]),
        "palette.png": Image.fromarray(colour[0]).quantize(40),
        "alpha.png": Image.fromarray(np.dstack([colour[0], colour[0][..., 0]])),
        "sixteen.png": Image.fromarray(rng.integers(0, 65536, (61, 83), dtype=np.uint16)),
        "one-bit.png": Image.fromarray(colour[1][..., 0] > 128),
    }
    for name, image in others.items():
        found.append(folder / name)
        image.save(found[-1])
    return found


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_the_search(name, channels, pixels_of, tmp_path):
    how = STEPS[name]
    pixels = pixels_of(how, channels)
    for path in images(tmp_path):
        wanted = np.asarray(how.fit(Image.open(path), SIZE, channels)).reshape(*SIZE, channels)
        np.testing.assert_array_equal(pixels(path), wanted, err_msg=path.name)


def test_alpha_is_asked_for_where_the_model_takes_it(pixels_of, tmp_path):
    how, files = STEPS["timm"], {path.name: path for path in images(tmp_path)}
    pixels = pixels_of(how, 4)
    wanted = np.asarray(how.fit(Image.open(files["alpha.png"]), SIZE, 4))
    np.testing.assert_array_equal(pixels(files["alpha.png"]), wanted)
    with pytest.raises(SystemExit, match="alpha channel"):
        pixels(files["grey.png"])


def test_pixels_whose_range_nobody_knows_are_refused(pixels_of, tmp_path):
    Image.fromarray(np.full((50, 50), 3.5, np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(SystemExit, match="which of its values is white"):
        pixels_of(STEPS["timm"], 3)(tmp_path / "float.tiff")
