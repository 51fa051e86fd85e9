"""ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sousvit.errors import TrialError, one_line
from sousvit.objectives.runtimes.artifact_check import Options
from sousvit.objectives.runtimes.runtime import Runtime, Session

if TYPE_CHECKING:
    from sousvit.spaces.export.artifact import Artifact


class OnnxRuntime(Runtime):
    """CPU provider, sequential, all graph optimisations, threads that do not spin when idle."""

    name: ClassVar[str] = "onnxruntime"
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    options: ClassVar[Options] = {"session.set_denormal_as_zero": ("0", "1")}
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)
    opens_untrusted: ClassVar[bool] = True

    def open(self, artifact: Artifact, threads: int, batch: int | None = None) -> Session:
        ort = self.require()
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        # Spinning workers would take their cores from whatever is measured in turn with this session.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        for key, value in artifact.options.items():
            options.add_session_config_entry(key, str(value))
        try:
            session = ort.InferenceSession(str(artifact.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exception classes are not public
            raise TrialError(f"ONNX Runtime could not open the model: {one_line(error)}") from error
        return _Session(session)


class _Session(Session):
    def __init__(self, session: Any) -> None:
        self._session: Any = session
        taken = session.get_inputs()[0]
        self._input = taken.name
        self._takes_pixels = taken.type == "tensor(uint8)"

    def run(self, batch: np.ndarray) -> np.ndarray:
        try:
            batch = batch.astype(np.uint8) if self._takes_pixels else batch
            return np.asarray(self._session.run(None, {self._input: batch})[0])
        except Exception as error:  # as above
            raise TrialError(f"ONNX Runtime failed: {one_line(error)}") from error

    def close(self) -> None:
        self._session = None
