"""A first budget for a model and its data, written with comments, to be read and changed by its user."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sousvit.errors import UserError
from sousvit.files import write_atomic
from sousvit.inputs import data_input, model_input
from sousvit.objectives.targets.profiles import load_target
from sousvit.text.paths import at_home

if TYPE_CHECKING:
    from sousvit.models.load import LoadedModel
    from sousvit.specs import DataSpec, ModelSpec

#: Keys of a specification that are paths.
PATHS = ("checkpoint", "train", "validation", "test", "root")
BUDGET = """\
# sousvit check {file} looks at all of this in a minute; sousvit search {file} begins.
model:   # {what}
{model}
  # expected_accuracy: 0.9   # what you know it to reach: then a wrong input stops the search at once
  # preprocess: {preprocess}
data:
{data}
targets: [{target}]   # sousvit list targets; or {{device: local, runtime: [onnxruntime, openvino], threads: 1}}
limits:   # hard, all at once; relative to the base, or in the objective's unit
  {quality}_drop: 0.01   # at most one point lost
  latency_ratio: 0.5   # at most half of the latency
  # size: 10 MB   # also memory, macs, ... (sousvit list objectives)
optimize: [latency, size]   # what to make better among all that holds the limits
space: default   # or training-free, all, or techniques by name (sousvit list techniques)
search: {{trials: 100, time: 1h}}
"""
TEST = "  # test: PATH   # images that the search never sees: the answer is judged on them"


def init(
    model: str | Path, data: str | Path, *, target: str = "local-1-thread", out: str | Path = "budget.yaml"
) -> Path:
    """Write a commented budget for a model and its data, and return its path.

    Args:
        model: a checkpoint in any form that opens, or timm's name.
        data: a folder or file of training images, as for ``train`` of :func:`compress`.
        target: a shipped profile, or a YAML file.
        out: the file, which must not exist.

    Raises:
        UserError: ``out`` exists; the model or the data cannot be opened.
    """
    from sousvit.models.load import load

    out = at_home(out)
    if out.exists():
        raise UserError("init writes a new file", f"{out}, which exists", "name another with --out, or remove it")
    load_target(target)
    with tempfile.TemporaryDirectory(prefix="sousvit-init-") as folder:
        spec, _ = model_input(str(model), Path(folder))
        parts = data_input(str(data), None, None, Path(folder))
        base = load(spec)
    lines = _written(parts, out) + ([] if parts.has_test else [TEST])
    filled = {"file": out.name, "what": _what(base), "preprocess": _flow(_steps(base)), "target": target}
    quality = "accuracy" if spec.detector is None else "map"
    text = BUDGET.format(**filled, quality=quality, model="\n".join(_written(spec, out)), data="\n".join(lines))
    write_atomic(out, text)
    return out


def _what(base: LoadedModel) -> str:
    """The model in words."""
    channels = {1: "grey", 3: "RGB"}.get(base.channels, f"{base.channels} channels")
    known = base.class_names
    names = f" ({', '.join(known[:5])}{', ...' if len(known) > 5 else ''})" if known else ""
    return f"{base.spec.name}, {base.size[0]} x {base.size[1]} px, {channels}, {base.num_classes} classes{names}"


def _written(spec: ModelSpec | DataSpec, out: Path) -> list[str]:
    """What a specification says, a line a key, its paths as seen from the budget."""
    said = {name: value for name, value in spec.model_dump(mode="json", exclude_defaults=True).items() if value}
    for name in PATHS:
        given = said.get(name)
        if isinstance(given, str | list):
            seen = [_seen_from(out.absolute().parent, path) for path in ([given] if isinstance(given, str) else given)]
            said[name] = seen[0] if isinstance(given, str) else seen
    return [f"  {name}: {_flow(value)}" for name, value in said.items()]


def _seen_from(folder: Path, path: str) -> str:
    """Relative where it lies below the folder or beside it, so that both can be moved together."""
    if not Path(path).is_absolute():  # a name of the hub
        return path
    relative = os.path.relpath(path, folder)
    return path if Path(relative).parts[:2] == ("..", "..") else relative


def _steps(base: LoadedModel) -> dict[str, Any]:
    said = {name: value for name, value in base.preprocess.steps.items() if value is not None}
    steps = {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}
    return {**steps, **{name: [round(number, 4) for number in getattr(base, name)] for name in ("mean", "std")}}


def _flow(value: Any) -> str:
    """A value as one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()
