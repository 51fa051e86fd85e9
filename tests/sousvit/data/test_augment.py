from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sousvit.data.augment import View

POLICIES = ["none", "flip", "crop_flip"]


def random_images(count=12, channels=3, height=14, width=28):
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=torch.manual_seed(1))


@settings(max_examples=40, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    seed=st.integers(0, 5),
    view=st.integers(0, 5),
    order=st.permutations(range(12)),
    cut=st.integers(1, 11),
)
def test_pixels_do_not_depend_on_the_batches(policy, seed, view, order, cut):
    images = random_images()
    whole = View.draw(policy, 12, (14, 28), seed, view).apply(images, torch.arange(12))
    again = View.draw(policy, 12, (14, 28), seed, view)
    rows = torch.tensor(order)
    parts = torch.cat([again.apply(images[part], part) for part in (rows[:cut], rows[cut:])])
    assert torch.equal(parts, whole[rows])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_and_type_stay(policy, channels):
    images = random_images(channels=channels)
    out = View.draw(policy, 12, (14, 28), 0, 0).apply(images, torch.arange(12))
    assert out.shape == images.shape and out.dtype == torch.uint8


def test_none_is_the_identity():
    images = random_images()
    assert torch.equal(View.draw("none", 12, (14, 28), 0, 3).apply(images, torch.arange(12)), images)


def test_flip_mirrors_some_images_and_leaves_the_others():
    images = random_images()
    view = View.draw("flip", 12, (14, 28), 0, 0)
    out = view.apply(images, torch.arange(12))
    assert 0 < view.flip.sum() < 12
    for position in range(12):
        expected = images[position].flip(2) if view.flip[position] else images[position]
        assert torch.equal(out[position], expected)


def test_the_crop_is_a_plain_slice_of_the_reflected_image():
    images = random_images(count=40)
    view = View.draw("crop_flip", 40, (14, 28), 3, 1)
    out = view.apply(images, torch.arange(40)).numpy()
    assert view.pad == 1 and len(torch.unique(view.shift)) == 3
    for position in range(40):
        image = images[position].numpy()
        image = image[:, :, ::-1] if view.flip[position] else image
        padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="reflect")
        down, right = view.shift[position].tolist()
        np.testing.assert_array_equal(out[position], padded[:, down : down + 14, right : right + 28])


def test_other_seeds_and_views_give_other_pixels():
    images = random_images(count=64)
    views = [View.draw("crop_flip", 64, (14, 28), seed, view) for seed, view in [(0, 0), (0, 1), (1, 0)]]
    outs = [view.apply(images, torch.arange(64)) for view in views]
    assert not any(torch.equal(outs[a], outs[b]) for a, b in [(0, 1), (0, 2), (1, 2)])


def test_drawing_does_not_touch_the_global_generator():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    View.draw("crop_flip", 10, (14, 14), 0, 0)
    assert torch.equal(torch.rand(1), expected)


class Stored:
    """An image set of tensors."""

    def __init__(self, images: torch.Tensor) -> None:
        self.pixels, self.size = images, tuple(images.shape[2:])

    def images(self, positions: torch.Tensor) -> torch.Tensor:
        return self.pixels[positions]


@pytest.mark.parametrize("policy", ["randaugment", "mixup", "cutmix"])
@pytest.mark.parametrize("channels", [1, 3])
def test_strong_views_do_not_depend_on_the_batches_either(policy, channels):
    data = Stored(random_images(channels=channels))
    view, again = (View.draw(policy, 12, (14, 28), 3, 1) for _ in range(2))
    whole = view.read(data, torch.arange(12))
    rows = torch.randperm(12, generator=torch.manual_seed(0))
    assert torch.equal(torch.cat([again.read(data, part) for part in rows.split(5)]), whole[rows])
    assert whole.dtype == torch.uint8 and whole.shape == data.pixels.shape
    assert not torch.equal(View.draw(policy, 12, (14, 28), 3, 2).read(data, torch.arange(12)), whole)


@pytest.mark.parametrize("policy", ["mixup", "cutmix"])
def test_mixed_labels_are_shares_of_the_mixed_pixels(policy):
    # Image i is the constant i * 20: what was mixed can be read off the pixels.
    data = Stored((torch.arange(12) * 20).to(torch.uint8)[:, None, None, None].expand(12, 1, 16, 16).contiguous())
    view = View.draw(policy, 12, (16, 16), 0, 0)
    rows = torch.arange(12)
    mixed, shares = view.read(data, rows).float(), view.targets(rows, rows, 12)
    assert torch.allclose(shares.sum(1), torch.ones(12)) and shares.min() >= 0
    expected = (shares * (rows * 20.0)).sum(1)
    assert torch.allclose(mixed.mean((1, 2, 3)), expected, atol=0.51)
    assert ((shares > 0).sum(1) <= 2).all() and (shares.max(1).values < 1).any()


def test_unmixed_labels_stay_classes():
    labels = torch.arange(12)
    assert torch.equal(View.draw("crop_flip", 12, (16, 16), 0, 0).targets(labels, labels[3:5], 12), labels[3:5])
