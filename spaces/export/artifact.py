"""An artifact: the folder with the exported, deployable model file, and what a runtime must know to run it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sousvit.errors import UserError
from sousvit.files import write_atomic

DESCRIPTION = "artifact.json"


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

    @property
    def path(self) -> Path:
        """The file that the runtime opens."""
        return self.folder / self.file

    @property
    def size_bytes(self) -> int:
        """Bytes of all files that must be shipped (the description is not counted)."""
        return sum(file.stat().st_size for file in self.shipped_files)

    @property
    def shipped_files(self) -> list[Path]:
        """The files that must be shipped."""
        return sorted(file for file in self.folder.iterdir() if file.is_file() and file.name != DESCRIPTION)

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
        try:
            values = json.loads(path.read_text())
            shape = tuple(int(size) for size in values.pop("input_shape"))
            mean, std = tuple(values.pop("mean", ())), tuple(values.pop("std", ()))
            artifact = cls(folder=folder, input_shape=shape, mean=mean, std=std, **values)  # type: ignore[arg-type]
        except FileNotFoundError as error:
            raise UserError(
                "an artifact is a folder with artifact.json", folder, "name the folder that apply wrote"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError("artifact.json must be whole", f"{path}: {error}", "write the artifact again") from error
        if not artifact.path.is_file():
            raise UserError("an artifact's model file must exist", artifact.path, "write the artifact again")
        return artifact
