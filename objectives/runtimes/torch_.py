"""PyTorch itself, running an exported program (``.pt2``) eagerly on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sousvit.errors import TrialError, one_line
from sousvit.machine import torch_threads
from sousvit.objectives.runtimes.runtime import Runtime, Session

if TYPE_CHECKING:
    from sousvit.objectives.runtimes.torch_program import Program
    from sousvit.spaces.export.artifact import Artifact


class Torch(Runtime):
    """Eager PyTorch in inference mode; the thread count holds only while it runs.

    Files are read as data (:mod:`.torch_program`). PyTorch's operators were not written with strangers in mind, so
    agents open none.
    """

    name: ClassVar[str] = "torch"
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    concurrent: ClassVar[bool] = False  # the thread count is the whole process's
    suffixes: ClassVar[tuple[str, ...]] = (".pt2",)

    def open(self, artifact: Artifact, threads: int, batch: int | None = None) -> Session:
        from sousvit.objectives.runtimes.torch_program import Program

        try:
            return _ProgramSession(Program(artifact.path), threads)
        except Exception as error:  # PyTorch raises many kinds
            raise TrialError(f"torch could not open the model: {one_line(error)}") from error


class ModuleSession(Session):
    """A module on ``threads`` CPU threads, in inference mode; normalised images to what it returns."""

    def __init__(self, module: Any, threads: int) -> None:
        self._module: Any = module
        self._threads = threads

    def run(self, batch: np.ndarray) -> np.ndarray:
        import torch

        try:
            with torch_threads(self._threads), torch.inference_mode():
                return np.asarray(self._module(torch.from_numpy(np.ascontiguousarray(batch))).numpy())
        except Exception as error:  # the model's own code can raise anything
            raise TrialError(f"torch failed: {one_line(error)}") from error

    def close(self) -> None:
        self._module = None


class _ProgramSession(ModuleSession):
    """Takes images of the program's own size alone: its operators might make something of others too."""

    def __init__(self, program: Program, threads: int) -> None:
        super().__init__(program.module.eval(), threads)
        self._sizes = program.sizes

    def run(self, batch: np.ndarray) -> np.ndarray:
        fits = [size in (None, found) for size, found in zip(self._sizes, batch.shape, strict=False)]
        if len(self._sizes) != batch.ndim or not all(fits):
            raise TrialError(f"torch failed: the model takes {list(self._sizes)}, not {list(batch.shape)}")
        return super().run(batch)
