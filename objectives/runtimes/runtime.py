"""The contract of a runtime: opens an artifact as a session that turns images into logits.

A plug-in is an instance in :data:`RUNTIMES`, or an entry point in the group ``sousvit.runtimes``.
Importing a runtime's file is light; the package behind it is imported when a session opens.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, ClassVar

from sousvit.errors import MissingPackageError
from sousvit.objectives.runtimes import BUILTIN
from sousvit.registry import Registry

if TYPE_CHECKING:
    import numpy as np

    from sousvit.spaces.export.artifact import Artifact


class Session(ABC):
    """An opened artifact. Not for use from several threads at once."""

    @abstractmethod
    def run(self, batch: np.ndarray) -> np.ndarray:
        """Logits float32 ``[B, classes]`` of normalised images float32 ``[B, C, H, W]``.

        A session opened for one batch size takes only that.
        """

    def run_all(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The logits of each batch, in their order."""
        return map(self.run, batches)

    def close(self) -> None:  # noqa: B027 - most sessions free themselves
        """Free what the session holds; it cannot run afterwards."""

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Runtime(ABC):
    """Opens artifacts.

    Class attributes:
        name: as written in targets and artifacts.
        packages: importable packages it needs, the first of which gives its version.
        extra: of sousvit that installs them; empty if they are always there.
        batches: whether its files take more than one image at a time.
        concurrent: whether sessions may run beside each other, each in a thread of its own.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    extra: ClassVar[str] = ""
    batches: ClassVar[bool] = True
    concurrent: ClassVar[bool] = True

    @abstractmethod
    def open(self, artifact: Artifact, threads: int, batch: int | None = None) -> Session:
        """A session on ``threads`` CPU threads.

        Args:
            artifact: made for this runtime.
            threads: at least 1.
            batch: the only batch size that will come, if known: some runtimes are faster for it.

        Raises:
            MissingPackageError: the runtime is not installed.
            TrialError: the runtime does not take the file.
        """

    def version(self) -> str:
        """Of the runtime's package.

        Raises:
            MissingPackageError: it is not installed.
        """
        try:
            return importlib.metadata.version(self.packages[0])
        except importlib.metadata.PackageNotFoundError as error:
            raise MissingPackageError(self.packages[0], f"the {self.name} runtime", self.extra) from error

    def require(self) -> ModuleType:
        """The runtime's package, imported now.

        Raises:
            MissingPackageError: it is not installed.
        """
        try:
            return importlib.import_module(self.packages[0])
        except ImportError as error:
            raise MissingPackageError(self.packages[0], f"the {self.name} runtime", self.extra) from error


RUNTIMES: Registry[Runtime] = Registry("runtime", "sousvit.runtimes", BUILTIN)


def get_runtime(name: str) -> Runtime:
    """The runtime called ``name``.

    Raises:
        UnknownNameError: nothing has this name.
    """
    return RUNTIMES.get(name)


def open_session(artifact: Artifact, threads: int, batch: int | None = None) -> Session:
    """Open ``artifact`` in the runtime it was made for; see :meth:`Runtime.open`."""
    return get_runtime(artifact.runtime).open(artifact, threads, batch)
