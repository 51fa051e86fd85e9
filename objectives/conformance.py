"""The conformance suite that every objective must pass, ours in our tests and a user's in theirs.

from sousvit.objectives.conformance import check_objective
from sousvit.objectives.objective import OBJECTIVES
check_objective(OBJECTIVES.load("my_file.py:Mine"), subject)
"""

from __future__ import annotations

import math
import pickle
import re

from sousvit.errors import TrialError
from sousvit.objectives.objective import Measurement, Objective, Stage, Subject, get_objective


def check_objective(objective: Objective, subject: Subject) -> None:
    """Hold ``objective`` to the contract on a real ``subject``.

    Raises:
        AssertionError: says which rule is broken.
    """
    _check_description(objective)
    measured = _check_measurement(objective, subject)
    if objective.stage is Stage.STRUCTURE:
        again = objective.measure(subject)
        assert again == measured, f"{objective.name}: a STRUCTURE objective must repeat itself: {measured}, {again}"
    found = get_objective(objective.name)
    assert found is objective or (found.name == objective.name and type(found) is type(objective)), (
        f"{objective.name}: get_objective must find it (register it in OBJECTIVES)"
    )
    copy = pickle.loads(pickle.dumps(objective))
    assert (copy.name, copy.stage, copy.direction) == (objective.name, objective.stage, objective.direction), (
        f"{objective.name}: a pickled copy must describe itself alike (workers get copies)"
    )
    _check_relative(objective, subject)


def _check_description(objective: Objective) -> None:
    assert isinstance(objective, Objective), f"{objective!r} must derive from Objective"
    name = getattr(objective, "name", None)
    assert isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9_]*", name), f"name must be snake_case, not {name!r}"
    for key in ("unit", "summary"):
        text = getattr(objective, key, None)
        assert isinstance(text, str) and text and "\n" not in text, f"{name}: {key} must be one line, not {text!r}"
    direction = getattr(objective, "direction", None)
    assert direction in ("minimize", "maximize"), f"{name}: direction must be minimize or maximize, not {direction!r}"
    stage = getattr(objective, "stage", None)
    assert isinstance(stage, Stage), f"{name}: stage must be a Stage, not {stage!r}"


def _check_measurement(objective: Objective, subject: Subject) -> Measurement:
    measured = objective.measure(subject)
    assert isinstance(measured, Measurement), f"{objective.name}: measure must return a Measurement, not {measured!r}"
    assert isinstance(measured.value, (int, float)), f"{objective.name}: the value must be a number: {measured.value!r}"
    assert measured.is_finite, f"{objective.name}: the value must be finite, not {measured.value}"
    both = (measured.low is None) == (measured.high is None)
    assert both, f"{objective.name}: an interval has both ends or none: {measured}"
    if measured.low is not None and measured.high is not None:
        ends = math.isfinite(measured.low) and math.isfinite(measured.high)
        assert ends, f"{objective.name}: the interval must be finite: {measured}"
        inside = measured.low <= measured.value <= measured.high
        assert inside, f"{objective.name}: the value must lie in its interval: {measured}"
    return measured


def _check_relative(objective: Objective, subject: Subject) -> None:
    if objective.name.endswith(("_ratio", "_drop")):
        return
    for form in ("ratio", "drop"):
        relative = get_objective(f"{objective.name}_{form}")
        assert relative.stage is objective.stage, f"{relative.name}: its stage must be the original's"
        _check_description(relative)
        try:
            _check_measurement(relative, subject)
        except TrialError as error:  # only a base of zero is an excuse
            assert "base" in str(error), f"{relative.name}: {error}"
