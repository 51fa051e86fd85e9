"""The contract of a runtime: opens an artifact as a session that turns images into logits.

A plug-in brings its exporter too, so that one class is a whole runtime. It is named in a budget as
``plugins: {runtimes: [my_file.py:Mine]}``, or an entry point in the group ``sousvit.runtimes``. Importing a runtime's
file is light; the package behind it is imported when a session opens.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, ClassVar

from sousvit.errors import MissingPackageError, TrialError, UnknownNameError, UserError
from sousvit.objectives.runtimes import BUILTIN
from sousvit.objectives.runtimes.artifact_check import Options, check_files, check_options
from sousvit.registry import Registry

if TYPE_CHECKING:
    import numpy as np

    from sousvit.spaces.export.artifact import Artifact
    from sousvit.spaces.export.exporter import Exporter


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
        exporter: what writes its files; of a plug-in only, ours are listed in spaces/export/__init__.py, because boards
            that open files have no torch to write them with.
        packages: importable packages it needs, at least one; the first gives its version.
        extra: of sousvit that installs them; empty if they are always there.
        files_of: of a browser's, the runtime whose files it runs; it has no packages, and opens nothing here.
        batches: whether its files take more than one image at a time.
        concurrent: whether sessions may run beside each other, each in a thread of its own.
        options: what an artifact may set of the runtime, and to which values (``{"HINT": ("f32", "bf16"), "SIZE":
            range(65)}``). An artifact may come from anyone: no option that names a path, or loads something.
        suffixes: of the files that it opens; by default any.
        opens_untrusted: whether opening and running a stranger's file runs none of its code, so that an agent may.
    """

    name: ClassVar[str]
    exporter: ClassVar[type[Exporter]]
    packages: ClassVar[tuple[str, ...]]
    extra: ClassVar[str] = ""
    files_of: ClassVar[str] = ""
    batches: ClassVar[bool] = True
    concurrent: ClassVar[bool] = True
    options: ClassVar[Options] = {}
    suffixes: ClassVar[tuple[str, ...]] = ()
    opens_untrusted: ClassVar[bool] = False

    @abstractmethod
    def open(self, artifact: Artifact, threads: int, batch: int | None = None) -> Session:
        """A session on ``threads`` CPU threads; the artifact has passed :func:`check_artifact`.

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


def _check_plugin(found: type, where: str) -> None:
    packages = found.packages  # type: ignore[attr-defined]
    if not (isinstance(packages, tuple) and packages and all(isinstance(name, str) for name in packages)):
        raise UserError("a runtime's packages are a tuple of names", repr(packages), f"correct {where}")


RUNTIMES: Registry[Runtime] = Registry(
    "runtime", "sousvit.runtimes", BUILTIN, base=Runtime, declares=("packages", "exporter"), check=_check_plugin
)


def get_runtime(name: str) -> Runtime:
    """The runtime called ``name``.

    Raises:
        UnknownNameError: nothing has this name.
    """
    return RUNTIMES.get(name)


def check_artifact(artifact: Artifact) -> Runtime:
    """The runtime of an artifact, whose options and files are those that it may have.

    Raises:
        UnknownNameError: there is no such runtime.
        UserError: an option or a file is another.
    """
    runtime = get_runtime(artifact.runtime)
    check_options(runtime.name, runtime.options, artifact.options)
    check_files(artifact, runtime.suffixes)
    return runtime


def opener(artifact: Artifact) -> Callable[[int, int | None], Session]:
    """What opens ``artifact`` on so many threads for a batch size, once it is checked: every session comes from here.

    Raises:
        UnknownNameError: there is no such runtime.
        TrialError: an option or a file is not what it may be.
    """
    try:
        runtime = check_artifact(artifact)
    except UnknownNameError:
        raise
    except UserError as error:
        raise TrialError(str(error)) from error
    return lambda threads, batch: runtime.open(artifact, threads, batch)


def open_session(artifact: Artifact, threads: int, batch: int | None = None) -> Session:
    """Open ``artifact`` in the runtime it was made for; see :meth:`Runtime.open`."""
    return opener(artifact)(threads, batch)
