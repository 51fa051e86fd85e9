"""Points and curves of a report: the base and the trials on its axes, and recipes judged at several rungs."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sousvit.objectives.objective import Measurement, get_objective
from sousvit.search.archive import Archive
from sousvit.search.budget import Budget
from sousvit.search.report.page.content import Axis, Curve, Point, Role, Span, State
from sousvit.search.report.terminal import short_recipe
from sousvit.search.results import Answer
from sousvit.search.trial import BaseRecord, Trial

#: Trials that are shown, at most, and curves: a page of more would be slow, ``trials.parquet`` has all.
MOST_POINTS, MOST_CURVES = 1000, 12
PERCENT = 100.0


def axis(name: str, budget: Budget, quality: str, word: str) -> Axis:
    """What an objective is called on the plot; ``word`` is what people call ``quality``, the figure of merit."""
    objective = get_objective(name)
    share = objective.unit == "share"
    label = word if name == quality else name.replace("_", " ")
    if name.endswith("_drop") and share:
        unit = "points"
    else:
        unit = "%" if share else "x base" if objective.unit == "ratio" else objective.unit
    factor = PERCENT if share else 1.0
    bounds = [factor * limit.bound for limit in budget.hard_limits if limit.name == name]
    return Axis(name, f"{label}, {unit}" if unit else label, factor, objective.direction == "maximize", bounds)


def _span(value: Measurement) -> Span:
    return [None if end is None else float(f"{end:.6g}") for end in (value.value, value.low, value.high)]


def _spans(values: Mapping[str, Measurement], names: Iterable[str]) -> dict[str, Span]:
    return {name: _span(values[name]) for name in names if name in values}


def base_point(base: BaseRecord, names: list[str]) -> Point:
    """The uncompressed base."""
    where = "the base in ONNX Runtime fp32"
    return Point("base", "base", "fits", False, 1.0, _spans(base.values, names), where, [], "base", "", [])


def shown_trials(archive: Archive, budget: Budget, answer: Answer) -> tuple[list[Trial], list[str]]:
    """The trials that are shown, in their order, and a line where some are not."""
    trials = list(archive)
    if len(trials) <= MOST_POINTS:
        return trials, []
    goals = budget.goals()
    first = {trial.key for trial in archive.front(goals)}
    first |= {trial.key for trial in (answer.chosen, answer.single) if trial is not None}
    order = sorted(trials, key=lambda trial: (trial.key not in first, not trial.is_final, -trial.fidelity))
    kept = {trial.key for trial in order[:MOST_POINTS]}
    said = f"{MOST_POINTS} of {len(trials)} trials are shown, those trained in full first; trials.parquet has all"
    return [trial for trial in trials if trial.key in kept], [said]


def state_of(trial: Trial, budget: Budget) -> State:
    """What became of a trial."""
    if trial.status == "gated":
        return "gated"
    if trial.status != "complete":
        return "failed"
    if trial.fidelity <= 0:
        return "untrained"
    if not trial.is_final:
        return "partly trained"
    return "fits" if budget.goals().holds(trial.values) else "breaks a limit"


def points_of(
    trials: Iterable[Trial],
    names: list[str],
    budget: Budget,
    answer: Answer,
    run: str,
    front: set[str],
    running: bool = False,
) -> Iterator[Point]:
    """The trials as points.

    Args:
        run: its name.
        front: keys of the trials on the front.
        running: the answer is the best so far, and no file holds it.
    """
    chosen = None if answer.chosen is None else answer.chosen.key
    single = None if answer.single is None else answer.single.key
    for trial in trials:
        is_answer = trial.key == chosen
        role: Role = "answer" if is_answer else "best single" if trial.key == single else "trial"
        commands = [
            f"sousvit recipe {shlex.quote(run)} --trial {shlex.quote(trial.key)} --out trial.yaml",
            "sousvit apply trial.yaml --out trial",
        ]
        yield Point(
            key=trial.key,
            role=role,
            state=state_of(trial, budget),
            on_front=trial.key in front,
            training=trial.fidelity,
            values=_spans(trial.values, names),
            recipe=short_recipe(trial.recipe),
            steps=[*map(_step, trial.recipe["steps"]), str(trial.recipe["runtime"])],
            origin=trial.origin,
            message=trial.message,
            commands=answer_commands(run, answer) if is_answer and not running else commands,
        )


def _step(step: Mapping[str, Any]) -> str:
    """A step with every parameter, as Python would write it."""
    parameters = ", ".join(f"{key}={value!r}" for key, value in step.items() if key != "technique")
    return f"{step['technique']}({parameters})"


def answer_commands(run: str, answer: Answer) -> list[str]:
    """What makes the answer's model again."""
    name = "recipe.yaml" if answer.feasible else "nearest-miss.yaml"
    return [f"sousvit apply {shlex.quote(f'runs/{run}/{name}')} --out compressed"]


def curves_of(archive: Archive, chosen: Trial | None, quality: str) -> list[Curve]:
    """Recipes that were judged at several shares of their training, the answer's first, then the most trained."""
    by_recipe: dict[tuple[str, int], dict[float, Trial]] = {}
    for trial in archive:
        if trial.status == "complete" and quality in trial.values:
            by_recipe.setdefault((trial.recipe_key, trial.seed), {})[trial.fidelity] = trial
    several = [sorted(found.items()) for found in by_recipe.values() if len(found) > 1]
    curves = [
        Curve(
            recipe=short_recipe(found[-1][1].recipe),
            is_answer=chosen is not None and found[-1][1].recipe_key == chosen.recipe_key,
            points=[[share, float(f"{PERCENT * trial.get(quality):.5g}")] for share, trial in found],
        )
        for found in several
    ]
    curves.sort(key=lambda curve: (not curve.is_answer, -curve.points[-1][0], -curve.points[-1][1]))
    return curves[:MOST_CURVES]
