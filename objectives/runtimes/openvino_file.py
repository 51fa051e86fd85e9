"""An OpenVINO model as text: found to read its weights from its own ``.bin`` only, before OpenVINO reads it.

Without this, OpenVINO would choose the reader by what the file holds: an ONNX model in it may name an address of
OpenVINO's own memory as its weights. Constants are an offset, a size and a shape; OpenVINO looks at the first two, and
takes a shape whose count overflows.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from sousvit.errors import UserError

#: Characters of the description; the largest ViT's has 20 MB, and weights are not in it.
MAX_BYTES, MAX_DEPTH = 256 << 20, 100
_COUNT = re.compile(r"\d{1,19}")
#: Bits of a number, by its name; of others (texts) the sizes are not compared.
_BITS = re.compile(r"[a-z]+(\d+)")


class _MalformedError(ValueError):
    """A description that is not OpenVINO's, or points outside its weights."""


def check_openvino(path: Path) -> None:
    """Refuse a description that is malformed, or whose constants lie outside the weights beside it.

    Raises:
        UserError: it is, or they do.
    """
    weights = path.with_suffix(".bin")
    try:
        _read(path, weights.stat().st_size if weights.is_file() else 0)
    except (_MalformedError, expat.ExpatError) as error:
        rule = "an OpenVINO artifact is a whole model.xml with its weights beside it"
        raise UserError(rule, f"{path}: {error}", "write the artifact again") from error


def _read(path: Path, weights: int) -> None:
    if path.stat().st_size > MAX_BYTES:
        raise _MalformedError(f"more than {MAX_BYTES >> 20} MB")
    parser = expat.ParserCreate("UTF-8")
    open_names: list[str] = []

    def begins(name: str, values: dict[str, str]) -> None:
        if not open_names and name != "net":
            raise _MalformedError(f"it begins with {name[:40]!r}, not with net")
        open_names.append(name)
        if len(open_names) > MAX_DEPTH:
            raise _MalformedError("it nests too deep")
        if name == "data" and ("offset" in values or "size" in values):
            _check_constant(values, weights)

    def declares(*_: object) -> NoReturn:
        raise _MalformedError("it declares a document type")

    parser.StartElementHandler, parser.EndElementHandler = begins, lambda name: open_names.pop()
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = declares
    with path.open("rb") as stream:
        parser.ParseFile(stream)


def _check_constant(values: dict[str, str], weights: int) -> None:
    offset, size = (_count(values.get(key, "")) for key in ("offset", "size"))
    if offset + size > weights:
        raise _MalformedError(f"a constant ends at byte {offset + size}, the weights at {weights}")
    shape, bits = values.get("shape", ""), _BITS.fullmatch(values.get("element_type", ""))
    if bits is not None:
        numbers = math.prod(_count(part.strip()) for part in shape.split(",") if part.strip())
        if numbers * int(bits[1]) > 8 * size:
            raise _MalformedError(f"a constant of shape {shape[:60]} has only {size} bytes")


def _count(text: str) -> int:
    if not _COUNT.fullmatch(text):
        raise _MalformedError(f"{text[:40]!r} is no count")
    return int(text)
