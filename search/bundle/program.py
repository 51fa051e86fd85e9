"""``predict.py`` of a bundle: what a deploy engineer runs or ports, with every number of this model in plain sight.

It is written from one template for every runtime and task, and holds the steps that this model needs and no others: at
most 40 lines for a classifier. It gives what sousvit's own judging gives, pixel for pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from sousvit.models.preprocess import MODES, Preprocess
from sousvit.spaces.export.artifact import Artifact

if TYPE_CHECKING:
    import jinja2

    from sousvit.specs import DetectorSpec

#: By runtime: the package to install, what is imported, how the model opens, and how it runs on ``batch``.
_RUNTIMES: dict[str, tuple[str, str, list[str], list[str]]] = {
    "onnxruntime": (
        "onnxruntime",
        "import onnxruntime",
        ["MODEL = onnxruntime.InferenceSession(HERE / {file}, {options}providers=['CPUExecutionProvider'])"],
        ["output = MODEL.run(None, {{MODEL.get_inputs()[0].name: batch}})[0][0]"],
    ),
    "openvino": (
        "openvino",
        "import openvino",
        ["MODEL = openvino.Core().compile_model(HERE / {file}, 'CPU', {options})"],
        ["output = MODEL(batch)[0][0]"],
    ),
    "litert": (
        "ai-edge-litert",
        "from ai_edge_litert.interpreter import Interpreter",
        ["MODEL = Interpreter(str(HERE / {file})).get_signature_runner()"],
        ["output = [*MODEL(**dict.fromkeys(MODEL.get_input_details(), batch)).values()][0][0]"],
    ),
    "torch": (
        "torch",
        "import torch",
        ["MODEL = torch.export.load(HERE / {file}).module()"],
        ["output = MODEL(torch.from_numpy(batch)).detach().numpy()[0]"],
    ),
}


def package_of(runtime: str) -> str | None:
    """What to install for a runtime; None for one of a plug-in, for which no program can be written."""
    return _RUNTIMES[runtime][0] if runtime in _RUNTIMES else None


def predict_program(artifact: Artifact, detector: DetectorSpec | None, transform: str | None) -> str:
    """The text of ``predict.py``.

    Args:
        artifact: of a runtime that :func:`package_of` knows.
        detector: the head of a detector, None for a classifier.
        transform: a transform of the user's own that images went through before; the program then refuses files.
    """
    from sousvit.models.detector import CANDIDATES, MOST_BOXES

    _, channels, height, width = artifact.input_shape
    how = preprocess_of(artifact)
    package, imports, opening, running = _RUNTIMES[artifact.runtime]
    before, options = _options(artifact)
    geometry, crop = _geometry(how, MODES[channels], (height, width))
    if detector is not None:
        geometry, crop = _stretched(height, width), ""
    values = {
        "what": "Objects" if detector else "Classes",
        "package": package,
        "imports": imports,
        "opening": [*before, *(line.format(file=repr(artifact.file), options=options) for line in opening)],
        "running": [*_batch(artifact, how), *(line.format() for line in running)],
        "height": height,
        "width": width,
        "channels": channels,
        "mode": MODES[channels],
        "alpha": channels in (2, 4),
        "order": "" if not _is_bgr(how, channels) else "[..., ::-1]" if channels == 3 else "[..., [2, 1, 0, 3]]",
        "how": Preprocess() if detector else how,
        "geometry": geometry,
        "crop": crop,
        "refusal": repr(refusal(transform)) if transform else "",
        "detector": detector,
        "levels": [] if detector is None else [(stride, 2 * round(stride / 2)) for stride in detector.strides],
        "candidates": CANDIDATES,
        "most": MOST_BOXES,
    }
    return _template().render(values)


def refusal(transform: str) -> str:
    """Why a bundle takes no files: one line."""
    return (
        f"images reached this model through a transform of its maker's own, {transform}, which cannot travel in a "
        "bundle: apply it yourself, and give the model its pixels"
    )


def preprocess_of(artifact: Artifact) -> Preprocess:
    """How images get the shape of an artifact's input."""
    from sousvit.checked import validated

    return validated(Preprocess, artifact.preprocess, "artifact.json: preprocess")


def _options(artifact: Artifact) -> tuple[list[str], str]:
    """Lines before a model is opened, and what the opening gets."""
    if artifact.runtime == "openvino":
        settings = repr({"INFERENCE_PRECISION_HINT": "f32", **artifact.options})
        return ([], settings) if len(artifact.options) < 2 else ([f"SETTINGS = {settings}"], "SETTINGS")
    if artifact.runtime != "onnxruntime" or not artifact.options:
        return [], ""
    lines = [f"OPTIONS.add_session_config_entry({key!r}, {str(value)!r})" for key, value in artifact.options.items()]
    return ["OPTIONS = onnxruntime.SessionOptions()", *lines], "OPTIONS, "


def _batch(artifact: Artifact, how: Preprocess) -> list[str]:
    """What makes a batch of one of ``image [H, W, C]``."""
    if artifact.uint8 == "nhwc":
        return ["batch = image[None]  # the model normalises"]
    if artifact.uint8 == "nchw":
        return ["batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None])  # the model normalises"]
    scale = [255.0 * std for std in artifact.std]
    offset = [mean / std for mean, std in zip(artifact.mean, artifact.std, strict=True)]
    return [
        f"# (pixel / 255 - mean) / std, with mean {_short(artifact.mean)} and std {_short(artifact.std)}",
        f"normal = image.astype(np.float32) / np.float32({scale}) - np.float32({offset})",
        "batch = np.ascontiguousarray(normal.transpose(2, 0, 1)[None])",
    ]


def _short(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _stretched(height: int, width: int) -> list[str]:
    """As :class:`sousvit.data.detection.DetectionSet` does."""
    return [f"image = image.resize(({width}, {height}), Image.Resampling.BILINEAR, reducing_gap=3.0)"]


def _geometry(how: Preprocess, mode: str, size: tuple[int, int]) -> tuple[list[str], str]:
    """As :meth:`.Preprocess.fit` does: lines for resizing and borders, and the crop where there is one."""
    height, width = size
    high, wide = how.resize_size or (math.floor(height / how.crop_pct), math.floor(width / how.crop_pct))
    if how.resize == "squash":
        found = [f"to = ({wide}, {high})"]
    elif how.resize == "short" and high == wide:
        found = [f"to = tuple(int({wide} * side / min(image.size)) for side in image.size)"]
    else:
        choose = "max" if how.resize == "longest" else "min"
        found = [
            f"ratio = {choose}(image.width / {wide}, image.height / {high})",
            "to = (max(1, round(image.width / ratio)), max(1, round(image.height / ratio)))",
        ]
    found += [f"image = image if image.size == to else image.resize(to, Image.Resampling.{how.interpolation.upper()})"]
    if how.resize == "squash" and (high, wide) == size:
        return found, ""
    if how.resize == "longest" or high < height or wide < width:
        fill = _fill(how, len(mode))
        found += [
            f"image, part = Image.new({mode!r}, (max({width}, to[0]), max({height}, to[1])), {fill}), image",
            "image.paste(part, ((image.width - part.width) // 2, (image.height - part.height) // 2))",
        ]
    whole = "round" if how.odd_margin == "round" else "int"
    found += [f"left, top = {whole}((image.width - {width}) / 2), {whole}((image.height - {height}) / 2)"]
    return found, f"image.crop((left, top, left + {width}, top + {height}))"


def _fill(how: Preprocess, bands: int) -> tuple[int, ...] | int:
    given: Mapping[str, Any] = how.steps
    colour = tuple(given["fill"]) if how.resize == "longest" else (0,)
    colour = (colour * bands)[:bands] if len(colour) == 1 else colour[:bands]
    if _is_bgr(how, bands):  # colours change places at the end
        colour = (*colour[2::-1], *colour[3:])
    return colour if bands > 1 else colour[0]


def _is_bgr(how: Preprocess, channels: int) -> bool:
    return how.channel_order == "bgr" and channels >= 3


@cache
def _template() -> jinja2.Template:
    import jinja2

    loader = jinja2.PackageLoader("sousvit.search.bundle", ".")
    return jinja2.Environment(
        loader=loader, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    ).get_template("predict.py.j2")
