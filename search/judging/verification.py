"""A verification: one recipe or artifact held against every limit of a budget, on the test split, without a search."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sousvit.errors import TrialError, UserError
from sousvit.machine import available_cores
from sousvit.objectives.devices.isolated import open_isolated
from sousvit.objectives.devices.isolated_session import IsolatedSession
from sousvit.objectives.objective import Measurement, get_objective
from sousvit.objectives.runtimes.parity import check_parity
from sousvit.objectives.runtimes.runtime import check_artifact, open_session
from sousvit.objectives.subject import MeasuredSubject, PlacedSubject, evaluated_in, measure
from sousvit.objectives.tasks.task import Evaluation, JudgingTask
from sousvit.search.archive import EVENTS, Archive
from sousvit.search.budget import Budget
from sousvit.search.executors.executor import Progress
from sousvit.search.judging.build import RecipeFile
from sousvit.search.judging.measure import must_run
from sousvit.search.judging.subjects import Subjects
from sousvit.search.verdict import JudgedLimit, Status, hangs_on_images, judge_limits, status_of
from sousvit.spaces.export.artifact import DESCRIPTION, Artifact

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sousvit.data import ImageSet


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        subject: the recipe or artifact.
        target: where it was timed, in words.
        limits: every limit of the budget with its figure and whether it was shown to hold.
        parity: how far the artifact's logits are from the model's, relative to these; None where there is no PyTorch
            model to compare with (an artifact alone).
        notes: what a reader must know besides, such as why an objective could not be measured.
        seconds: that it took.
    """

    subject: Path
    target: str
    limits: tuple[JudgedLimit, ...]
    parity: float | None
    notes: tuple[str, ...]
    seconds: float

    @property
    def status(self) -> Status:
        """``infeasible`` where a limit is broken by the figure itself; see :mod:`sousvit.search.verdict`."""
        return status_of(all(limit.verdict != "broken" for limit in self.limits), self.limits, measured_again=True)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "status": self.status,
            "subject": str(self.subject),
            "target": self.target,
            "limits": [limit.to_dict() for limit in self.limits],
            "parity": self.parity,
            "notes": list(self.notes),
            "seconds": self.seconds,
        }


def verify_path(path: Path, budget: Budget, work: Path, progress: Progress) -> Verification:
    """Build the recipe at ``path``, or open the artifact or bundle, and hold it against the budget's limits.

    The model and the data are the budget's. The test split is read; where ``path`` lies in a run's folder, this is
    noted there, because choices made by it would flatter a later answer.

    Args:
        work: a folder for what is built.

    Raises:
        UserError: neither a recipe, an artifact nor a bundle; or the budget is wrong.
        TrialError: the recipe cannot be built on this model.
    """
    begun = time.monotonic()
    source = _opened(path)
    seed = source.seed if isinstance(source, RecipeFile) else budget.search.seed
    search = budget.search.model_copy(update={"seed": seed, "confirm": 0.0})
    budget = budget.model_copy(update={"search": search})
    subjects = Subjects({"budget": budget.model_dump(mode="json"), "folder": work}, progress)
    try:
        subjects.start(None)
        parity: float | None = None
        subject: Any
        if isinstance(source, RecipeFile):
            subject = subjects.trained(source.recipe, source.fidelity, work / "artifact", {})
            parity = _parity(subjects, subject, source.recipe.is_quantized)
        else:
            subject = _of_artifact(subjects, source)
        subject.plan = subjects.plan.careful()
        with _counted(path, budget):
            subject.images = subjects.final_images()
            subject.reference = replace(subjects.base, images=subject.images)
            progress(f"judging on {subjects.final_name}", 0, 0)
            figures, notes = _figures(subject, list(budget.limits))
    finally:
        subjects.close()
    unseen = not budget.data.final_is_validation
    limits = judge_limits(budget.hard_limits, figures, subjects.final_name, unseen, measured_again=True)
    if not unseen and any(map(hangs_on_images, budget.limits)):
        notes.append("there is no test split: images that a search may have chosen by show nothing")
    noted = (*notes, *subjects.notes)
    return Verification(path, budget.where, limits, parity, noted, time.monotonic() - begun)


def _opened(path: Path) -> RecipeFile | Artifact:
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        return RecipeFile.read(path)
    if (path / DESCRIPTION).is_file():
        return Artifact.open(path)
    rule = "what is verified is a recipe file, or the folder of an artifact or bundle"
    raise UserError(rule, path, "name a run's recipe.yaml, or what apply or bundle wrote")


def _figures(subject: Any, names: list[str]) -> tuple[dict[str, Measurement], list[str]]:
    """What could be measured, and why the rest could not."""
    found: dict[str, Measurement] = {}
    notes = []
    for name in names:
        try:
            found |= measure(subject, [get_objective(name)])
        except TrialError as error:
            notes.append(str(error))
    return found, notes


def _parity(subjects: Subjects, subject: MeasuredSubject, quantized: bool) -> float:
    with open_session(subject.artifact, available_cores()) as session:
        return check_parity(session, subject.model, subjects.probe_images(), quantized).relative


def _of_artifact(subjects: Subjects, artifact: Artifact) -> ArtifactSubject:
    """The subject of an artifact that somebody else may have built."""
    base, budget = subjects.base, subjects.budget
    check_artifact(artifact)
    if artifact.runtime not in budget.runtimes:
        rule = f"an artifact runs on the budget's targets ({', '.join(budget.runtimes)})"
        raise UserError(rule, artifact.runtime, "verify it with a budget whose targets have this runtime")
    for what in ("input_shape", "mean", "std", "preprocess", "uint8"):
        own, known = getattr(artifact, what), getattr(base.artifact, what)
        if own != known:
            rule = "an artifact takes images as the budget's model does"
            raise UserError(rule, f"{what} {own}, of the model {known}", "name the model that it was made from")
    with must_run(), IsolatedSession(artifact, available_cores(), budget.target.timeout) as session:
        session.run(subjects.probe_images()[:1])  # what never ends would do so for every limit
    return ArtifactSubject(
        artifact=artifact,
        devices={target.label: open_isolated(target) for target in budget.targets},
        reference=base,
        images=base.images,
        normalise=base.normalise,
        task=base.task,
        decoder=base.model,
    )


@dataclass(kw_only=True)
class ArtifactSubject(PlacedSubject):
    """An artifact without its PyTorch model: what is counted in that cannot be measured.

    Args:
        images: what it is judged on.
        normalise: uint8 images to the model's float input.
        task: how it is judged.
        decoder: a model with the same outputs, for what they mean.
    """

    images: ImageSet
    normalise: Callable[[torch.Tensor], torch.Tensor]
    task: JudgingTask
    decoder: nn.Module

    @property
    def model(self) -> nn.Module:
        """There is none.

        Raises:
            TrialError: always.
        """
        raise TrialError("an artifact alone has no PyTorch model to count in: verify its recipe")

    @property
    def weight_bits(self) -> float:
        """Needs the model."""
        return cast(float, self.model)

    @property
    def evaluation(self) -> Evaluation:
        """Predictions of the artifact in its runtime."""
        if not hasattr(self, "_evaluation"):
            timeout = next(iter(self.devices.values())).target.timeout
            with IsolatedSession(self.artifact, available_cores(), timeout) as session:
                self._evaluation = evaluated_in(session, self, self.decoder)
        return self._evaluation


@contextmanager
def _counted(path: Path, budget: Budget) -> Iterator[None]:
    """Note in the run that ``path`` belongs to, if any, that its test split is read."""
    folders = [path, *path.resolve().parents]
    run = next((folder for folder in folders if (folder / EVENTS).is_file()), None)
    if run is None or not budget.data.has_test:
        yield
        return
    with closing(Archive(run, writable=True)) as archive:
        archive.append("test_read", verified=path.name)
        yield
        archive.append("test_told")
