"""Words for recipes, figures and times, each on one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sousvit.objectives.objective import Measurement, get_objective

#: The parameters of a step that matter, where it has them.
TELLING = ("method", "patch", "keep", "drop", "ratio", "model", "width", "depth", "passes", "epochs", "bits", "hint")


def short_recipe(plain: Mapping[str, Any]) -> str:
    """A recipe with the parameters that matter, on one line."""
    return " + ".join([*map(short_step, plain["steps"]), str(plain["runtime"])])


def short_step(step: Mapping[str, Any]) -> str:
    """A step with the parameters that matter, such as ``prune_mlp(0.5)``."""
    telling = [str(step[key]) for key in TELLING if step.get(key) is not None]
    return step["technique"] + (f"({', '.join(telling)})" if telling else "")


def show(value: Measurement, digits: int = 4) -> str:
    """A figure with its interval, if any."""
    text = f"{value.value:.{digits}g}"
    return text if value.low is None or value.high is None else f"{text} [{value.low:.3g}-{value.high:.3g}]"


def with_unit(name: str, value: Measurement) -> str:
    """A figure, its interval and its unit."""
    unit = get_objective(name).unit
    return show(value) if unit in ("share", "ratio") else f"{show(value)} {unit}"


def by_reason(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    """Names of techniques by why they are left out."""
    found: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        found.setdefault(reason, []).append(name)
    return found


def plain(value: Any) -> str:
    """A setting in few characters."""
    if isinstance(value, list | tuple):
        return " ".join(f"{entry:.4g}" if isinstance(entry, float) else str(entry) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """``0:42``, ``12:05`` or ``3:01:00``."""
    minutes, left = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"
