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
from sousvit.search.judging.subjects import BASE_RECIPE, Subjects
from sousvit.search.results import FinalTable, Row
from sousvit.spaces.recipe import Recipe
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
    """The rows that are asked for; the recipe's parts may take as long to build as the search was given.

    Raises:
        TrialError: the recipe itself cannot be built.
    """
    built: dict[str, MeasuredSubject] = {"base": subjects.base}
    recipes, skipped = {"base": BASE_RECIPE}, []
    begun = time.monotonic()
    for role, recipe, fidelity in _wanted(subjects, request):
        if role.startswith(WITHOUT) and time.monotonic() - begun > (subjects.budget.search.time or math.inf):
            skipped.append(role)
            continue
        subjects.progress(f"building: {role}", 0, 0)
        deadline = time.monotonic() + subjects.budget.search.trial_timeout
        folder = subjects.folder / "artifacts" / role.replace(", ", "-").replace(" ", "-")
        try:
            built[role] = subjects.trained(recipe, fidelity, folder, {}, deadline)
        except TrialError:
            if role == "recipe":
                raise
            continue  # a part that cannot stand alone has no row
        recipes[role] = recipe
    rows = tuple(_rows(subjects, built, recipes))
    sheet = subjects.contact_sheet(Recipe.from_dict(request.recipe))
    return FinalTable(rows, tuple(skipped), sheet, subjects.notes, subjects.final_name)


def _wanted(subjects: Subjects, request: MakeTable) -> list[tuple[str, Recipe, float]]:
    """Role, recipe and fidelity of the rows besides the base's."""
    chosen = Recipe.from_dict(request.recipe)
    wanted = [("recipe", chosen, request.fidelity)]
    if request.single is not None and request.single != request.recipe:
        wanted.append(("best single", Recipe.from_dict(request.single), FULL))
    recovery = tuple(step for step in chosen.steps if step.role in (Role.REPAIR, Role.PREPARE))
    if request.retrain_base and recovery:
        wanted.append(("base, trained as long", Recipe(recovery, BASE_RECIPE.runtime), request.fidelity))
    parts = [step.technique for step in chosen.steps if step.role is not Role.SUPPLY]
    if request.leave_one_out and len(parts) - len(recovery) > 1:
        rests = ((name, _rest(subjects, chosen, name)) for name in parts)
        wanted += [(WITHOUT + name, rest, request.fidelity) for name, rest in rests if rest is not None]
    return wanted


def _rest(subjects: Subjects, recipe: Recipe, technique: str) -> Recipe | None:
    """The recipe without one step, and without the training that only this step needed; None if nothing is left."""
    try:
        rest = recipe.without(technique).canonical(subjects.shape)
    except UserError:
        return None
    return rest if rest.steps else None


def _rows(subjects: Subjects, built: dict[str, MeasuredSubject], recipes: dict[str, Recipe]) -> Iterator[Row]:
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
        judged = replace(subject, images=final, timings=own, reference=base)
        base = base or judged
        values = measure(judged, objectives)
        noisy = any(timing.noisy for timing in own.values())
        yield Row(role, recipes[role].to_dict(), values, subject.artifact.folder.name, noisy)
