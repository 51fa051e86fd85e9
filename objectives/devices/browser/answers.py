"""What a page may say of itself and of what it measured: plain values within bounds, whatever the browser sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sousvit.errors import printable
from sousvit.objectives.devices.protocol import Request, RequestError, decode_groups, encode_groups

#: Characters of a word, numbers of all predictions, cores.
MOST_WORDS, MOST_PREDICTIONS, MOST_CORES = 120, 1 << 22, 1024
#: Seconds between two ticks of a clock that is fine enough for single inferences.
FINE = 2e-5
#: Runtimes that need a graphics processor.
ON_GPU = ("onnxruntime-webgpu",)
#: Ticks of browsers' clocks in seconds: what a page measures is one of them.
TICKS = (5e-6, 2e-5, 1e-4, 1e-3, 0.0166667, 0.1)


@dataclass(frozen=True)
class Said:
    """One call of a page.

    Attributes:
        tab, load: which page it is.
        content: what else it said.
    """

    tab: str
    load: str
    content: Mapping[str, Any]


def read_said(plain: Mapping[str, Any]) -> Said:
    """A call of a page.

    Raises:
        RequestError: it does not say which page it is of.
    """
    return Said(_word(plain, "tab"), _word(plain, "load"), plain)


def read_facts(plain: Any, runtimes: Mapping[str, str]) -> dict[str, Any]:
    """A browser's facts, in the form of :func:`sousvit.objectives.devices.device.device_facts`.

    Args:
        runtimes: names and versions of those that the page is given.

    Raises:
        RequestError: something is missing or out of bounds.
    """
    if not isinstance(plain, Mapping):
        raise RequestError("a browser's facts are an object")
    name, version, system = (_word(plain, key) for key in ("name", "version", "system"))
    tick = _number(plain, "tick", 1e-9, 1.0)
    cores = plain.get("cores")
    if not isinstance(cores, int) or isinstance(cores, bool) or not 1 <= cores <= MOST_CORES:
        raise RequestError(f"cores are a number from 1 to {MOST_CORES}")
    flags = {key: plain.get(key) for key in ("secure", "isolated")}
    if not all(isinstance(value, bool) for value in flags.values()):
        raise RequestError("secure and isolated are true or false")
    gpu = _word(plain, "gpu") if plain.get("gpu") else ""
    clock = min(TICKS, key=lambda one: abs(math.log(one / tick)))
    offered = {one: has for one, has in runtimes.items() if gpu or one not in ON_GPU}
    return {
        "cpu": f"{name} {version} on {system}",
        "flags": [],
        "cores": cores,
        "memory_gb": _number(plain, "memory_gb", 0.0, 1e6),
        "os": system,
        "python": "none",
        "versions": {name: version},
        "runtimes": dict(offered),
        "energy": False,
        "tails": clock <= FINE,
        "browser": {"name": name, "version": version, "tick_us": round(1e6 * clock), "gpu": gpu, **flags},
    }


def read_answer(request: Request, plain: Any) -> dict[str, Any]:
    """The raw figures of a request, as :func:`sousvit.objectives.devices.process.measure` gives them.

    Raises:
        RequestError: they are not of that form.
    """
    if not isinstance(plain, Mapping):
        raise RequestError("an answer is an object")
    if request.ask == "probe":
        return {key: _number(plain, key, 1e-9, 1e15) for key in ("memory_bytes", "process_bytes", "load_ms")}
    groups = decode_groups(plain.get("groups"))
    if any(len(group.candidate) % 2 for done in groups.values() for group in done):
        raise RequestError("a group has two rounds of the candidate, equally long")
    answer: dict[str, Any] = {"groups": encode_groups(groups)}
    if request.images is not None:
        answer["predictions"] = _predictions(plain.get("predictions"), request)
    return answer


def _predictions(plain: Any, request: Request) -> dict[str, list[float]]:
    """All predictions of each artifact, in one row."""
    if not isinstance(plain, Mapping) or set(plain) != set(request.artifacts):
        raise RequestError("predictions are of every artifact")
    for row in plain.values():
        if not isinstance(row, list) or not 1 <= len(row) <= MOST_PREDICTIONS:
            raise RequestError("predictions are a list of numbers")
        if not all(isinstance(one, int | float) and math.isfinite(one) for one in row):
            raise RequestError("predictions are finite numbers")
    return {str(name): [float(one) for one in row] for name, row in plain.items()}


def _word(plain: Mapping[str, Any], key: str) -> str:
    value = plain.get(key)
    if not isinstance(value, str) or not 1 <= len(value) <= MOST_WORDS:
        raise RequestError(f"{key} is a text of 1 to {MOST_WORDS} characters")
    return printable(value)


def _number(plain: Mapping[str, Any], key: str, low: float, high: float) -> float:
    value = plain.get(key)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # type: ignore[operator]
        raise RequestError(f"{key} is a number from {low:g} to {high:g}")
    return float(value)  # type: ignore[arg-type]
