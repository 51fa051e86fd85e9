"""Standings that grew with their trials know what those know that take in all trials at once."""

from __future__ import annotations

import random

import pytest

from sousvit.objectives.objective import Measurement
from sousvit.search.fidelity.halving import Halving
from sousvit.search.fidelity.standings import Standings
from sousvit.search.goals import Goals
from sousvit.search.limits import Limit
from sousvit.search.trial import Trial

LIMITS = [Limit("accuracy_drop", 0.05, False), Limit("latency_ratio", 0.9, False)]
BASE = {
    "accuracy": Measurement(0.9),
    "accuracy_drop": Measurement(0.0),
    "latency": Measurement(10.0),
    "latency_ratio": Measurement(1.0),
}
GOALS = Goals(LIMITS, {"latency": 1.0, "accuracy": 1.0}, BASE)


def some_trial(chance: random.Random, number: int) -> Trial:
    """One of twenty recipes at some fidelity, a fifth of them without success."""
    keep, deploy = chance.randrange(1, 11) / 10, chance.choice(["int8_dynamic", ""])
    steps = [{"technique": "prune_mlp", "keep": keep}, {"technique": "distill", "epochs": 2}]
    steps += [{"technique": deploy}] if deploy else []
    drop, fidelity = chance.uniform(0, 0.1), chance.choice([0.0, 0.25, 1.0])
    ratio = keep * (0.5 if deploy else 1.0)
    values = {
        "accuracy": 0.9 - drop,
        "accuracy_drop": drop,
        "latency": 10 * ratio,
        "latency_ratio": ratio,
        "macs": keep,
    }
    return Trial(
        str(number),
        {"runtime": "onnxruntime", "steps": steps},
        fidelity,
        0,
        chance.choice(["complete"] * 4 + ["failed"]),
        {name: Measurement(value) for name, value in values.items()},
        origin=chance.choice(["proposed", "promoted"]),
        seconds={"recover": 4 * fidelity, "judge": 1.0},
    )


def fresh(trials: list[Trial]) -> Standings:
    """One that reads ``trials`` at once."""
    standings = Standings(trials, GOALS)
    standings.read_on()
    return standings


@pytest.mark.parametrize("seed", range(10))
def test_what_grew_is_what_is_read_at_once(seed):
    chance = random.Random(seed)
    trials: list[Trial] = []
    grown = Standings(trials, GOALS)
    for number in range(60):
        trials.append(some_trial(chance, number))
        if number % 3:
            continue
        grown.read_on()
        once, optimistic = fresh(trials), bool(chance.getrandbits(1))
        waiting = list(once.waiting.values())
        assert grown.waiting == once.waiting and (grown.final == once.final).all() and grown.best == once.best
        for trial in waiting:
            assert grown.expected(trial, optimistic) == once.expected(trial, optimistic)
        assert (grown.by_model, grown.trained, grown.singles) == (once.by_model, once.trained, once.singles)
    assert len(grown.final) and grown.waiting and grown.promoted


def test_by_definition():
    chance = random.Random(1)
    trials = [some_trial(chance, number) for number in range(200)]
    standings, done = fresh(trials), {trial.recipe_key for trial in trials if trial.fidelity >= 1}
    rising = [trial for trial in trials if standings.can_rise(trial) and trial.recipe_key not in done]
    highest = {trial.recipe_key: trial.fidelity for trial in sorted(rising, key=lambda trial: trial.fidelity)}
    assert {key: trial.fidelity for key, trial in standings.waiting.items()} == highest
    final = [t for t in trials if t.is_final and all(limit.violation(t.values[limit.name]) <= 0 for limit in LIMITS)]
    assert standings.final.tolist() == [[t.get("latency"), -t.get("accuracy")] for t in final]
    assert standings.best == max(GOALS.score(trial.values) for trial in final)
    assert standings.singles == [trial for trial in trials if "int8_dynamic" not in trial.techniques]


def test_a_policy_ranks_what_grew_as_what_it_is_given_at_once():
    chance = random.Random(3)
    trials: list[Trial] = []
    grown = Halving((0.25, 1.0), True, 4.0, 0.5, GOALS, trials)
    chosen = []
    for number in range(50):
        trials.append(some_trial(chance, number))
        once = Halving((0.25, 1.0), True, 4.0, 0.5, GOALS, list(trials))
        assert grown.next(1e9) == once.next(1e9) and grown.next_single(1e9) == once.next_single(1e9)
        chosen += [grown.next(1e9), grown.next_single(1e9)]
    assert any(one and one.is_single for one in chosen) and any(one and not one.is_single for one in chosen)
