"""The model of the results: when it proposes, and what it leaves out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sousvit.objectives.objective import Measurement
from sousvit.search.fidelity.deployments import Deployments
from sousvit.search.proposers.auto import NSGA_TRIALS, Auto
from sousvit.search.proposers.conformance import made_up_figures, made_up_problem
from sousvit.search.proposers.model_based import MAX_PENDING, MIN_RESULTS, ModelBased
from sousvit.search.proposers.nsga2 import Nsga2
from sousvit.search.proposers.samplers import Tpe
from sousvit.search.trial import Trial, trial_key
from sousvit.spaces.recipe import Recipe


@pytest.fixture
def problem():
    return made_up_problem()


def judged(problem, recipe, **better):
    plain, values = recipe.to_dict(), made_up_figures(recipe, problem)
    values |= {name: Measurement(values[name].value + change) for name, change in better.items()}
    return Trial(trial_key(plain, 1.0, 0), plain, 1.0, 0, "complete", values)


@pytest.fixture
def records(problem):
    recipes = dict.fromkeys(problem.recipe(parameters) for parameters, _ in problem.space.suggestions())
    return [judged(problem, recipe) for recipe in list(recipes)[::2]]


def test_it_proposes_once_it_has_results_and_while_few_are_on_their_way(problem, records):
    model, few = ModelBased(problem), records[: MIN_RESULTS - 1]
    assert model.propose([]) is None and model.propose(few) is None
    pending = [Recipe.from_dict(trial.recipe) for trial in records]
    assert model.propose(records, pending * (1 + MAX_PENDING // len(pending))) is None
    proposed = problem.recipe(model.propose(records))
    assert proposed.hash not in {Recipe.from_dict(trial.recipe).hash for trial in records}


def test_it_proposes_no_recipe_that_is_on_its_way(problem, records):
    model, pending = ModelBased(problem), []
    for _ in range(4):
        recipe = problem.recipe(model.propose(records, pending))
        assert recipe not in pending
        pending.append(recipe)


def test_it_proposes_no_deployment_that_is_dominated(problem, records):
    deployment = problem.recipe(ModelBased(problem).propose(records)).deployment
    others = []
    for trial in records:
        recipe = Recipe.from_dict(trial.recipe)
        if recipe.deployment == deployment:
            siblings = [Recipe((*recipe.model_steps, *last), runtime) for runtime, last in deployments(problem)]
            other = next(sibling for sibling in siblings if sibling.deployment != deployment)
            others.append(judged(problem, other, latency=-9.0, size=-9.0, accuracy=0.3, accuracy_drop=-0.3))
    known = [*(trial for trial in records if trial.key not in {other.key for other in others}), *others]
    assert deployment in Deployments(problem.goals).dominated(known)
    assert problem.recipe(ModelBased(problem).propose(known)).deployment != deployment


def deployments(problem):
    for runtime, option in problem.space.deploys.values():
        yield runtime, (() if option is None else (option.default_step(),))


@pytest.mark.parametrize(("trials", "kind"), [(NSGA_TRIALS - 1, Tpe), (NSGA_TRIALS, Nsga2)])
def test_where_the_model_says_nothing_a_sampler_proposes(problem, trials, kind):
    proposer = Auto(replace(problem, expected_trials=trials))
    assert type(proposer.sampler) is kind
    assert proposer.ask([], [], 0) == kind(problem).ask([], [], 0)
