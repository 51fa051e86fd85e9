"""Runtimes of web browsers: what runs there is timed by a page (:mod:`sousvit.objectives.devices.browser`).

They open files that another runtime's exporter wrote. Their figures are kept apart from that one's, because they lie
several times apart; how well a model predicts is judged on this machine, in the runtime that the file was written for.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

from sousvit.errors import TrialError, UserError
from sousvit.objectives.runtimes.artifact_check import Options
from sousvit.objectives.runtimes.litert_ import LiteRt
from sousvit.objectives.runtimes.onnxruntime_ import OnnxRuntime
from sousvit.objectives.runtimes.runtime import Runtime, Session

if TYPE_CHECKING:
    from sousvit.spaces.export.artifact import Artifact


class BrowserRuntime(Runtime):
    """Opens nothing here."""

    opens_untrusted: ClassVar[bool] = True

    def open(self, artifact: Artifact, threads: int, batch: int | None = None) -> Session:
        raise TrialError(f"{self.name} runs in a browser; here its files are opened by {self.files_of}")

    def version(self) -> str:
        raise self._elsewhere()

    def require(self) -> ModuleType:
        raise self._elsewhere()

    def _elsewhere(self) -> UserError:
        action = "open a page with sousvit device serve --web"
        return UserError(f"{self.name} runs in a browser", "this machine", action)


class LiteRtWeb(BrowserRuntime):
    """LiteRT.js: LiteRT with XNNPACK, compiled to WebAssembly."""

    name: ClassVar[str] = "litert-web"
    files_of: ClassVar[str] = "litert"
    batches: ClassVar[bool] = LiteRt.batches
    options: ClassVar[Options] = LiteRt.options
    suffixes: ClassVar[tuple[str, ...]] = LiteRt.suffixes


class OnnxRuntimeWeb(BrowserRuntime):
    """ONNX Runtime, compiled to WebAssembly; on the CPU."""

    name: ClassVar[str] = "onnxruntime-web"
    files_of: ClassVar[str] = "onnxruntime"
    options: ClassVar[Options] = OnnxRuntime.options
    suffixes: ClassVar[tuple[str, ...]] = OnnxRuntime.suffixes


class OnnxRuntimeWebGpu(OnnxRuntimeWeb):
    """ONNX Runtime on a browser's graphics processor; operators that it has not run on the CPU."""

    name: ClassVar[str] = "onnxruntime-webgpu"
