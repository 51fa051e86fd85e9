"""Ways to choose what to evaluate, replayed on a table: ours, and what a user could run instead.

``sousvit`` is the engine as a search runs it, on the simulated executor, and ``sousvit-NAME`` with another proposer.
A proposer's name alone is what a user could run instead, at full fidelity and without our levers: ``tpe``, ``nsga2``,
``gp`` and ``qlognehvi`` are samplers as they come (:mod:`sousvit.search.replay.samplers`), ``random`` draws evenly, no
row twice, and any other is asked and told in turns.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from sousvit.checked import validated
from sousvit.errors import UnknownNameError
from sousvit.search.archive import Archive
from sousvit.search.budget import Budget
from sousvit.search.callbacks import Callback, Counts
from sousvit.search.executors.executor import finished, make_job
from sousvit.search.executors.simulated import SimulatedClock, SimulatedExecutor
from sousvit.search.fidelity.learning_curve import FULL
from sousvit.search.goals import Goals
from sousvit.search.proposers.proposer import PROPOSERS, Problem
from sousvit.search.proposers.queue import ProposalQueue
from sousvit.search.replay.curves import Curve, Hypervolume
from sousvit.search.replay.samplers import SAMPLERS, run_sampler, until_over
from sousvit.search.replay.table import Table
from sousvit.search.run import make_engine
from sousvit.search.trial import BaseRecord, Trial
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.space import Space


class ReplayClock(SimulatedClock):
    """Recorded seconds, and those that the policy itself takes."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = time.perf_counter()

    def __call__(self) -> float:
        return self.now + self.own_seconds

    @property
    def own_seconds(self) -> float:
        """Time since the replay began."""
        return time.perf_counter() - self._begun


class Replay:
    """One policy's run over a table: judges recipes and keeps when what was known.

    Args:
        table: what was recorded.
        evaluations: after which it ends, cheap ones included.
        seed: of the policy, and of the recorded measurements where there are several.
        seconds: of the clock, after which it ends too.
    """

    def __init__(self, table: Table, evaluations: int, seed: int, seconds: float | None = None) -> None:
        self.table, self.evaluations, self.seed = table, evaluations, seed
        self.clock = ReplayClock()
        self.budget = table_budget(table, evaluations, seed, seconds)
        self.known: dict[str, Trial] = {}
        self.times: list[float] = []
        self.found: list[Trial] = []

    @property
    def is_over(self) -> bool:
        """Whether every evaluation or second is spent."""
        time_limit = self.budget.search.time
        return len(self.found) >= self.evaluations or (time_limit is not None and self.clock() >= time_limit)

    @property
    def space(self) -> Space:
        """The table's."""
        return self.table.space

    @cached_property
    def goals(self) -> Goals:
        """The table's objectives and hard limits."""
        return self.budget.goals()

    @property
    def paid(self) -> int:
        """Evaluations so far."""
        return len(self.found)

    def note(self, record: Trial) -> None:
        """Count an evaluation that just ended."""
        self.times.append(self.clock())
        self.found.append(record)

    def evaluate(self, recipe: Recipe) -> Trial | None:
        """A recipe's recorded result at full fidelity; None if the table does not have it."""
        if recipe.hash not in self.known:
            trial = Trial.pending(recipe, FULL, self.seed)
            result = self.table.judge(make_job(trial, self.budget.search))
            self.clock.now += sum(result.seconds.values())
            record = finished(trial, result)
            self.known[recipe.hash] = record
            if record.status == "complete":
                self.note(record)
        record = self.known[recipe.hash]
        return record if record.status == "complete" else None

    def curve(self, hypervolume: Hypervolume) -> Curve:
        """Share of ``hypervolume`` after each evaluation; only final results that hold the limits count."""
        own = self.clock.own_seconds
        points: list[list[float]] = []
        shares: list[float] = []
        for record in self.found:
            if record.is_final and self.goals.holds(record.values):
                points.append(list(self.goals.figures(record.values).values()))
                share = hypervolume.share(np.array(points))
            else:
                share = shares[-1] if shares else 0.0
            shares.append(share)
        return Curve(np.array(self.times), np.array(shares), own)


def table_budget(table: Table, evaluations: int, seed: int, seconds: float | None = None) -> Budget:
    """The table's objectives and limits as a budget."""
    lowest, eta = table.ladder
    search = {"trials": evaluations, "time": seconds, "seed": seed, "confidence": 0.5}
    search |= {"explore_fidelity": lowest, "eta": eta}
    plain = {
        "model": {"name": "a-recorded-table"},
        "data": {"format": "idx", "train": "none"},
        "limits": table.limits,
        "optimize": list(table.directions),
        "search": search,
    }
    return validated(Budget, plain, "the table")


class _Noted(Callback):
    """Counts the engine's trials as evaluations."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    def on_trial(self, trial: Trial, counts: Counts) -> None:
        self._replay.note(trial)


def ours(replay: Replay, **changed: object) -> None:
    """The engine; ``changed`` are fields of :class:`~sousvit.search.budget.SearchLimits`."""
    table, budget = replay.table, replay.budget
    budget = budget.model_copy(update={"search": budget.search.model_copy(update=changed)})
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(Path(folder) / "run", writable=True)
        base = BaseRecord({}, {}, {})
        executor, callback = SimulatedExecutor(base, table.judge, replay.clock), _Noted(replay)
        engine = make_engine(
            budget, archive, executor, base, table.shape, table.space, callback, replay.clock, with_study=False
        )
        engine.run()
        archive.close()


def random_choice(replay: Replay) -> None:
    """Every configuration is as likely, none comes twice."""
    recipes = list(replay.table.recipes())
    for place in np.random.default_rng(replay.seed).permutation(len(recipes)):
        if replay.is_over:
            break
        replay.evaluate(recipes[int(place)])


def trained_rungs_only(replay: Replay) -> None:
    """The engine, its lowest rung one with training."""
    ours(replay, explore_fidelity=min(level for level in replay.table.fidelities if level > 0))


def alone(name: str, replay: Replay) -> None:
    """A proposer without the engine."""
    table = replay.table
    problem = Problem(table.space, table.shape, replay.goals, replay.seed, replay.evaluations)
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(Path(folder) / "run", writable=True)
        queue = ProposalQueue(problem, PROPOSERS.get(name)(problem), archive)
        for _ in until_over(replay):
            proposal = queue.ask()
            if proposal is None and queue.vary(lambda recipe: recipe.hash not in replay.known):
                proposal = queue.ask()
            if proposal is None:
                break
            record = replay.evaluate(proposal.recipe)
            if record is None:
                queue.reject(proposal)
            else:
                archive.add(record)
                queue.tell(proposal, record)
        archive.close()


Policy = Callable[[Replay], None]

#: Compared where none is named.
POLICIES: dict[str, Policy] = {
    "sousvit": ours,
    "tpe": partial(run_sampler, "tpe"),
    "nsga2": partial(run_sampler, "nsga2"),
    "random": random_choice,
}
#: The engine with one of its levers off.
ABLATIONS: dict[str, Policy] = {
    "no-model": partial(ours, proposer="tpe"),
    "no-rungs": partial(ours, explore_fidelity=FULL),
    "no-untrained-rung": trained_rungs_only,
}


def policies() -> dict[str, Policy]:
    """All by name, plug-ins' proposers included."""
    plain: dict[str, Policy] = {name: partial(run_sampler, name) for name in SAMPLERS}
    names = PROPOSERS.names()
    others: dict[str, Policy] = {name: partial(alone, name) for name in names if name not in plain}
    engine: dict[str, Policy] = {f"sousvit-{name}": partial(ours, proposer=name) for name in names}
    return {**plain, **others, **engine, **POLICIES, **ABLATIONS}


def replay(
    table: Table,
    policy: str,
    evaluations: int,
    seed: int,
    hypervolume: Hypervolume | None = None,
    seconds: float | None = None,
) -> Curve:
    """What ``policy`` (one of :func:`policies`) reaches on ``table``.

    Raises:
        UnknownNameError: no such policy.
        MissingPackageError: it needs a package that is not installed.
    """
    known = policies()
    if policy not in known:
        raise UnknownNameError("policy", policy, known)
    run = Replay(table, evaluations, seed, seconds)
    known[policy](run)
    return run.curve(hypervolume or table.hypervolume())
