"""An ONNX file as bytes: found to hold all of its weights itself, before any runtime reads it.

A tensor of an ONNX file may lie in another file, wherever its ``location`` points: runtimes follow links and know
markers that mean an address of their own process's memory. What sousvit exports never has such tensors, so none is
opened. The file is walked as protocol buffers; boards have no package ``onnx``.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from sousvit.errors import UserError

#: Messages nest so deep at most; sub-graphs of loops take three levels each.
MAX_DEPTH = 64
#: Fields of messages in which a tensor can stand, by the kind of the message: field number -> kind (``onnx.proto``).
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
#: Of a tensor: where its data lie (0: in the file), and in which other file.
_LOCATION, _EXTERNAL = 14, 13
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _NotOnnxError(ValueError):
    """Bytes that are no protocol buffers, or too deep."""


def check_onnx(path: Path) -> None:
    """Refuse a file that is no ONNX model, or keeps a tensor elsewhere.

    Raises:
        UserError: it does.
    """
    if path.stat().st_size == 0:
        raise UserError("an ONNX artifact is an ONNX model", f"{path}: empty", "write the artifact again")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            _walk(data, 0, len(data), "model", 0)
        except _NotOnnxError as error:
            raise UserError("an ONNX artifact is an ONNX model", f"{path}: {error}", "write it again") from error
        except _ElsewhereError as error:
            rule = "an ONNX artifact holds all of its weights itself"
            raise UserError(rule, f"external data in {path}", "export it as one file") from error


class _ElsewhereError(ValueError):
    """A tensor that lies in another file."""


def _walk(data: mmap.mmap, start: int, end: int, kind: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _NotOnnxError("messages nest too deep")
    inside = _FIELDS[kind]
    for number, wire, first, last in _fields(data, start, end):
        if kind == "tensor" and (number == _EXTERNAL or (number == _LOCATION and (wire != _VARINT or first))):
            raise _ElsewhereError
        if number in inside:
            if wire != _BYTES:
                raise _NotOnnxError(f"field {number} of a {kind} is no message")
            _walk(data, first, last, inside[number], depth + 1)


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number and wire type of each field; first and last byte of a text or message, of a number its value."""
    at = start
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if number == 0 or tag >= 1 << 32:
            raise _NotOnnxError(f"no field at byte {at}")
        if wire == _VARINT:
            value, at = _varint(data, at, end)
            yield number, wire, value, at
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire)
        if wire == _BYTES:
            length, at = _varint(data, at, end)
        if length is None or length > end - at:
            raise _NotOnnxError(f"a field at byte {at} does not fit")
        yield number, wire, at, at + length
        at += length


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A number of 7 bits a byte, and where it ends."""
    value = 0
    for place in range(10):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at
    raise _NotOnnxError(f"no number at byte {at}")
