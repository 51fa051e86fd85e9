"""Judges recipes for real: gate on the untrained artifact, recovery, export, agreement, accuracy in the runtime."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sousvit.cache import TensorCache
from sousvit.data import ImageSet, require_test
from sousvit.errors import TrialError, UserError
from sousvit.files import content_hash, write_atomic
from sousvit.machine import available_cores, training_device
from sousvit.models.load import LoadedModel, load
from sousvit.objectives.devices.open import open_device
from sousvit.objectives.memory_probe import Probe
from sousvit.objectives.objective import Measurement, Objective, Stage, get_objective
from sousvit.objectives.runtimes.parity import check_agreement
from sousvit.objectives.runtimes.pool import open_pool
from sousvit.objectives.runtimes.runtime import Session, open_session
from sousvit.objectives.subject import JUDGING_BATCH, MeasuredSubject, measure
from sousvit.objectives.tasks.task import JUDGING_TASKS
from sousvit.objectives.timing import Timing, TimingPlan
from sousvit.search.budget import CONTACT_SHEET, Budget, make_budget
from sousvit.search.executors.executor import Job, JobResult, Progress
from sousvit.search.fidelity.learning_curve import FULL
from sousvit.search.judging.gate import rejection
from sousvit.search.judging.trial_objectives import asked_of, trial_objectives
from sousvit.search.results import Row
from sousvit.search.trial import BaseRecord, encode
from sousvit.spaces.builder import ModelBuilder, skeleton
from sousvit.spaces.context import Context
from sousvit.spaces.export.export import make_artifact
from sousvit.spaces.images import open_final, open_splits
from sousvit.spaces.module_shape import shape_of
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.shape import OtherShape, VitShape
from sousvit.spaces.technique import Role
from sousvit.spaces.techniques.synthesis.contact_sheet import contact_sheet
from sousvit.spaces.techniques.synthesis.synthesiser import Synthesiser
from sousvit.spaces.training.teacher import Teacher
from sousvit.store import Store

BASE_RECIPE = Recipe((), "onnxruntime")
#: Progress is passed on at most this often, in seconds.
PROGRESS_PERIOD = 0.25
QUICK_IMAGES = 1000
#: Rows of the final table that say what one technique bought.
WITHOUT = "without "


@dataclass(frozen=True)
class Structure:
    """What does not depend on the weights."""

    values: dict[str, Measurement]
    timings: dict[str, Timing]
    probes: dict[str, Probe]


class Judge:
    """Holds what all trials of a run share: base, data, teacher, the base's session.

    Args:
        setup: ``budget`` (plain values) and ``folder`` (the run folder, or a worker's own); ``storage`` where cache
            entries are shared with workers elsewhere; ``base``, the loaded model, where no file holds it.
        progress: told what is being done.
    """

    def __init__(self, setup: dict[str, Any], progress: Progress) -> None:
        torch.set_num_threads(available_cores())
        self._folder = Path(setup["folder"])
        self._budget: Budget = make_budget(setup["budget"], self._folder)
        self._devices = {target.label: open_device(target) for target in self._budget.targets}
        self._task = JUDGING_TASKS.get(self._budget.model.task)
        self._plan = TimingPlan.of(self._budget.search.measure_time)
        self._progress = _Throttled(progress)
        self._progress("loading model and data", 0, 0)
        self._base: LoadedModel = setup.get("base") or load(self._budget.model)
        shared = Store(setup["storage"]) if setup.get("storage") else None
        cache = TensorCache(self._folder / "cache", self._budget.search.cache_gb * 1e9, shared)
        forward = self._teacher_forward if training_device().name == "cpu" else None
        data, seed = self._budget.data, self._budget.search.seed
        if data.kind == "labelled" or data.has_test:
            require_test(data)
        self._synthesiser = Synthesiser(self._base, seed, data.calibration, cache, self._progress, forward)
        self._splits = open_splits(data, self._base, self._synthesiser, cache)
        self._teacher = Teacher(self._base, self._splits.train, cache, self._progress, forward)
        self._context = Context(
            normalise=self._base.normalise,
            calibration=self._splits.calibration(),
            train=self._splits.train,
            teacher=self._teacher,
            seed=seed,
            progress=self._progress,
            synthesise=self._synthesiser if data.kind == "none" else None,
        )
        self._builder = ModelBuilder(self._base, self._context, cache)
        self._objectives = trial_objectives(self._budget)
        self._structures: dict[str, Structure] = {}
        sheet, path = self._sheet(self._splits.train), self._folder / CONTACT_SHEET
        if sheet is not None and not path.exists():  # the answer's own may be there already
            write_atomic(path, sheet)
        self._base_subject: MeasuredSubject
        self._quick_base: MeasuredSubject
        self._teacher_session: Session | None = None

    def start(self, known: BaseRecord | None) -> BaseRecord:
        """Export the base and open its session; measure it unless it is ``known``.

        Raises:
            UserError: the model's weights or the data are not those of the ``known`` base.
        """
        fingerprint = content_hash(self._base.fingerprint, self._splits.fingerprint)
        if known is not None and known.fingerprint != fingerprint:
            raise UserError(
                "a resumed run has the model and data it began with",
                "other weights or images",
                "use another --run name",
            )
        self._progress("asking the devices", 0, 0)
        named = [*self._budget.optimize, *self._budget.limits]
        facts = {name: device.check(asked_of(name, named, self._budget)) for name, device in self._devices.items()}
        folder = self._folder / "artifacts" / "base"
        artifact = self._artifact(self._base.module, BASE_RECIPE, folder, self._context)
        for device in self._devices.values():
            device.keep(artifact)
        self._base_subject = self._subject(self._base.module, artifact, None)
        if known is not None:
            self._base_subject.timings |= {name: Timing(**plain) for name, plain in known.timings.items()}
        self._progress("measuring the base", 0, 0)
        self._base_subject.plan = self._plan.careful()  # every trial's milliseconds are in units of it
        timings = {name: asdict(self._base_subject.timing_on(name)) for name in self._devices}
        quick = self._splits.validation.spread(quick_count(len(self._splits.validation)), self._budget.search.seed)
        self._quick_base = replace(self._base_subject, images=quick)
        with open_session(artifact, available_cores()) as session:
            found = check_agreement(session, self._base.module, self._probe_images(), quantized=False)
        if known is not None:
            return known
        values = measure(self._base_subject, self._objectives)
        machine = {**facts[self._budget.target.label], "devices": facts}
        return BaseRecord(values, asdict(self._shape), machine, found.relative, fingerprint, timings)

    def close(self) -> None:
        """Free the devices and sessions."""
        for device in self._devices.values():
            device.close()
        if self._teacher_session is not None:
            self._teacher_session.close()

    @cached_property
    def _shape(self) -> VitShape | OtherShape:
        base = self._base
        return shape_of(base.module, base.spec.name or "the base", base.size, base.channels, base.num_classes)

    def _teacher_forward(self, images: torch.Tensor) -> torch.Tensor:
        """The base's logits through ONNX Runtime on all cores, in batches that stay in the caches."""
        if self._teacher_session is None:
            self._teacher_session = open_pool(self._base_subject.artifact, available_cores())
        parts = (part.numpy() for part in images.split(JUDGING_BATCH))
        return torch.from_numpy(np.concatenate(list(self._teacher_session.run_all(parts))))

    def judge(self, job: Job) -> JobResult:
        """One trial.

        Raises:
            TrialError: it failed.
        """
        recipe = Recipe.from_dict(job.recipe)
        deadline = time.monotonic() + job.timeout
        seconds: dict[str, float] = {}
        with _clocked(seconds, "gate"):
            structure = self._structure(recipe)
        message = rejection(structure.values, self._budget.goals(), job.rivals)
        if message:
            return JobResult(job.attempt, "gated", structure.values, seconds, message)
        name = content_hash(job.recipe, job.fidelity, job.seed)
        subject = self._trained(recipe, job.fidelity, deadline, seconds, self._folder / "artifacts" / name, structure)
        if job.fidelity < FULL:
            subject.images, subject.reference = self._quick_base.images, self._quick_base
        with _clocked(seconds, "judge"):
            values = measure(subject, self._objectives)
        return JobResult(job.attempt, "complete", values, seconds, artifact=name)

    def _trained(
        self,
        recipe: Recipe,
        fidelity: float,
        deadline: float | None,
        seconds: dict[str, float],
        folder: Path,
        structure: Structure | None,
    ) -> MeasuredSubject:
        """The finished model and its artifact, checked through its session; timings of the structure are kept."""
        before = self._synthesiser.seconds
        context = self._builder.context_of(recipe)  # may make images, which all trials share
        if self._synthesiser.seconds > before:
            seconds["images"] = self._synthesiser.seconds - before
        before = self._teacher.seconds + self._synthesiser.seconds
        model = self._builder.build(recipe, fidelity, deadline, seconds)
        paid = self._teacher.seconds + self._synthesiser.seconds - before
        if paid > 0:  # once for all trials, so it says nothing about this one
            seconds["teacher"] = paid
            seconds["prepare" if "prepare" in seconds else "recover"] -= paid
        with _clocked(seconds, "export"):
            artifact = self._artifact(model, recipe, folder, context)
        # Where widths depend on data, the skeleton was a stand-in, and the real artifact is timed by itself.
        subject = self._subject(model, artifact, None if recipe.shapes_by_data else structure)
        with open_session(artifact, available_cores()) as session:
            check_agreement(session, model, self._probe_images(), quantized=recipe.is_quantized)
        return subject

    def _structure(self, recipe: Recipe) -> Structure:
        """What the untrained artifact costs; the same structure is exported and timed once."""
        key = recipe.structure().hash
        if key not in self._structures:
            model = skeleton(self._base, recipe.structure())
            folder = self._folder / "cache" / "structures" / key
            # Random inputs calibrate a quantizer well enough where only its speed is looked at.
            artifact = self._artifact(model, recipe, folder, replace(self._context, calibration=None))
            self._progress("measuring the untrained artifact", 0, 0)
            subject = self._subject(model, artifact, None)
            try:
                values = measure(subject, self._at(Stage.STRUCTURE, Stage.ARTIFACT))
                self._structures[key] = Structure(values, subject.timings, subject.probes)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        return self._structures[key]

    def _artifact(self, model: torch.nn.Module, recipe: Recipe, folder: Path, context: Context) -> Any:
        base = self._base
        shape = (1, base.channels, *base.size)
        self._progress("exporting", 0, 0)
        return make_artifact(model, shape, base.mean, base.std, recipe.runtime, recipe.deploy_step, context, folder)

    def _subject(self, model: torch.nn.Module, artifact: Any, structure: Structure | None) -> MeasuredSubject:
        subject = MeasuredSubject(
            artifact=artifact,
            devices=self._devices,
            reference=getattr(self, "_base_subject", None),
            plan=self._plan,
            model=model,
            images=self._splits.validation,
            normalise=self._base.normalise,
            task=self._task,
        )
        if structure is not None:
            subject.timings, subject.probes = dict(structure.timings), dict(structure.probes)
        return subject

    def _probe_images(self) -> Any:
        images = self._splits.validation.head(16).images()
        return self._base.normalise(images).numpy()

    def _sheet(self, images: ImageSet | None) -> bytes | None:
        """A contact sheet of ``images`` where they are synthesised, for the report."""
        return contact_sheet(images) if images is not None and self._budget.data.kind == "none" else None

    def _at(self, *stages: Stage) -> list[Objective]:
        return [objective for objective in self._objectives if objective.stage in stages]

    def call_verify(self, recipe: dict[str, Any], fidelity: float) -> dict[str, Any]:
        """Measure a finished recipe once more, with care: latency and size, not accuracy."""
        chosen = Recipe.from_dict(recipe)
        with self._finished(chosen, fidelity, "verify") as subject:
            subject.plan = self._plan.careful()
            values = measure(subject, self._at(Stage.ARTIFACT, Stage.STRUCTURE))
        return encode(values)

    @contextmanager
    def _finished(self, recipe: Recipe, fidelity: float, role: str) -> Iterator[MeasuredSubject]:
        folder = self._folder / "cache" / "answer" / role.replace(" ", "-")
        subject = self._trained(recipe, fidelity, None, {}, folder, None)
        try:
            yield subject
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def call_answer(
        self,
        recipe: dict[str, Any],
        fidelity: float,
        single: dict[str, Any] | None,
        leave_one_out: bool,
        retrain_base: bool,
    ) -> dict[str, Any]:
        """The ``rows`` of the final table: one interleaved session, one read of the test split.

        The recipe's parts may take as long to build as the search was given; those that were ``skipped`` are named.
        ``sheet`` is a PNG of what it was built from where there is no data, otherwise None; ``notes`` say what reading
        the data dropped or changed.

        Args:
            retrain_base: add the base after the recipe's own recovery training, where a recipe seems to beat it.
        """
        chosen = Recipe.from_dict(recipe)
        wanted = [("recipe", chosen, fidelity)]
        if single is not None and single != recipe:
            wanted.append(("best single", Recipe.from_dict(single), FULL))
        recovery = tuple(step for step in chosen.steps if step.role in (Role.REPAIR, Role.PREPARE))
        if retrain_base and recovery:
            wanted.append(("base, trained as long", Recipe(recovery, BASE_RECIPE.runtime), fidelity))
        parts = [step for step in chosen.steps if step.role is not Role.SUPPLY]
        if leave_one_out and len(parts) - len(recovery) > 1:
            wanted += [
                (WITHOUT + step.technique, rest, fidelity)
                for step in parts
                if (rest := self._rest(chosen, step.technique)) is not None
            ]
        subjects: dict[str, MeasuredSubject] = {"base": self._base_subject}
        recipes = {"base": BASE_RECIPE}
        skipped: list[str] = []
        begun = time.monotonic()
        for role, one, level in wanted:
            if role.startswith(WITHOUT) and time.monotonic() - begun > (self._budget.search.time or math.inf):
                skipped.append(role)
                continue
            self._progress(f"building: {role}", 0, 0)
            deadline = time.monotonic() + self._budget.search.trial_timeout
            folder = self._folder / "artifacts" / role.replace(", ", "-").replace(" ", "-")
            try:
                subjects[role] = self._trained(one, level, deadline, {}, folder, None)
            except TrialError:
                if role == "recipe":
                    raise
                continue  # a part that cannot stand alone has no row
            recipes[role] = one
        rows = [row.to_dict() for row in self._rows(subjects, recipes)]
        sheet = self._sheet(self._builder.context_of(chosen).train)
        return {"rows": rows, "skipped": skipped, "sheet": sheet, "notes": self._splits.notes}

    def _rest(self, recipe: Recipe, technique: str) -> Recipe | None:
        """The recipe without one step, and without the training that only this step needed; None if nothing is left."""
        try:
            rest = recipe.without(technique).canonical(self._shape)
        except UserError:
            return None
        return rest if rest.steps else None

    def _rows(self, subjects: dict[str, MeasuredSubject], recipes: dict[str, Recipe]) -> Iterable[Row]:
        artifacts = {role: subject.artifact for role, subject in subjects.items()}
        timings = {}
        for name, device in self._devices.items():
            where = f" on {name}" if len(self._devices) > 1 else ""
            self._progress(f"timing all rows, interleaved{where}", 0, 0)
            timings[name] = device.time(artifacts, "base", self._plan.careful(), with_baseline=True)
        data, quality = self._budget.data, self._task.quality
        self._progress(f"judging on {data.final_name}", 0, 0)
        final: ImageSet = open_final(self._splits, self._synthesiser)
        labelled = (quality, f"{quality}_drop", "eer") if data.has_test else ()
        extra = [get_objective(name) for name in (*labelled, "memory")]
        objectives = list({o.name: o for o in [*self._objectives, *extra]}.values())
        base: MeasuredSubject | None = None
        for role, subject in subjects.items():
            own = {name: found[role] for name, found in timings.items()}
            judged = replace(subject, images=final, timings=own, reference=base)
            base = base or judged
            values: dict[str, Measurement] = measure(judged, objectives)
            noisy = any(timing.noisy for timing in own.values())
            yield Row(role, recipes[role].to_dict(), values, subject.artifact.folder.name, noisy)


def quick_count(count: int) -> int:
    """Validation images that a low-rung trial is judged on: a quarter, but enough to tell good from bad."""
    return min(count, max(QUICK_IMAGES, count // 4))


class _Throttled:
    """Passes progress on a few times a second, and every new kind of work at once."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._last, self._what = progress, 0.0, ""

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what or now - self._last >= PROGRESS_PERIOD:
            self._last, self._what = now, what
            self._progress(what, done, total)


@contextmanager
def _clocked(seconds: dict[str, float], part: str) -> Iterator[None]:
    begun = time.monotonic()
    try:
        yield
    finally:
        seconds[part] = seconds.get(part, 0.0) + time.monotonic() - begun
