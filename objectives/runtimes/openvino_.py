"""OpenVINO on the CPU."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sousvit.errors import TrialError, one_line
from sousvit.objectives.runtimes.artifact_check import Options
from sousvit.objectives.runtimes.runtime import Runtime, Session
from sousvit.spaces.export.openvino import import_openvino

if TYPE_CHECKING:
    from sousvit.spaces.export.artifact import Artifact


class OpenVino(Runtime):
    """One latency stream; computes in fp32 unless the artifact says otherwise.

    Left alone, OpenVINO computes fp32 models in bf16 on CPUs that have it, which nobody asked for.
    """

    name: ClassVar[str] = "openvino"
    packages: ClassVar[tuple[str, ...]] = ("openvino",)
    extra: ClassVar[str] = "openvino"
    concurrent: ClassVar[bool] = False  # it pins threads: two sessions of one thread share a core (measured)
    options: ClassVar[Options] = {
        "INFERENCE_PRECISION_HINT": ("f32", "bf16", "f16"),
        "EXECUTION_MODE_HINT": ("PERFORMANCE", "ACCURACY"),
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": range(4097),
    }
    suffixes: ClassVar[tuple[str, ...]] = (".xml",)
    opens_untrusted: ClassVar[bool] = True

    def require(self) -> ModuleType:
        return import_openvino(f"the {self.name} runtime")

    def open(self, artifact: Artifact, threads: int, batch: int | None = None) -> Session:
        """A session; a fixed batch size was measured 6 to 10% faster than a free one (ViT-Tiny)."""
        openvino = self.require()
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            **artifact.options,
        }
        try:
            core = openvino.Core()
            model = core.read_model(artifact.path)
            if batch is not None:
                model.reshape({0: [batch, *artifact.input_shape[1:]]})
            return _Session(core.compile_model(model, "CPU", settings).create_infer_request())
        except Exception as error:  # OpenVINO raises RuntimeError for everything
            raise TrialError(f"OpenVINO could not open the model: {one_line(error)}") from error


class _Session(Session):
    def __init__(self, request: Any) -> None:
        self._request: Any = request

    def run(self, batch: np.ndarray) -> np.ndarray:
        try:
            # The input is read in place; the output is copied, because the next run overwrites it.
            return np.asarray(self._request.infer({0: np.ascontiguousarray(batch)}, share_inputs=True)[0])
        except Exception as error:  # as above
            raise TrialError(f"OpenVINO failed: {one_line(error)}") from error

    def close(self) -> None:
        self._request = None
