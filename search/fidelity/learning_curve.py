"""The learning curve: what full training should make of a result at a low rung, as the share of its loss that stays.

It is learned from recipes that were judged at several rungs; a loss is the distance from the base's figure. For
instance: where others kept half of their loss, a recipe that is 4 points below the base after a tenth of the epochs
should end 2 points below it. A recipe that was not trained in full stands in by its highest rung, continued so.

Models that begin with the base's weights, with pretrained and with random ones learn differently: each by its own kind.
A network with other weights than the base's does not end at the base, but where its size lets it. So its loss is its
errors (the distance of a share such as the accuracy from 1), and the more epochs it has seen, the less of them the rest
takes away: training on by a factor ``f`` leaves ``f ** -(SLOWNESS / sqrt(epochs))``. Students of CIFAR-10 that went
from 3 to 12 epochs kept 0.72 of their errors, and one that went from 8 to 33 kept 0.90.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache

from sousvit.objectives.objective import Measurement, Stage, get_objective
from sousvit.search.preference.gains import Original
from sousvit.search.trial import Trial
from sousvit.spaces.context import Start

FULL = 1.0
#: Fidelity of a recipe that is judged untrained: cut and repaired, its recovery left out.
UNTRAINED = 0.0
#: Share of the loss of such an evaluation that full training should leave: a guess, until promotions show better.
UNTRAINED_SHARE = 0.8
#: What is lost is taken to fall with this power of the training: a guess, until promotions show better.
LOSS_POWER = 1 / 3
#: How fast a network with other weights than the base's stops to gain, and what pairs of results (in units of the
#: square of their exponent) outweigh that guess.
SLOWNESS, SLOWNESS_WEIGHT = 0.4, 0.5
#: Loss at the low rung (of figures around 1) that promotions must have shown to weigh as much as that expectation.
SHOWN = 0.02
#: How far the share of one recipe lies from the usual one (a standard deviation), and how many recipes outweigh that.
SPREAD, SPREAD_WEIGHT = {Start.BASE: 0.35, Start.PRETRAINED: 0.15, Start.RANDOM: 0.15}, 4
#: Width of an interval from all validation images, relative to that of the low rung's quarter.
NARROWER = 0.5


@cache
def is_trained(name: str) -> bool:
    """Whether training decides the objective."""
    return get_objective(name).stage is Stage.TRAINED


class LearningCurve:
    """What is known of a run's learning so far.

    Args:
        base: the base's figures, by objective.
        records: all results.
    """

    def __init__(self, base: Mapping[str, Measurement], records: Iterable[Trial]) -> None:
        self._base = base
        self._base_macs = base["macs"].value if "macs" in base else 0.0
        self._slowness: dict[tuple[Start, str], float] = {}
        self._shares: dict[tuple[str, float], float] = {}
        self._spreads: dict[tuple[Start, str, float], float] = {}
        by_recipe: dict[tuple[str, int], list[Trial]] = defaultdict(list)
        for record in records:
            if record.status == "complete":
                by_recipe[record.recipe_key, record.seed].append(record)
        climbed = [sorted(steps, key=lambda r: r.fidelity) for steps in by_recipe.values() if len(steps) > 1]
        rungs = {record.fidelity for steps in climbed for record in steps if record.fidelity < FULL}
        for rung in sorted(rungs, reverse=True):  # what follows from a rung must be known before those below it
            pairs = [(one, steps[-1]) for steps in climbed for one in steps[:-1] if one.fidelity == rung]
            self._learn(rung, [(low, high) for low, high in pairs if low.parsed.start is Start.BASE])
        pairs = [(one, steps[-1]) for steps in climbed for one in steps[:-1] if one.fidelity > UNTRAINED]
        for start in (Start.PRETRAINED, Start.RANDOM):
            self._learn_slowness(start, [(low, high) for low, high in pairs if low.parsed.start is start])

    def _learn(self, rung: float, pairs: list[tuple[Trial, Trial]]) -> None:
        """From results of ``rung`` and the highest ones of the same recipes, cut from the base."""
        losses: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for low, high in pairs:
            for name in filter(self._is_comparable, low.values.keys() & high.values.keys()):
                reference = self._base[name].value
                after = (high.get(name) - reference) * self.share(name, high.fidelity)
                losses[name].append((low.get(name) - reference, after))
        for name, found in losses.items():
            before, after = map(sum, zip(*found, strict=True))
            share = _share(after, before, SHOWN, _usual_share(rung))
            apart = [(end / begun - share) ** 2 for begun, end in found if abs(begun) > SHOWN / 2]
            self._shares[name, rung] = share
            self._spreads[Start.BASE, name, rung] = _spread(Start.BASE, apart)

    def _learn_slowness(self, start: Start, pairs: list[tuple[Trial, Trial]]) -> None:
        """From two results each of networks whose weights had another ``start`` than the base's."""
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for low, high in pairs:
            exponent = self._unit(low) * math.log(high.fidelity / low.fidelity)
            for name in filter(self._is_comparable, low.values.keys() & high.values.keys()):
                reference = self._reference(name, start)
                before, after = low.get(name) - reference, high.get(name) - reference
                if before * after > 0:
                    found[name].append((exponent, math.log(before / after)))
        for name, known in found.items():
            weight = SLOWNESS_WEIGHT + sum(unit * unit for unit, _ in known)
            slowness = (SLOWNESS_WEIGHT * SLOWNESS + sum(unit * gain for unit, gain in known)) / weight
            self._slowness[start, name] = slowness
            apart = [(gain - slowness * unit) ** 2 for unit, gain in known]
            self._spreads[start, name, FULL] = _spread(start, apart)

    def _unit(self, trial: Trial) -> float:
        """What a slowness of 1 takes off the log of a network's errors while its training grows by a factor of e."""
        share = trial.values["macs"].value / self._base_macs if self._base_macs and "macs" in trial.values else 1.0
        epochs = trial.parsed.epochs(share) * trial.fidelity
        return 1 / math.sqrt(epochs) if epochs > 0 else 0.0

    def share(self, name: str, fidelity: float) -> float:
        """Share of its loss at ``fidelity`` that full training leaves of what was cut from the base."""
        return 1.0 if fidelity >= FULL else self._shares.get((name, fidelity), _usual_share(fidelity))

    def spread(self, name: str, fidelity: float, start: Start = Start.BASE) -> float:
        """Standard deviation of that share among recipes; of networks with another start it is the same everywhere."""
        if fidelity >= FULL:
            return 0.0
        return self._spreads.get((start, name, fidelity if start is Start.BASE else FULL), SPREAD[start])

    def share_of(self, name: str, trial: Trial) -> float:
        """Share of a trial's loss that its full training leaves."""
        start, fidelity = trial.parsed.start, trial.fidelity
        if start is Start.BASE or fidelity <= UNTRAINED:
            return self.share(name, fidelity)
        slowness = self._slowness.get((start, name), SLOWNESS)
        return min(1.0, fidelity ** (slowness * self._unit(trial)))

    def expected(self, trial: Trial, optimistic: bool = False) -> Trial:
        """``trial`` as it should come out of its full training; ``optimistic``: by a standard deviation better."""
        if trial.fidelity >= FULL:
            return trial
        values, start = dict(trial.values), trial.parsed.start
        for name, value in trial.values.items():
            if self._is_comparable(name):
                change = value.value - self._reference(name, start)
                is_loss = change < 0 if get_objective(name).direction == "maximize" else change > 0
                if is_loss:  # training more takes none of a gain away
                    left = self.share_of(name, trial) - optimistic * self.spread(name, trial.fidelity, start)
                    values[name] = _moved(value, -change * (1 - max(0.0, left)))
        return replace(trial, values=values)

    def _reference(self, name: str, start: Start) -> float:
        """The figure that losses are measured from: the base's, or without its weights the best there can be."""
        original = Original.of(name)
        if start is Start.BASE or not original.is_quality or original.name not in self._base:
            return self._base[name].value
        best = 1.0 if original.objective.direction == "maximize" else 0.0
        return original.figure(best, self._base[original.name].value)

    def _is_comparable(self, name: str) -> bool:
        return name in self._base and is_trained(name)


def _spread(start: Start, apart: list[float]) -> float:
    """The standard deviation, by squares of what was ``apart`` and what is usual."""
    variance = (SPREAD_WEIGHT * SPREAD[start] ** 2 + sum(apart)) / (SPREAD_WEIGHT + len(apart))
    return float(variance**0.5)


def _usual_share(fidelity: float) -> float:
    return UNTRAINED_SHARE if fidelity == UNTRAINED else fidelity**LOSS_POWER


def _share(after: float, before: float, doubt: float, usual: float) -> float:
    """What is left of ``before``, near ``usual`` where ``before`` is small against ``doubt`` (mostly noise)."""
    doubt = doubt if before >= 0 else -doubt
    return min(1.0, max(0.0, (after + usual * doubt) / (before + doubt))) if before + doubt else 1.0


def _moved(value: Measurement, by: float) -> Measurement:
    """``value`` changed, with the interval that all validation images would give."""
    low, high = (
        None if end is None else value.value + by + (end - value.value) * NARROWER for end in (value.low, value.high)
    )
    return Measurement(value.value + by, low, high)
