"""The contract of an executor: it runs jobs somewhere and returns one outcome for each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sousvit.search.record import BaseRecord, Status, Value

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
class Outcome:
    """What came of a job."""

    attempt: str
    status: Status
    values: dict[str, Value] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    message: str = ""
    artifact: str = ""


class Executor(ABC):
    """Runs jobs. A job that crashes, hangs or runs out of memory comes back as a failed outcome, never as an error."""

    #: Jobs that run at once.
    capacity: int = 1

    @abstractmethod
    def start(self, known: BaseRecord | None) -> BaseRecord:
        """Get ready and return the base's figures (measured now, unless ``known`` from an earlier session).

        Raises:
            UserError: the budget's model or data is bad.
        """

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Begin a job; at most ``capacity`` run at once."""

    @abstractmethod
    def wait(self) -> Outcome:
        """Block until a job ends."""

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
