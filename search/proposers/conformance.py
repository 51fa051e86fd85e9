"""The conformance suite that every proposer must pass, ours in our tests and a user's in theirs.

sousvit.check_proposer(Unrepeated)
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sousvit.errors import UserError
from sousvit.objectives.objective import Measurement
from sousvit.registry import on_trial
from sousvit.search.goals import Goals
from sousvit.search.limits import parse_limits
from sousvit.search.proposers.proposer import PROPOSERS, Problem, Proposal, Proposer
from sousvit.search.trial import Trial, trial_key
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.shape import BlockShape, VitShape
from sousvit.spaces.space import make_space

#: Recipes that a search asks for before the proposer's own: after so many samplers do not draw at random any more.
STARTERS = 15
#: Questions that find nothing finished between them.
AT_ONCE = 4


def check_proposer(kind: type[Proposer], problem: Problem | None = None, questions: int = 24) -> None:
    """Hold a proposer to the contract in a made-up search.

    Args:
        kind: its class; it need not be registered.
        problem: what is searched, by default :func:`made_up_problem`; its figures are made up in any case.
        questions: that it is asked one after the other.

    Raises:
        AssertionError: says which rule is broken.
    """
    with on_trial(kind, PROPOSERS) as held:
        _check(held, problem or made_up_problem(), questions)


def _check(kind: type[Proposer], problem: Problem, questions: int) -> None:
    summary = kind.summary
    assert isinstance(summary, str) and summary and "\n" not in summary, f"{kind.name}: summary must be one line"
    search, twin = _Search(kind, problem), _Search(kind, problem)
    for one in (search, twin):
        one.start()
    half = questions // 2
    for _ in range(half):
        search.turn()
        twin.turn()
    assert search.log == twin.log, f"{kind.name}: the same problem, seed and results must give the same proposals"
    _check_many_workers(search)
    for proposal in list(twin.running):
        twin.finish(proposal)
    resumed = _Search(kind, problem, search)
    for _ in range(half, questions):
        search.turn()
        resumed.turn()
    assert search.log == resumed.log, f"{kind.name}: a new one that was told the same must go on alike"
    errors = search.proposer.cost_errors()
    assert isinstance(errors, Mapping), f"{kind.name}: cost_errors gives figures by objective, not {errors!r}"


def _check_many_workers(search: _Search) -> None:
    """While nothing finishes, it must not ask for one recipe only."""
    asked = [search.ask() for _ in range(AT_ONCE)]
    found = {proposal.recipe for proposal in asked if proposal is not None}
    name = search.proposer.name
    assert len(found) != 1, f"{name}: recipes on their way must not keep it from asking for others: {found}"
    for proposal in search.running[: AT_ONCE // 2]:
        search.finish(proposal)


class _Search:
    """Asks, judges and tells in a made-up world, as an engine does.

    Args:
        past: another one, whose proposals and results are told at once, as when a search is resumed.
    """

    def __init__(self, kind: type[Proposer], problem: Problem, past: _Search | None = None) -> None:
        self.problem, self.proposer = problem, kind(problem)
        #: Proposals and what was told of them, in order.
        self.log: list[Proposal | Trial] = []
        self.history: list[Trial] = []
        self.running: list[Proposal] = []
        self._questions = 0
        for entry in () if past is None else past.log:
            self.log.append(entry)
            self.proposer.begin(entry) if isinstance(entry, Proposal) else self.proposer.tell(entry)
        if past is not None:
            self.history, self.running, self._questions = list(past.history), list(past.running), past._questions

    def start(self) -> None:
        """Results that were known before the search, and starters: told without being asked for."""
        generator = random.Random(0)
        for place in range(3):
            recipe = self.problem.recipe(self.problem.space.draw(generator, {})[0])
            self._keep(self._judged(recipe, place, "complete"))
        for _ in range(STARTERS):
            self.finish(self._begin(self.problem.space.draw(generator, {})[0], "starter", {}))

    def turn(self) -> None:
        """One question and its result; what is drawn instead where there is no answer."""
        proposal = self.ask()
        if proposal is None:
            parameters, _ = self.problem.space.draw(random.Random(self._questions), {})
            proposal = self._begin(parameters, "proposed", {})
        self.finish(proposal)

    def ask(self) -> Proposal | None:
        """One question; its answer is on its way then."""
        history, pending = list(self.history), [proposal.recipe for proposal in self.running]
        self._questions += 1
        suggestion = self.proposer.ask(history, pending, self._questions)
        name = self.proposer.name
        assert history == self.history and pending == [proposal.recipe for proposal in self.running], (
            f"{name}: ask must leave history and pending as they are"
        )
        if suggestion is None:
            return None
        for what, given in (("parameters", suggestion.parameters), ("note", suggestion.note)):
            plain = json.loads(json.dumps(dict(given)))
            assert plain == dict(given), f"{name}: {what} must be plain values, as JSON has them: {given}"
        return self._begin(suggestion.parameters, "proposed", suggestion.note)

    def _begin(self, parameters: Mapping[str, Any], origin: str, note: Mapping[str, Any]) -> Proposal:
        number = sum(isinstance(entry, Proposal) for entry in self.log)
        proposal = Proposal(number, parameters, origin, self.problem, note)
        try:
            self.problem.suggest(parameters)
        except UserError as error:
            raise AssertionError(f"{self.proposer.name}: it must ask for recipes of the space: {error}") from error
        self.log.append(proposal)
        self.running.append(proposal)
        self.proposer.begin(proposal)
        return proposal

    def finish(self, proposal: Proposal) -> None:
        """Judge, gate or fail it, keep it and tell of it."""
        self.running.remove(proposal)
        status = "gated" if proposal.number % 5 == 2 else "failed" if proposal.number % 7 == 3 else "complete"
        trial = self._judged(proposal.recipe, proposal.number, status)
        self._keep(trial)
        self.log.append(trial)
        self.proposer.tell(trial)

    def _judged(self, recipe: Recipe, number: int, status: Any) -> Trial:
        values = made_up_figures(recipe, self.problem)
        known = {"complete": values, "gated": {name: values[name] for name in ("latency", "size")}, "failed": {}}
        plain, seed = recipe.to_dict(), self.problem.seed
        return Trial(trial_key(plain, 1.0, seed), plain, 1.0, seed, status, known[status], number=number)

    def _keep(self, trial: Trial) -> None:
        if trial.key not in {known.key for known in self.history}:
            self.history.append(replace(trial, number=None) if not self.log else trial)


def made_up_problem(seed: int = 0, techniques: Mapping[str, Mapping[str, Sequence[Any]]] | None = None) -> Problem:
    """A small ViT, its made-up objectives, and a space of a few dozen recipes, or one of ``techniques``."""
    block = BlockShape(heads=3, head_dim=32, mlp=384, tokens_in=65, tokens_mlp=65, width_params=6)
    shape = VitShape((32, 32), 3, (4, 4), 96, 1, 1, 10, 1, "token", 10, (block,) * 6, width_params=4)
    keeps = {"keep": [0.25, 0.5, 0.75, 1.0], "importance": ["activation"], "allocation": ["uniform"]}
    default = {"prune_depth": {"drop": [0, 1, 2, 3]}, "prune_mlp": keeps, "int8_dynamic": {}}
    space, _ = make_space({"techniques": techniques or default}, shape, ("onnxruntime",))
    plain = Problem(space, shape, Goals())
    limits = parse_limits({"accuracy_drop": 0.1, "size": 4.0})
    weights = dict.fromkeys(("latency", "size", "accuracy"), 1.0)
    return replace(plain, goals=Goals(limits, weights, made_up_figures(Recipe(), plain)), seed=seed)


def made_up_figures(recipe: Recipe, problem: Problem) -> dict[str, Measurement]:
    """Cost from the shape, accuracy lost by compression."""
    small, base = recipe.reshape(problem.shape), problem.shape
    assert isinstance(small, VitShape) and isinstance(base, VitShape)
    cost, bytes_per_weight = small.macs() / base.macs(), recipe.bytes_per_weight
    drop = 0.25 * (1 - cost) ** 2 + 0.02 * (bytes_per_weight < 4)
    values = {
        "accuracy": 0.9 - drop,
        "accuracy_drop": drop,
        "latency": 1 + 9 * cost,
        "latency_ratio": 0.1 + 0.9 * cost,
        "size": small.params() * bytes_per_weight / 1e6,
        "macs": small.macs() / 1e6,
        "params": small.params() / 1e6,
    }
    return {name: Measurement(value) for name, value in values.items()}
