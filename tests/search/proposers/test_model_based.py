"""The model of the results: when it proposes, and what it leaves out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sousvit.objectives.objective import Measurement
from sousvit.search.proposers.auto import NSGA_TRIALS, Auto
from sousvit.search.proposers.conformance import made_up_figures, made_up_problem
from sousvit.search.proposers.model_based import MAX_PENDING, MIN_RESULTS, ModelBased
from sousvit.search.proposers.nsga2 import Nsga2
from sousvit.search.proposers.samplers import Tpe
from sousvit.search.trial import Trial, trial_key


@pytest.fixture(scope="module")
def problem():
    return made_up_problem()


@pytest.fixture(scope="module")
def recipes(problem):
    """All 32 of the space, by deployment."""
    found = {problem.recipe(parameters): None for parameters, _ in problem.space.suggestions()}
    plain = [recipe for recipe in found if recipe.deployment == "onnxruntime"]
    return {"onnxruntime": plain, "onnxruntime:int8_dynamic": [recipe for recipe in found if recipe not in plain]}


def judged(problem, recipe, **changes):
    plain, values = recipe.to_dict(), made_up_figures(recipe, problem)
    values |= {name: Measurement(values[name].value + change) for name, change in changes.items()}
    return Trial(trial_key(plain, 1.0, 0), plain, 1.0, 0, "complete", values)


@pytest.fixture(scope="module")
def trials(problem, recipes):
    return [judged(problem, recipe) for recipe in recipes["onnxruntime"]]


def test_it_proposes_nothing_before_it_has_results_nor_while_many_recipes_are_on_their_way(problem, trials):
    assert ModelBased(problem).propose([]) is None
    assert ModelBased(problem).propose(trials[: MIN_RESULTS - 1]) is None
    assert ModelBased(problem).propose(trials, [trials[0].parsed] * (MAX_PENDING + 1)) is None


def test_it_proposes_every_recipe_at_most_once_whether_tried_or_on_its_way(problem, recipes, trials):
    model, known, pending = ModelBased(problem), trials[:-2], []
    while (parameters := model.propose(known, pending)) is not None:
        recipe = problem.recipe(parameters)
        assert recipe not in pending and recipe not in [trial.parsed for trial in known]
        pending.append(recipe)
    assert len(pending) > 4


def test_asked_trial_by_trial_it_knows_what_it_is_told_at_once(problem, trials):
    one_by_one = ModelBased(problem)
    found = [one_by_one.propose(trials[:count]) for count in range(len(trials) + 1)]
    assert found[-1] == ModelBased(problem).propose(trials) is not None


def test_it_proposes_no_deployment_that_is_dominated(problem, recipes, trials):
    tried, parameters = recipes["onnxruntime:int8_dynamic"][:4], ModelBased(problem).propose(trials)
    assert problem.recipe(parameters).deployment == "onnxruntime:int8_dynamic", "the only one left, and worth trying"
    worse = {"latency": 1e-6, "size": 2.5, "accuracy": 0.0}  # than the same weights in float32
    beaten = [judged(problem, recipe, **worse) for recipe in tried]
    assert ModelBased(problem).propose([*trials, *beaten]) is None
    once_better = [*beaten[:-1], judged(problem, tried[-1], **worse | {"accuracy": 0.05})]
    assert ModelBased(problem).propose([*trials, *once_better]) is not None


@pytest.mark.parametrize(("expected", "kind"), [(NSGA_TRIALS - 1, Tpe), (NSGA_TRIALS, Nsga2)])
def test_where_the_model_has_nothing_to_say_a_sampler_proposes(problem, expected, kind):
    long = replace(problem, expected_trials=expected)
    proposer = Auto(long)
    assert type(proposer.sampler) is kind
    assert proposer.ask([], [], 0) == kind(long).ask([], [], 0)
