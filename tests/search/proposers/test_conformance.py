"""Proposers hold their contract; the suite says what is broken in one that does not."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from sousvit.errors import MissingPackageError
from sousvit.search.goals import Goals
from sousvit.search.limits import parse_limits
from sousvit.search.proposers.conformance import check_proposer, made_up_problem
from sousvit.search.proposers.proposer import PROPOSERS, Proposer, Suggestion
from sousvit.spaces.recipe import Recipe

#: Those that fit several Gaussian processes at every question.
SLOW = ["gp", "qlognehvi"]
QUICK = [name for name in PROPOSERS.names() if name not in SLOW]
#: Too many recipes to be listed.
LARGE = {
    "prune_depth": {"drop": [0, 1, 2, 3]},
    "prune_mlp": {"keep": [step / 40 for step in range(1, 41)], "importance": ["activation", "magnitude"]},
    "prune_heads": {},
    "low_rank": {},
    "distill": {},
    "int8_dynamic": {},
    "ptq_int8": {},
}


@pytest.mark.parametrize("name", QUICK)
def test_every_proposer_conforms(name):
    check_proposer(PROPOSERS.get(name), questions=30)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_slow_proposers_conform_too(name):
    kind = PROPOSERS.get(name)
    try:
        kind.require()
    except MissingPackageError as error:
        pytest.skip(str(error))
    problem = made_up_problem()
    one_objective = Goals(parse_limits({"size": 4.0}), {"latency": 1.0}, problem.goals.base)
    check_proposer(kind, replace(problem, goals=one_objective), questions=2)


@pytest.mark.parametrize("name", ["nsga2", "random", "tpe"])
def test_proposers_conform_in_a_space_that_is_too_large_to_be_listed(name):
    problem = made_up_problem(3, LARGE)
    assert not problem.space.is_listed
    check_proposer(PROPOSERS.get(name), problem, questions=30)


class Mine(Proposer):
    """Holds the contract; what is derived from it breaks one rule each."""

    name = "mine"
    summary = "drawn evenly, nothing twice"

    def ask(self, history, pending, seed):
        generator, known = random.Random(seed), {Recipe.from_dict(trial.recipe) for trial in history}.union(pending)
        for _ in range(100):
            parameters, _ = self.problem.space.draw(generator, {})
            if self.problem.recipe(parameters) not in known:
                return Suggestion(parameters)
        return None


class HasSecrets(Mine):
    def __init__(self, problem):
        super().__init__(problem)
        self.random = random.Random()

    def ask(self, history, pending, seed):
        return super().ask(history, pending, self.random.random())


class RemembersItsDraws(Mine):
    def __init__(self, problem):
        super().__init__(problem)
        self.random = random.Random(problem.seed)

    def ask(self, history, pending, seed):
        return super().ask(history, pending, self.random.random())


class AsksOutside(Mine):
    def ask(self, history, pending, seed):
        return Suggestion({"prune_depth.drop": 77})


class AsksForOneOnly(Mine):
    def ask(self, history, pending, seed):
        return Suggestion(self.problem.space.draw(random.Random(0), {})[0])


class Greedy(Mine):
    def ask(self, history, pending, seed):
        history.clear()
        return super().ask(history, pending, seed)


class NotesObjects(Mine):
    def ask(self, history, pending, seed):
        return Suggestion(self.problem.space.draw(random.Random(seed), {})[0], {"place": (1, 2)})


class Nameless(Mine):
    name = "No Name"


class Rambling(Mine):
    summary = "drawn evenly,\nnothing twice"


def test_a_proposer_of_a_dozen_lines_conforms_and_need_not_be_registered():
    check_proposer(Mine)
    assert "mine" not in PROPOSERS


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (HasSecrets, "the same problem, seed and results must give the same proposals"),
        (RemembersItsDraws, "a new one that was told the same must go on alike"),
        (AsksOutside, "it must ask for recipes of the space"),
        (AsksForOneOnly, "recipes on their way must not keep it from asking for others"),
        (Greedy, "ask must leave history and pending as they are"),
        (NotesObjects, "note must be plain values"),
    ],
)
def test_the_suite_says_which_rule_is_broken(kind, words):
    with pytest.raises(AssertionError, match=words):
        check_proposer(kind)


@pytest.mark.parametrize(
    ("kind", "words"), [(Nameless, "snake_case"), (Rambling, "summary must be one line"), (object, "derives from")]
)
def test_the_suite_says_what_is_wrong_with_a_class(kind, words):
    with pytest.raises(AssertionError, match=words):
        check_proposer(kind)
