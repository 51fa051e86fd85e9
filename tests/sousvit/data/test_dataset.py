"""Torch data sets in memory: written once, exactly, by content; or refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sousvit.data.dataset import write_dataset
from sousvit.data.formats.parquet import ParquetSource
from sousvit.data.source import ImageSet
from sousvit.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
COLOUR = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
FORMS = {
    "PIL": [Image.fromarray(pixels) for pixels in PIXELS],
    "uint8": list(COLOUR),
    "float": list(COLOUR.float() / 255),
    "double": list(COLOUR.double() / 255),
}


def pairs(images):
    return [(image, number) for number, image in enumerate(images)]


def stored(path):
    source = ParquetSource(path)
    return [np.asarray(source.read(index)) for index in range(len(source.labels))], source.labels.tolist()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_images_is_the_same_file(form, tmp_path):
    path = write_dataset(pairs(FORMS[form]), tmp_path, "train")
    images, labels = stored(path)
    assert all(np.array_equal(*both) for both in zip(images, PIXELS, strict=True)) and labels == [0, 1, 2, 3]
    assert path.name == write_dataset(pairs(FORMS["PIL"]), tmp_path / "other", "train").name


@pytest.mark.parametrize("form", [lambda x: x[:1], lambda x: x[0], lambda x: x[:1].float() / 255])
def test_grey_images_stay_grey(form, tmp_path):
    images, _ = stored(write_dataset(pairs([form(image) for image in COLOUR]), tmp_path, "test"))
    assert all(np.array_equal(image, pixels[:, :, 0]) for image, pixels in zip(images, PIXELS, strict=True))


def test_other_modes_of_pil_are_read_as_the_model_would_see_them(tmp_path):
    given = [Image.fromarray(PIXELS[0]).convert(mode) for mode in ("RGBA", "P", "CMYK", "LA", "1")]
    images, _ = stored(write_dataset(pairs(given), tmp_path, "train"))
    for image, one in zip(images, given, strict=True):
        kept = {"RGBA": "RGBA", "LA": "L", "1": "L"}.get(one.mode, "RGB")
        assert np.array_equal(image, np.asarray(one.convert(kept)))


def test_four_channels_are_kept_for_a_model_that_takes_them(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 4), dtype=np.uint8)
    tensors = [torch.from_numpy(image.transpose(2, 0, 1).copy()) for image in pixels]
    source = ParquetSource(write_dataset(pairs(tensors), tmp_path, "train"))
    images = ImageSet(source, np.arange(2), (6, 6), 4).images()
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), pixels)
    colours = ImageSet(source, np.arange(2), (6, 6), 3).images()
    assert np.array_equal(colours.permute(0, 2, 3, 1).numpy(), pixels[..., :3])


def test_the_same_content_is_written_once_and_other_content_beside_it(tmp_path):
    first = write_dataset(pairs(FORMS["PIL"]), tmp_path, "train")
    before = first.stat().st_mtime_ns
    assert write_dataset(pairs(FORMS["uint8"]), tmp_path, "train") == first and first.stat().st_mtime_ns == before
    relabelled = [(image, 3 - number) for image, number in pairs(FORMS["PIL"])]
    assert write_dataset(relabelled, tmp_path, "train") != first
    assert len(list(tmp_path.iterdir())) == 2


def test_more_images_than_are_held_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("sousvit.data.dataset.GROUP", 2)
    images, labels = stored(write_dataset(pairs([*COLOUR, COLOUR[0]]), tmp_path, "train"))
    assert len(images) == 5 and labels == [0, 1, 2, 3, 4] and np.array_equal(images[4], PIXELS[0])


class Random:
    """Another image at every look."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return torch.randint(0, 256, (3, 4, 4), dtype=torch.uint8), 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (pairs([(COLOUR[0].float() / 255 - 0.5) / 0.5]), "holds pixels / 255"),
        (pairs([torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))]), "without normalising, resizing or"),
        (pairs([COLOUR[0].float()]), "other values (from"),
        (pairs([torch.full((3, 4, 4), float("nan"))]), "holds pixels / 255"),
        (pairs([COLOUR[0].int()]), "uint8 or float; received torch.int32 in item 0 of the train data set"),
        (pairs([COLOUR[0].permute(1, 2, 0)]), "an image's tensor is [C, H, W]; received [6, 5, 3]"),
        (pairs([PIXELS[0]]), "a PIL image or a tensor; received ndarray"),
        (pairs([Image.new("F", (3, 3))]), "8 bits a channel; received mode F"),
        ([COLOUR[0]], "a data set gives (image, label); received Tensor as item 0"),
        ([(COLOUR[0], 0.5)], "a label is a whole number; received 0.5"),
        ([(COLOUR[0], torch.tensor([0, 1]))], "a label is a whole number"),
        ([(COLOUR[0], -1)], "labels must be whole numbers from 0"),
        ([], "a data set must hold images"),
        (Random(), "gives the same images each time"),
    ],
)
def test_what_is_wrong_with_a_data_set_is_one_clear_line(given, words, tmp_path):
    with pytest.raises(UserError) as raised:
        write_dataset(given, tmp_path, "train")
    assert words in str(raised.value) and "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir()), "nothing half written is left"
