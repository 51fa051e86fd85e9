"""What the proposer asks for when the sampler repeats itself."""

from __future__ import annotations

import random

import optuna
import pytest

from sousvit.search.goals import Goals
from sousvit.search.proposers.optuna import Proposer
from sousvit.spaces.space import make_space

SPACE = {
    "prune_depth": {"drop": [0, 1, 2]},
    "prune_mlp": {"keep": [1.0, 0.75, 0.5], "importance": ["activation", "magnitude"], "allocation": ["uniform"]},
    "int8_dynamic": {"weights": ["uint8"], "per_channel": [True]},
}


@pytest.mark.parametrize("begun", [False, True], ids=["a young study", "a study with trials"])
def test_a_changed_recipe_is_drawn_until_it_is_new(shape, begun):
    space, _ = make_space({"techniques": SPACE}, shape, ("onnxruntime",))
    proposer = Proposer(space, shape, Goals(weights={"latency": 1.0}), seed=0)
    if begun:
        proposer.reject(proposer.ask())
    recipes = sorted({recipe.canonical(shape).hash for _, recipe in space.suggestions()})
    left = set(random.Random(0).sample(recipes, len(recipes) // 3))
    for _ in range(6):
        proposer.enqueue_mutation(lambda recipe: recipe.canonical(shape).hash in left)
        asked = proposer.ask().recipe.hash
        assert asked in left
        left.remove(asked)


def test_where_nothing_is_new_the_last_one_drawn_is_asked(shape):
    space, _ = make_space({"techniques": SPACE}, shape, ("onnxruntime",))
    proposer = Proposer(space, shape, Goals(weights={"latency": 1.0}), seed=0)
    drawn = []

    def is_new(recipe):
        drawn.append(recipe)
        return False

    proposer.enqueue_mutation(is_new)
    proposal = proposer.ask()
    assert proposal.recipe == drawn[-1].canonical(shape)
    assert [trial.state for trial in proposer.study.trials] == [optuna.trial.TrialState.RUNNING]


def test_a_recipe_waits_from_when_it_is_enqueued_until_it_is_asked(shape):
    space, _ = make_space({"techniques": SPACE}, shape, ("onnxruntime",))
    proposer = Proposer(space, shape, Goals(weights={"latency": 1.0}), seed=0)
    assert not proposer.is_waiting
    proposer.enqueue_mutation(lambda recipe: True)
    assert proposer.is_waiting
    proposer.ask()
    assert not proposer.is_waiting
