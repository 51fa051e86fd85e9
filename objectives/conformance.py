"""The conformance suite that every objective must pass, ours in our tests and a user's in theirs.

sousvit.check_objective(WorstClassAccuracy)
"""

from __future__ import annotations

import math
import pickle
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sousvit.errors import TrialError
from sousvit.objectives.memory import probe_artifact
from sousvit.objectives.objective import OBJECTIVES, Measurement, Objective, Stage, Subject, get_objective
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.objectives.tasks.classification import TopOneEvaluation, evaluate
from sousvit.objectives.timing import Timing, TimingPlan, compare
from sousvit.registry import on_trial
from sousvit.spaces.conformance import exported, tiny_context, tiny_vit
from sousvit.spaces.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from sousvit.objectives.memory_probe import Probe
    from sousvit.spaces.export.artifact import Artifact

#: Long enough for figures, not for good ones.
SHORT = TimingPlan(min_seconds=0.02, max_seconds=0.04, min_groups=3, round_seconds=0.001, warmup=1)


def check_objective(objective: type[Objective] | Objective, subject: Subject | None = None) -> None:
    """Hold an objective to the contract.

    Args:
        objective: a class or an instance; it need not be registered.
        subject: what is measured; by default one block of a tiny Vision Transformer whose base has two, on images of
            noise. An objective of detectors must be given one.

    Raises:
        AssertionError: says which rule is broken.
    """
    with on_trial(objective, OBJECTIVES) as held, tempfile.TemporaryDirectory() as folder:
        if subject is None:
            assert held.task != "detection", f"{held.name}: an objective of detectors must be given a subject"
            subject = made_up_subject(Path(folder))
        _check(held, subject)


def _check(objective: Objective, subject: Subject) -> None:
    _check_description(objective)
    measured = _check_measurement(objective, subject)
    if objective.stage is Stage.STRUCTURE:
        again = objective.measure(subject)
        assert again == measured, f"{objective.name}: a STRUCTURE objective must repeat itself: {measured}, {again}"
    copy = pickle.loads(pickle.dumps(objective))
    assert (copy.name, copy.stage, copy.direction) == (objective.name, objective.stage, objective.direction), (
        f"{objective.name}: a pickled copy must describe itself alike (workers get copies)"
    )
    _check_relative(objective, subject)


def _check_description(objective: Objective) -> None:
    for key in ("unit", "summary"):
        text = getattr(objective, key)
        said = f"{objective.name}: {key} must be one line, not {text!r}"
        assert isinstance(text, str) and text and "\n" not in text, said


def _check_measurement(objective: Objective, subject: Subject) -> Measurement:
    measured = objective.measure(subject)
    assert isinstance(measured, Measurement), f"{objective.name}: measure must return a Measurement, not {measured!r}"
    assert isinstance(measured.value, (int, float)), f"{objective.name}: the value must be a number: {measured.value!r}"
    assert measured.is_finite, f"{objective.name}: the value must be finite, not {measured.value}"
    both = (measured.low is None) == (measured.high is None)
    assert both, f"{objective.name}: an interval has both ends or none: {measured}"
    if measured.low is not None and measured.high is not None:
        ends = math.isfinite(measured.low) and math.isfinite(measured.high)
        assert ends, f"{objective.name}: the interval must be finite: {measured}"
        inside = measured.low <= measured.value <= measured.high
        assert inside, f"{objective.name}: the value must lie in its interval: {measured}"
    return measured


def _check_relative(objective: Objective, subject: Subject) -> None:
    if objective.name.endswith(("_ratio", "_drop")):
        return
    for form in ("ratio", "drop"):
        relative = get_objective(f"{objective.name}_{form}")
        assert relative.stage is objective.stage, f"{relative.name}: its stage must be the original's"
        _check_description(relative)
        try:
            _check_measurement(relative, subject)
        except TrialError as error:  # only a base of zero is an excuse
            assert "base" in str(error), f"{relative.name}: {error}"


@dataclass
class MadeUpSubject:
    """A :class:`Subject` of a tiny classifier in ONNX Runtime, each costly part on first use.

    Args:
        model: takes what :func:`sousvit.spaces.conformance.tiny_vit` takes.
        folder: of its artifact.
        reference: the base; None for the base itself.
    """

    model: nn.Module
    folder: Path
    reference: MadeUpSubject | None = None

    @property
    def base(self) -> MadeUpSubject:
        """What it is compared with."""
        return self.reference or self

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Of one image."""
        return self.artifact.input_shape

    @cached_property
    def artifact(self) -> Artifact:
        """In float32."""
        return exported(self.model, Recipe((), "onnxruntime"), tiny_context(), self.folder)

    @cached_property
    def timing(self) -> Timing:
        """Beside the base, in this process."""
        with open_session(self.artifact, 1, 1) as own, open_session(self.base.artifact, 1, 1) as base:
            return compare(own, base, self.input_shape, SHORT)

    @cached_property
    def probe(self) -> Probe:
        """In a process of its own."""
        return probe_artifact(self.artifact)

    @property
    def energy_mj(self) -> float:
        """Nothing that this device can tell."""
        raise TrialError("no counter")

    def on(self, target: str) -> MadeUpSubject:
        """The same on every target."""
        return self

    @cached_property
    def evaluation(self) -> TopOneEvaluation:
        """On 64 images of noise."""
        context = tiny_context()
        assert context.calibration is not None
        with open_session(self.artifact, 1) as session:
            return evaluate(session, context.calibration, context.normalise)

    @property
    def weight_bits(self) -> float:
        """Of an average weight."""
        return 8 * self.artifact.size_bytes / sum(parameter.numel() for parameter in self.model.parameters())


def made_up_subject(folder: Path) -> MadeUpSubject:
    """One block of a tiny Vision Transformer, whose base has two; their artifacts come to lie in ``folder``."""
    return MadeUpSubject(tiny_vit(1), folder / "small", MadeUpSubject(tiny_vit(2), folder / "base"))
