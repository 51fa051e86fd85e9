"""The judge: gates the untrained artifact, recovers, exports, and measures the finished artifact in its runtime."""

from __future__ import annotations

import time
from typing import Any

from sousvit.files import content_hash
from sousvit.objectives.objective import Measurement
from sousvit.objectives.subject import measure
from sousvit.search.executors.executor import Job, JobResult, MakeTable, Progress, Verify
from sousvit.search.fidelity.learning_curve import FULL
from sousvit.search.judging.final_table import make_table, verify
from sousvit.search.judging.gate import rejection
from sousvit.search.judging.subjects import Subjects, clocked
from sousvit.search.results import FinalTable
from sousvit.search.trial import BaseRecord
from sousvit.spaces.recipe import Recipe

#: Progress is passed on at most this often, in seconds.
PROGRESS_PERIOD = 0.25


class Judge:
    """The judge of real recipes; see :class:`sousvit.search.judging.worker.Judging`.

    Args:
        setup: see :class:`.Subjects`.
        progress: told what is being done.
    """

    def __init__(self, setup: dict[str, Any], progress: Progress) -> None:
        self._subjects = Subjects(setup, _Throttled(progress))

    def start(self, known: BaseRecord | None) -> BaseRecord:
        """Get the base ready, and measure it unless it is ``known``.

        Raises:
            UserError: the model's weights or the data are not those of the ``known`` base.
        """
        return self._subjects.start(known)

    def judge(self, job: Job) -> JobResult:
        """One trial.

        Raises:
            TrialError: it failed.
        """
        subjects, recipe = self._subjects, Recipe.from_dict(job.recipe)
        deadline = time.monotonic() + job.timeout
        seconds: dict[str, float] = {}
        with clocked(seconds, "gate"):
            structure = subjects.structure(recipe)
        message = rejection(structure.values, subjects.budget.goals(), job.rivals)
        if message:
            return JobResult(job.attempt, "gated", structure.values, seconds, message)
        name = content_hash(job.recipe, job.fidelity, job.seed)
        folder = subjects.folder / "artifacts" / name
        subject = subjects.trained(recipe, job.fidelity, folder, seconds, deadline, structure)
        if job.fidelity < FULL:
            subject.images, subject.reference = subjects.quick_base.images, subjects.quick_base
        with clocked(seconds, "judge"):
            values = measure(subject, subjects.objectives)
        return JobResult(job.attempt, "complete", values, seconds, artifact=name)

    def verify(self, request: Verify) -> dict[str, Measurement]:
        """A finished recipe, measured once more, with care."""
        return verify(self._subjects, request)

    def close(self) -> None:
        """Free the devices and sessions."""
        self._subjects.close()

    def make_table(self, request: MakeTable) -> FinalTable:
        """The answer's recipe and what it is compared with, measured in one session."""
        return make_table(self._subjects, request)


class _Throttled:
    """Passes progress on a few times a second, and every new kind of work at once."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._last, self._what = progress, 0.0, ""

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what or now - self._last >= PROGRESS_PERIOD:
            self._last, self._what = now, what
            self._progress(what, done, total)
