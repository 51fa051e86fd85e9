"""Confirmation: the chosen recipe measured again, and judged on images that no trial was judged on.

The best of many recipes is partly the luckiest: on the images that judged them all, the choice flatters it. So a part
of the validation images is held back (``search: {confirm: 0.5}``), and the choice has to hold every limit there too;
where it does not, the next one is tried. Trying several on the same images would again pick the luckiest, so each
further one must hold the limits more surely: of the error probability that the budget allows (one minus its
confidence), the first may spend a half, the next a quarter, and so on. Together they spend no more than all of it,
which bounds how often an answer that breaks a limit is confirmed (Bonferroni's inequality with unequal shares, as in
Wiens, Pharmaceutical Statistics 2, 2003). Where a model failed there, its other deployments would, too, so other models
are tried first. Which recipes are tried is decided by the search's own figures: always the
best of those that hold the limits there as surely as they will have to on the images held back.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from sousvit.objectives.objective import Measurement
from sousvit.search.archive import Archive
from sousvit.search.callbacks import AnswerStage, Callback
from sousvit.search.executors.executor import Executor, Verify
from sousvit.search.goals import Goals
from sousvit.search.results import Answer, Confirmation, best, candidates, choose
from sousvit.search.trial import Trial, encode
from sousvit.search.verdict import HELD_BACK, hangs_on_images

if TYPE_CHECKING:
    from sousvit.search.timekeeping.schedule import Schedule

#: How often the best feasible recipe may fail to be confirmed before the search gives up.
MOST_TRIED = 5


def confidence_of(place: int, confidence: float) -> float:
    """One-sided level for the recipe that is tried after ``place`` others; 0.5 asks for no margin, and stays so."""
    return confidence if confidence <= 0.5 else 1 - (1 - confidence) / 2 ** (place + 1)


def confirmed_answer(
    archive: Archive,
    goals: Goals,
    confidence: float,
    executor: Executor,
    callback: Callback,
    schedule: Schedule | None = None,
) -> Answer:
    """The best recipe that holds the limits when it is measured again; the nearest miss where none does.

    Where recipes cost what they may, but none was shown to be good enough on the images held back, it is the one that
    missed it least there, with a confirmation that does not hold. Against a ``schedule`` further ones are tried only
    while there is time for them.
    """
    unconfirmed: list[tuple[float, Answer]] = []
    last: Answer | None = None
    answer = choose(archive, goals)
    for number in range(MOST_TRIED):
        if number and schedule is not None and not schedule.may_confirm():
            callback.on_message("no time is left to try another recipe")
            answer = last or answer
            break
        level = confidence_of(archive.num_tried, confidence)
        answer = _candidate(archive, goals, level)
        if answer.chosen is None or not answer.feasible:
            break
        known = archive.confirmed.get(answer.chosen.key)
        if known is not None:  # it was confirmed before this run was resumed
            return replace(answer, confirmation=_confirmation(archive, answer.chosen, known, holds=True))
        callback.on_stage(AnswerStage.CONFIRMING)
        timing = math.inf if schedule is None else schedule.timing_seconds()
        again = executor.call(Verify(answer.chosen.recipe, answer.chosen.fidelity, timing))
        asked = goals.at_least(level)
        broken, said = asked.violations(again, measured_only=True), asked.explain(again, measured_only=True)
        event = {"key": answer.chosen.key, "values": encode(again), "confidence": level}
        if not broken:
            archive.append("confirmed", **event)
            return replace(answer, confirmation=_confirmation(archive, answer.chosen, again, holds=True))
        archive.append("rejected", **event, broken=list(broken), said="; ".join(said))
        costs = [name for name in broken if not hangs_on_images(name)]
        if costs:
            callback.on_message(f"the best recipe broke {', '.join(costs)} when measured again; taking the next")
            last = replace(answer, feasible=False, violated=(f"measured again: {'; '.join(said)}",))
        else:
            callback.on_message(f"not confirmed on {HELD_BACK}: {'; '.join(said)}; taking the next")
            found = _confirmation(archive, answer.chosen, again, holds=False)
            unconfirmed.append((asked.miss(again), replace(answer, confirmation=found)))
    else:
        callback.on_message(f"{MOST_TRIED} recipes in a row were not confirmed when measured again; giving up")
        answer = last or answer
    if unconfirmed:
        least = min(unconfirmed, key=lambda entry: entry[0])[1]
        assert least.confirmation is not None
        return replace(least, confirmation=replace(least.confirmation, tried=archive.num_tried))
    return answer


def confirmed_before(answer: Answer, archive: Archive, goals: Goals) -> Answer:
    """``answer``, with the best recipe that was confirmed already in the place of its own, where there is one."""
    tried = best((trial for trial in candidates(archive, goals) if trial.key in archive.confirmed), goals)
    if tried is None:
        return answer
    found = _confirmation(archive, tried, archive.confirmed[tried.key], holds=True)
    return replace(answer, chosen=tried, confirmation=found)


def _candidate(archive: Archive, goals: Goals, level: float) -> Answer:
    """What to try next: the best recipe that holds the limits at ``level``, or just as surely as the budget asks.

    A recipe that was confirmed in an earlier session is not tried again, and need not be any surer.
    """
    answer = choose(archive, goals)
    pool = _others(candidates(archive, goals), archive)
    surer = best(pool, goals.at_least(level))
    known = best((trial for trial in pool if trial.key in archive.confirmed), goals)
    tried = best((trial for trial in (surer, known) if trial is not None), goals)
    return answer if tried is None else replace(answer, chosen=tried)


def _others(pool: list[Trial], archive: Archive) -> list[Trial]:
    """``pool`` without other deployments of models that the images turned down: their predictions hardly differ."""
    failed = {archive.trials[key].model_key for key in archive.turned_down & archive.trials.keys()}
    return [trial for trial in pool if trial.model_key not in failed or trial.key in archive.confirmed] or pool


def _confirmation(archive: Archive, trial: Trial, values: dict[str, Measurement], holds: bool) -> Confirmation:
    num_images = 0 if archive.base is None else archive.base.num_unseen
    return Confirmation(values, archive.asked_confidence[trial.key], archive.num_tried, num_images, holds)
