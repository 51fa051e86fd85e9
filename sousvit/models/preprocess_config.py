"""Preprocessing as timm and Hugging Face write it down, read as a :class:`~sousvit.models.preprocess.Preprocess`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from sousvit.checked import validated
from sousvit.errors import UserError
from sousvit.models.preprocess import Interpolation, Preprocess

_TIMM_CROP_MODES = {"center": "short", "squash": "squash", "border": "longest"}
_HALF, _IMAGENET = ((0.5,) * 3,) * 2, ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def _processor(size: Any, resample: int, norm: Any, crop: int | None = None, **more: Any) -> dict[str, Any]:
    """What an image processor does where its file is silent."""
    own = {"size": size, "resample": resample, "image_mean": norm[0], "image_std": norm[1]}
    return {**own, "do_center_crop": crop is not None, "crop_size": crop or 224, **more}


#: By the name of an image processor of ``transformers`` without its ending: the settings of one that says nothing.
_PROCESSORS = {
    "Beit": _processor(224, 3, _HALF),
    "Bit": _processor({"shortest_edge": 224}, 3, _CLIP, 224),
    "CLIP": _processor({"shortest_edge": 224}, 3, _CLIP, 224),
    "ConvNext": _processor({"shortest_edge": 384}, 3, _HALF, crop_pct=224 / 256),
    "DeiT": _processor(256, 3, _IMAGENET, 224),
    "DINOv3ViT": _processor(224, 2, _IMAGENET),
    "Levit": _processor({"shortest_edge": 224}, 3, _IMAGENET, 224),
    "MobileViT": _processor({"shortest_edge": 224}, 3, _HALF, 256, do_flip_channel_order=True),
    "Siglip": _processor(224, 3, _HALF),
    "ViT": _processor(224, 2, _HALF),
}
#: Steps that have no counterpart here.
_FOREIGN = ("do_pad", "do_reduce_labels", "include_top", "rescale_offset", "do_thumbnail", "do_align_long_axis")
_FOREIGN_SIZES = ("longest_edge", "max_height", "max_width")


def of_timm(config: Mapping[str, Any]) -> Preprocess:
    """What a timm ``pretrained_cfg`` says, as ``timm.data.create_transform`` takes it for evaluation.

    Raises:
        UserError: a value that timm would not take.
    """
    mode, size = config.get("crop_mode") or "center", config.get("input_size")
    values: dict[str, Any] = {
        "resize": _TIMM_CROP_MODES.get(mode, mode),
        "crop_pct": config.get("crop_pct") or 0.875,  # timm's default
        "interpolation": config.get("interpolation") or "bilinear",
        "size": None if size is None else tuple(size)[-2:],
    }
    values |= {name: tuple(config[name]) for name in ("mean", "std") if config.get(name) is not None}
    return validated(Preprocess, values, "a timm pretrained_cfg")


def of_hugging_face(config: Mapping[str, Any]) -> Preprocess:
    """What a ``preprocessor_config.json`` says, as its image processor of ``transformers`` does it.

    Raises:
        UserError: an image processor or a step that has no counterpart here.
    """
    name = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "none")
    kind = name.removesuffix("Fast").removesuffix("Pil").removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if kind not in _PROCESSORS:
        rule = f"preprocessing is read from the image processors {', '.join(_PROCESSORS)}"
        raise UserError(rule, name, "describe it: model.preprocess")
    said = {key: value for key, value in config.items() if value is not None}
    config = {"do_resize": True, "do_rescale": True, "do_normalize": True, **_PROCESSORS[kind], **said}
    size, crop = _sides(config["size"]), _sides(config["crop_size"])
    foreign = [key for key in _FOREIGN if config.get(key)] + [key for key in _FOREIGN_SIZES if key in size]
    if foreign:
        raise UserError(f"{name} resizes, crops and normalises", ", ".join(foreign), "describe it: model.preprocess")
    values: dict[str, Any] = {"exif": True, "odd_margin": "floor"}  # transformers.image_utils.load_image turns
    values |= _geometry(kind, config, size, _both(crop) if config["do_center_crop"] else None)
    values["interpolation"] = get_args(Interpolation)[int(config["resample"])]
    values["channel_order"] = "bgr" if config.get("do_flip_channel_order") else "rgb"
    values["rescale"] = config.get("rescale_factor", 1 / 255) if config["do_rescale"] else 1.0
    normalises = config["do_normalize"] and kind != "MobileViT"
    values["mean"] = tuple(config["image_mean"]) if normalises else (0.0,)
    values["std"] = tuple(config["image_std"]) if normalises else (1.0,)
    return validated(Preprocess, values, name)


def _geometry(
    kind: str, config: Mapping[str, Any], size: Mapping[str, int], crop: tuple[int, int] | None
) -> dict[str, Any]:
    """How images are resized and cropped."""
    edge = size.get("shortest_edge")
    if not config["do_resize"]:
        raise UserError("images are resized to the model's size", "do_resize: false", "describe it: model.preprocess")
    if edge is None:
        return {"resize": "squash", "resize_size": _both(size), "size": crop or _both(size)}
    if kind == "ConvNext":
        if edge >= 384:  # from here on it squashes, says its own code
            return {"resize": "squash", "size": edge}
        return {"resize": "short", "resize_size": int(edge / config["crop_pct"]), "size": edge}
    if crop is None:
        raise UserError("images of a batch have one size", f"shortest_edge {edge} and no crop", "add do_center_crop")
    return {"resize": "short", "resize_size": int(256 / 224 * edge) if kind == "Levit" else edge, "size": crop}


def _sides(value: Any) -> dict[str, int]:
    """A size as newer versions of ``transformers`` write it; older ones wrote one number."""
    return {"height": value, "width": value} if isinstance(value, int) else dict(value)


def _both(size: Mapping[str, int]) -> tuple[int, int]:
    """(height, width)."""
    return (size["height"], size["width"]) if "height" in size else (size["shortest_edge"],) * 2
