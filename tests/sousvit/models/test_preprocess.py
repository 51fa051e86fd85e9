"""Preprocessing gives the pixels that timm's, torchvision's and Hugging Face's own evaluation transforms give."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from sousvit.checked import validated
from sousvit.errors import UserError
from sousvit.models.load import normalise
from sousvit.models.preprocess import Preprocess, eight_bits
from sousvit.models.preprocess_config import of_hugging_face, of_timm

#: (width, height): square, wide, high, odd margins, smaller than the input, a line.
SHAPES = [(64, 64), (80, 60), (60, 80), (101, 67), (67, 101), (47, 33), (20, 30), (300, 9), (225, 224)]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A colourful image with edges and slopes."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def fed(preprocess: Preprocess, image: Image.Image, channels: int = 3) -> torch.Tensor:
    """What the model sees, ``[C, H, W]``."""
    assert preprocess.size is not None and preprocess.mean is not None and preprocess.std is not None
    pixels = np.asarray(preprocess.fit(image, preprocess.size, channels)).reshape(*preprocess.size, channels)
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
    mean, std = preprocess.in_pixels(channels)
    return normalise(tensor, mean, std)[0]


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize(("crop_pct", "interpolation"), [(1.0, "bicubic"), (0.9, "bilinear"), (0.875, "bicubic")])
@pytest.mark.parametrize("size", [(48, 48), (40, 56)])
def test_images_of_every_shape_reach_the_model_as_timm_feeds_them(mode, crop_pct, interpolation, size):
    config = {"input_size": (3, *size), "crop_pct": crop_pct, "interpolation": interpolation, "crop_mode": mode,
              "mean": (0.5, 0.4, 0.3), "std": (0.5, 0.6, 0.7)}  # fmt: skip
    theirs = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config), is_training=False)
    for shape in SHAPES:
        image = picture(*shape)
        torch.testing.assert_close(fed(of_timm(config), image), theirs(image), rtol=0, atol=1e-6)


def test_every_pretrained_configuration_of_timm_can_be_read():
    vits = [name for name in timm.list_pretrained() if any(word in name for word in ("vit", "deit", "swin", "eva"))]
    read = [of_timm(timm.get_pretrained_cfg(name).to_dict()) for name in vits]
    assert len(read) > 300 and {one.resize for one in read} >= {"short", "squash"}
    assert sum(one.crop_pct < 1 for one in read) > 150


PROCESSORS = {
    "vit": ("ViTImageProcessor", {"size": {"height": 48, "width": 40}}),
    "deit": ("DeiTImageProcessor", {"size": {"height": 56, "width": 56}, "crop_size": {"height": 48, "width": 48}}),
    "clip": ("CLIPImageProcessor", {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}),
    "siglip": ("SiglipImageProcessor", {"size": {"height": 48, "width": 48}}),
    "beit": ("BeitImageProcessor", {"size": {"height": 48, "width": 48}}),
    "beit cropped": (
        "BeitImageProcessor",
        {"size": {"height": 55, "width": 55}, "do_center_crop": True, "crop_size": {"height": 48, "width": 48}},
    ),
    "dinov2": ("BitImageProcessor", {"size": {"shortest_edge": 55}, "crop_size": {"height": 48, "width": 48}}),
    "crop larger": ("BitImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": {"height": 48, "width": 48}}),
    "dinov3": ("DINOv3ViTImageProcessor", {"size": {"height": 48, "width": 48}}),
    "convnext": ("ConvNextImageProcessor", {"size": {"shortest_edge": 48}, "crop_pct": 0.85}),
    "convnext large": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    "mobilevit": ("MobileViTImageProcessor", {"size": {"shortest_edge": 55}, "crop_size": {"height": 48, "width": 48}}),
    "levit": ("LevitImageProcessor", {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}),
    "not rescaled": (
        "ViTImageProcessor",
        {
            "size": {"height": 48, "width": 48},
            "do_rescale": False,
            "image_mean": [120.0, 110.0, 100.0],
            "image_std": [60.0, 61.0, 62.0],
        },
    ),
    "not normalised": ("ViTImageProcessor", {"size": {"height": 48, "width": 48}, "do_normalize": False}),
    "lanczos": ("ViTImageProcessor", {"size": {"height": 48, "width": 48}, "resample": 1}),
}
#: transformers resizes by PIL or by torchvision; dinov3 by torchvision alone.
BACKENDS = [(name, "Pil") for name in PROCESSORS if name != "dinov3"] + [("dinov3", ""), ("clip", ""), ("convnext", "")]


@pytest.mark.parametrize(("name", "backend"), BACKENDS)
def test_images_of_every_shape_reach_the_model_as_hugging_face_feeds_them(tmp_path, name, backend):
    import transformers

    kind, settings = PROCESSORS[name]
    processor = getattr(transformers, f"{kind}{backend}")(**settings)
    processor.save_pretrained(tmp_path)
    ours = of_hugging_face(json.loads((tmp_path / "preprocessor_config.json").read_text()))
    for shape in SHAPES:
        image = picture(*shape)
        theirs = processor(image, return_tensors="pt")["pixel_values"][0].float()
        got = fed(ours, image)
        assert got.shape == theirs.shape
        assert ours.std is not None
        steps = (got - theirs).abs() * min(ours.std) / ours.rescale  # of 1 in 0..255
        # PIL gives the same pixels; torchvision rounds some otherwise, and dinov3 does not round after it resized.
        exact = "Pil" in type(processor).__name__
        assert steps.max() <= (0.01 if exact else 3) and steps.mean() <= (0.01 if exact else 0.4), shape


def test_files_of_earlier_versions_of_transformers_are_read():
    old = {"do_normalize": True, "do_resize": True, "feature_extractor_type": "ViTFeatureExtractor",
           "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2, "size": 224}  # fmt: skip
    read = of_hugging_face(old)
    assert (read.resize, read.size, read.interpolation, read.mean) == ("squash", (224, 224), "bilinear", (0.5,) * 3)
    apple = {"crop_size": {"height": 256, "width": 256}, "do_center_crop": True, "do_flip_channel_order": True,
             "feature_extractor_type": "MobileViTFeatureExtractor", "resample": 2,
             "size": {"shortest_edge": 288}}  # fmt: skip
    read = of_hugging_face(apple)
    assert (read.channel_order, read.resize_size, read.size) == ("bgr", (288, 288), (256, 256))
    assert (read.mean, read.std) == ((0.0,), (1.0,))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"image_processor_type": "DetrImageProcessor"}, "DetrImageProcessor"),
        ({}, "received none"),
        ({"image_processor_type": "ViTImageProcessor", "do_pad": True}, "do_pad"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 9}}, "no crop"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 9, "longest_edge": 12}}, "longest"),
        ({"image_processor_type": "ViTImageProcessor", "do_resize": False}, "do_resize"),
    ],
)
def test_steps_that_we_cannot_do_are_one_line(config, told):
    with pytest.raises(UserError) as raised:
        of_hugging_face(config)
    assert told in str(raised.value) and "\n" not in str(raised.value)


def test_sixteen_bits_are_scaled_from_their_whole_range():
    grey = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    assert np.asarray(eight_bits(Image.fromarray(grey))).tolist() == [[0, 1, 128, 255]]
    fitted = Preprocess().fit(Image.fromarray(grey.repeat(4, 0)), (4, 4), 3)
    assert fitted.mode == "RGB" and fitted.getpixel((2, 0)) == (128, 128, 128)


def test_floats_in_zero_to_one_are_pixels_and_others_are_refused():
    slope = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert np.asarray(eight_bits(Image.fromarray(slope))).ravel().tolist() == list(range(256))
    with pytest.raises(ValueError, match="from 0 to 2"):
        eight_bits(Image.fromarray(slope * 2))
    with pytest.raises(ValueError, match="32-bit pixels from 0 to 70000"):
        eight_bits(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)))


def test_channels_and_modes_are_treated_as_the_training_libraries_treat_them():
    """Both open an image with PIL and convert it to RGB."""
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"):
        image = picture(12, 12).convert(mode) if mode != "LAB" else Image.new("LAB", (12, 12), (120, 130, 90))
        fitted = Preprocess().fit(image, (12, 12), 3)
        assert fitted.tobytes() == image.convert("RGB").tobytes()
    assert Preprocess().fit(picture(12, 12).convert("RGBA"), (8, 8), 4).mode == "RGBA"
    assert Preprocess().fit(picture(12, 12), (8, 8), 1).mode == "L"
    swapped = Preprocess(channel_order="bgr").fit(Image.new("RGB", (8, 8), (1, 2, 3)), (8, 8), 3)
    assert swapped.getpixel((0, 0)) == (3, 2, 1)


def test_orientation_is_followed_where_the_training_library_follows_it():
    image = picture(8, 4)
    image.getexif()[0x0112] = 6
    assert Preprocess().resized(8, 4, (4, 4)) == (8, 4)
    plain, turned = (Preprocess(exif=exif, resize="squash").fit(image, (8, 4), 3) for exif in (False, True))
    assert turned.tobytes() == image.transpose(Image.Transpose.ROTATE_270).tobytes() and plain != turned


def test_what_is_given_stands_over_what_a_checkpoint_says():
    said = Preprocess(resize="squash", crop_pct=0.9, interpolation="bilinear", mean=(0.1,))
    assert Preprocess(interpolation="box").over(said) == said.model_copy(update={"interpolation": "box"})
    larger = Preprocess(resize_size=64).over(said)
    assert (larger.crop_pct, larger.resize_size, larger.resize) == (1.0, (64, 64), "squash")
    assert Preprocess().over(None) == Preprocess()
    assert said.model_dump() == {"resize": "squash", "crop_pct": 0.9, "interpolation": "bilinear", "mean": (0.1,)}
    assert Preprocess(**said.model_dump()).model_fields_set == said.model_fields_set


def test_only_what_changes_pixels_makes_other_data():
    assert Preprocess().geometry == "" == Preprocess(mean=(0.2,), std=(0.3,), size=48).geometry
    others = [
        Preprocess(crop_pct=0.9),
        Preprocess(resize="squash"),
        Preprocess(interpolation="box"),
        Preprocess(exif=True),
    ]
    assert len({one.geometry for one in others}) == len(others)
    assert Preprocess(resize="longest", mean=(0.1,)).geometry != Preprocess(resize="longest", mean=(0.9,)).geometry


@pytest.mark.parametrize(
    "values",
    [
        {"resize": "fit"},
        {"crop_pct": 0},
        {"crop_pct": 2},
        {"size": 0},
        {"std": [0]},
        {"interpolation": "area"},
        {"crop_pct": 0.9, "resize_size": 256},
        {"colour": "rgb"},
    ],
)
def test_wrong_preprocessing_is_one_line(values):
    with pytest.raises(UserError) as raised:
        validated(Preprocess, values, "model.preprocess")
    assert "\n" not in str(raised.value)
