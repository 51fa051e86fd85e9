"""Predictions of a bundle for image files, by sousvit's own code: a bundle may be anyone's, and none of it is run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sousvit.data.source import decode_file
from sousvit.errors import TrialError, UserError
from sousvit.files import read_text
from sousvit.machine import available_cores
from sousvit.models.preprocess import Preprocess
from sousvit.objectives.devices.isolated_session import IsolatedSession
from sousvit.objectives.runtimes.runtime import check_artifact
from sousvit.search.bundle.bundle import check_sums
from sousvit.search.bundle.program import preprocess_of, refusal
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.weights import architecture
from sousvit.specs import ModelSpec

if TYPE_CHECKING:
    from PIL import Image

#: Seconds that opening a bundle's model, and each image, may take.
PATIENCE = 300.0
#: Classes that are told of an image.
MOST_CLASSES = 5


@dataclass(frozen=True)
class Found:
    """What a model finds on an image: a class, or an object of one.

    Attributes:
        label: its name.
        score: probability of a class; of an object, how sure the model is, 0 to 1.
        box: of an object: x1, y1, x2, y2 in pixels of the file.
    """

    label: str
    score: float
    box: tuple[float, float, float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"label": self.label, "score": self.score, **({} if self.box is None else {"box": list(self.box)})}


def predict_files(folder: Path, images: Sequence[Path]) -> Iterator[tuple[Path, list[Found]]]:
    """Each image with its likeliest classes, or its objects, the surest first.

    The model runs in a process of its own.

    Raises:
        UserError: no bundle, or a changed one; its images went through a transform that did not travel; or an image
            cannot be read.
    """
    check_sums(folder)
    artifact = Artifact.open(folder)
    check_artifact(artifact)
    how, labels, detector = preprocess_of(artifact), _labels(folder), _detector(folder)
    if how.transform is not None:
        raise UserError("a bundle is fed as its model was", refusal(how.transform), "see the bundle's README.md")
    with _must_run(), contextlib.closing(IsolatedSession(artifact, available_cores(), PATIENCE)) as session:
        for path in images:
            image = decode_file(path)
            pixels = _pixels(image, artifact, how, detector, path)
            output = session.run(_batch(pixels, artifact))[0]
            _require_outputs(output, len(labels), detector)
            found = _classes(output, labels) if detector is None else _objects(output, labels, detector, image.size)
            yield path, found


@contextlib.contextmanager
def _must_run() -> Iterator[None]:
    try:
        yield
    except TrialError as error:
        raise UserError("a bundle's model runs in its runtime", error, "copy the bundle again") from error


def _pixels(image: Image.Image, artifact: Artifact, how: Preprocess, detector: ModelSpec | None, path: Path) -> Any:
    """uint8 ``[H, W, C]``."""
    from sousvit.data.detection import stretched

    _, channels, height, width = artifact.input_shape
    try:
        if detector is None:
            return np.asarray(how.fit(image, (height, width), channels)).reshape(height, width, channels)
        return np.asarray(stretched(image, (height, width), channels)).reshape(height, width, channels)
    except ValueError as error:
        rule, action = "every image suits the model", "convert it to 8 bits a channel, as the model was trained on"
        raise UserError(rule, f"{path}: {error}", action) from error


def _batch(pixels: Any, artifact: Artifact) -> Any:
    """What the model takes, a batch of one."""
    import torch

    from sousvit.models.load import normalise

    if artifact.uint8 == "nhwc":
        return pixels[None]
    planes = pixels.transpose(2, 0, 1)[None].copy()
    return planes if artifact.uint8 else normalise(torch.from_numpy(planes), artifact.mean, artifact.std).numpy()


def _classes(logits: Any, labels: Sequence[str]) -> list[Found]:
    shares = np.exp(logits - logits.max())
    shares = shares / shares.sum()
    order = np.argsort(-logits, kind="stable")[:MOST_CLASSES]
    return [Found(labels[label], float(shares[label])) for label in order]


def _objects(dense: Any, labels: Sequence[str], spec: ModelSpec, size: tuple[int, int]) -> list[Found]:
    import torch

    from sousvit.models.detector import head_of
    from sousvit.models.load import create

    head = head_of(create(spec))
    assert head is not None
    [found] = head.detections(torch.from_numpy(dense.copy())[None])
    height, width = head.image
    scale = torch.tensor([size[0] / width, size[1] / height] * 2)
    rows = zip((found["boxes"] * scale).tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True)
    return [Found(labels[label], score, (box[0], box[1], box[2], box[3])) for box, label, score in rows]


def _require_outputs(output: Any, num_labels: int, detector: ModelSpec | None) -> None:
    wanted = num_labels if detector is None else num_labels + 5
    if output.ndim != (1 if detector is None else 2) or output.shape[-1] != wanted or not np.isfinite(output).all():
        rule = "a bundle's model has an output for every label"
        raise UserError(rule, f"{list(output.shape)} for {num_labels} labels", "copy the bundle again")


def _labels(folder: Path) -> list[str]:
    return read_text(folder / "labels.txt", "labels.txt").splitlines()


def _detector(folder: Path) -> ModelSpec | None:
    """The base of a detector, whose head says what its outputs mean."""
    path = folder / "config.json"
    try:
        model = json.loads(read_text(path, "config.json"))["sousvit"]["base"]
        is_detector = "detector" in model
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        rule = "a bundle's config.json names its base"
        raise UserError(rule, f"{path}: {type(error).__name__}", "copy the bundle again") from error
    if not is_detector:
        return None
    return architecture(model, path)
