"""``README.md`` of a bundle: a model card, whose head Hugging Face's hub reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import yaml

from sousvit.errors import UnknownNameError
from sousvit.objectives.objective import Measurement, get_objective
from sousvit.search.bundle.metadata import INPUT
from sousvit.search.bundle.program import package_of, preprocess_of, refusal

if TYPE_CHECKING:
    from sousvit.search.bundle.facts import Facts
    from sousvit.search.bundle.hugging_face import ProcessorConfig

_RUNTIME_WORDS = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "litert": "LiteRT", "torch": "PyTorch"}
_LIBRARIES = {"onnxruntime": "onnx", "openvino": "openvino", "litert": "litert", "torch": "pytorch"}
#: Names of figures in a reader's words.
_WORDS = {
    "accuracy": "top-1 accuracy",
    "accuracy_drop": "top-1 lost against the base",
    "agreement": "agreement with the base",
    "map": "mAP",
    "map50": "mAP50",
    "map50_drop": "mAP50 lost against the base",
    "latency": "latency",
    "latency_ratio": "latency as a share of the base's",
    "size": "size of its files as measured",
    "size_ratio": "size as a share of the base's",
    "memory": "peak memory",
    "params": "parameters",
    "macs": "multiply-accumulates",
}
_MOST_LABELS = 5


def model_card(facts: Facts, processor: ProcessorConfig | None, has_weights: bool) -> str:
    """The text of ``README.md``."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sousvit.search.bundle", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    runtime, versions = facts.artifact.runtime, dict(facts.machine.get("versions", {}))
    package = package_of(runtime)
    values = {
        "facts": facts,
        "head": yaml.safe_dump(_head(facts), sort_keys=False, allow_unicode=True),
        "runtime_word": _RUNTIME_WORDS.get(runtime, runtime),
        "summary": _summary(facts.figures),
        "detector": facts.model.detector,
        "refusal": refusal(facts.transform) if facts.transform else "",
        "package": package,
        "version": versions.get((package or "").replace("-", "_"), ""),
        "size": f"{facts.artifact.size_bytes / 1e6:.3f} MB with these facts in it",
        "input": _input(facts),
        "steps": list(_steps(facts)),
        "output": _output(facts),
        "some_labels": ", ".join(map(_cell, facts.labels[:_MOST_LABELS]))
        + ", ..." * (len(facts.labels) > _MOST_LABELS),
        "options": ", ".join(f"`{key}={value}`" for key, value in facts.artifact.options.items()),
        "processor": processor,
        "onnx": runtime == "onnxruntime",
        "figures": list(_figures(facts)),
        "limits": [
            (f"{_word(one.name)} {one.bound}", _limit_figure(one), _cell(one.images or "-"), one.verdict)
            for one in facts.limits
        ],
        "machine": _cell(_machine(facts.machine)),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or "unknown",
        "data": _cell(_data(facts)),
        "recipe": _recipe(facts),
        "weights": has_weights,
    }
    return environment.get_template("README.md.j2").render(values)


def _head(facts: Facts) -> dict[str, Any]:
    """What the hub reads: https://huggingface.co/docs/hub/model-cards."""
    quality = facts.figures.get(facts.quality)
    metric = {"type": facts.quality, "value": None if quality is None else round(quality.value, 5)}
    result = {
        "task": {"type": facts.task},
        "dataset": {"type": "custom", "name": _data_name(facts)},
        "metrics": [{**metric, "name": f"{_word(facts.quality)} on {facts.images}"}],
    }
    source = facts.model.checkpoint or ""
    base = {"base_model": source.removeprefix("hf-hub:")} if source.startswith("hf-hub:") else {}
    index = [{"name": f"{facts.name}-compressed", "results": [result]}]
    return {
        "library_name": _LIBRARIES.get(facts.artifact.runtime, facts.artifact.runtime),
        "pipeline_tag": facts.task,
        **base,
        "tags": ["sousvit", "compressed", facts.artifact.runtime, *(step.technique for step in facts.recipe.steps)],
        **({} if quality is None else {"model-index": index}),
    }


def _summary(figures: Mapping[str, Measurement]) -> str:
    said = [
        pattern.format(1 / figures[name].value)
        for name, pattern in (("latency_ratio", "{:.3g} times as fast as the base"), ("size_ratio", "{:.3g}x smaller"))
        if name in figures and figures[name].value > 0
    ]
    return f": {', '.join(said)}" if said else ""


def _input(facts: Facts) -> str:
    _, channels, height, width = facts.artifact.input_shape
    batch = "1" if facts.artifact.runtime == "litert" else "batch"
    name = f"`{INPUT}`, " if facts.artifact.path.suffix == ".onnx" else ""
    if facts.artifact.uint8 == "nhwc":
        return f"{name}uint8 `[{batch}, {height}, {width}, {channels}]`, pixels 0 to 255: the graph normalises them"
    if facts.artifact.uint8 == "nchw":
        return f"{name}uint8 `[{batch}, {channels}, {height}, {width}]`, pixels 0 to 255: the graph normalises them"
    return f"{name}float32 `[{batch}, {channels}, {height}, {width}]`, normalised as below"


def _steps(facts: Facts) -> Iterator[tuple[str, str]]:
    """The way of an image file to the input, in words."""
    artifact, how = facts.artifact, preprocess_of(facts.artifact)
    _, channels, height, width = artifact.input_shape
    colour = {1: "grey", 2: "grey with alpha", 3: how.channel_order.upper(), 4: how.channel_order.upper() + "A"}
    yield "colours", f"{colour[channels]}, 8 bits"
    if facts.model.detector is not None:
        yield "resize", f"the whole image to {width} x {height} pixels, whatever its shape, bilinear"
    else:
        high, wide = how.resize_size or (int(height / how.crop_pct), int(width / how.crop_pct))
        words = {
            "short": f"the short side to {min(high, wide)} pixels",
            "squash": f"to {wide} x {high} pixels, whatever its shape",
            "longest": f"the long side to {max(high, wide)} pixels, borders filled",
        }
        turned = "turned as its EXIF says, then " if how.exif else ""
        yield "resize", f"{turned}{words[how.resize]}, {how.interpolation}"
        yield "crop", f"the centre, {width} x {height} pixels"
    if not artifact.uint8:
        mean, std = (", ".join(f"{value:.6g}" for value in values) for values in (artifact.mean, artifact.std))
        yield "normalise", f"`(pixel / 255 - mean) / std`, mean {mean}, std {std}"


def _output(facts: Facts) -> str:
    detector = facts.model.detector
    if detector is None:
        return f"logits `[batch, {len(facts.labels)}]`; softmax gives probabilities"
    return (
        f"`[batch, positions, {len(facts.labels)} + 5]`: class logits, distances to the four sides in strides, "
        f"centerness, for strides {', '.join(map(str, detector.strides))}. Scores from {detector.score_threshold} are "
        f"kept, and of boxes of a class that overlap by more than {detector.nms_threshold} the surest; `predict.py` "
        "does both"
    )


def _figures(facts: Facts) -> Iterator[tuple[str, str, str]]:
    usual = (facts.quality, f"{facts.quality}_drop", "latency", "latency_ratio", "size", "size_ratio", "memory",
             "params", "macs")  # fmt: skip
    for name in dict.fromkeys((*usual, *(limit.name for limit in facts.limits))):
        if name in facts.figures:
            relative = name.endswith(("_ratio", "_drop"))
            base = "" if relative or name not in facts.base else _figure(name, facts.base[name])
            yield _word(name), _figure(name, facts.figures[name]), base


def _limit_figure(limit: Any) -> str:
    if limit.value is None:
        return "not measured"
    return _figure(limit.name, Measurement(limit.value, limit.low, limit.high))


def _figure(name: str, value: Measurement) -> str:
    """A figure with its interval and unit."""
    unit = _unit(name)
    shown = f"{value.value:.4g}"
    if value.low is not None and value.high is not None:
        shown += f" [{value.low:.4g}, {value.high:.4g}]"
    return shown if unit in ("share", "ratio") else f"{shown} {unit}"


def _unit(name: str) -> str:
    try:
        return get_objective(name).unit
    except UnknownNameError:  # of a plug-in that is not loaded
        return ""


def _word(name: str) -> str:
    plain, at, place = name.partition("@")
    return _WORDS.get(plain, plain.replace("_", " ")) + (f" on {place}" if at else "")


def _machine(facts: Mapping[str, Any]) -> str:
    flags = ", ".join(map(str, facts.get("flags", ())))
    cores = f"{facts['cores']} cores" if "cores" in facts else ""
    return "; ".join(filter(None, (str(facts.get("cpu", "")), cores, flags, str(facts.get("os", ""))))) or "unknown"


def _data_name(facts: Facts) -> str:
    """What the images are called, without where they lie."""
    data = facts.data
    if data.kind == "none" and not data.has_test:
        return "synthesised images"
    given = data.test or data.root or data.name or data.train or "images"
    first = given if isinstance(given, str) else given[0]
    return first.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _data(facts: Facts) -> str:
    kinds = {"labelled": "", "unlabelled": ", training images without labels", "none": ", no training images"}
    return f"{_data_name(facts)} ({facts.data.format or 'found by its form'}{kinds[facts.data.kind]})"


def _recipe(facts: Facts) -> str:
    steps = facts.recipe.steps
    return f"Steps: {_cell('; '.join(map(str, steps)))}" if steps else "The base as it is"


def _cell(text: str) -> str:
    """Text that ends no cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
