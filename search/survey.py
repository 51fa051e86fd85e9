"""A survey: every technique of a space alone, and named combinations, measured on one base in one run.

It is a run like a search's (same folder, same archive, resumed the same way), but the recipes are listed, not
proposed. A technique that changes the base stands there twice: repaired from calibration data alone, and with the
space's full recovery (a new architecture needs training). Every recovered recipe is measured in every runtime that
takes it without other changes. Ways to recover are compared on one and the same compressed model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from sousvit.errors import UserError
from sousvit.files import write_atomic
from sousvit.search.archive import Archive
from sousvit.search.budget import Budget, open_space, require_sound
from sousvit.search.callbacks import Callback, Counts
from sousvit.search.executors.executor import Executor, Job, JobResult, JobSource, finished, make_job
from sousvit.search.fidelity.learning_curve import FULL
from sousvit.search.report.tables import trial_frame
from sousvit.search.run import claim_run, tell_damage
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.shape import ModelShape, read_shape
from sousvit.spaces.space import Option, Space
from sousvit.spaces.technique import TECHNIQUES, ModelTechnique, Role, Stage

#: Combinations by name: techniques at their middle settings, of those that the space has.
COMBINATIONS = {
    "structure": ("prune_depth", "prune_heads", "prune_mlp"),
    "structure + int8": ("prune_depth", "prune_heads", "prune_mlp", "int8_dynamic"),
    "width + int8": ("prune_heads", "prune_mlp", "int8_dynamic"),
    "mlp + int8": ("prune_mlp", "int8_dynamic"),
    "embedding + int8": ("prune_embed", "int8_dynamic"),
    "low rank + int8": ("low_rank", "int8_dynamic"),
    "mlp + low rank": ("low_rank", "prune_mlp"),
    "merging + int8": ("tome", "int8_dynamic"),
    "linear attention + int8": ("attention", "int8_dynamic"),
    "patches + int8": ("patch_size", "int8_dynamic"),
    "mlp + static int8": ("prune_mlp", "static_int8"),
    "mlp + QAT": ("prune_mlp", "qat"),
    "student + int8": ("student", "ptq_int8"),
}

#: Parameters that say how long a recovery lasts.
DURATIONS = ("passes", "epochs")

#: The technique or combination that a recipe stands for, and the recipe.
Named = tuple[str, Recipe]


def entries(space: Space, shape: ModelShape, seed: int) -> list[Trial]:
    """The base in every runtime, every technique alone, then the combinations, as pending trials in full.

    Each recipe is there once, in canonical form; the origin of its trial is its name.
    """
    runtimes = list(dict.fromkeys(runtime for runtime, _ in space.deploys.values()))
    found: list[Named] = [("base", Recipe((), runtime)) for runtime in runtimes]
    found += [*_singles(space, shape, runtimes), *_recoveries(space, shape)]
    for name, techniques in COMBINATIONS.items():
        combined = _combination(space, shape, techniques)
        if combined is not None:
            found.append((name, combined))
    unique: dict[str, Trial] = {}
    for name, recipe in found:
        try:
            canonical = recipe.canonical(shape)
            canonical.reshape(shape)
        except UserError:
            continue  # these settings do not fit this base
        unique.setdefault(canonical.hash, Trial.pending(canonical, FULL, seed, name))
    return list(unique.values())


def _singles(space: Space, shape: ModelShape, runtimes: Sequence[str]) -> Iterator[Named]:
    for option in _model_options(space):
        for step in variants(option, shape):
            recovery = _recovery(space, shape, step)
            if recovery and option.handler.stage is not Stage.ARCHITECTURE:
                yield f"{option.technique}, untrained", Recipe((step,), space.first_runtime(step))
            for runtime in runtimes:
                if all(one.handler.suits(runtime) for one in (step, *recovery)):
                    yield option.technique, Recipe((step, *recovery), runtime)
    for runtime, deploy in space.deploys.values():
        if deploy is not None:
            for step in variants(deploy, shape):
                yield deploy.technique, Recipe((step,), runtime)


def _model_options(space: Space) -> list[Option]:
    return [
        option
        for group in space.groups
        for option in group
        if isinstance(option.handler, ModelTechnique) and option.handler.role.compresses
    ]


def variants(option: Option, shape: ModelShape) -> list[Step]:
    """A middle setting and an end of the scale; at the middle, every other value of what has no scale.

    A scale is a parameter that can also change nothing; how long to train is one too.
    """
    steps = option.samples(shape)
    if not steps:
        return []
    middle = steps[0].config.model_dump(mode="json")
    for name, values in option.values.items():
        others = [option.step({**middle, name: value}) for value in values if value != middle[name]]
        is_scale = name in DURATIONS or any(option.handler.is_identity(step.config, shape) for step in others)
        steps += [step for step in others if not is_scale or isinstance(getattr(step.config, name), str)]
    return [step for step in dict.fromkeys(steps) if not option.handler.is_identity(step.config, shape)]


def _recoveries(space: Space, shape: ModelShape) -> Iterator[Named]:
    """Every value of every recovery parameter, and techniques that only help recovery, on the first pruned model."""
    options = [option for group in space.groups for option in group]
    carriers = [option.samples(shape)[0] for option in options if option.handler.stage is Stage.STRUCTURE]
    usual = _recovery(space, shape, None)
    if not carriers or not usual:
        return
    carrier, runtime = carriers[0], space.first_runtime(*usual)
    for option in options:
        handler = option.handler
        if handler.role is Role.REPAIR and option.technique == usual[0].technique:
            given = usual[0].config.model_dump(mode="json")
            for name, values in option.values.items():
                for value in values if name not in DURATIONS else ():
                    with suppress(UserError):  # shares of the loss beyond 1
                        step = option.step({**given, name: value})
                        yield f"recovery, {name} {value}", Recipe((carrier, step), runtime)
        elif not handler.role.compresses and not handler.role.trains:
            for step in option.samples(shape)[:1]:
                recipe = _helped(step, carriers, Recipe(usual, runtime), shape)
                if recipe is not None:
                    yield f"recovery, {option.technique}", recipe


def _helped(step: Step, carriers: Sequence[Step], recovery: Recipe, shape: ModelShape) -> Recipe | None:
    """A recipe of ``step``, the first of ``carriers`` that gives it an effect, and the recovery; None without such."""
    for carrier in carriers:
        with suppress(UserError):
            recipe = replace(recovery, steps=(step, carrier, *recovery.steps)).canonical(shape)
            if step in recipe.steps:
                return recipe
    return None


def _recovery(space: Space, shape: ModelShape, step: Step | None) -> tuple[Step, ...]:
    if step is not None and step.role.trains:
        return ()
    recovering = [option for group in space.groups for option in group if option.handler.role is Role.REPAIR]
    return tuple(option.default_step(shape) for option in recovering[:1])


def _combination(space: Space, shape: ModelShape, techniques: Sequence[str]) -> Recipe | None:
    """The techniques in the space's order, each at its middle setting (at their last where those do not go together).

    None unless the space has all of them.
    """
    options = {option.technique: option for option in _model_options(space)}
    deploys = {option.technique: (runtime, option) for runtime, option in space.deploys.values() if option is not None}
    if any(name not in options and name not in deploys for name in techniques):
        return None
    last = [(runtime, deploy.default_step()) for runtime, deploy in (deploys[n] for n in techniques if n in deploys)]
    for place in (0, -1):
        steps = [option.samples(shape)[place] for name, option in options.items() if name in techniques]
        steps += [] if any(step.role.trains for step in steps) else _recovery(space, shape, None)
        runtime = last[0][0] if last else space.first_runtime(*steps)
        recipe = Recipe((*steps, *(step for _, step in last)), runtime)
        with suppress(UserError):
            recipe.reshape(shape)
            return recipe
    return None


def run_survey(
    budget: Budget, folder: Path, make_executor: Callable[[Budget, Path], Executor], callback: Callback | None = None
) -> Archive:
    """Measure every entry that the run has not measured yet; returns the archive.

    Raises:
        UserError: bad input, another budget in this folder, a full disk; nothing finished is lost.
    """
    callback = callback or Callback()
    require_sound(budget)
    # No answer is chosen, so there is none to confirm.
    budget = budget.model_copy(update={"search": budget.search.model_copy(update={"confirm": 0.0})})
    identity = f"study {budget.identity}"
    with closing(Archive(folder, writable=True, techniques=TECHNIQUES)) as archive:
        tell_damage(archive, callback)
        claim_run(archive, budget, identity)
        # The question is what each technique does: no limit gates any, and what shrinks only downloads shows.
        optimised = tuple(dict.fromkeys([*budget.optimize, "size_compressed"]))
        with make_executor(budget.model_copy(update={"limits": {}, "optimize": optimised}), folder) as executor:
            base = executor.start(archive.base)
            if archive.base is None:
                archive.append("base", base=base.to_dict(), identity=identity)
            shape = read_shape(base.shape)
            space, left_out = open_space(budget, shape)
            callback.on_start(base, space, left_out)
            executor.drive(_Listed(entries(space, shape, budget.search.seed), archive, budget, callback))
        frame = trial_frame(archive, budget.goals())
        frame.insert(0, "name", [trial.origin for trial in archive])
        write_atomic(folder / "study.csv", frame.to_csv(index=False))
    return archive


class _Listed(JobSource):
    """A source of jobs: the listed trials that the archive does not have."""

    def __init__(self, wanted: list[Trial], archive: Archive, budget: Budget, callback: Callback) -> None:
        self._archive, self._budget, self._callback = archive, budget, callback
        self._counts = Counts()
        self._waiting = deque(trial for trial in wanted if trial.key not in archive.trials)
        self._running: dict[str, Trial] = {}

    def next_job(self) -> Job | None:
        if not self._waiting:
            return None
        trial = self._waiting.popleft()
        self._callback.on_begin(trial.origin, trial.parsed, FULL)
        job = make_job(trial, self._budget.search)
        self._running[job.attempt] = trial
        return job

    def take(self, result: JobResult) -> bool:
        if result.attempt not in self._running:
            return False
        trial = finished(self._running.pop(result.attempt), result)
        self._archive.add(trial)
        self._archive.drop_artifacts(self._budget.goals(), trial)
        self._counts.finished += 1
        self._counts.of_run = self._archive.own
        self._counts.failed += trial.status == "failed"
        self._callback.on_trial(trial, self._counts)
        return True

    def rungs_of(self, job: Job) -> list[float]:
        return [job.fidelity]

    def continue_with(self, job: Job, attempt: str) -> Job | None:
        return None
