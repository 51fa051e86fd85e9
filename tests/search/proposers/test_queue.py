"""What a search asks for, in which order, and that a killed one goes on from the archive's log."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sousvit.errors import UserError
from sousvit.objectives.objective import Measurement
from sousvit.search.archive import Archive
from sousvit.search.goals import Goals
from sousvit.search.proposers.proposer import Problem, Proposal, Proposer, Suggestion
from sousvit.search.proposers.queue import ProposalQueue
from sousvit.search.proposers.samplers import Random, Tpe
from sousvit.search.trial import Trial, trial_key
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.space import make_space

SPACE = {
    "prune_depth": {"drop": [0, 1, 2]},
    "prune_mlp": {"keep": [1.0, 0.75, 0.5], "importance": ["activation", "magnitude"], "allocation": ["uniform"]},
    "fp16": {},
    "int8_dynamic": {"weights": ["uint8"], "per_channel": [True]},
}
#: Too large to be listed.
LARGE = {
    **SPACE,
    "prune_mlp": {**SPACE["prune_mlp"], "keep": [step / 1000 for step in range(1, 1001)]},
    "prune_embed": {"keep": [1.0, 0.875, 0.75, 0.625, 0.5], "importance": ["activation"]},
}
INT8 = Step.make("int8_dynamic", weights="uint8")
STARTERS = [
    Recipe((INT8,), "onnxruntime"),
    Recipe((Step.make("prune_depth", drop=1), INT8), "onnxruntime"),
    Recipe((Step.make("prune_depth", drop=2),), "onnxruntime"),
]


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
    """A queue and its archive; of the same folder again: as it is taken up by a resumed search."""

    def make(kind=Recorder, techniques=SPACE, folder="run"):
        space, _ = make_space({"techniques": techniques}, shape, ("onnxruntime",))
        problem = Problem(space, shape, Goals(weights={"latency": 1.0}))
        archive = Archive(tmp_path / folder, writable=True)
        return ProposalQueue(problem, kind(problem), archive), archive

    return make


def finished(proposal, status="complete"):
    plain = proposal.recipe.to_dict()
    return Trial(trial_key(plain, 1.0, 0), plain, 1.0, 0, status, number=proposal.number)


def test_what_is_enqueued_is_asked_for_first_and_waits_until_then(make_queue, shape):
    queue, _ = make_queue()
    assert queue.is_new and not queue.is_waiting
    queue.enqueue([("starter", recipe) for recipe in STARTERS])
    for number, recipe in enumerate(STARTERS):
        assert queue.is_waiting
        proposal = queue.ask()
        assert (proposal.number, proposal.origin, proposal.recipe) == (number, "starter", recipe.canonical(shape))
    assert not queue.is_waiting and queue.ask().origin == "proposed"


def test_a_recipe_outside_the_space_is_not_enqueued(make_queue):
    queue, _ = make_queue()
    queue.enqueue([("earlier", Recipe((Step.make("tome", keep=0.5),), "onnxruntime"))])
    assert not queue.is_waiting


@pytest.mark.parametrize("asked", [0, 1], ids=["nothing asked yet", "asked before"])
@pytest.mark.parametrize("techniques", [SPACE, LARGE], ids=["a listed space", "a large space"])
def test_something_else_is_drawn_until_it_is_new(make_queue, techniques, asked):
    queue, _ = make_queue(techniques=techniques)
    for _ in range(asked):
        queue.reject(queue.ask())
    seen = []

    def is_new(recipe):
        seen.append(recipe.canonical(queue.problem.shape))
        return len(seen) % 3 == 0

    for _ in range(6):
        assert queue.vary(is_new) and queue.is_waiting
        assert queue.ask().recipe == seen[-1] and len(seen) % 3 == 0


def test_a_listed_space_ends_and_from_a_large_one_something_is_always_drawn(make_queue):
    listed, _ = make_queue(folder="listed")
    assert not listed.vary(lambda recipe: False)
    large, _ = make_queue(techniques=LARGE, folder="large")
    assert large.vary(lambda recipe: False)


def test_each_question_has_another_seed_with_and_without_a_new_result(make_queue):
    queue, archive = make_queue()
    proposals = [queue.ask() for _ in range(3)]
    archive.add(finished(proposals[0]))
    proposals += [queue.ask() for _ in range(3)]
    assert len({proposal.note["seed"] for proposal in proposals}) == 6


def test_a_proposer_that_has_nothing_leaves_no_trace(make_queue):
    class Silent(Recorder):
        def ask(self, history, pending, seed):
            return None

    queue, _ = make_queue(Silent)
    assert queue.ask() is None and queue.proposer.heard == []
    assert queue.vary(lambda recipe: True) and queue.ask().number == 0


def test_a_proposer_that_asks_outside_the_space_is_one_clear_line(make_queue):
    class Wild(Proposer):
        name, summary = "wild", "asks for what is not there"

        def ask(self, history, pending, seed):
            return Suggestion({"prune_depth.drop": 7})

    with pytest.raises(UserError, match=r"received prune_depth.drop: 7; choose one of \[0, 1, 2\]") as caught:
        make_queue(Wild)[0].ask()
    assert "\n" not in str(caught.value)


def some_time(queue, archive):
    """Results of all kinds, one of them told twice; then one recipe waits, and two are on their way."""
    queue.vary(lambda recipe: True)
    queue.ask()
    queue.enqueue([("starter", recipe) for recipe in STARTERS])
    first, second, third = queue.ask(), queue.ask(), queue.ask()
    archive.add(finished(first))
    queue.tell(first, finished(first))
    queue.enqueue([("single", STARTERS[0]), ("single", Recipe((), "onnxruntime")), ("single", STARTERS[1])])
    again = queue.ask()
    queue.tell(again, finished(first))
    queue.reject(second)
    archive.add(finished(third, "gated"))
    queue.tell(third, finished(third, "gated"))
    queue.ask()


@pytest.mark.parametrize("kind", [Recorder, Tpe])
def test_a_queue_that_is_taken_up_again_goes_on_as_if_nothing_had_happened(make_queue, kind):
    (queue, archive), (calm, other) = make_queue(kind), make_queue(kind, folder="calm")
    some_time(queue, archive)
    some_time(calm, other)
    archive.close()
    resumed, _ = make_queue(kind)
    assert not resumed.is_new and resumed.is_waiting
    assert resumed.unfinished == queue.unfinished and len(resumed.unfinished) == 2
    if kind is Recorder:
        assert resumed.proposer.heard == queue.proposer.heard
    for _ in range(4):
        assert resumed.ask() == calm.ask()


def test_a_resumed_proposer_is_told_what_was_expected_not_what_was_measured(make_queue):
    queue, archive = make_queue()
    proposal = queue.ask()
    low = replace(finished(proposal), fidelity=0.25, values={"latency": Measurement(3.0), "accuracy": Measurement(0.5)})
    archive.add(low)
    expected = replace(low, values={**low.values, "accuracy": Measurement(0.8, 0.7, 0.9)})
    queue.tell(proposal, expected)
    archive.close()
    assert make_queue()[0].proposer.heard[-1] == queue.proposer.heard[-1] == expected


def test_a_log_of_an_earlier_version_is_told_by_its_numbered_trials(make_queue):
    other, _ = make_queue(folder="other")
    first, second, third = other.ask(), other.ask(), other.ask()
    _, archive = make_queue()
    archive.add(finished(third))
    archive.add(finished(first))
    archive.add(replace(finished(second), number=None, origin="promoted"))
    archive.close()
    resumed, _ = make_queue()
    told = [entry.number for entry in resumed.proposer.heard if isinstance(entry, Trial)]
    assert told == [0, 2] and resumed.is_new and not resumed.unfinished
    assert resumed.ask().number == 3


def test_what_the_space_has_lost_since_is_left_out(make_queue):
    queue, archive = make_queue()
    some_time(queue, archive)
    archive.close()
    smaller = {name: values for name, values in SPACE.items() if name != "int8_dynamic"}
    resumed, _ = make_queue(techniques=smaller)
    heard = [entry.recipe if isinstance(entry, Proposal) else entry.parsed for entry in resumed.proposer.heard]
    assert STARTERS[2] in heard and not any(INT8 in recipe.steps for recipe in heard)
    assert not resumed.is_waiting, "the one that waited has int8 weights"
    assert resumed.ask().number == queue.unfinished[-1].number + 1
