"""OpenVINO, imported late and without its reports."""

from __future__ import annotations

import os
from types import ModuleType

from sousvit.common.errors import MissingPackageError


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
