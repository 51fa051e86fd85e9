"""Many workers: results recorded together, recipes asked for ahead, and a killed search that loses and doubles none."""

from __future__ import annotations

import os
import random

import pytest

from sousvit.search.archive import Archive
from sousvit.search.callbacks import Callback
from sousvit.search.engine import RUNNING_A_TRIAL_AHEAD
from sousvit.search.executors.simulated import SimulatedExecutor
from sousvit.search.fidelity.underway import Underway, is_late
from sousvit.search.stored.lines import Lines
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe, Step

#: Without what is drawn at random for an attempt.
SHOWN = ("key", "status", "origin", "number", "values")


def shown(archive):
    return [tuple(getattr(trial, name) for name in SHOWN) for trial in archive]


def trial(keep: float, **changes) -> Trial:
    return Trial.pending(Recipe((Step.make("prune_mlp", keep=keep),)), 1.0, 0).changed(**changes)


def test_results_that_come_together_wait_for_the_disk_once_and_change_nothing(simulated, monkeypatch):
    syncs, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda place: (syncs.append(place), real(place)))
    found, counts = {}, {}
    for name in ("together", "one by one"):
        if name == "one by one":
            monkeypatch.setattr(SimulatedExecutor, "wait_for_some", lambda executor: [executor.wait()])
        run = simulated(folder=name, workers=12, search={"trials": 120})
        syncs.clear()
        run.engine.run()
        found[name], counts[name] = shown(run.archive), len(syncs)
        run.archive.close()
    assert found["together"] == found["one by one"] and len(found["together"]) >= 120
    assert counts["one by one"] >= 120 > 1.5 * counts["together"]


def test_kept_trials_are_on_disk_before_anybody_knows_them(tmp_path):
    archive, trials = Archive(tmp_path, writable=True), [trial(keep, status="complete") for keep in (0.25, 0.5)]
    archive.keep(trials)
    assert not len(archive) and [one.key for one in Archive(tmp_path)] == [one.key for one in trials]
    assert archive.add(trials[1]) and not archive.add(trials[1]) and len(archive) == 1
    archive.keep(trials)
    assert sum(1 for _ in Lines(tmp_path / "events.jsonl")) == 2


class Killed(Exception):
    """The search ends here."""


class Kill(Callback):
    """Ends a search when so many trials are told."""

    def __init__(self, at: int) -> None:
        self._at = at

    def on_trial(self, told, counts):
        if counts.finished == self._at:
            raise Killed


def test_a_search_that_is_killed_between_results_kept_together_doubles_and_loses_none(simulated):
    run = simulated(workers=12, search={"trials": 120})
    run.engine._callback = Kill(61)
    with pytest.raises(Killed):
        run.engine.run()
    run.archive.close()
    on_disk = len(Archive(run.archive.folder))
    assert on_disk > len(run.archive), "some were kept and not told"
    again = simulated(workers=12, search={"trials": 120})
    known = {one.key for one in again.archive}
    again.engine.run()
    assert len(again.archive) == len({one.key for one in again.archive}) >= 120
    assert not known & {Trial.pending(Recipe.from_dict(job.recipe), job.fidelity, job.seed).key
                        for job in again.executor.jobs}  # fmt: skip
    told = [event["number"] for event in Lines(again.archive.folder / "events.jsonl") if event["event"] == "told"]
    assert len(told) == len(set(told))


def test_few_workers_ask_for_nothing_ahead_and_many_for_a_share(simulated):
    ahead = {}
    for workers in (1, 2 * RUNNING_A_TRIAL_AHEAD):
        run = simulated(folder=str(workers), workers=workers, search={"trials": 4 * workers})
        prepare = run.engine.prepare

        def prepared(prepare=prepare, run=run, workers=workers):
            prepare()
            ahead[workers] = max(ahead.get(workers, 0), run.engine._underway.num_ahead)

        run.engine.prepare = prepared
        run.engine.run()
        assert len({job.attempt for job in run.executor.jobs}) == len(run.executor.jobs)
        assert len({one.key for one in run.archive}) == len(run.archive) >= 4 * workers
    assert ahead == {1: 0, 2 * RUNNING_A_TRIAL_AHEAD: 2}


def test_what_is_counted_of_trials_on_their_way_is_what_a_look_at_all_would_find():
    generator, underway = random.Random(0), Underway()
    drawn = [Step.make("prune_mlp", keep=keep / 100) for keep in range(10, 60)]
    held, ahead, running = [], [], {}
    for number in range(600):
        steps = (generator.choice(drawn), *((Step.make("distill", epochs=1),) if number % 3 else ()))
        one = Trial.pending(Recipe(steps), generator.choice((0.25, 1.0)), 0)
        one = one.changed(origin=generator.choice(("proposed", "promoted", "variant")))
        what = generator.randrange(6)
        if what == 0:
            underway.hold(one)
            held.append(one)
        elif what == 1:
            underway.stock(one)
            ahead.append(one)
        elif what == 2:
            underway.start(str(number), one)
            running[str(number)] = one
        elif what == 3 and running:
            attempt = generator.choice(list(running))
            assert underway.end(attempt) is running.pop(attempt)
            assert underway.end(attempt) is None
        elif what == 4 and ahead:
            assert underway.take_stocked() is ahead.pop(0)
        elif what == 5:
            busy = {(other.model_key, other.fidelity) for other in running.values()}
            free = [other for other in held if not other.parsed.trains or (other.model_key, other.fidelity) not in busy]
            taken = underway.take_held(lambda _: True)
            assert taken is (free[0] if free else None)
            held = [other for other in held if other is not taken]
        every = [*running.values(), *held, *ahead]
        assert list(underway) == every and len(underway) == len(every)
        assert underway.busy == {other.model_key for other in every if other.parsed.trains}
        assert underway.num_late == sum(map(is_late, every)) and all(underway.has(other.key) for other in every)
        assert not underway.has("nothing")
