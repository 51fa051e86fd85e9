"""An artifact: the folder with the exported, deployable model file, and what a runtime must know to run it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sousvit.errors import UserError
from sousvit.files import write_atomic

DESCRIPTION = "artifact.json"
#: Of a description; ours have 1 kB.
MAX_DESCRIPTION = 1 << 20
#: Numbers of one image: larger inputs are refused before anything is allocated for them.
MAX_INPUT = 2**28
#: What a bundle holds beside its model, see :mod:`sousvit.search.bundle`: no runtime reads it.
BUNDLE_FILES = (
    "README.md",
    "SHA256SUMS",
    "config.json",
    "labels.txt",
    "predict.py",
    "preprocessor_config.json",
    "recipe.yaml",
)
#: Orders of the axes of pixels that a model may take itself; "": it takes normalised float32 ``[B, C, H, W]``.
UINT8_LAYOUTS = ("", "nchw", "nhwc")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class Artifact:
    """A deployable model on disk.

    Attributes:
        folder: holds the model's files and ``artifact.json``.
        runtime: the name of what opens it, such as ``onnxruntime``.
        file: the model file in ``folder`` that the runtime opens (``model.onnx``, ``model.xml``, ``model.tflite``,
            ``model.pt2``).
        input_shape: ``(1, C, H, W)``; LiteRT's files take one image, the others any batch.
        mean, std: per channel, of pixels in [0, 1]. These, the shape and ``preprocess`` are filled in by
            ``make_artifact``.
        preprocess: what happens to an image before that: :attr:`sousvit.models.preprocess.Preprocess.steps`.
        batch_dependent: whether logits depend on the other images of a batch (dynamic quantization scales do).
        options: runtime options that belong to the artifact, such as OpenVINO's ``INFERENCE_PRECISION_HINT``.
        uint8: of a graph that normalises pixels itself, the order of their axes: ``nchw`` or ``nhwc``; ``input_shape``
            stays ``(1, C, H, W)``.
    """

    folder: Path
    runtime: str
    file: str
    input_shape: tuple[int, int, int, int] = (1, 0, 0, 0)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    preprocess: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    batch_dependent: bool = False
    uint8: str = ""

    @property
    def path(self) -> Path:
        """The file that the runtime opens."""
        return self.folder / self.file

    @property
    def size_bytes(self) -> int:
        """Bytes of all files that must be shipped (descriptions and what a bundle adds are not counted)."""
        return sum(file.stat().st_size for file in self.shipped_files)

    @property
    def shipped_files(self) -> list[Path]:
        """The files that must be shipped."""
        beside = (DESCRIPTION, *BUNDLE_FILES)
        return sorted(file for file in self.folder.iterdir() if file.is_file() and file.name not in beside)

    def save(self) -> Artifact:
        """Write ``artifact.json`` beside the model file."""
        values = {key: value for key, value in asdict(self).items() if key != "folder"}
        write_atomic(self.folder / DESCRIPTION, json.dumps(values, indent=1))
        return self

    @classmethod
    def open(cls, folder: Path) -> Artifact:
        """Read an artifact folder (or the model file in it).

        Raises:
            UserError: no artifact there, or its description is broken.
        """
        folder = folder.parent if folder.is_file() else folder
        path = folder / DESCRIPTION
        if not path.is_file():  # a pipe would never end
            raise UserError("an artifact is a folder with artifact.json", folder, "name the folder that apply wrote")
        try:
            artifact = _described(folder, _read(path))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            received = f"{path}: {type(error).__name__}: {str(error)[:200]}"
            raise UserError("artifact.json must be whole", received, "write the artifact again") from error
        if not artifact.path.is_file():
            raise UserError("an artifact's model file must exist", artifact.path, "write the artifact again")
        return artifact


def is_file_name(name: object) -> bool:
    """Whether ``name`` is one of a file in a folder, and of nothing outside it."""
    return isinstance(name, str) and _FILE_NAME.fullmatch(name) is not None


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        text = stream.read(MAX_DESCRIPTION + 1)
    if len(text) > MAX_DESCRIPTION:
        raise ValueError(f"more than {MAX_DESCRIPTION} bytes")
    values = json.loads(text)
    if not isinstance(values, dict):
        raise TypeError("it holds no names with values")
    return values


def _described(folder: Path, values: Mapping[str, Any]) -> Artifact:
    """The artifact that a description tells of, every value of its kind.

    Raises:
        ValueError, TypeError, KeyError: one is not.
    """
    shape, mean, std = (tuple(values.get(name, ())) for name in ("input_shape", "mean", "std"))
    rules = {
        "runtime is a name": isinstance(values["runtime"], str),
        "file is the name of a file beside it": is_file_name(values["file"]),
        "input_shape is [1, C, H, W]": len(shape) == 4 and shape[0] == 1 and all(map(_is_size, shape)),
        "mean and std are numbers": all(map(_is_number, mean + std)),
        "preprocess and options are names with values": all(
            isinstance(values.get(name, {}), dict) for name in ("preprocess", "options")
        ),
        "batch_dependent is true or false": isinstance(values.get("batch_dependent", False), bool),
        "uint8 is nchw, nhwc or empty": values.get("uint8", "") in UINT8_LAYOUTS,
    }
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise ValueError(broken[0])
    if math.prod(shape) > MAX_INPUT:
        raise ValueError(f"an image has at most {MAX_INPUT} numbers, not {shape}")
    return Artifact(**{**values, "folder": folder, "input_shape": shape, "mean": mean, "std": std})


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_INPUT


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
