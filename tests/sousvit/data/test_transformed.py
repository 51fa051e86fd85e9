"""A user's own transform gives the model exactly what it gave it in training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

from sousvit.data import Splits
from sousvit.errors import UserError
from sousvit.inputs import preprocess_input
from sousvit.models.load import load, normalise
from sousvit.models.preprocess import Preprocess
from sousvit.specs import DataSpec, ModelSpec

ARGS = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 3}
MODEL = ModelSpec(name="vit_tiny_patch16_224", args=ARGS, mean=(0.1,), std=(0.9,))
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
GEOMETRY = [transforms.Resize(20), transforms.CenterCrop(16)]


@pytest.fixture
def data(tmp_path):
    """Images of three shapes in three classes."""
    random = np.random.default_rng(0)
    for part, count in (("train", 9), ("test", 6)):
        for number in range(count):
            folder = tmp_path / part / "abc"[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            shape = [(30, 20, 3), (17, 25, 3), (24, 24, 3)][number % 3]
            Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{part}{number}.png")
    spec = DataSpec(format="folder", train="train", test="test", validation=3)
    return spec.resolved(tmp_path)


def fed(model, data):
    """What the model sees of the test split, and the labels."""
    base = load(model)
    images = Splits(data, base.size, base.channels, preprocess=base.preprocess).open_test()
    return normalise(images.images(), base.mean, base.std), images.labels


def expected(data, transform):
    from torchvision.datasets import ImageFolder

    pairs = [*ImageFolder(data.test, transform)]
    return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])


@pytest.mark.parametrize("kind", ["compose", "v2"])
def test_a_transform_that_normalises_is_what_the_model_sees(tmp_path, data, kind):
    steps = [*GEOMETRY, transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    if kind == "v2":
        steps = [
            v2.Resize(20),
            v2.CenterCrop(16),
            v2.ToImage(),
            v2.ToDtype(torch.float32, True),
            v2.Normalize(MEAN, STD),
        ]
    transform = (v2 if kind == "v2" else transforms).Compose(steps)
    model, written, base = preprocess_input(transform, MODEL, data, None, tmp_path / "inputs")
    assert base is None
    for got, wanted in zip(fed(model, written), expected(data, transform), strict=True):
        torch.testing.assert_close(got, wanted)


def test_a_function_that_gives_pixels_leaves_normalising_to_the_model(tmp_path, data):
    def stretched(image):
        return image.resize((16, 16))

    model, written, _ = preprocess_input(stretched, MODEL, data, None, tmp_path / "inputs")
    wanted, labels = expected(data, lambda image: (transforms.ToTensor()(stretched(image)) - 0.1) / 0.9)
    got, own = fed(model, written)
    torch.testing.assert_close(got, wanted)
    assert own.tolist() == labels.tolist()


def test_what_is_given_as_a_value_is_what_the_model_sees(tmp_path, data):
    given = {"resize": "short", "resize_size": 20, "interpolation": "bilinear", "mean": MEAN, "std": STD}
    model, same, _ = preprocess_input(given, MODEL, data, None, tmp_path)
    assert same is data
    transform = transforms.Compose([*GEOMETRY, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    torch.testing.assert_close(fed(model, same)[0], expected(data, transform)[0])
    assert preprocess_input("auto", MODEL, data, None, tmp_path) == (MODEL, data, None)


def test_a_base_in_memory_is_fed_otherwise_too(tmp_path, data):
    base = load(MODEL)
    _, _, other = preprocess_input(Preprocess(crop_pct=0.8, mean=MEAN), MODEL, data, base, tmp_path)
    assert other is not None and other.module is base.module and other.mean == MEAN and other.std == (0.9,) * 3
    assert other.preprocess.crop_pct == 0.8


@pytest.mark.parametrize(
    ("transform", "told"),
    [
        (lambda image: image.crop((0, 0, image.width // 2, 8)), "one size"),
        (lambda image: image.nothing, "AttributeError"),
        (transforms.Compose([transforms.ToTensor(), transforms.Lambda(lambda x: x * 3)]), "pixels / 255"),
        (3, "received 3"),
        ({"resize": "no"}, "resize"),
    ],
)  # fmt: skip
def test_what_is_no_transform_is_one_line(tmp_path, data, transform, told):
    with pytest.raises(UserError) as raised:
        preprocess_input(transform, MODEL, data, None, tmp_path / "inputs")
    assert told in str(raised.value) and "\n" not in str(raised.value)


def test_a_transform_needs_images_of_classes(tmp_path):
    with pytest.raises(UserError, match="labelled images"):
        preprocess_input(lambda image: image, MODEL, DataSpec(format="none"), None, tmp_path)
