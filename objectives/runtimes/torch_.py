"""PyTorch itself, running an exported program (``.pt2``) eagerly on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sousvit.errors import TrialError, one_line
from sousvit.machine import torch_threads
from sousvit.objectives.runtimes.runtime import Runtime, Session

if TYPE_CHECKING:
    from sousvit.spaces.export.artifact import Artifact


class Torch(Runtime):
    """Eager PyTorch in inference mode; the thread count holds only while it runs.

    A program could hold code, so agents do not open a stranger's.
    """

    name: ClassVar[str] = "torch"
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    concurrent: ClassVar[bool] = False  # the thread count is the whole process's

    def open(self, artifact: Artifact, threads: int, batch: int | None = None) -> Session:
        try:
            return ModuleSession(load_program(artifact.path), threads)
        except Exception as error:  # torch.export raises many kinds
            raise TrialError(f"torch could not open the model: {one_line(error)}") from error


def load_program(path: Path) -> Any:
    """The module in a ``.pt2`` file; tensors load as weights only, a pickle of anything else is refused."""
    import torch

    with _weights_only():
        return torch.export.load(path).module()


@contextmanager
def _weights_only() -> Iterator[None]:
    """``torch.export.load`` falls back to full pickles without this switch."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


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
