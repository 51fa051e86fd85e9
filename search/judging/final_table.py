"""The final table: an answer's recipe beside the base, the best single technique, and itself without each of its parts.

Everything on it is timed in one interleaved session, and judged in one read of the test split.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace

from sousvit.errors import TrialError, UserError
from sousvit.objectives.objective import Measurement, Stage, get_objective
from sousvit.objectives.subject import MeasuredSubject, measure
from sousvit.search.executors.executor import MakeTable, Verify
from sousvit.search.fidelity.learning_curve import FULL
from sousvit.search.judging.details import details_of
from sousvit.search.judging.subjects import BASE_RECIPE, Subjects
from sousvit.search.results import FinalTable, Row
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.technique import Role

#: Rows of the final table that say what one technique bought.
WITHOUT = "without "


def verify(subjects: Subjects, request: Verify) -> dict[str, Measurement]:
    """A finished recipe, measured once more, with care: what it costs, and how good it is on images held back."""
    folder = subjects.folder / "cache" / "answer" / "verify"
    try:
        subject = subjects.trained(Recipe.from_dict(request.recipe), request.fidelity, folder, {})
        subject.plan = subjects.plan.careful()
        if subjects.unseen_base is None:
            return measure(subject, subjects.at(Stage.ARTIFACT, Stage.STRUCTURE))
        subject.images, subject.reference = subjects.unseen_base.images, subjects.unseen_base
        return measure(subject, subjects.objectives)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_table(subjects: Subjects, request: MakeTable) -> FinalTable:
    """The rows that are asked for; those of the recipe without a technique as far as their time goes.

    Raises:
        TrialError: the recipe itself cannot be built.
    """
    built: dict[str, MeasuredSubject] = {"base": subjects.base}
    recipes: dict[str, Recipe] = {"base": BASE_RECIPE}
    for role, recipe, fidelity in _wanted(request):
        try:
            built[role] = _built(subjects, role, recipe, fidelity)
        except TrialError:
            if role == "recipe":
                raise
            continue  # what cannot stand alone has no row
        recipes[role] = recipe
    skipped = _add_parts(subjects, request, built, recipes)
    judged: dict[str, MeasuredSubject] = {}
    rows = tuple(_rows(subjects, built, recipes, judged))
    sheet = subjects.contact_sheet(Recipe.from_dict(request.recipe))
    details, problems = details_of(subjects, judged)
    return FinalTable(rows, skipped, sheet, (*subjects.notes, *problems), subjects.final_name, details)


def _built(
    subjects: Subjects, role: str, recipe: Recipe, fidelity: float, deadline: float = math.inf
) -> MeasuredSubject:
    subjects.progress(f"building: {role}", 0, 0)
    deadline = min(deadline, time.monotonic() + subjects.budget.search.trial_timeout)
    folder = subjects.folder / "artifacts" / role.replace(", ", "-").replace(" ", "-")
    return subjects.trained(recipe, fidelity, folder, {}, deadline)


def _wanted(request: MakeTable) -> list[tuple[str, Recipe, float]]:
    """Role, recipe and fidelity of the rows besides the base's and those without a technique."""
    chosen = Recipe.from_dict(request.recipe)
    wanted = [("recipe", chosen, request.fidelity)]
    if request.single is not None and request.single != request.recipe:
        wanted.append(("best single", Recipe.from_dict(request.single), FULL))
    recovery = _recovery(chosen)
    if request.retrain_base and recovery:
        wanted.append(("base, trained as long", Recipe(recovery, BASE_RECIPE.runtime), request.fidelity))
    return wanted


def _recovery(recipe: Recipe) -> tuple[Step, ...]:
    return tuple(step for step in recipe.steps if step.role in (Role.REPAIR, Role.PREPARE))


def _add_parts(
    subjects: Subjects, request: MakeTable, built: dict[str, MeasuredSubject], recipes: dict[str, Recipe]
) -> tuple[str, ...]:
    """Build the recipe without each of its techniques, what makes it cheapest first; returns the rows not made.

    A training that would not end in time is not begun; what needs none may still be made.
    """
    chosen, skipped = Recipe.from_dict(request.recipe), []
    end = time.monotonic() + request.parts_seconds
    for name, rest in _parts(subjects, chosen, request):
        role = WITHOUT + name
        is_new = rest is not None and name not in request.instead and rest.model_steps != chosen.model_steps
        needed = request.training_seconds if rest is not None and is_new and rest.trains else 0.0
        if rest is None or time.monotonic() + needed >= end:
            skipped.append(role)
            continue
        try:
            built[role] = _built(subjects, role, rest, request.fidelity, end)
        except TrialError:
            if time.monotonic() >= end:
                skipped.append(role)
            continue  # a part that cannot stand alone has no row
        recipes[role] = rest
    return tuple(skipped)


def _parts(subjects: Subjects, chosen: Recipe, request: MakeTable) -> list[tuple[str, Recipe | None]]:
    """Techniques and the recipe without them; None where the search has nothing that stands for it."""
    names = [step.technique for step in chosen.steps if step.role is not Role.SUPPLY]
    if not request.parts_seconds or len(names) - len(_recovery(chosen)) < 2:
        return []
    rests = {name: _rest(subjects, chosen, name) for name in names if name not in request.instead}
    found = {name: rest for name, rest in rests.items() if rest is not None}
    order = sorted(found, key=lambda name: -_worth(subjects, chosen, found[name]))
    instead = [(name, None if plain is None else Recipe.from_dict(plain)) for name, plain in request.instead.items()]
    return [*instead, *((name, found[name]) for name in order)]


def _worth(subjects: Subjects, chosen: Recipe, rest: Recipe) -> float:
    """How much a technique makes the recipe cheaper by its shape: the log of the factor of MACs times that of size."""
    own, without = (one.reshape(subjects.shape).figures(one.bytes_per_weight) for one in (chosen, rest))
    known = (name for name in ("macs", "size") if own.get(name) and without.get(name))
    return sum(math.log(without[name] / own[name]) for name in known)


def _rest(subjects: Subjects, recipe: Recipe, technique: str) -> Recipe | None:
    """The recipe without one step, and without the training that only this step needed; None if nothing is left."""
    try:
        rest = recipe.without(technique).canonical(subjects.shape)
        rest.reshape(subjects.shape)
    except UserError:  # what cannot stand alone, such as a student that nobody teaches
        return None
    return rest if rest.steps else None


def _rows(
    subjects: Subjects,
    built: dict[str, MeasuredSubject],
    recipes: dict[str, Recipe],
    judged: dict[str, MeasuredSubject],
) -> Iterator[Row]:
    """The rows, and in ``judged`` the subjects as they were timed and judged for them."""
    artifacts = {role: subject.artifact for role, subject in built.items()}
    timings = {}
    for name, device in subjects.devices.items():
        where = f" on {name}" if len(subjects.devices) > 1 else ""
        subjects.progress(f"timing all rows, interleaved{where}", 0, 0)
        timings[name] = device.time(artifacts, "base", subjects.plan.careful(), with_baseline=True)
    data, quality = subjects.budget.data, subjects.task.quality
    subjects.progress(f"judging on {subjects.final_name}", 0, 0)
    final = subjects.final_images()
    labelled = (quality, f"{quality}_drop", "eer") if data.has_test else ()
    extra = [get_objective(name) for name in (*labelled, "memory")]
    objectives = list({one.name: one for one in [*subjects.objectives, *extra]}.values())
    base: MeasuredSubject | None = None
    for role, subject in built.items():
        own = {name: found[role] for name, found in timings.items()}
        judged[role] = replace(subject, images=final, timings=own, reference=base)
        base = base or judged[role]
        values = measure(judged[role], objectives)
        noisy = any(timing.noisy for timing in own.values())
        yield Row(role, recipes[role].to_dict(), values, subject.artifact.folder.name, noisy)
