"""The contract of an exporter: writes the file that one runtime opens.

It works in two halves. First it writes the *graph*: the model in float32, in a form that deployment steps can change
(ONNX, or LiteRT's own). Then either a deployment step makes the runtime's file of it (fp16, int8, ...), or the exporter
does, the numbers as they are.

Exporters are keyed like runtimes: the one called ``x`` writes what the runtime ``x`` opens. A plug-in brings both, its
exporter as the attribute ``exporter`` of its :class:`sousvit.objectives.runtimes.runtime.Runtime`. Importing this file
loads no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from sousvit.registry import Registry
from sousvit.spaces.export import BUILTIN
from sousvit.spaces.export.artifact import Artifact

if TYPE_CHECKING:
    from torch import nn

    from sousvit.spaces.context import Context

#: Of an input, ``(1, C, H, W)``.
Shape = tuple[int, int, int, int]


class Deployment(Protocol):
    """How one deployment technique makes the artifact of one runtime."""

    def __call__(self, graph: Path, runtime: str, config: Any, context: Context, folder: Path) -> Artifact:
        """Write the artifact into ``folder`` from the float32 ``graph`` that the runtime's exporter wrote.

        Raises:
            TrialError: the tool failed on this graph.
        """
        ...


class Exporter(ABC):
    """Writes what one runtime opens; stateless.

    Class attributes:
        takes_rounding: whether models with int8 layers in them can be exported, as quantization-aware training leaves
            them.
        deployments: what it adds to the tables of deployment techniques, by technique: a function, or the name of the
            runtime whose way is taken. ``{"fp16": "onnxruntime"}``: fp16 files of ONNX Runtime are opened as they are.
    """

    takes_rounding: ClassVar[bool] = True
    deployments: ClassVar[Mapping[str, Deployment | str]] = {}

    @abstractmethod
    def graph(self, model: nn.Module, input_shape: Shape, folder: Path) -> Path:
        """Write the float32 graph into ``folder`` and return its path.

        Args:
            model: in eval mode on the CPU.
            input_shape: ``(1, C, H, W)``.
            folder: exists.

        Raises:
            MissingPackageError: a package that exporting needs is not installed.
            TrialError: the model cannot be exported.
        """

    def finish(self, graph: Path, folder: Path) -> str:
        """Put what the runtime opens into ``folder``, from ``graph`` as it is; returns the name of the file.

        Raises:
            TrialError: the runtime's tools do not take the graph.
        """
        graph.rename(folder / graph.name)
        return graph.name

    def is_whole(self, file: Path) -> bool:
        """Whether ``file``, just written, was not cut by a full disk, as far as its form tells.

        Tools written in C++ may write on and say nothing; those in Python raise an OSError, and need no look.
        """
        return True


EXPORTERS: Registry[Exporter] = Registry(
    "runtime", "sousvit.runtimes", BUILTIN, base=Exporter, part="exporter", declares=("exporter",)
)


def get_exporter(runtime: str) -> Exporter:
    """What writes the files of ``runtime``.

    Raises:
        UnknownNameError: no runtime has this name.
    """
    return EXPORTERS.get(runtime)


def as_exported(graph: Path, runtime: str, config: Any, context: Context, folder: Path) -> Artifact:
    """The :class:`Deployment` that leaves the graph's numbers as they are."""
    return Artifact(folder, runtime, get_exporter(runtime).finish(graph, folder))
