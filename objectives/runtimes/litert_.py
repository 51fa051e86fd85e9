"""LiteRT (TensorFlow Lite) on the CPU, with XNNPACK: phones and boards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sousvit.errors import TrialError, one_line
from sousvit.machine import silent_stderr
from sousvit.objectives.runtimes.runtime import Runtime, Session

if TYPE_CHECKING:
    from sousvit.spaces.export.artifact import Artifact


class LiteRt(Runtime):
    """Files take one image at a time: the converter fixes the batch. Larger batches run image by image."""

    name: ClassVar[str] = "litert"
    packages: ClassVar[tuple[str, ...]] = ("ai_edge_litert",)
    extra: ClassVar[str] = "litert"
    batches: ClassVar[bool] = False
    suffixes: ClassVar[tuple[str, ...]] = (".tflite",)
    opens_untrusted: ClassVar[bool] = True

    def open(self, artifact: Artifact, threads: int, batch: int | None = None) -> Session:
        self.require()
        from ai_edge_litert.interpreter import Interpreter

        try:
            with silent_stderr():  # XNNPACK tells of itself
                interpreter = Interpreter(str(artifact.path), num_threads=threads)
                interpreter.allocate_tensors()
            return _Session(interpreter)
        except Exception as error:  # ValueError, RuntimeError and others
            raise TrialError(f"LiteRT could not open the model: {one_line(error)}") from error


class _Session(Session):
    def __init__(self, interpreter: Any) -> None:
        self._interpreter: Any = interpreter
        [given], [made] = interpreter.get_input_details(), interpreter.get_output_details()
        self._input, self._output = given["index"], made["index"]

    def run(self, batch: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(batch)
        return np.concatenate([self._one(images[index : index + 1]) for index in range(len(images))])

    def _one(self, image: np.ndarray) -> np.ndarray:
        try:
            self._interpreter.set_tensor(self._input, image)
            self._interpreter.invoke()
            return np.asarray(self._interpreter.get_tensor(self._output))
        except Exception as error:  # as above
            raise TrialError(f"LiteRT failed: {one_line(error)}") from error

    def close(self) -> None:
        self._interpreter = None
