"""Subjects of measurement: a recipe's model, built, exported and checked, with what all trials of a run share."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from sousvit.cache import TensorCache
from sousvit.data import ImageSet, Splits, require_test
from sousvit.errors import UserError
from sousvit.faults import faults_told
from sousvit.files import content_hash, disk_errors_as_user_errors, write_atomic
from sousvit.machine import available_cores, training_device
from sousvit.models.checkpoints.forms import open_source
from sousvit.models.load import LoadedModel, load
from sousvit.objectives.devices.open import open_device
from sousvit.objectives.memory_probe import Probe
from sousvit.objectives.objective import Measurement, Objective, Stage
from sousvit.objectives.runtimes.parity import check_parity
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.objectives.subject import MeasuredSubject, measure
from sousvit.objectives.tasks.task import JUDGING_TASKS
from sousvit.objectives.timing import Timing
from sousvit.search.budget import CONTACT_SHEET, Budget, make_budget, open_space
from sousvit.search.executors.executor import MakeTable, Progress
from sousvit.search.judging.base_check import check_base
from sousvit.search.judging.pace import Pace, training_pace
from sousvit.search.judging.target_facts import require_same_browsers, told
from sousvit.search.judging.teacher_runtime import TeacherRuntime
from sousvit.search.judging.trial_objectives import asked_of, trial_objectives
from sousvit.search.timekeeping.timing import timing_plan
from sousvit.search.trial import BaseRecord
from sousvit.search.verdict import HELD_BACK
from sousvit.spaces.builder import ModelBuilder, skeleton
from sousvit.spaces.context import Context
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.export.export import make_artifact
from sousvit.spaces.images import class_names, open_final, open_splits
from sousvit.spaces.module_shape import shape_of
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.shape import OtherShape, VitShape
from sousvit.spaces.sources import checkpoints
from sousvit.spaces.space import read_space
from sousvit.spaces.technique import get_technique
from sousvit.spaces.techniques.synthesis.contact_sheet import contact_sheet
from sousvit.spaces.techniques.synthesis.synthesiser import Synthesiser
from sousvit.spaces.training.teacher import Teacher
from sousvit.spaces.weights import WEIGHTS, save_weights
from sousvit.store import Store

BASE_RECIPE = Recipe((), "onnxruntime")
QUICK_IMAGES = 1000


@dataclass(frozen=True)
class Structure:
    """What a recipe's untrained artifact costs: recipes that differ in their weights alone share it."""

    values: dict[str, Measurement]
    timings: dict[str, Timing]
    probes: dict[str, Probe]


@dataclass(frozen=True)
class Verified:
    """A recipe that was built and measured again, with the subject that came of it."""

    recipe: dict[str, Any]
    fidelity: float
    subject: MeasuredSubject

    def is_of(self, request: MakeTable) -> bool:
        """Whether it is the answer that a table is asked for."""
        return self.recipe == request.recipe and self.fidelity == request.fidelity


class Subjects:
    """Makes subjects of one run from its base, data, teacher and devices.

    Args:
        setup: ``budget`` (plain values) and ``folder`` (the run folder, or a worker's own); ``storage`` where cache
            entries are shared with workers elsewhere; ``base``, the loaded model, where no file holds it.
        progress: told what is being done.

    Attributes:
        base: the base's subject, once :meth:`start` has made it; ``quick_base`` looks at fewer images, and
            ``unseen_base`` at those that no trial is judged on, where some are held back.
        plan: how long to time.
        objectives: what every trial measures.
    """

    def __init__(self, setup: dict[str, Any], progress: Progress) -> None:
        self._begun = time.monotonic()
        torch.set_num_threads(available_cores())
        self.folder, self.progress = Path(setup["folder"]), progress
        self.budget: Budget = make_budget(setup["budget"], self.folder)
        self.devices = {target.label: open_device(target) for target in self.budget.targets}
        self.task = JUDGING_TASKS.get(self.budget.model.task)
        self.plan = timing_plan(self.budget.search)
        self.objectives = trial_objectives(self.budget)
        for source in chain.from_iterable(checkpoints(self.budget.space).values()):
            open_source(source)  # raises now what every trial would run into
        self.progress("loading model and data", 0, 0)
        self._model: LoadedModel = setup.get("base") or load(self.budget.model)
        for target in self.budget.targets:
            target.require_room((self._model.channels, *self._model.size))
        open_space(self.budget, self.shape)  # values that do not go together are told before the base is measured
        shared = Store(setup["storage"]) if setup.get("storage") else None
        cache = TensorCache(self.folder / "cache", self.budget.search.cache_gb * 1e9, shared)
        self._runtime = TeacherRuntime(self._model, cache, self.progress)
        forward = self._runtime if training_device().name == "cpu" else None
        data, seed = self.budget.data, self.budget.search.seed
        if data.kind == "labelled" or data.has_test:
            require_test(data)
        self._synthesiser = Synthesiser(self._model, seed, data.calibration, cache, self.progress, forward)
        self._splits = open_splits(data, self._model, self._synthesiser, cache)
        self._splits.hold_back(self.budget.search.confirm)
        self._teacher = Teacher(self._model, self._splits.train, cache, self.progress, forward)
        self._context = Context(
            normalise=self._model.normalise,
            calibration=self._splits.calibration(),
            train=self._splits.train,
            teacher=self._teacher,
            seed=seed,
            progress=self.progress,
            synthesise=self._synthesiser if data.kind == "none" else None,
            input_shape=(self._model.channels, *self._model.size),
        )
        self._builder = ModelBuilder(self._model, self._context, cache)
        self._structures: dict[str, Structure] = {}
        sheet, path = self._sheet(self._splits.train), self.folder / CONTACT_SHEET
        if sheet is not None and not path.exists():  # the answer's own may be there already
            write_atomic(path, sheet)
        self.base: MeasuredSubject
        self.quick_base: MeasuredSubject
        self.unseen_base: MeasuredSubject | None = None
        #: The recipe that was measured again last, for the final table: exporting it twice may take long.
        self.verified: Verified | None = None
        #: What judging one image takes, of the base.
        self.judging_seconds = 0.0
        self._runtime.begin(self._context, self._teacher_artifact)

    def start(self, known: BaseRecord | None) -> BaseRecord:
        """Export the base and open its session; measure it unless it is ``known``.

        Raises:
            UserError: the model's weights or the data are not those of the ``known`` base.
        """
        seconds = {"load": time.monotonic() - self._begun}
        fingerprint = content_hash(self._model.fingerprint, self._splits.fingerprint)
        if known is not None and known.fingerprint != fingerprint:
            raise UserError(
                "a resumed run has the model and data it began with",
                "other weights or images",
                "use another --run name",
            )
        self.progress("asking the devices", 0, 0)
        named = [*self.budget.optimize, *self.budget.limits]
        facts = {name: device.check(asked_of(name, named, self.budget)) for name, device in self.devices.items()}
        if known is not None:
            require_same_browsers(known.machine.get("devices", {}), facts)
        self.objectives = told(self.objectives, facts, self.budget.target.label)
        folder = self.folder / "artifacts" / "base"
        with clocked(seconds, "export"):
            artifact = self._artifact(self._model.module, BASE_RECIPE, folder, self._context)
        for device in self.devices.values():
            device.keep(artifact)
            device.show(self.probe_images())
        self.base = self._subject(self._model.module, artifact)
        if known is not None:
            self.base.timings |= {name: Timing(**plain) for name, plain in known.timings.items()}
        self.progress("measuring the base", 0, 0)
        self.base.plan = self.plan.careful()  # every trial's milliseconds are in units of it
        with clocked(seconds, "timing"):
            timings = {name: asdict(self.base.timing_on(name)) for name in self.devices}
        quick = self._splits.validation.spread(_quick_count(len(self._splits.validation)), self.budget.search.seed)
        self.quick_base = replace(self.base, images=quick)
        held_back = self._splits.held_back
        if held_back is not None:
            self.unseen_base = replace(self.base, images=held_back)
        with open_session(artifact, available_cores()) as session:
            found = check_parity(session, self.base.model, self.probe_images(), quantized=False)
        if known is not None:
            return known
        with clocked(seconds, "judge"):
            if self.budget.data.kind == "labelled":
                where = f"{len(self.base.images)} validation images"
                check_base(self.base.evaluation, self.task, self.budget.model.expected_accuracy, where)
            values = measure(self.base, self.objectives)
        self.judging_seconds = seconds["judge"] / len(self.base.images)
        machine = {**facts[self.budget.target.label], "devices": facts}
        num_unseen = 0 if held_back is None else len(held_back)
        pace = self.training_pace(values) if self._trains_against_time else Pace()
        return BaseRecord(
            values, asdict(self.shape), machine, found.relative, fingerprint, timings, num_unseen, pace.epoch_seconds,
            class_names(self._model, self._splits.train), seconds, self._image_counts(), pace.workers,
        )  # fmt: skip

    def _image_counts(self) -> dict[str, int]:
        """Images by part; of the test split, which is not read yet, only where a search has to foretell its time."""
        splits, data = self._splits, self.budget.data
        parts = {"validation": splits.validation, "calibration": self._context.calibration, "train": splits.train}
        found = {name: len(images) for name, images in parts.items() if images is not None}
        if self.budget.search.time is not None and data.has_test:
            found["test"] = len(splits.look_at_test())
        return found

    @property
    def _trains_against_time(self) -> bool:
        """Whether the search trains, and has no longer than it is given."""
        techniques = read_space(self.budget.space)["techniques"]
        return self.budget.search.time is not None and any(get_technique(name).role.trains for name in techniques)

    def close(self) -> None:
        """Free the devices and sessions."""
        for device in self.devices.values():
            device.close()
        self._runtime.close()

    @cached_property
    def shape(self) -> VitShape | OtherShape:
        """The base's shape."""
        base = self._model
        return shape_of(base.module, base.spec.name or "the base", base.size, base.channels, base.num_classes)

    @property
    def model(self) -> LoadedModel:
        """The base as it was loaded."""
        return self._model

    @property
    def splits(self) -> Splits:
        """The images."""
        return self._splits

    @property
    def context(self) -> Context:
        """What the steps of recipes may use."""
        return self._context

    @property
    def notes(self) -> tuple[str, ...]:
        """What reading the base and the data so far decided, dropped or changed, and what the base taught in."""
        return (*self._model.notes, *self._splits.notes, *self._runtime.notes)

    def at(self, *stages: Stage) -> list[Objective]:
        """The objectives that are measured at some stages."""
        return [objective for objective in self.objectives if objective.stage in stages]

    def training_pace(self, base: Mapping[str, Measurement]) -> Pace:
        """What a training step of the base takes here."""
        self.progress("timing a training step", 0, 0)
        latency = base["latency"].value / 1000 if "latency" in base else 0.0
        widest = max((target.threads for target in self.budget.targets if target.agent is None), default=1)
        return training_pace(self._model, self._splits.train, latency, widest)

    def structure(self, recipe: Recipe) -> Structure:
        """What the untrained artifact costs; the same structure is exported and timed once."""
        key = recipe.structure().hash
        if key not in self._structures:
            model = skeleton(self._model, recipe.structure())
            folder = self.folder / "cache" / "structures" / key
            # Random inputs calibrate a quantizer well enough where only its speed is looked at.
            artifact = self._artifact(model, recipe, folder, replace(self._context, calibration=None))
            self.progress("measuring the untrained artifact", 0, 0)
            subject = self._subject(model, artifact)
            try:
                with faults_told(self.folder):
                    values = measure(subject, self.at(Stage.STRUCTURE, Stage.ARTIFACT))
                self._structures[key] = Structure(values, subject.timings, subject.probes)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        return self._structures[key]

    def trained(
        self,
        recipe: Recipe,
        fidelity: float,
        folder: Path,
        seconds: dict[str, float],
        deadline: float | None = None,
        structure: Structure | None = None,
        with_weights: bool = False,
    ) -> MeasuredSubject:
        """The finished model and its artifact, checked through its session.

        Args:
            folder: of the artifact.
            seconds: takes the time of each part.
            deadline: of the training, on the monotonic clock.
            structure: its timings are not measured again.
            with_weights: keep the model before quantization beside the artifact, see :mod:`sousvit.spaces.weights`.

        Raises:
            TrialError: the recipe cannot be built, or the artifact computes something else than the model.
        """
        before = self._synthesiser.seconds
        context = self._builder.context_of(recipe)  # may make images, which all trials share
        if self._synthesiser.seconds > before:
            seconds["images"] = self._synthesiser.seconds - before
        before = self._teacher.seconds + self._synthesiser.seconds
        decisions: dict[str, Any] = {}
        model = self._builder.build(recipe, fidelity, deadline, seconds, decisions)
        paid = self._teacher.seconds + self._synthesiser.seconds - before
        if paid > 0:  # once for all trials, so it says nothing about this one
            seconds["teacher"] = paid
            seconds["prepare" if "prepare" in seconds else "recover"] -= paid
        with clocked(seconds, "export"):
            artifact = self._artifact(model, recipe, folder, context)
        if with_weights:
            with disk_errors_as_user_errors(folder):
                save_weights(folder / WEIGHTS, model, self._model, recipe, decisions)
        subject = self._subject(model, artifact)
        # Where widths depend on data, the skeleton was a stand-in, and the real artifact is timed by itself.
        if structure is not None and not recipe.shapes_by_data:
            subject.timings, subject.probes = dict(structure.timings), dict(structure.probes)
        with faults_told(self.folder), open_session(artifact, available_cores()) as session:
            check_parity(session, model, self.probe_images(), quantized=recipe.is_quantized)
        return subject

    def has_model(self, recipe: Recipe, fidelity: float) -> bool:
        """Whether its model need not be made anew."""
        return self._builder.has(recipe, fidelity)

    def final_images(self) -> ImageSet:
        """The images that an answer is judged on: the test split, which is read now, or what stands in for it."""
        return open_final(self._splits, self._synthesiser)

    @property
    def final_name(self) -> str:
        """What those are called."""
        data = self.budget.data
        return HELD_BACK if data.final_is_validation and self._splits.held_back is not None else data.final_name

    def contact_sheet(self, recipe: Recipe) -> bytes | None:
        """A contact sheet (PNG) of the images that a recipe is built from, where they are synthesised."""
        return self._sheet(self._builder.context_of(recipe).train)

    def _sheet(self, images: ImageSet | None) -> bytes | None:
        return contact_sheet(images) if images is not None and self.budget.data.kind == "none" else None

    def _artifact(self, model: torch.nn.Module, recipe: Recipe, folder: Path, context: Context) -> Artifact:
        base = self._model
        shape = (1, base.channels, *base.size)
        self.progress("exporting", 0, 0)
        how, step = base.preprocess.steps, recipe.deploy_step
        return make_artifact(model, shape, base.mean, base.std, recipe.runtime, step, context, folder, how)

    def _subject(self, model: torch.nn.Module, artifact: Any) -> MeasuredSubject:
        return MeasuredSubject(
            artifact=artifact,
            devices=self.devices,
            reference=getattr(self, "base", None),
            plan=self.plan,
            model=model,
            images=self._splits.validation,
            normalise=self._model.normalise,
            task=self.task,
        )

    def probe_images(self) -> Any:
        """Normalised float32 images ``[B, C, H, W]`` that an artifact is compared with its model on."""
        images = self._splits.validation.head(16).images()
        return self._model.normalise(images).numpy()

    def _teacher_artifact(self, recipe: Recipe) -> Artifact:
        """The base's own artifact, or one that is kept in the cache for as long as the run."""
        if recipe == BASE_RECIPE:
            return self.base.artifact
        folder = self.folder / "cache" / "teacher" / recipe.hash
        try:
            return Artifact.open(folder)
        except UserError:  # none there, or not whole
            return self._artifact(self._model.module, recipe, folder, self._context)


def _quick_count(count: int) -> int:
    """Validation images that a low-rung trial is judged on: a quarter, but enough to tell good from bad."""
    return min(count, max(QUICK_IMAGES, count // 4))


@contextmanager
def clocked(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Add the time spent inside to a ``part`` of ``seconds``."""
    begun = time.monotonic()
    try:
        yield
    finally:
        seconds[part] = seconds.get(part, 0.0) + time.monotonic() - begun
