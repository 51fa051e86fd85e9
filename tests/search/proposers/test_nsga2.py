"""NSGA-II proposes what Optuna's own sampler would, without looking at all trials for it."""

from __future__ import annotations

import optuna
import pytest

from sousvit.objectives.objective import Measurement
from sousvit.search.goals import Goals
from sousvit.search.limits import parse_limits
from sousvit.search.proposers.nsga2 import POPULATION, Nsga2
from sousvit.search.proposers.optuna_sampler import constraints_of
from sousvit.search.proposers.proposer import Problem, Proposal
from sousvit.search.trial import Trial
from sousvit.spaces.space import make_space

SPACE = {
    "prune_depth": {"drop": [0, 1, 2]},
    "prune_mlp": {"keep": [1.0, 0.75, 0.5], "importance": ["activation", "magnitude"], "allocation": ["uniform"]},
    "int8_dynamic": {"weights": ["uint8"], "per_channel": [True]},
}


@pytest.fixture
def problem(shape):
    space, _ = make_space({"techniques": SPACE}, shape, ("onnxruntime",))
    goals = Goals(parse_limits({"size": 3.0}), {"latency": 1.0, "size": 1.0})
    return Problem(space, shape, goals)


class InTheSpacesOrder(optuna.samplers.NSGAIISampler):
    """Optuna's own, its parameters in the order in which the space asks, not in the alphabet's."""

    def infer_relative_search_space(self, study, trial):
        found = super().infer_relative_search_space(study, trial)
        asked = study.trials[0].params
        return {name: found[name] for name in sorted(found, key=list(asked).index)}


def test_it_proposes_what_optunas_sampler_proposes_over_three_generations(problem):
    proposer, study = Nsga2(problem), optuna.create_study(directions=["minimize", "minimize"])
    for number in range(3 * POPULATION + 20):
        study.sampler = InTheSpacesOrder(seed=number)
        expected = study.ask()
        problem.space.suggest(expected)
        suggestion = proposer.ask([], [], seed=number)
        assert suggestion.parameters == expected.params, number
        small = problem.recipe(suggestion.parameters).reshape(problem.shape)
        values = {"latency": Measurement(small.macs() / 1e6), "size": Measurement(4 / (1 + small.macs() / 1e8))}
        status = "failed" if number % 7 == 3 else "complete"
        trial = Trial("", {}, 1.0, 0, status, values, number=number)
        proposer.begin(Proposal(number, suggestion.parameters, "proposed", problem, suggestion.note))
        proposer.tell(trial)
        for name, value in constraints_of(trial, problem.goals).items():
            expected.set_constraint(name, value)
        if status == "failed":
            study.tell(expected, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(expected, list(problem.goals.figures(values).values()))
    assert suggestion.note == {"generation": 2}


def test_a_resumed_search_takes_each_generations_parents_from_the_notes_or_chooses_the_same(problem):
    first, events = Nsga2(problem), []
    for number in range(3 * POPULATION + 20):
        suggestion = first.ask([], [], seed=number)
        small = problem.recipe(suggestion.parameters).reshape(problem.shape)
        values = {"latency": Measurement(small.macs() / 1e6), "size": Measurement(4 / (1 + small.macs() / 1e8))}
        proposal = Proposal(number, suggestion.parameters, "proposed", problem, suggestion.note)
        trial = Trial("", {}, 1.0, 0, "complete", values, number=number)
        first.begin(proposal)
        first.tell(trial)
        events.append((proposal, trial))
    noted = [proposal.note["parents"] for proposal, _ in events if proposal.note.get("parents")]
    assert len(noted) == 3 and all(len(parents) == POPULATION for parents in noted)
    notes = {
        "as they were": lambda note: note,
        "of an earlier version": lambda note: {"generation": note["generation"]},
        "of nobody": lambda note: {**note, "parents": [10**6, "x"]} if "parents" in note else note,
        "of no kind": lambda note: {"generation": [1], "parents": None},
    }
    expected = first.ask([], [], seed=1).parameters
    for name, changed in notes.items():
        again = Nsga2(problem)
        for proposal, trial in events:
            note = changed(proposal.note)
            again.begin(Proposal(proposal.number, proposal.parameters, "proposed", problem, note))
            again.tell(trial)
        found = again.ask([], [], seed=1)
        assert name == "of no kind" or found.parameters == expected, name
