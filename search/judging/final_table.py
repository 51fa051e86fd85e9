"""The final table: an answer's recipe beside the base, the best single technique, and itself without each of its parts.

Everything on it is timed in one interleaved session, and judged in one read of the test split.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sousvit.errors import TrialError, UserError
from sousvit.objectives.objective import Measurement, Stage, get_objective
from sousvit.objectives.subject import MeasuredSubject, measure
from sousvit.objectives.timing import TimingPlan
from sousvit.search.executors.executor import MakeTable, Verify
from sousvit.search.fidelity.learning_curve import FULL
from sousvit.search.judging.details import details_of
from sousvit.search.judging.subjects import BASE_RECIPE, Subjects, Verified
from sousvit.search.results import FinalTable, Row
from sousvit.search.timekeeping.costs import PROBE_SECONDS
from sousvit.search.timekeeping.schedule import num_parts
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.technique import Role

#: The row of the answer.
RECIPE = "recipe"
#: Rows of the final table that say what one technique bought.
WITHOUT = "without "


def verify(subjects: Subjects, request: Verify) -> dict[str, Measurement]:
    """A finished recipe, measured once more, with care: what it costs, and how good it is on images held back."""
    built = _built(subjects, RECIPE, Recipe.from_dict(request.recipe), request.fidelity)
    subjects.verified = Verified(request.recipe, request.fidelity, built)
    subjects.progress("measuring the recipe again", 0, 0)
    subject = replace(built, plan=_careful(subjects, request.timing_seconds / len(subjects.devices)))
    if subjects.unseen_base is None:
        return measure(subject, subjects.at(Stage.ARTIFACT, Stage.STRUCTURE))
    subject = replace(subject, images=subjects.unseen_base.images, reference=subjects.unseen_base)
    return measure(subject, subjects.objectives)


def _careful(subjects: Subjects, seconds: float) -> TimingPlan:
    """How long to time an artifact carefully in ``seconds`` at most."""
    plan = subjects.plan.careful()
    if math.isinf(seconds):
        return plan
    slowest = max(timing.p50_ms for timing in subjects.base.timings.values())
    return plan.within(seconds, slowest / 1000)


def make_table(subjects: Subjects, request: MakeTable) -> FinalTable:
    """The rows that are asked for; those of the recipe without a technique as far as their time goes.

    Raises:
        TrialError: the recipe itself cannot be built.
    """
    end = time.monotonic() + request.seconds
    built: dict[str, MeasuredSubject] = {"base": subjects.base}
    recipes: dict[str, Recipe] = {"base": BASE_RECIPE}
    verified = subjects.verified
    for role, recipe, fidelity in _wanted(request):
        try:
            if role == RECIPE and verified is not None and verified.is_of(request):
                built[role] = verified.subject
            else:
                built[role] = _built(subjects, role, recipe, fidelity)
        except TrialError:
            if role == RECIPE:
                raise
            continue  # what cannot stand alone has no row
        recipes[role] = recipe
    skipped, absent = _add_parts(subjects, request, built, recipes)
    judged: dict[str, MeasuredSubject] = {}
    rows = tuple(_rows(subjects, built, recipes, judged, end))
    sheet = subjects.contact_sheet(Recipe.from_dict(request.recipe))
    details, problems = details_of(subjects, judged, end)
    return FinalTable(rows, skipped, absent, sheet, (*subjects.notes, *problems), subjects.final_name, details)


def _built(
    subjects: Subjects, role: str, recipe: Recipe, fidelity: float, deadline: float = math.inf
) -> MeasuredSubject:
    subjects.progress(f"building: {role}", 0, 0)
    deadline = min(deadline, time.monotonic() + subjects.budget.search.trial_timeout)
    folder = subjects.folder / "artifacts" / role.replace(", ", "-").replace(" ", "-")
    return subjects.trained(recipe, fidelity, folder, {}, deadline, with_weights=role == "recipe")


def _wanted(request: MakeTable) -> list[tuple[str, Recipe, float]]:
    """Role, recipe and fidelity of the rows besides the base's and those without a technique."""
    chosen = Recipe.from_dict(request.recipe)
    wanted = [(RECIPE, chosen, request.fidelity)]
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
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Build the recipe without each of its techniques; returns the rows for which no time was left, and the absent.

    A training that would not end in time is not begun; what needs none may still be made. Each row that is made takes
    its part of the time to be timed and judged in the end.
    """
    if not request.parts_seconds or not num_parts(Recipe.from_dict(request.recipe)):
        return (), ()
    chosen, skipped = Recipe.from_dict(request.recipe), []
    end = time.monotonic() + request.parts_seconds
    for part in _parts(subjects, chosen, request):
        role, end = WITHOUT + part.technique, end - request.row_seconds
        if time.monotonic() + part.seconds >= end:
            skipped.append(role)
            end += request.row_seconds
            continue
        try:
            built[role] = _built(subjects, role, part.rest, request.fidelity, end)
        except TrialError:
            if time.monotonic() >= end:
                skipped.append(role)
            end += request.row_seconds
            continue  # a part that cannot stand alone has no row
        recipes[role] = part.rest
    return tuple(skipped), tuple(WITHOUT + name for name, plain in request.instead.items() if plain is None)


@dataclass(frozen=True)
class Part:
    """A technique of the answer, the recipe ``rest`` without it, and the ``seconds`` that its training should take."""

    technique: str
    rest: Recipe
    seconds: float = 0.0


def _parts(subjects: Subjects, chosen: Recipe, request: MakeTable) -> list[Part]:
    """What the answer is shown without: the cheapest first, of equals what makes the answer cheaper by more."""
    instead = [Part(name, Recipe.from_dict(plain)) for name, plain in request.instead.items() if plain is not None]
    names = [step.technique for step in chosen.steps if step.role is not Role.SUPPLY and step.technique not in
             request.instead]  # fmt: skip
    rests = {name: rest for name in names if (rest := _rest(subjects, chosen, name)) is not None}
    parts = [Part(name, rest, _seconds_without(subjects, chosen, rest, request)) for name, rest in rests.items()]
    return [*instead, *sorted(parts, key=lambda part: (part.seconds, -_worth(subjects, chosen, part.rest)))]


def _seconds_without(subjects: Subjects, chosen: Recipe, rest: Recipe, request: MakeTable) -> float:
    """What training ``rest`` should take, by the answer's own training; 0 where its model is there."""
    if not rest.trains or rest.model_steps == chosen.model_steps or subjects.has_model(rest, request.fidelity):
        return 0.0
    own, without = (
        one.epochs(share) * share for one, share in ((one, _share(subjects, one)) for one in (chosen, rest))
    )
    return request.training_seconds * (without / own if own else 1.0)


def _share(subjects: Subjects, recipe: Recipe) -> float:
    """Its multiply-accumulates as a share of the base's; 1 where they are not known."""
    macs, whole = (one.figures(4.0).get("macs") for one in (recipe.reshape(subjects.shape), subjects.shape))
    return macs / whole if macs and whole else 1.0


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
    end: float = math.inf,
) -> Iterator[Row]:
    """The rows, and in ``judged`` the subjects as they were timed and judged for them."""
    artifacts = {role: subject.artifact for role, subject in built.items()}
    timings = {}
    final = subjects.final_images()
    judging = len(built) * (subjects.judging_seconds * len(final) + PROBE_SECONDS)
    plan = _careful(subjects, (end - time.monotonic() - judging) / len(built) / len(subjects.devices))
    for name, device in subjects.devices.items():
        where = f" on {name}" if len(subjects.devices) > 1 else ""
        subjects.progress(f"timing all rows, interleaved{where}", 0, 0)
        timings[name] = device.time(artifacts, "base", plan, with_baseline=True)
    data, quality = subjects.budget.data, subjects.task.quality
    labelled = (quality, f"{quality}_drop", "eer") if data.has_test else ()
    extra = [get_objective(name) for name in (*labelled, "memory")]
    objectives = list({one.name: one for one in [*subjects.objectives, *extra]}.values())
    base: MeasuredSubject | None = None
    for place, (role, subject) in enumerate(built.items()):
        subjects.progress(f"judging on {subjects.final_name}: {role}", place, len(built))
        own = {name: found[role] for name, found in timings.items()}
        judged[role] = replace(subject, images=final, timings=own, reference=base)
        base = base or judged[role]
        values = measure(judged[role], objectives)
        noisy = any(timing.noisy for timing in own.values())
        yield Row(role, recipes[role].to_dict(), values, subject.artifact.folder.name, noisy)
