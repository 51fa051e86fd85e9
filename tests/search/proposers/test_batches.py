"""Batches of proposals: several recipes from one look at the results, which add most together."""

from __future__ import annotations

import numpy as np
import pytest

from sousvit.search.archive import Archive
from sousvit.search.goals import Goals
from sousvit.search.limits import parse_limits
from sousvit.search.proposers.acquisition import Improvement, Weighed, greedy
from sousvit.search.proposers.auto import Auto
from sousvit.search.proposers.batches import LEAST, Batches
from sousvit.search.proposers.model_based import MAX_PENDING, MIN_RESULTS
from sousvit.search.proposers.proposer import Problem
from sousvit.search.proposers.queue import ProposalQueue
from sousvit.search.trial import Trial, trial_key
from sousvit.spaces.space import make_space, read_space
from tests.search.simulation import base_record, figures


@pytest.fixture(scope="module")
def problem(shape):
    space, _ = make_space(read_space("default"), shape, ("onnxruntime",))
    limits = parse_limits({"accuracy_drop": 0.05})
    goals = Goals(limits, {"latency": 1.0, "size": 1.0, "accuracy": 1.0}, base_record(shape).values)
    return Problem(space, shape, goals, expected_trials=2000)


@pytest.fixture(scope="module")
def drawn(problem):
    """Recipes drawn by chance: results, and others that are on their way."""
    import random

    generator, found = random.Random(0), {}
    while len(found) < 120:
        recipe = problem.recipe(problem.space.draw(generator, {})[0])
        try:
            recipe.reshape(problem.shape)
        except Exception:  # a combination that does not fit
            continue
        found[recipe.hash] = recipe
    return list(found.values())


@pytest.fixture(scope="module")
def trials(problem, drawn):
    return [judged(problem, recipe) for recipe in drawn[:80]]


def judged(problem, recipe):
    plain = recipe.to_dict()
    values = figures(recipe, problem.shape, 1.0)
    return Trial(trial_key(plain, 1.0, 0), plain, 1.0, 0, "complete", values)


def test_a_batch_holds_different_recipes_that_nobody_has_asked_for(problem, trials, drawn):
    pending = drawn[80:]
    found = [problem.recipe(one) for one in Batches(problem).propose_many(trials, pending, seed=1)]
    assert len(found) >= LEAST and len({recipe.hash for recipe in found}) == len(found)
    assert not {recipe.hash for recipe in found} & {recipe.hash for recipe in drawn}


def test_nothing_is_proposed_before_there_is_something_to_learn(problem, trials):
    assert Batches(problem).propose_many(trials[: MIN_RESULTS - 1], [], seed=1) == []


def test_a_batch_hangs_on_the_results_and_not_on_the_batches_before(problem, trials, drawn):
    often = Batches(problem)
    for count in (20, 50):
        often.propose_many(trials[:count], drawn[80:], seed=count)
    assert often.propose_many(trials, drawn[80:], seed=1) == Batches(problem).propose_many(trials, drawn[80:], seed=1)


def test_what_a_batch_should_add_is_more_than_chance_adds(problem, trials):
    """By the figures that its recipes turn out to have."""
    import random

    goals, generator = problem.goals, random.Random(1)
    batch = [problem.recipe(one) for one in Batches(problem).propose_many(trials, [], seed=1)]
    chance = []
    while len(chance) < len(batch):
        recipe = problem.recipe(problem.space.draw(generator, {})[0])
        if recipe.fitting(problem.shape) == recipe:
            chance.append(recipe)

    def volume(recipes):
        import moocore

        held = [one.values for one in [*trials, *(judged(problem, recipe) for recipe in recipes)]]
        base = goals.base
        points = [[v["latency"].value / base["latency"].value, v["size"].value / base["size"].value,
                   v["accuracy_drop"].value / 0.05] for v in held if goals.holds(v)]  # fmt: skip
        return moocore.hypervolume(np.array(points), ref=[1.0, 1.0, 1.0])

    assert volume(batch) > volume(chance) >= volume([])


def test_the_best_of_a_batch_is_the_best_there_is_and_a_twin_of_it_waits():
    generator = np.random.default_rng(0)
    costs = generator.uniform(0.1, 0.9, (40, 2))
    mean = 0.9 - 0.4 * (1 - costs.mean(1)) + generator.uniform(-0.05, 0.05, 40)  # what costs more is better
    reached, at, reference = np.array([0.5]), np.array([[0.5, 0.5]]), np.array([0.0, 1.0, 1.0])

    def weighed(places):
        std = np.full(len(places), 1e-3)
        return Weighed(reached, at, reference, costs.min(0), mean[places], std, costs[places])

    every = list(range(40))
    best, _ = Improvement(reached, at, reference, costs.min(0)).best(
        mean, np.full(40, 1e-3), costs, np.ones(40)
    )  # fmt: skip
    found = greedy(weighed(every), np.ones(40), 5)
    assert found[0] == best and len(set(found)) == 5
    assert greedy(weighed([*every, best]), np.ones(41), 5) in (found, [40, *found[1:]])
    assert greedy(weighed(every), np.zeros(40), 5) == []


def test_what_is_left_of_a_batch_waits_in_a_resumed_search_too(problem, trials, drawn, tmp_path):
    def queue(folder):
        archive = Archive(tmp_path / folder, writable=True)
        return ProposalQueue(problem, Auto(problem), archive), archive

    asked = {}
    for folder in ("whole", "cut"):
        proposals, archive = queue(folder)
        for trial in trials:
            archive.add(trial)
        pending = drawn[80:][: MAX_PENDING + 4]
        asked[folder] = [dict(proposals.ask(pending).parameters) for _ in range(3)]
        if folder == "cut":
            archive.close()
            proposals, archive = queue(folder)
            assert proposals.is_waiting
        asked[folder] += [dict(proposals.ask(pending).parameters) for _ in range(4)]
        archive.close()
    assert asked["whole"] == asked["cut"]
