"""The check of an artifact before a runtime sees it: its options, its files, and what a file points to.

Anyone may have written it. What is said here holds for every runtime; that a file may still take its runtime's time and
memory without end, or end its process, is why foreign ones are opened in a process of their own
(:mod:`sousvit.objectives.devices.isolated`).
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sousvit.errors import UserError
from sousvit.objectives.runtimes.onnx_file import check_onnx
from sousvit.objectives.runtimes.openvino_file import check_openvino

if TYPE_CHECKING:
    from sousvit.spaces.export.artifact import Artifact

#: The values that each option of a runtime may have: texts and whole numbers.
Options = Mapping[str, Container[Any]]


def check_options(runtime: str, allowed: Options, given: Mapping[str, Any]) -> None:
    """Hold the options of an artifact to those that its runtime lets one set, and their values to those that it knows.

    Everything else that a runtime takes is ours or the target's to say: some options name paths that it then writes.

    Raises:
        UserError: another option, or another value.
    """
    for key, value in given.items():
        if key not in allowed:
            names = ", ".join(allowed) or "none"
            raise UserError(f"options of {runtime} are {names}", repr(str(key)[:60]), "remove it from artifact.json")
        if type(value) not in (str, int) or value not in allowed[key]:  # True would pass for 1
            known = " or ".join(map(str, _shown(allowed[key])))
            raise UserError(f"option {key} is {known}", repr(value)[:60], "correct it in artifact.json")


def _shown(values: Container[Any]) -> Sequence[Any]:
    if isinstance(values, range):
        return [f"a number from {values.start} to {values.stop - 1}"]
    return tuple(values) if isinstance(values, tuple | list) else [values]


def check_files(artifact: Artifact, suffixes: Sequence[str]) -> None:
    """Hold an artifact's files to lie in its folder, and its model file to be what its runtime's exporter writes.

    Args:
        suffixes: of the files that the runtime opens, in its own form; any, where there are none.

    Raises:
        UserError: they are not.
    """
    path = artifact.path
    if suffixes and path.suffix not in suffixes:  # by the name, runtimes choose among readers that they have
        rule = f"{artifact.runtime} opens {' or '.join(suffixes)} files"
        raise UserError(rule, path, "write the artifact again")
    for file in artifact.folder.iterdir():
        _check_file(file)
    if path.suffix in _CHECKS:
        _CHECKS[path.suffix](path)


def _check_file(file: Path) -> None:
    mode = file.lstat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # links lead anywhere, pipes and devices never end
        raise UserError("an artifact's folder holds plain files only", file, "put a copy of the file there")


def _check_litert(path: Path) -> None:
    with path.open("rb") as stream:
        if stream.read(8)[4:] != b"TFL3":
            raise UserError("a LiteRT artifact is a TensorFlow Lite file", path, "write the artifact again")


_CHECKS: dict[str, Callable[[Path], None]] = {".onnx": check_onnx, ".xml": check_openvino, ".tflite": _check_litert}
