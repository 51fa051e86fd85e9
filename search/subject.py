"""A recipe under judgement: everything an objective may look at, measured on first use and shared."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from sousvit.common.device import available_cores
from sousvit.common.errors import TrialError
from sousvit.objectives.memory import peak_memory
from sousvit.objectives.objective import Measurement, Objective
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.objectives.tasks.task import Evaluation, JudgingTask
from sousvit.objectives.timing import DEFAULT, Timing, TimingPlan, compare
from sousvit.search.record import Value

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sousvit.common.data import ImageSet
    from sousvit.objectives.runtimes.runtime import Session
    from sousvit.objectives.targets.target import Target
    from sousvit.spaces.artifact import Artifact

#: Images a run where the batch does not change the logits.
JUDGING_BATCH = 64


@dataclass
class MeasuredSubject:
    """Implements :class:`sousvit.objectives.objective.Subject` by measuring.

    Args:
        model: the PyTorch model before quantization.
        artifact: its exported form.
        target: where it runs.
        images: the split it is judged on.
        normalise: uint8 images to the model's float input.
        task: how it is judged.
        reference: the base's subject; None for the base itself.
        plan: how long to time.
        timing_: a timing measured before (it does not depend on the weights).
    """

    model: nn.Module
    artifact: Artifact
    target: Target
    images: ImageSet
    normalise: Callable[[torch.Tensor], torch.Tensor]
    task: JudgingTask
    reference: MeasuredSubject | None = None
    plan: TimingPlan = DEFAULT
    timing_: Timing | None = None
    memory_bytes_: int | None = None
    _sessions: list[Session] = field(default_factory=list)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(1, C, H, W)."""
        return self.artifact.input_shape

    @property
    def base(self) -> MeasuredSubject:
        """The base (of the base: itself)."""
        return self.reference or self

    @cached_property
    def session(self) -> Session:
        """The artifact opened as the target runs it."""
        opened = open_session(self.artifact, self.target.threads, self.target.batch)
        self._sessions.append(opened)
        return opened

    @cached_property
    def timing(self) -> Timing:
        """Latency on the target, interleaved with the base."""
        if self.timing_ is not None:
            return self.timing_
        shape = (self.target.batch, *self.input_shape[1:])
        return compare(self.session, self.base.session, shape, self.plan)

    @cached_property
    def memory_bytes(self) -> int:
        """Peak memory of inference on the target."""
        if self.memory_bytes_ is not None:
            return self.memory_bytes_
        return peak_memory(self.artifact, self.target.threads, self.target.batch)

    @cached_property
    def evaluation(self) -> Evaluation:
        """Predictions of the artifact in its runtime."""
        with open_session(self.artifact, available_cores()) as session:
            batch = self.target.batch if self.artifact.batch_dependent else JUDGING_BATCH
            return self.task.evaluate(session, self.model, self.images, self.normalise, batch)

    @cached_property
    def weight_bits(self) -> float:
        """Average bits of a parameter in the file."""
        return 8.0 * self.artifact.size_bytes / max(1, sum(parameter.numel() for parameter in self.model.parameters()))

    def close(self) -> None:
        """Close the sessions."""
        for session in self._sessions:
            session.close()
        self._sessions.clear()


def measure(subject: MeasuredSubject, objectives: list[Objective]) -> dict[str, Value]:
    """The figures of ``objectives`` by name.

    Raises:
        TrialError: an objective failed or gave no ordinary number.
    """
    values = {}
    for objective in objectives:
        try:
            values[objective.name] = _value(objective.measure(subject))
        except TrialError as error:
            raise TrialError(f"objective {objective.name}: {error}") from error
        except Exception as error:  # a plug-in may raise anything; only its trial fails
            raise TrialError(f"objective {objective.name}: {type(error).__name__}: {error}") from error
    return values


def _value(found: object) -> Value:
    """A plug-in's result in plain numbers (it may have given numpy's)."""
    if not isinstance(found, Measurement):
        raise TrialError(f"measure must return a Measurement, not {found!r}")
    ends = [None if end is None else float(end) for end in (found.low, found.high)]
    value = Value(float(found.value), *ends)
    if not all(math.isfinite(number) for number in (value.value, *ends) if number is not None):
        raise TrialError(f"gave no finite number: {found}")
    return value
