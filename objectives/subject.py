"""A recipe under judgement: everything an objective may look at, measured on first use and shared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from sousvit.errors import SharedInputError, TrialError
from sousvit.faults import faults_told
from sousvit.machine import available_cores
from sousvit.objectives.objective import Measurement, Objective, Subject
from sousvit.objectives.runtimes.pool import open_pool
from sousvit.objectives.tasks.task import Evaluation, JudgingTask
from sousvit.objectives.timing import DEFAULT, Timing, TimingPlan

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sousvit.data import ImageSet
    from sousvit.objectives.devices.device import Device
    from sousvit.objectives.memory_probe import Probe
    from sousvit.spaces.export.artifact import Artifact

#: Images a run where the batch does not change the logits.
JUDGING_BATCH = 16


@dataclass(kw_only=True)
class PlacedSubject:
    """An artifact and the devices it is measured on; on the first of them unless :meth:`on` says otherwise.

    Time, memory and energy need no PyTorch model: an archived artifact is enough.

    Args:
        artifact: the exported model.
        devices: by target name.
        reference: the base's subject; None for the base itself.
        plan: how long to time.
        timings, probes: by target name, measured before (they do not depend on the weights).
    """

    artifact: Artifact
    devices: Mapping[str, Device]
    reference: PlacedSubject | None = None
    plan: TimingPlan = DEFAULT
    timings: dict[str, Timing] = field(default_factory=dict)
    probes: dict[str, Probe] = field(default_factory=dict)
    _energies: dict[str, float] = field(default_factory=dict, init=False)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(1, C, H, W)."""
        return self.artifact.input_shape

    @property
    def base(self) -> Any:
        """The base (of the base: itself)."""
        return self.reference or self

    @property
    def timing(self) -> Timing:
        """Latency on the first target."""
        return self.timing_on(self._first)

    @property
    def probe(self) -> Probe:
        """Memory and load time on the first target."""
        return self.probe_on(self._first)

    @property
    def energy_mj(self) -> float:
        """Millijoules of one inference on the first target."""
        return self.energy_on(self._first)

    @property
    def _first(self) -> str:
        return next(iter(self.devices))

    def timing_on(self, target: str) -> Timing:
        """Latency on a target, interleaved with the base; a device refuses an artifact that exceeds its memory."""
        if target not in self.timings:
            device, base = self.devices[target], self.reference
            if base is None:
                found = device.time({"base": self.artifact}, "base", self.plan)["base"]
            else:
                device.admit(self.artifact)
                pair = {"candidate": self.artifact, "base": base.artifact}
                found = device.time(pair, "base", self.plan)["candidate"]
            self.timings[target] = found
        return self.timings[target]

    def probe_on(self, target: str) -> Probe:
        """Memory and load time on a target."""
        if target not in self.probes:
            self.probes[target] = self.devices[target].probe(self.artifact)
        return self.probes[target]

    def energy_on(self, target: str) -> float:
        """Millijoules of one inference on a target."""
        if target not in self._energies:
            self._energies[target] = self.devices[target].energy_mj(self.artifact, self.plan)
        return self._energies[target]

    def on(self, target: str) -> Any:
        """The view that an objective gets for a named target.

        Raises:
            TrialError: there is no such target.
        """
        if target not in self.devices:
            raise TrialError(f"no target {target!r}; there are {', '.join(self.devices)}")
        return _OnTarget(self, target)


class _OnTarget:
    """A subject on one target: time, memory and energy are those on that target, all else is the subject's."""

    def __init__(self, subject: PlacedSubject, target: str) -> None:
        self._subject, self._target = subject, target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subject, name)

    @property
    def base(self) -> _OnTarget:
        reference = self._subject.reference
        return self if reference is None else _OnTarget(reference, self._target)

    @property
    def timing(self) -> Timing:
        return self._subject.timing_on(self._target)

    @property
    def probe(self) -> Probe:
        return self._subject.probe_on(self._target)

    @property
    def energy_mj(self) -> float:
        return self._subject.energy_on(self._target)


@dataclass(kw_only=True)
class MeasuredSubject(PlacedSubject):
    """The :class:`sousvit.objectives.objective.Subject` that measures an exported model.

    Accuracy is judged on this machine, in the runtime that the targets use: a device with other instructions may round
    quantized models otherwise.

    Args:
        model: the PyTorch model before quantization.
        images: the split it is judged on.
        normalise: uint8 images to the model's float input.
        task: how it is judged.
    """

    model: nn.Module
    images: ImageSet
    normalise: Callable[[torch.Tensor], torch.Tensor]
    task: JudgingTask

    @cached_property
    def evaluation(self) -> Evaluation:
        """Predictions of the artifact in its runtime."""
        return evaluated(self, self.model)

    @cached_property
    def weight_bits(self) -> float:
        """Average bits of a parameter in the file."""
        return 8.0 * self.artifact.size_bytes / max(1, sum(parameter.numel() for parameter in self.model.parameters()))


def evaluated(subject: Any, model: nn.Module) -> Evaluation:
    """Predictions of a subject's artifact on its images, in its runtime.

    Args:
        model: says what the outputs mean.
    """
    with open_pool(subject.artifact, available_cores()) as session:
        first = next(iter(subject.devices.values()))
        batch = first.target.batch if subject.artifact.batch_dependent else JUDGING_BATCH
        found: Evaluation = subject.task.evaluate(session, model, subject.images, subject.normalise, batch)
        return found


def measure(subject: PlacedSubject, objectives: list[Objective]) -> dict[str, Measurement]:
    """The figures of ``objectives`` by name.

    Raises:
        TrialError: an objective failed or gave no ordinary number.
    """
    values = {}
    for objective in objectives:
        try:
            with faults_told():
                values[objective.name] = _value(objective.measure(cast(Subject, subject)))
        except TrialError as error:
            raise TrialError(f"objective {objective.name}: {error}") from error
        except SharedInputError:  # no trial can be measured any more
            raise
        except Exception as error:  # a plug-in may raise anything; only its trial fails
            raise TrialError(f"objective {objective.name}: {type(error).__name__}: {error}") from error
    return values


def _value(found: object) -> Measurement:
    """A plug-in's result in plain numbers (it may have given numpy's)."""
    if not isinstance(found, Measurement):
        raise TrialError(f"measure must return a Measurement, not {found!r}")
    ends = [None if end is None else float(end) for end in (found.low, found.high)]
    value = Measurement(float(found.value), *ends)
    if not all(math.isfinite(number) for number in (value.value, *ends) if number is not None):
        raise TrialError(f"gave no finite number: {found}")
    return value
