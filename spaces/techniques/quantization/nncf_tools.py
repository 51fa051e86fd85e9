"""NNCF for the techniques that quantize for OpenVINO: imported late and kept silent."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sousvit.errors import MissingPackageError, TrialError, one_line
from sousvit.spaces.export.onnx import quiet
from sousvit.spaces.export.openvino import import_openvino

if TYPE_CHECKING:
    from types import ModuleType


def import_nncf(needed_for: str) -> ModuleType:
    """The ``nncf`` package, without its log lines.

    Raises:
        MissingPackageError: OpenVINO or NNCF is not installed.
    """
    import_openvino(needed_for)
    # NNCF reports its use to a web service unless this is set; measuring needs no network.
    os.environ.setdefault("NNCF_CI", "1")
    try:
        with quiet():
            import nncf
    except ImportError as error:
        raise MissingPackageError("nncf", needed_for, "openvino") from error
    nncf.set_log_level(logging.ERROR)
    return nncf


@contextmanager
def silent_tool(what: str) -> Iterator[None]:
    """Swallow progress bars and tables, and turn any failure into a one-line :class:`TrialError`."""
    try:
        with quiet():
            yield
    except Exception as error:  # the tools raise many kinds
        raise TrialError(f"{what} failed: {one_line(error)}") from error
