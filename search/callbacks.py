"""Callbacks: what a search tells as it goes, for instance to a terminal, a log or a tracker of experiments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from sousvit.errors import SharedInputError, UserError, one_line

if TYPE_CHECKING:
    from sousvit.search.trial import BaseRecord, Trial
    from sousvit.spaces.recipe import Recipe
    from sousvit.spaces.space import Space


class AnswerStage(str, Enum):
    """What an answer is made in, in this order; :meth:`Callback.on_progress` says what of it is done right now."""

    CHOOSING = "choosing"
    CONFIRMING = "confirming"
    BUILDING = "building the table's rows"
    TIMING = "timing"
    JUDGING = "judging"
    WRITING = "writing"


@dataclass
class Counts:
    """What the search did so far in this session.

    ``owed`` counts deployments of the base that were judged though the time was over; ``of_run`` are the
    trials that the run has paid for so far, ``front`` is the size of its front, ``best`` what would be its answer now,
    and ``answer_seconds`` what measuring that should take.
    """

    finished: int = 0
    unfit: int = 0
    gated_analytic: int = 0
    gated_measured: int = 0
    failed: int = 0
    replayed: int = 0
    variants: int = 0
    promoted: int = 0
    owed: int = 0
    of_run: int = 0
    front: int = 0
    best: Trial | None = None
    answer_seconds: float = 0.0


class Callback:
    """Base of everything that follows a search; every method does nothing unless a subclass says otherwise.

    A method that raises ends the search with one line. What had finished is stored before it is told, so the same
    call goes on from there.
    """

    def on_start(self, base: BaseRecord, space: Space, left_out: Mapping[str, str]) -> None:
        """The base is measured and the space known; ``left_out`` says why a technique is not in it."""

    def on_begin(self, origin: str, recipe: Recipe, fidelity: float) -> None:
        """A trial begins; ``origin`` is who asked for it (see :class:`~sousvit.search.trial.Trial`)."""

    def on_progress(self, what: str, done: int, total: int) -> None:
        """What is being done right now; ``total`` is 0 where it is not known."""

    def on_trial(self, trial: Trial, counts: Counts) -> None:
        """A trial has ended and is stored."""

    def on_wait(self, running: int) -> None:
        """Nothing is to be decided before one of the ``running`` trials ends; at the end of a search none runs."""

    def on_stage(self, stage: AnswerStage) -> None:
        """The answer has got to a ``stage``."""

    def on_message(self, text: str) -> None:
        """A line for people."""

    def on_end(self, result: Any) -> None:
        """The search is over; ``result`` is the :class:`sousvit.Result` that the caller gets next."""


class Callbacks(Callback):
    """Several callbacks as one, told in their order.

    Raises:
        UserError: one of them is no callback; later, in any method: one of them raised.
    """

    def __init__(self, callbacks: Iterable[Callback] = ()) -> None:
        self._callbacks = tuple(callbacks)
        for callback in self._callbacks:
            if not isinstance(callback, Callback):
                raise UserError("a callback derives from sousvit.Callback", repr(callback), "derive a class from it")

    def on_start(self, base: BaseRecord, space: Space, left_out: Mapping[str, str]) -> None:
        self._tell("on_start", base, space, left_out)

    def on_begin(self, origin: str, recipe: Recipe, fidelity: float) -> None:
        self._tell("on_begin", origin, recipe, fidelity)

    def on_progress(self, what: str, done: int, total: int) -> None:
        self._tell("on_progress", what, done, total)

    def on_trial(self, trial: Trial, counts: Counts) -> None:
        self._tell("on_trial", trial, counts)

    def on_wait(self, running: int) -> None:
        self._tell("on_wait", running)

    def on_stage(self, stage: AnswerStage) -> None:
        self._tell("on_stage", stage)

    def on_message(self, text: str) -> None:
        self._tell("on_message", text)

    def on_end(self, result: Any) -> None:
        self._tell("on_end", result)

    def _tell(self, method: str, *content: Any) -> None:
        for callback in self._callbacks:
            try:
                getattr(callback, method)(*content)
            except Exception as error:
                # Shared: raised while a trial runs in this process, it must stop the search and not fail the trial.
                raise SharedInputError(
                    "a callback must not fail",
                    f"{type(callback).__name__}.{method}: {one_line(error)}",
                    "repair it; the same call resumes, nothing that finished is lost",
                ) from error
