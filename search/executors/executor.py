"""The contract of an executor: it runs jobs somewhere and returns one outcome for each."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sousvit.objectives.objective import Measurement
from sousvit.search.trial import BaseRecord, Status, Trial, trial_key

if TYPE_CHECKING:
    from sousvit.search.budget import SearchLimits
    from sousvit.spaces.recipe import Recipe

#: (what, done, total) of the running job; total 0 where it is not known.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Job:
    """One recipe to judge at one fidelity.

    Attributes:
        attempt: identifies this attempt; a late result of a lost attempt is discarded by it.
        timeout: seconds after which the job is stopped and fails.
        rivals: optimised figures of finished recipes that hold every limit; a candidate that is worse than one of
            them in all objectives before it is trained need not be trained.
    """

    attempt: str
    recipe: dict[str, Any]
    fidelity: float
    seed: int
    timeout: float
    rivals: tuple[dict[str, float], ...] = ()


@dataclass(frozen=True)
class JobResult:
    """What came of a job.

    Attributes:
        lost: its worker ended without a word (killed, crashed), so that trying again may help.
    """

    attempt: str
    status: Status
    values: dict[str, Measurement] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    message: str = ""
    artifact: str = ""
    lost: bool = False


def make_job(recipe: Recipe, fidelity: float, limits: SearchLimits, rivals: tuple[dict[str, float], ...] = ()) -> Job:
    """A new attempt at a recipe."""
    return Job(uuid.uuid4().hex[:12], recipe.to_dict(), fidelity, limits.seed, limits.trial_timeout, rivals)


def trial_of(job: Job, outcome: JobResult, origin: str, number: int | None = None) -> Trial:
    """What the archive keeps of a finished job."""
    return Trial(
        trial_key(job.recipe, job.fidelity, job.seed),
        job.recipe,
        job.fidelity,
        job.seed,
        outcome.status,
        values=outcome.values,
        origin=origin,
        number=number,
        attempt=outcome.attempt,
        seconds=outcome.seconds,
        message=outcome.message,
        artifact=outcome.artifact,
    )


class JobSource(Protocol):
    """What gives jobs and takes their outcomes; it is called from one thread."""

    def next_job(self) -> Job | None:
        """The next job to start now; None while nothing may start before a running one ends, or for good."""

    def take(self, outcome: JobResult) -> bool:
        """Take an outcome; False for that of a lost attempt, which is discarded."""

    def rungs_of(self, job: Job) -> list[float]:
        """The fidelities at which the job's recipe may be judged, ascending, its own first."""

    def continue_with(self, job: Job, attempt: str) -> Job | None:
        """The same recipe at its next rung, where that is what should run next; for workers that keep its state."""


class Executor(ABC):
    """Runs jobs. A job that crashes, hangs or runs out of memory comes back as a failed outcome, never as an error."""

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
    def call(self, function: str, **arguments: Any) -> Any:
        """Run a named function of the worker (the final answer) and return its plain result.

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

    def run(self, job: Job) -> JobResult:
        """Submit a job and wait for its outcome, past late results of lost attempts."""
        self.submit(job)
        outcome = self.wait()
        while outcome.attempt != job.attempt:
            outcome = self.wait()
        return outcome

    def drive(self, source: JobSource) -> None:
        running = 0
        while True:
            while running < self.capacity and (job := source.next_job()) is not None:
                self.submit(job)
                running += 1
            if not running:
                return
            running -= source.take(self.wait())
