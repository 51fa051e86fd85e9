"""Agreement: whether a browser computes what the runtime computes in which its files are judged.

Accuracy is judged on the machine that searches. Every artifact that a page times is also run there on a few images,
and its predictions are compared with those of a session of this machine, in a process of its own: the artifact may be
anyone's.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sousvit.errors import TrialError
from sousvit.objectives.devices.isolated_session import IsolatedSession
from sousvit.objectives.devices.protocol import RequestError
from sousvit.objectives.devices.remote.files import file_hashes

if TYPE_CHECKING:
    from sousvit.spaces.export.artifact import Artifact

#: Images that are compared, and of larger ones so many numbers.
IMAGES, MOST_NUMBERS = 8, 1 << 21
#: Largest relative error (Euclidean) of all predictions. Int8 rounds otherwise from machine to machine; what is wrong
#: is wrong by much more.
TOLERANCE = 0.1


class Agreement:
    """Compares predictions on images that are noise until :meth:`show` gives others.

    Args:
        timeout: seconds that one session of this machine may take.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._images: np.ndarray | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="sousvit-images-")
        self._own: dict[str, np.ndarray] = {}

    def show(self, images: np.ndarray) -> None:
        """Normalised images, float32 ``[N, C, H, W]``, of which the first ones are compared."""
        self._images = np.ascontiguousarray(images, np.float32)

    def file(self, shape: tuple[int, ...]) -> tuple[str, Path]:
        """The SHA-256 and the path of the images as bytes, for models that take ``shape`` ``(1, C, H, W)``."""
        content = self._chosen(shape).tobytes()
        name = hashlib.sha256(content).hexdigest()
        path = Path(self._folder.name) / name
        if not path.exists():
            path.write_bytes(content)
        return name, path

    def check(self, artifacts: Mapping[str, Artifact], predictions: Any) -> None:
        """Hold a page's predictions, all of an artifact in a row, to this machine's.

        Args:
            artifacts: of the runtimes that they were made for.

        Raises:
            TrialError: an artifact computes something else there.
            RequestError: predictions are missing.
        """
        if not isinstance(predictions, Mapping) or set(predictions) != set(artifacts):
            raise RequestError("the page tells no predictions")
        for name, artifact in artifacts.items():
            own = self._predictions(artifact)
            try:
                found = np.asarray(predictions[name], np.float64)
            except (TypeError, ValueError) as error:
                raise RequestError("predictions are lists of numbers") from error
            if found.shape != own.shape:
                raise RequestError(f"{own.size} predictions were wanted, not {found.size}")
            apart = float(np.linalg.norm(found - own)) / max(float(np.linalg.norm(own)), 1e-12)
            if not apart <= TOLERANCE:
                raise TrialError(f"the browser computes something else: relative error {apart:.2g} of the predictions")

    def close(self) -> None:
        """Remove the images' files."""
        self._folder.cleanup()

    def _chosen(self, shape: tuple[int, ...]) -> np.ndarray:
        size = shape[1:]
        count = max(1, min(IMAGES, MOST_NUMBERS // int(np.prod(size))))
        if self._images is not None and self._images.shape[1:] == size:
            return self._images[:count]
        return np.random.default_rng(0).standard_normal((count, *size), dtype=np.float32)

    def _predictions(self, artifact: Artifact) -> np.ndarray:
        """Those of a session here, all in a row."""
        images = self._chosen(artifact.input_shape)
        key = f"{artifact.runtime} {sorted(file_hashes(artifact).items())} {self.file(artifact.input_shape)[0]}"
        if key not in self._own:
            with IsolatedSession(artifact, 1, self._timeout) as session:
                # One by one, as the page does: dynamic scales depend on the other images of a batch.
                found = [session.run(image[None]).ravel() for image in images]
            self._own[key] = np.concatenate(found).astype(np.float64)
        return self._own[key]
