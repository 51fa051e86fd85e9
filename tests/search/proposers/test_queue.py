"""What a search asks for, in which order, and that a killed one goes on from the archive's log."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sousvit.errors import UserError
from sousvit.search.archive import Archive
from sousvit.search.goals import Goals
from sousvit.search.proposers.proposer import Problem, Proposer, Suggestion
from sousvit.search.proposers.queue import ProposalQueue
from sousvit.search.proposers.samplers import Random, Tpe
from sousvit.search.proposers.starters import hybrid_recipes
from sousvit.search.trial import Trial, trial_key
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.space import make_space

SPACE = {
    "prune_depth": {"drop": [0, 1, 2]},
    "prune_mlp": {"keep": [1.0, 0.75, 0.5], "importance": ["activation", "magnitude"], "allocation": ["uniform"]},
    "int8_dynamic": {"weights": ["uint8"], "per_channel": [True]},
}
#: Too large to be listed.
LARGE = {**SPACE, "prune_mlp": {**SPACE["prune_mlp"], "keep": [step / 5000 for step in range(1, 5001)]}}


class Recorder(Random):
    """Draws, and notes what it is told."""

    name = "recorder"

    def __init__(self, problem):
        super().__init__(problem)
        self.heard = []

    def ask(self, history, pending, seed):
        return replace(super().ask(history, pending, seed), note={"seed": seed})

    def begin(self, proposal):
        self.heard.append(proposal)

    def tell(self, trial):
        self.heard.append(trial)


@pytest.fixture
def make_queue(shape, tmp_path):
    def make(kind=Recorder, techniques=SPACE, folder="run"):
        space, _ = make_space({"techniques": techniques}, shape, ("onnxruntime",))
        problem = Problem(space, shape, Goals(weights={"latency": 1.0}))
        return ProposalQueue(problem, kind(problem), Archive(tmp_path / folder, writable=True))

    return make


def finished(proposal, status="complete"):
    plain = proposal.recipe.to_dict()
    return Trial(trial_key(plain, 1.0, 0), plain, 1.0, 0, status, number=proposal.number)


def test_what_is_enqueued_is_asked_for_first_and_waits_until_then(make_queue, shape):
    queue = make_queue()
    starters = hybrid_recipes(queue.space, shape)
    assert not queue.is_waiting and queue.is_new
    queue.enqueue([("starter", recipe) for recipe in starters])
    for number, recipe in enumerate(starters):
        assert queue.is_waiting
        proposal = queue.ask()
        assert (proposal.number, proposal.origin, proposal.recipe) == (number, "starter", recipe.canonical(shape))
    assert not queue.is_waiting
    assert queue.ask().origin == "proposed"


def test_a_recipe_outside_of_the_space_is_not_enqueued(make_queue):
    queue = make_queue()
    queue.enqueue([("earlier", Recipe.from_dict({"runtime": "onnxruntime", "steps": [{"technique": "tome", "r": 2}]}))])
    assert not queue.is_waiting


@pytest.mark.parametrize("asked", [0, 1], ids=["nothing asked yet", "asked before"])
@pytest.mark.parametrize("techniques", [SPACE, LARGE], ids=["a listed space", "a large space"])
def test_something_else_is_drawn_until_it_is_new(make_queue, techniques, asked):
    queue = make_queue(techniques=techniques)
    for _ in range(asked):
        queue.reject(queue.ask())
    problem, seen = queue.problem, []

    def is_new(recipe):
        seen.append(recipe.canonical(problem.shape).hash)
        return len(seen) % 3 == 0

    for _ in range(6):
        assert queue.vary(is_new) and queue.is_waiting
        assert queue.ask().recipe.hash == seen[-1] and len(seen) % 3 == 0


def test_a_listed_space_ends_and_a_large_one_is_drawn_from_for_ever(make_queue):
    assert not make_queue(folder="small").vary(lambda recipe: False)
    queue, seen = make_queue(techniques=LARGE), []
    assert queue.vary(lambda recipe: seen.append(recipe))
    assert queue.ask().recipe == seen[-1].canonical(queue.problem.shape)


def test_the_same_question_at_another_moment_has_another_seed(make_queue):
    queue = make_queue()
    proposals = [queue.ask() for _ in range(3)]
    assert queue._archive.add(finished(proposals[0]))
    proposals += [queue.ask() for _ in range(3)]
    assert len({proposal.note["seed"] for proposal in proposals}) == 6


def test_a_proposer_that_has_nothing_leaves_no_trace(make_queue):
    class Silent(Recorder):
        def ask(self, history, pending, seed):
            return None

    queue = make_queue(Silent)
    assert queue.ask() is None and queue.proposer.heard == []
    assert queue.vary(lambda recipe: True) and queue.ask().number == 0


def test_a_proposer_that_asks_outside_of_the_space_is_one_clear_line(make_queue):
    class Wild(Proposer):
        name, summary = "wild", "asks for what is not there"

        def ask(self, history, pending, seed):
            return Suggestion({"prune_depth.drop": 7})

    with pytest.raises(
        UserError, match=r"values of the space; received prune_depth.drop: 7; choose one of \[0, 1, 2\]"
    ):
        make_queue(Wild).ask()


def some_time(queue, shape):
    """Starters, results that are complete, gated and told twice, a misfit, and two that are on their way."""
    queue.enqueue([("starter", recipe) for recipe in hybrid_recipes(queue.space, shape)[:3]])
    first, second, third = queue.ask(), queue.ask(), queue.ask()
    queue._archive.add(finished(first))
    queue.tell(first, finished(first))
    queue.enqueue([("single", Recipe((), "onnxruntime"))] * 2)
    again = queue.ask()
    queue.tell(again, finished(first))
    queue.reject(second)
    queue._archive.add(finished(third, "gated"))
    queue.tell(third, finished(third, "gated"))
    queue.ask(), queue.ask()


@pytest.mark.parametrize("kind", [Recorder, Tpe])
def test_a_queue_that_is_taken_up_again_goes_on_as_it_would_have(make_queue, shape, kind):
    queue = make_queue(kind)
    some_time(queue, shape)
    queue._archive.close()
    resumed = make_queue(kind)
    assert not resumed.is_new and resumed.is_waiting == queue.is_waiting
    assert resumed.unfinished == queue.unfinished and len(resumed.unfinished) == 2
    if kind is Recorder:
        assert resumed.proposer.heard == queue.proposer.heard
    calm = make_queue(kind, folder="calm")
    some_time(calm, shape)
    for _ in range(4):
        expected, found = calm.ask(), resumed.ask()
        assert found == expected


def test_what_was_told_is_what_was_expected_not_what_was_measured(make_queue):
    from sousvit.objectives.objective import Measurement

    queue = make_queue()
    proposal = queue.ask()
    low = replace(finished(proposal), fidelity=0.25, values={"latency": Measurement(3.0), "accuracy": Measurement(0.5)})
    queue._archive.add(low)
    expected = replace(low, values={**low.values, "accuracy": Measurement(0.8, 0.7, 0.9)})
    queue.tell(proposal, expected)
    queue._archive.close()
    assert queue.proposer.heard[-1] == make_queue().proposer.heard[-1] == expected


def test_a_log_of_an_earlier_version_is_told_by_its_numbered_trials(make_queue):
    queue = make_queue(folder="other")
    proposals = [queue.ask() for _ in range(4)]
    archive = Archive(queue._archive.folder.parent / "run", writable=True)
    for proposal in (proposals[2], proposals[0]):
        archive.add(finished(proposal))
    promoted = replace(finished(proposals[1]), number=None, origin="promoted")
    archive.add(promoted)
    archive.close()
    resumed = make_queue()
    told = [entry.number for entry in resumed.proposer.heard if isinstance(entry, Trial)]
    assert told == [0, 2] and resumed.is_new and not resumed.unfinished
    assert resumed.ask().number == 3


def test_what_the_space_lost_since_is_left_out(make_queue, shape):
    queue = make_queue()
    some_time(queue, shape)
    queue._archive.close()
    smaller = {name: values for name, values in SPACE.items() if name != "int8_dynamic"}
    resumed = make_queue(techniques=smaller)
    assert all("int8_dynamic" not in json.dumps(dict(one.parameters)) for one in resumed.unfinished)
    assert resumed.ask().number == queue._next
