"""Costs of training, estimated from the trials so far: of a full training, and which rungs are worth theirs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from statistics import median

from sousvit.search.fidelity.learning_curve import FULL, UNTRAINED
from sousvit.search.trial import Trial

#: Parts of a trial's time that its own full training does not repeat as they were.
TRAINING_PARTS = frozenset({"recover", "teacher", "prepare"})
#: A rung pays if it costs no more than so many times what one ``eta`` times cheaper than the next would.
SLACK = 1.25
#: So many trainings tell what trials of a search cost: the first ones which rungs pay, the last ones what comes next.
TELLING = 20


def seconds_in_full(
    trial: Trial, same_model: Iterable[Trial], trained: Sequence[Trial], base_macs: float = 0.0
) -> float:
    """Expected cost of training ``trial`` in full.

    By trainings of its own model, else of its family of networks, else by all that were ``trained``.

    Args:
        base_macs: the base's multiply-accumulates (millions), 0 where they are not known.
    """
    paces = []
    for record in same_model:  # siblings share recovered weights, so theirs count once
        if record.fidelity >= FULL:
            return _rest(trial)
        if record.fidelity > UNTRAINED:
            paces.append(_pace(record))
    return _rest(trial) + (max(paces) if paces else _usual_training(trial, trained, base_macs))


def paying_rungs(rungs: tuple[float, ...], eta: float, records: Iterable[Trial]) -> tuple[float, ...]:
    """The rungs, without those whose trials cost so much, training or not, that they do not pay.

    Successive halving spends on ``eta`` trials of a rung what one of the next takes. Where export, measuring and
    judging take longer than the training, a low rung saves nothing, and its result is worth less. Before the first
    training has shown what else there is to pay, only the training counts.
    """
    trained = list(islice((record for record in records if tells_cost(record)), TELLING))
    fixed = median(map(_rest, trained)) if trained else 0.0
    pace = median(map(_pace, trained)) if trained else 1.0
    kept = [FULL]
    for rung in reversed(rungs[:-1]):
        if (fixed + rung * pace) * eta <= SLACK * (fixed + kept[-1] * pace):
            kept.append(rung)
    return tuple(reversed(kept))


def tells_cost(record: Trial) -> bool:
    """Whether it was trained, and with success."""
    return record.status == "complete" and record.fidelity > UNTRAINED and record.seconds.get("recover", 0.0) > 0


def _rest(trial: Trial) -> float:
    """Seconds of everything but training."""
    return sum(seconds for part, seconds in trial.seconds.items() if part not in TRAINING_PARTS)


def _pace(trial: Trial) -> float:
    """Seconds that all epochs of its training should take."""
    return trial.seconds.get("recover", 0.0) / trial.fidelity


def _usual_training(trial: Trial, trained: Sequence[Trial], base_macs: float) -> float:
    """Seconds that ``trained`` took, scaled to the trial's compute where that is known; 0 where nothing was trained."""
    alike = [record for record in trained if record.parsed.family == trial.parsed.family]
    latest = (alike or trained)[-TELLING:]
    compute = _compute(trial, base_macs)
    known = [(_pace(record), _compute(record, base_macs)) for record in latest]
    by_compute = [pace / own for pace, own in known if own]
    if compute and by_compute:
        return compute * median(by_compute)
    return median(pace for pace, _ in known) if known else 0.0


def _compute(trial: Trial, base_macs: float) -> float:
    """The compute of its full training, in epochs times MACs; 0 where that is not known."""
    if "macs" not in trial.values:
        return 0.0
    macs = trial.values["macs"].value
    return macs * trial.parsed.epochs(macs / base_macs if base_macs else 1.0)
