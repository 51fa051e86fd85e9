"""What a recipe that was built again comes to, beside what its file recorded when the search measured it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sousvit.objectives.devices.machine import machine_facts
from sousvit.objectives.objective import Measurement
from sousvit.search.identity import input_contents
from sousvit.specs import DataSpec, ModelSpec

#: Share of a recorded figure without an interval by which another may differ: exporters of other versions write other
#: names and versions into a file.
TOLERANCE = 0.02
#: Parts of a recipe file that hold figures, and what figures of a build on those images begin with.
_PARTS = {"test": "test", "validation": "validation"}
#: Figures of a build by the names of objectives.
_NAMES = {"accuracy": "top1", "map50": "map50", "map": "map"}


@dataclass(frozen=True)
class Compared:
    """A figure beside the recorded one.

    Attributes:
        name: of the figure, as the build names it.
        value: measured now.
        recorded, low, high: what the recipe file says, with its 95% interval where it has one.
        agrees: whether ``value`` lies within the interval; without one, within 2% of what was recorded.
    """

    name: str
    value: float
    recorded: float
    low: float | None
    high: float | None
    agrees: bool

    def __str__(self) -> str:
        """``test_top1 0.871, recorded 0.87 [0.86, 0.88]: agrees``."""
        interval = "" if self.low is None or self.high is None else f" [{self.low:.4g}, {self.high:.4g}]"
        word = "agrees" if self.agrees else "disagrees"
        return f"{self.name} {self.value:.4g}, recorded {self.recorded:.4g}{interval}: {word}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def compared_figures(figures: Mapping[str, Measurement], recorded: Mapping[str, Any]) -> tuple[Compared, ...]:
    """Every figure that both have.

    Args:
        figures: of :func:`.build_recipe`.
        recorded: the values of a recipe file.
    """
    return tuple(_pairs(figures, recorded))


def other_inputs(model: ModelSpec, data: DataSpec, recorded: Mapping[str, Any]) -> list[str]:
    """The inputs whose content is another than the recipe file recorded, such as ``data.test``.

    Those that it does not name, or that are not there, cannot be compared.
    """
    known = recorded.get("inputs")
    if not isinstance(known, Mapping):
        return []
    found = input_contents(model, data)
    return [role for role, content in found.items() if known.get(role) not in (None, content)]


def other_machine(recorded: Mapping[str, Any]) -> str:
    """How this machine differs from the recorded one in what numbers depend on; "" where it does not."""
    known = recorded.get("machine")
    if not isinstance(known, Mapping):
        return ""
    here, there = machine_facts(), known.get("flags")
    differing = sorted(set(here["flags"]) ^ set(map(str, there))) if isinstance(there, list) else []
    versions = known.get("versions") if isinstance(known.get("versions"), Mapping) else {}
    others = [
        f"{name} {here['versions'][name]} (recorded with {version})"
        for name, version in (versions or {}).items()
        if here["versions"].get(name, version) != version
    ]
    cpu = [f"instruction sets that only one of the two CPUs has: {', '.join(differing)}"] if differing else []
    return "; ".join([*cpu, *others])


def _pairs(figures: Mapping[str, Measurement], recorded: Mapping[str, Any]) -> Iterator[Compared]:
    parts = {part: recorded.get(part) for part in (*_PARTS, "held_out")}
    known = {part: values for part, values in parts.items() if isinstance(values, Mapping)}
    size = next((values["size"] for values in known.values() if "size" in values), None)
    pairs = [("size_mb", size)]
    for part, values in known.items():
        pairs += [(f"{_PARTS.get(part, part)}_{own}", values.get(name)) for name, own in _NAMES.items()]
        pairs += [("agreement", values.get("agreement"))] if part != "test" else []
    for name, value in dict(pairs).items():
        found = _recorded(value)
        if name in figures and found is not None:
            yield _compared(name, figures[name].value, *found)


def _recorded(value: Any) -> tuple[float, float | None, float | None] | None:
    """A figure of a recipe file: a number, or one with its interval."""
    numbers = value if isinstance(value, list) else [value]
    if len(numbers) not in (1, 3) or not all(type(number) in (int, float) for number in numbers):
        return None
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else (numbers[0], None, None)


def _compared(name: str, value: float, recorded: float, low: float | None, high: float | None) -> Compared:
    if low is None or high is None:
        agrees = abs(value - recorded) <= TOLERANCE * abs(recorded)
    else:
        agrees = min(low, recorded) - 1e-6 <= value <= max(high, recorded) + 1e-6
    return Compared(name, value, recorded, low, high, agrees)
