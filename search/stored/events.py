"""The events of a run's log, each checked before anybody relies on it.

A log may be cut, edited by hand or come from somewhere else. What an event must hold stands here, by its kind; kinds
that are not listed are of later versions and pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from sousvit.objectives.timing import Timing
from sousvit.search.stored.lines import Lines
from sousvit.search.trial import Ended
from sousvit.spaces.shape import read_shape

#: What may be wrong with an event.
IMPOSSIBLE, UNKNOWN = "with impossible values", "with a technique that is not known here"
_ENDED = frozenset(get_args(Ended))
_NUMBERS = (float, int)


def problem_of(event: Mapping[str, Any], techniques: Container[str] | None = None) -> str:
    """What is wrong with an event; "" where nothing is.

    Args:
        techniques: the known ones; None where no recipe is going to be built.
    """
    try:
        check = _CHECKS.get(event["event"])
        if check is not None and not check(event):
            return IMPOSSIBLE
        if techniques is None or event["event"] != "trial":
            return ""
        is_known = all(step["technique"] in techniques for step in event["trial"]["recipe"]["steps"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return IMPOSSIBLE
    return "" if is_known else UNKNOWN


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log; what is damaged is left out (:class:`.Archive` says so)."""
    return (event for event in Lines(path) if not problem_of(event))


def is_number(value: Any) -> bool:
    """Whether it is an ordinary number."""
    return type(value) in _NUMBERS and -math.inf < value < math.inf


def are_figures(plain: Mapping[str, Any]) -> bool:
    """Whether these are figures as :func:`sousvit.search.trial.encode` gives them."""
    for entry in plain.values():
        if type(entry) is not list or not 1 <= len(entry) <= 3 or entry[0] is None:
            return False
        for number in entry:
            if number is not None and not (type(number) in _NUMBERS and -math.inf < number < math.inf):
                return False
    return True


def is_folder_name(name: Any) -> bool:
    """Whether it names a folder inside another one, or nothing."""
    return type(name) is str and name not in (".", "..") and not {"/", "\\", "\0"} & set(name)


def is_trial(plain: Mapping[str, Any]) -> bool:
    """Whether these are a finished trial's plain values."""
    recipe, number = plain["recipe"], plain.get("number")
    return (
        type(plain["key"]) is str
        and is_recipe(recipe)
        and is_number(plain["fidelity"])
        and 0 <= plain["fidelity"] <= 1
        and type(plain["seed"]) is int
        and plain["status"] in _ENDED
        and are_figures(plain["values"])
        and all(map(is_number, plain.get("seconds", {}).values()))
        and (number is None or type(number) is int)
        and all(type(plain.get(name, "")) is str for name in ("origin", "attempt", "message", "source"))
        and is_folder_name(plain.get("artifact", ""))
    )


def is_recipe(plain: Mapping[str, Any]) -> bool:
    """Whether these are a recipe's plain values, whatever its techniques."""
    return type(plain["runtime"]) is str and all(type(step["technique"]) is str for step in plain["steps"])


def _is_base(plain: Mapping[str, Any]) -> bool:
    read_shape(plain["shape"])
    for timing in plain.get("timings", {}).values():
        Timing(**timing)
    numbers = [plain.get(name, 0) for name in ("export_error", "num_unseen", "epoch_seconds")]
    numbers += [number for name in ("seconds", "images") for number in plain.get(name, {}).values()]
    is_plain = isinstance(plain["machine"], dict) and type(plain.get("fingerprint", "")) is str
    is_plain = is_plain and all(type(name) is str for name in plain.get("class_names", ()))
    return is_plain and bool(plain["values"]) and are_figures(plain["values"]) and all(map(is_number, numbers))


def _is_verdict(event: Mapping[str, Any]) -> bool:
    broken = event.get("broken", [])
    is_text = type(event["key"]) is str and isinstance(broken, list) and all(type(name) is str for name in broken)
    return is_text and are_figures(event.get("values", {})) and is_number(event.get("confidence", 0.5))


def _is_enqueued(event: Mapping[str, Any]) -> bool:
    return all(isinstance(parameters, dict) and type(origin) is str for parameters, origin in event["recipes"])


def _is_asked(event: Mapping[str, Any]) -> bool:
    are_dicts = isinstance(event["parameters"], dict) and isinstance(event.get("note", {}), dict)
    return are_dicts and type(event["number"]) is int and type(event["known"]) is int and type(event["origin"]) is str


def _is_told(event: Mapping[str, Any]) -> bool:
    return type(event["number"]) is int and type(event["trial"]) is str and are_figures(event["values"])


def _is_predicted(event: Mapping[str, Any]) -> bool:
    return all(is_number(share) and is_number(count) for share, count in event["errors"].values())


_CHECKS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "trial": lambda event: is_trial(event["trial"]),
    "base": lambda event: _is_base(event["base"]),
    "rejected": _is_verdict,
    "confirmed": _is_verdict,
    "tried": lambda event: type(event["recipes"]) is int,
    "test_told": lambda event: type(event.get("answers", 1)) is int,
    "predicted": _is_predicted,
    "run": lambda event: type(event["identity"]) is str,
    "options": lambda event: all(value is None or type(value) is str for value in event["options"].values()),
    "session": lambda event: all(
        is_number(number) for number in (event["seconds"], event["core_seconds"], event.get("ended_at", 0.0))
    ),
    "enqueued": _is_enqueued,
    "asked": _is_asked,
    "told": _is_told,
}
