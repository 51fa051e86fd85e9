"""Costs in seconds of trials and of the answer, foretold from what this run's trials, and its base, have taken.

A trial's cost is a sum over its parts, each known by its own kind: gating and exporting by runtime and quantizer,
building by techniques, training by the family of networks. Of each the worst of the last few counts, because a trial
that does not end in time is lost. Before a kind has been seen the base's own times stand for it, enlarged.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sousvit.search.fidelity.learning_curve import FULL, UNTRAINED
from sousvit.search.judging.gate import analytic_values
from sousvit.spaces.technique import Role

if TYPE_CHECKING:
    from sousvit.objectives.timing import TimingPlan
    from sousvit.search.archive import Archive
    from sousvit.search.trial import BaseRecord, Trial
    from sousvit.spaces.recipe import Recipe
    from sousvit.spaces.shape import ModelShape

#: So many of a kind are remembered.
LATEST = 5
#: A first export takes so many times the base's; one with a quantizer, which it imports, more.
FIRST_EXPORT, FIRST_QUANTIZED = 2.0, 6.0
#: Passes over the calibration images of one technique that repairs what it cuts, before one has shown them.
REPAIR_PASSES = 8.0
#: A training pass costs so many times what prediction does.
TRAINING_PASSES = 3.0
#: Small networks train slower than their multiply-accumulates say.
FIRST_TRAINING = 2.0
#: Views of the training images that the teacher predicts when a training first asks.
TEACHER_VIEWS = 4
#: Seconds of a row beside building, timing and judging: a process of its own probes its memory.
PROBE_SECONDS = 1.5
#: Seconds to write the tables and the report, and to end.
WRITE_SECONDS = 3.0
#: Rows of a final table without leave-one-out: the base, the recipe and the best single technique.
ROWS = 3


class Latest:
    """The last few figures by kind."""

    def __init__(self) -> None:
        self._by_kind: dict[Hashable, deque[float]] = defaultdict(lambda: deque(maxlen=LATEST))

    def note(self, kind: Hashable, seconds: float) -> None:
        """Remember what one took."""
        self._by_kind[kind].append(seconds)

    def worst(self, kind: Hashable, prior: float) -> float:
        """The worst of its kind; of one that nobody has seen the worst of all, and the ``prior`` at least."""
        if kind in self._by_kind:
            return max(self._by_kind[kind])
        return max(prior, *(max(found) for found in self._by_kind.values()), 0.0)

    def guess(self, kind: Hashable, prior: float, factor: float) -> float:
        """The worst of its kind; of one that nobody has seen the worst of all, enlarged; the ``prior`` before any."""
        if kind in self._by_kind:
            return max(self._by_kind[kind])
        return factor * max((max(found) for found in self._by_kind.values()), default=prior)

    def __contains__(self, kind: Hashable) -> bool:
        return kind in self._by_kind

    def known(self, kinds: Iterable[Hashable]) -> dict[Hashable, float]:
        """The worst of each of ``kinds`` that has been seen."""
        return {kind: max(self._by_kind[kind]) for kind in kinds if kind in self._by_kind}


@dataclass
class Costs:
    """What is foretold for one run.

    Args:
        archive: whose trials tell.
        base: the base's times stand in before trials have told.
        shape: the base's.
        careful: how the answer is timed.
        num_targets: on how many devices.
    """

    archive: Archive
    base: BaseRecord
    shape: ModelShape
    careful: TimingPlan
    num_targets: int = 1
    _gates: Latest = field(default_factory=Latest, init=False)
    _exports: Latest = field(default_factory=Latest, init=False)
    _judging: Latest = field(default_factory=Latest, init=False)
    _builds: Latest = field(default_factory=Latest, init=False)
    _paces: Latest = field(default_factory=Latest, init=False)
    _models: set[tuple[str, float]] = field(default_factory=set, init=False)
    _has_taught: bool = field(default=False, init=False)
    _read: int = field(default=0, init=False)

    def of(self, trial: Trial) -> float:
        """Seconds that a pending trial should take."""
        self._read_on()
        recipe = trial.parsed
        made = 0.0 if self._is_made(trial) else self._build(recipe) + self.training(recipe, trial.fidelity)
        return self._gate(recipe) + made + self.finish(recipe)

    def unseen(self, trial: Trial) -> frozenset[str]:
        """What of a pending trial nobody has seen in this run yet: techniques that build, and the family it trains.

        Their cost is a guess: a few steps of the base's training stand for it, which a busy machine may stretch many
        times.
        """
        self._read_on()
        recipe = trial.parsed
        if self._is_made(trial):
            return frozenset()
        family = {recipe.family} if recipe.trains and trial.fidelity > UNTRAINED else set()
        built = {name for name in _built(recipe) if name not in self._builds}
        return frozenset(built | {f"training {name}" for name in family if name not in self._paces})

    def finish(self, recipe: Recipe) -> float:
        """Seconds to export and judge its model."""
        self._read_on()
        return self._export(recipe) + self._judging.worst("", 1.5 * self._base("judge"))

    def training(self, recipe: Recipe, fidelity: float = FULL) -> float:
        """Seconds of its training, of the teacher's part too where nothing was trained before."""
        self._read_on()
        if not recipe.trains or fidelity <= UNTRAINED:
            return 0.0
        teacher = 0.0 if self._has_taught else TEACHER_VIEWS * self.base.epoch_seconds / TRAINING_PASSES
        pace = self._paces.guess(recipe.family, self.base.epoch_seconds, FIRST_TRAINING)
        return teacher + pace * fidelity * self._compute(recipe)

    def verify(self) -> float:
        """Seconds to measure the answer once more, on the images held back."""
        self._read_on()
        return self._exported() + self._timing() + self._judged(self.base.num_unseen)

    def row(self) -> float:
        """Seconds of a row of the final table whose model is there: exported, timed and judged."""
        return self._exported() + self._measured()

    def table(self) -> float:
        """Seconds of the rows that every final table has, and of writing it."""
        return ROWS * self._measured() + self._exported() + self.writing()

    def writing(self) -> float:
        """Seconds to write tables and report."""
        return WRITE_SECONDS * bool(self.base.seconds)

    def _read_on(self) -> None:
        for trial in self.archive.since(self._read):
            self._read += 1
            if not trial.source and trial.status != "failed":
                self._note(trial)

    def _note(self, trial: Trial) -> None:
        seconds, recipe = trial.seconds, trial.parsed
        self._has_taught |= seconds.get("teacher", 0.0) > 0
        kind = _deployment(recipe)
        if "gate" in seconds:
            self._gates.note(kind, seconds["gate"])
        if trial.status != "complete":
            return
        self._models.add((trial.model_key, trial.fidelity))
        if "export" in seconds:
            self._exports.note(kind, seconds["export"])
        if "judge" in seconds and trial.fidelity >= FULL:
            self._judging.note("", seconds["judge"])
        for name in _built(recipe):
            self._builds.note(name, seconds.get("build", 0.0))
        trained = seconds.get("recover", 0.0) + seconds.get("prepare", 0.0)
        compute = trial.fidelity * self._compute(recipe)
        if trained and compute:
            self._paces.note(recipe.family, trained / compute)

    def _is_made(self, trial: Trial) -> bool:
        """Whether its model was made before, for another deployment."""
        return (trial.model_key, trial.fidelity) in self._models

    def _gate(self, recipe: Recipe) -> float:
        factor = FIRST_EXPORT if recipe.deploy_step is None else FIRST_QUANTIZED
        return self._gates.worst(_deployment(recipe), factor * self._base("export") + self._base("timing") / 2)

    def _export(self, recipe: Recipe) -> float:
        return self._exports.worst(_deployment(recipe), FIRST_EXPORT * self._base("export"))

    def _build(self, recipe: Recipe) -> float:
        names = set(_built(recipe))
        known = self._builds.known(names)
        images = self.base.images
        one_pass = self.base.epoch_seconds / TRAINING_PASSES * images.get("calibration", 0) / (images.get("train") or 1)
        return max(known.values(), default=0.0) + REPAIR_PASSES * one_pass * len(names - known.keys())

    def _compute(self, recipe: Recipe) -> float:
        """Compute of its full training, in epochs of the base."""
        values, whole = analytic_values(recipe, self.shape, self.base.values), self.base.values.get("macs")
        share = values["macs"].value / whole.value if whole is not None and "macs" in values and whole.value else 1.0
        return share * recipe.epochs(share)

    def _measured(self) -> float:
        """Of a row whose artifact is there: that of the base, and of the recipe that was confirmed."""
        self._read_on()
        images = self.base.images.get("test") or self.base.images.get("validation", 0)
        return self._timing() + self._judged(images) + PROBE_SECONDS * bool(self.base.seconds)

    def _exported(self) -> float:
        return self._exports.worst(None, self._base("export"))

    def _timing(self) -> float:
        """Of one row on all targets: as long as the base took, but not longer than a plan may."""
        took = 1.2 * self._base("timing")
        return min(self.num_targets * self.careful.max_seconds, took)

    def _judged(self, num_images: int) -> float:
        validation = self.base.images.get("validation", 0)
        share = num_images / validation if validation else 1.0
        return self._judging.worst("", self._base("judge")) * share

    def _base(self, part: str) -> float:
        return self.base.seconds.get(part, 0.0)


def _deployment(recipe: Recipe) -> tuple[str, str]:
    """What gating and exporting depend on."""
    step = recipe.deploy_step
    return recipe.runtime, "" if step is None else step.technique


def _built(recipe: Recipe) -> tuple[str, ...]:
    """Techniques that change the model before it is trained."""
    steps = (step for step in recipe.model_steps if not step.role.trains and step.role is not Role.SUPPLY)
    return tuple(step.technique for step in steps)
