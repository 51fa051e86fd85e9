"""The details of an answer: small pictures, and what happens where something of it fails."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sousvit.errors import SharedInputError
from sousvit.search.judging import details
from sousvit.search.stored.details_file import MOST_ENCODED, Disagreement


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGB")])
def test_thumbnails_keep_the_form_of_an_image_and_are_small(channels, mode):
    images = torch.randint(0, 256, (3, channels, 300, 150), dtype=torch.uint8)
    for picture in details.thumbnails(images):
        found = Image.open(io.BytesIO(base64.b64decode(picture)))
        assert found.size == (32, 64) and found.mode == mode
        assert Disagreement(image=picture, label="", base="a", answer="b") and len(picture) < MOST_ENCODED


def test_a_small_image_stays_as_it_is():
    image = torch.arange(3 * 28 * 28, dtype=torch.int64).remainder(256).to(torch.uint8).view(1, 3, 28, 28)
    [picture] = details.thumbnails(image)
    found = np.array(Image.open(io.BytesIO(base64.b64decode(picture))))
    assert np.array_equal(found, image[0].permute(1, 2, 0).numpy())


def test_noise_of_the_largest_thumbnail_fits():
    noise = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert len(details.thumbnails(noise)[0]) * 2 < MOST_ENCODED


@pytest.mark.parametrize("fault", [ValueError("odd\nmore"), KeyError("base")])
def test_details_that_fail_cost_a_note_and_no_answer(fault, monkeypatch):
    def fail(*given):
        raise fault

    monkeypatch.setattr(details, "_recorded", fail)
    found, [note] = details.details_of(SimpleNamespace(), {})
    assert found is None and note.startswith("the report goes without details of the answer: ") and "more" not in note


def test_a_fault_of_the_machine_is_told(monkeypatch):
    def fail(*given):
        raise SharedInputError("a disk has room", "full", "make some")

    monkeypatch.setattr(details, "_recorded", fail)
    with pytest.raises(SharedInputError):
        details.details_of(SimpleNamespace(), {})
