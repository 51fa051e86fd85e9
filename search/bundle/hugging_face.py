"""Labels and preprocessing as Hugging Face's libraries read them: ``config.json`` and ``preprocessor_config.json``.

``transformers.AutoImageProcessor.from_pretrained(bundle, backend="pil")`` gives our pixels, and optimum's
``ORTModelForImageClassification`` opens the folder of an ONNX bundle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from sousvit.models.preprocess import Interpolation, Preprocess
from sousvit.search.bundle.program import preprocess_of

if TYPE_CHECKING:
    from sousvit.search.bundle.facts import Facts

#: A model type that AutoConfig knows, for a network that is in the file as it is.
MODEL_TYPE = "vit"


@dataclass(frozen=True)
class ProcessorConfig:
    """A ``preprocessor_config.json``; ``differs`` says where its pixels are others than ours, "" where nowhere."""

    values: dict[str, Any]
    differs: str = ""


def model_config(facts: Facts) -> dict[str, Any]:
    """The values of ``config.json``."""
    _, channels, height, width = facts.artifact.input_shape
    kind = "ViTForImageClassification" if facts.model.detector is None else "ViTForObjectDetection"
    model = facts.model.model_dump(mode="json", include={"name", "args", "detector"}, exclude_defaults=True)
    return {
        "architectures": [kind],
        "model_type": MODEL_TYPE,
        "image_size": height if height == width else [height, width],
        "num_channels": channels,
        "num_labels": len(facts.labels),
        "id2label": {str(number): label for number, label in enumerate(facts.labels)},
        "label2id": {label: number for number, label in enumerate(facts.labels)},
        "problem_type": "single_label_classification",
        "sousvit": {"base": model, "runtime": facts.artifact.runtime, "recipe": facts.recipe.to_dict()},
    }


def processor_config(facts: Facts) -> ProcessorConfig | None:
    """The ``preprocessor_config.json``; None where Hugging Face has no such steps (borders, a user's own transform)."""
    artifact, how = facts.artifact, preprocess_of(facts.artifact)
    _, channels, height, width = artifact.input_shape
    if facts.transform is not None or how.resize == "longest" or channels in (2, 4):
        return None
    differs = []
    if facts.model.detector is not None:
        size: dict[str, int] = {"height": height, "width": width}
        how, crops = Preprocess(interpolation="bilinear"), False
        differs.append("images more than three times as large as the input are reduced in two steps here")
    else:
        high, wide = how.resize_size or (math.floor(height / how.crop_pct), math.floor(width / how.crop_pct))
        if how.resize == "short" and high != wide:
            return None
        size = {"shortest_edge": high} if how.resize == "short" else {"height": high, "width": wide}
        crops = how.resize == "short" or (high, wide) != (height, width)
        if crops and how.odd_margin == "round":
            differs.append("the crop may begin a pixel elsewhere where its margins are odd")
    if artifact.uint8:
        differs.append("the model normalises itself: scaling and mean are switched off, and it takes uint8")
    values: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": size,
        "resample": get_args(Interpolation).index(how.interpolation),
        "do_center_crop": crops,
        "crop_size": {"height": height, "width": width},
        "do_rescale": not artifact.uint8,
        "rescale_factor": 1 / 255,
        "do_normalize": not artifact.uint8,
        "image_mean": list(artifact.mean),
        "image_std": list(artifact.std),
        "do_convert_rgb": channels == 3,
    }
    if how.channel_order == "bgr" and channels >= 3:
        values |= {"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": True}
        if artifact.mean != (0.0,) * channels or artifact.std != (1.0,) * channels:
            return None  # it does not normalise
    return ProcessorConfig(values, "; ".join(differs))
