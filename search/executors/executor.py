"""The contract of an executor, and what travels between a search and its workers: requests, and what they give.

A search asks a worker to :class:`Start`, then for jobs, and at its end to :class:`Verify` the best recipe and to
:class:`MakeTable`. Each request is a plain value that says what it gives; how it gets to the worker and back is the
executor's own.
"""

from __future__ import annotations

import math
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from sousvit.objectives.objective import Measurement
from sousvit.search.results import FinalTable
from sousvit.search.trial import BaseRecord, Ended, Trial

if TYPE_CHECKING:
    from sousvit.search.budget import SearchLimits

#: (what, done, total) of the running job; total 0 where it is not known.
Progress = Callable[[str, int, int], None]

#: Seconds that a job may overrun its deadline by before its worker is ended.
GRACE = 20.0

G = TypeVar("G")


class Request(Generic[G]):
    """What a worker is asked for, which gives a ``G``; ``doing`` says in an error what it was at."""

    doing: ClassVar[str]


@dataclass(frozen=True)
class Start(Request[BaseRecord]):
    """Load the model and the data; measure the base, unless it is ``known`` from an earlier session."""

    doing = "loading the model and data"
    known: BaseRecord | None


@dataclass(frozen=True)
class UseCores(Request[None]):
    """Compute on ``count`` cores that no other worker of this machine uses; None: on all again."""

    doing = "sharing the cores"
    count: int | None


@dataclass(frozen=True)
class JobResult:
    """What came of a job.

    Attributes:
        lost: its worker ended without a word (killed, crashed), so that trying again may help.
    """

    attempt: str
    status: Ended
    values: dict[str, Measurement] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    message: str = ""
    artifact: str = ""
    lost: bool = False


@dataclass(frozen=True)
class Job(Request[JobResult]):
    """Judge a recipe at one fidelity.

    Attributes:
        attempt: identifies this attempt; a late result of a lost attempt is discarded by it.
        timeout: seconds after which its training is stopped and it fails.
        grace: seconds of overrunning it after which its worker is ended.
        rivals: optimised figures of finished recipes that hold every limit; a candidate that is worse than one of
            them in all objectives before it is trained need not be trained.
    """

    doing = "judging a recipe"
    attempt: str
    recipe: dict[str, Any]
    fidelity: float
    seed: int
    timeout: float
    rivals: tuple[dict[str, float], ...] = ()
    grace: float = GRACE


@dataclass(frozen=True)
class Verify(Request[dict[str, Measurement]]):
    """Measure a finished recipe once more, with care: what it costs, and how good it is on images held back.

    Where none are, or an executor has no images, only its costs are among the figures.

    Attributes:
        timing_seconds: what timing it may take.
    """

    doing = "measuring the best recipe again"
    recipe: dict[str, Any]
    fidelity: float
    timing_seconds: float = math.inf


@dataclass(frozen=True)
class MakeTable(Request[FinalTable]):
    """Build the base, the answer's recipe and what it is compared with, and measure all of them in one session.

    Attributes:
        single: the recipe of the best single technique.
        retrain_base: add the base after the recipe's own recovery training, where a recipe seems to beat it.
        seconds: what all of it may take; timing is cut short for it.
        parts_seconds: what the rows of the recipe without each of its techniques may take together; 0 asks for none.
        training_seconds: what the recipe's own training took; a row that must be trained anew takes about as long.
        row_seconds: what a row takes beside that: exporting, timing and judging it.
        instead: by technique the recipe that stands for the recipe without it, where that would be something else
            altogether; None where there is none.
    """

    doing = "measuring the final table"
    recipe: dict[str, Any]
    fidelity: float
    single: dict[str, Any] | None
    retrain_base: bool
    parts_seconds: float = 0.0
    training_seconds: float = 0.0
    row_seconds: float = 0.0
    seconds: float = math.inf
    instead: Mapping[str, dict[str, Any] | None] = field(default_factory=dict)


def make_job(trial: Trial, limits: SearchLimits, rivals: tuple[dict[str, float], ...] = ()) -> Job:
    """A new attempt at a pending trial."""
    return Job(uuid.uuid4().hex[:12], trial.recipe, trial.fidelity, trial.seed, limits.trial_timeout, rivals)


def finished(trial: Trial, result: JobResult) -> Trial:
    """The trial with what came of its job, as the archive keeps it."""
    return trial.changed(
        status=result.status,
        values=result.values,
        attempt=result.attempt,
        seconds=result.seconds,
        message=result.message,
        artifact=result.artifact,
    )


class JobSource(Protocol):
    """A source of jobs, which takes their results; it is called from one thread."""

    def next_job(self) -> Job | None:
        """The next job to start now; None while nothing may start before a running one ends, or for good."""

    def prepare(self) -> None:
        """Do what can be done while a result is waited for."""
        return

    def keep(self, results: Sequence[JobResult]) -> None:
        """Make results durable that are taken next."""
        return

    def take(self, result: JobResult) -> bool:
        """Take a result; False for that of a lost attempt, which is discarded."""

    def rungs_of(self, job: Job) -> list[float]:
        """The fidelities at which the job's recipe may be judged, ascending, its own first."""

    def continue_with(self, job: Job, attempt: str) -> Job | None:
        """The same recipe at its next rung, where that is what should run next; for workers that keep its state."""


class Executor(ABC):
    """Runs jobs. A job that crashes, hangs or runs out of memory comes back as a failed result, never as an error."""

    @abstractmethod
    def start(self, known: BaseRecord | None) -> BaseRecord:
        """Get ready and return the base's figures (measured now, unless ``known`` from an earlier session).

        Raises:
            UserError: the budget's model or data is bad.
        """

    @abstractmethod
    def drive(self, source: JobSource) -> None:
        """Run what ``source`` gives until it gives nothing and nothing runs."""

    @abstractmethod
    def call(self, request: Request[G]) -> G:
        """Have a worker answer a request that is no job: :class:`Verify` or :class:`MakeTable`.

        Raises:
            UserError: bad input found on the way.
            TrialError: the worker was lost, or the recipe cannot be built.
        """

    @abstractmethod
    def core_seconds(self) -> float:
        """CPU time that the workers used so far."""

    @abstractmethod
    def close(self) -> None:
        """Stop everything; safe to call twice."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class QueueExecutor(Executor):
    """Runs jobs as they are submitted."""

    #: Jobs that run at once.
    capacity: int = 1

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Begin a job; at most ``capacity`` run at once."""

    @abstractmethod
    def wait(self) -> JobResult:
        """Block until a job ends."""

    def wait_for_some(self) -> list[JobResult]:
        """Block until a job ends; its result, and those of others that have ended since, in their order."""
        return [self.wait()]

    def run(self, job: Job) -> JobResult:
        """Submit a job and wait for its result, past late results of lost attempts."""
        self.submit(job)
        result = self.wait()
        while result.attempt != job.attempt:
            result = self.wait()
        return result

    def drive(self, source: JobSource) -> None:
        running = self._fill(source, 0)
        while running:
            source.prepare()
            results = self.wait_for_some()
            if len(results) > 1:
                source.keep(results)
            for result in results:
                running = self._fill(source, running - source.take(result))

    def _fill(self, source: JobSource, running: int) -> int:
        """Give every free worker a job, where there is one; how many run."""
        while running < self.capacity and (job := source.next_job()) is not None:
            self.submit(job)
            running += 1
        return running
