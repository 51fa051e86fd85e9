"""OpenVINO's files, made of an ONNX graph; the package is imported late and without its reports."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from sousvit.errors import MissingPackageError, TrialError, one_line
from sousvit.spaces.export.exporter import Exporter, Shape
from sousvit.spaces.export.onnx import export_onnx, quiet

if TYPE_CHECKING:
    from torch import nn

FILE = "model.xml"


class OpenVinoExporter(Exporter):
    """Files of OpenVINO's own format, made from an ONNX graph."""

    def graph(self, model: nn.Module, input_shape: Shape, folder: Path) -> Path:
        return export_onnx(model, input_shape, folder)

    def finish(self, graph: Path, folder: Path) -> str:
        save_openvino(read_openvino(graph), folder)
        return FILE

    def is_whole(self, file: Path) -> bool:
        weights = file.with_suffix(".bin")
        try:
            constants = ElementTree.parse(file).iterfind("layers/layer[@type='Const']/data")
            ends = [int(data.get("offset", 0)) + int(data.get("size", 0)) for data in constants]
        except ElementTree.ParseError:
            return False
        return max(ends, default=0) <= (weights.stat().st_size if weights.is_file() else 0)


def import_openvino(needed_for: str) -> ModuleType:
    """The ``openvino`` package.

    Left alone, each import reports itself to a web service, from a process forked for that: nothing to have beside
    threads, or while something is timed. It decides so once, when it is imported, and does not where ``CI`` is set.

    Raises:
        MissingPackageError: it is not installed.
    """
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        import openvino
    except ImportError as error:
        raise MissingPackageError("openvino", needed_for, "openvino") from error
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before
    return openvino


def read_openvino(graph: Path) -> object:
    """The ``openvino.Model`` of an ONNX file.

    Raises:
        MissingPackageError: OpenVINO is not installed.
        TrialError: OpenVINO does not take the graph.
    """
    openvino = import_openvino("the openvino runtime")
    try:
        with quiet():
            # Not openvino.convert_model: it reports each use to a web service.
            return openvino.Core().read_model(graph)
    except Exception as error:  # OpenVINO raises many kinds
        raise TrialError(f"OpenVINO could not read the graph: {one_line(error)}") from error


def save_openvino(model: object, folder: Path, fp16: bool = False) -> None:
    """Write ``model.xml`` and ``model.bin``; ``fp16`` stores float weights in two bytes."""
    import_openvino("the openvino runtime").save_model(model, folder / FILE, compress_to_fp16=fp16)
