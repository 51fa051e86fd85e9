"""The engine: asks, gates, runs, records, tells, until the budget's trials or time are spent.

One trial's way: the proposer's recipe is made canonical; a finished key is replayed from the archive; the
analytic gate rejects by shape alone; the executor gates the untrained artifact, recovers, exports and
judges; the result goes to the archive first and to Optuna second. A recovered model's other deployments are
asked next (fan-out), because its weights are already paid for.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from sousvit.common.errors import UserError
from sousvit.search.archive import Archive, feasible, violations
from sousvit.search.budget import Budget
from sousvit.search.executors.executor import Executor, make_job, record_of
from sousvit.search.fidelity import FULL, TwoRungs
from sousvit.search.gate import analytic_values, broken_limits, dominated, explain
from sousvit.search.priors import hybrid_recipes, single_recipes
from sousvit.search.proposer import Proposal, Proposer
from sousvit.search.record import TrialRecord, trial_key
from sousvit.search.selection import is_single
from sousvit.search.watcher import Watcher
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.technique import DeployTechnique, get_technique

if TYPE_CHECKING:
    from sousvit.search.record import BaseRecord
    from sousvit.spaces.shape import ModelShape

#: Asked duplicates in a row before the next one is mutated; and in all before the space counts as exhausted.
DUPLICATES_BEFORE_MUTATION = 3
DUPLICATES_BEFORE_END = 60
#: One trial in this many may be a further setting of a single technique.
LATER_PERIOD = 4
TRIALS_BEFORE_FIRST_PROMOTION = 6
#: The first, early promotion may take this share of the time.
FIRST_PROMOTION_SHARE = 0.25
#: One promotion in this many goes to a single technique, after the first.
SINGLES_SHARE = 4


class Engine:
    """Runs one search.

    Args:
        budget: the request.
        archive: open for writing; results of an earlier session are kept and count.
        proposer: over the same space, limits and objectives.
        executor: started.
        base: the base's figures.
        shape: the base's shape.
        policy: fidelity of trials.
        watcher: told of every trial.
        clock: seconds; the simulated executor brings its own.
    """

    def __init__(
        self,
        budget: Budget,
        archive: Archive,
        proposer: Proposer,
        executor: Executor,
        base: BaseRecord,
        shape: ModelShape,
        policy: TwoRungs,
        watcher: Watcher | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget, self._archive, self._proposer, self._executor = budget, archive, proposer, executor
        self._base, self._shape, self._policy, self._clock = base, shape, policy, clock
        self._watcher = watcher or Watcher()
        self._limits = budget.hard_limits
        self._senses = budget.senses
        self._begun, self._spent_before = clock(), archive.spent_seconds
        self._origins: dict[str, str] = {}
        self._later: deque[Recipe] = deque()
        self.counts = self._watcher.counts
        self.stopped_because = ""

    @property
    def seconds(self) -> float:
        """Search time spent, earlier sessions included."""
        return self._spent_before + self._clock() - self._begun

    def run(self) -> None:
        """Search until the budget is spent.

        Raises:
            UserError: the disk is full, or every trial so far failed.
        """
        self._proposer.reconcile(list(self._archive))
        self._plan_priors(self._shape)
        self._finish_fan_out()
        while not self._is_over():
            promotion = self._promotion()
            if promotion is not None:
                self._promote(promotion)
            elif not self._propose():
                self.stopped_because = "the space is exhausted"
                while (promotion := self._promotion(exhausted=True)) is not None and not self._is_over():
                    self._promote(promotion)
                break
            self._check_not_hopeless()

    def _is_over(self) -> bool:
        limits = self._budget.search
        if self._archive.own >= limits.trials:
            self.stopped_because = f"{limits.trials} trials"
        elif limits.time is not None and self.seconds >= limits.time:
            self.stopped_because = f"{limits.time:.0f} s"
        else:
            return False
        return True

    def _spent_share(self) -> float:
        limits = self._budget.search
        shares = [self._archive.own / limits.trials]
        if limits.time is not None:
            shares.append(self.seconds / limits.time)
        return max(shares)

    def _promotion(self, exhausted: bool = False) -> TrialRecord | None:
        if self._policy.low >= FULL:
            return None
        limits = self._budget.search
        left = float("inf") if limits.time is None else limits.time - self.seconds
        is_time = exhausted or self._policy.promotes(self._spent_share())
        if not is_time and not self._is_first_due():
            return self._last_chance(left)
        waiting: list[TrialRecord] = list(self._archive)
        single = self._due_single(left)
        if single is not None:
            return single
        chosen = self._policy.next(waiting, left)
        if chosen is None or exhausted:
            return chosen
        if not is_time:
            return chosen if self._is_cheap(chosen) else None
        # With an answer in hand, a full training that would not give a better one is worse spent than on exploring.
        has_answer = bool(self._archive.front(self._limits, self._senses))
        return chosen if not has_answer or self._policy.is_hopeful(chosen, self._archive) else None

    def _last_chance(self, left: float) -> TrialRecord | None:
        """Where there is no answer yet: the best hopeful trial, if after one more there is no time to train it."""
        if math.isinf(left) or self._archive.front(self._limits, self._senses):
            return None
        trials = list(self._archive)
        chosen = self._policy.next(trials, left)
        if chosen is None or not self._policy.is_hopeful(chosen, trials):
            return None
        longest = max(sum(trial.seconds.values()) for trial in trials)
        return chosen if self._policy.seconds(chosen, trials) + longest > left else None

    def _due_single(self, left: float) -> TrialRecord | None:
        """The single technique to train next, where it is their turn: the best of them is what a hybrid must beat."""
        singles = [trial for trial in self._archive if is_single(trial.techniques)]
        promoted = sum(trial.origin == "promoted" for trial in self._archive)
        if SINGLES_SHARE * sum(trial.origin == "promoted" for trial in singles) >= promoted:
            return None
        chosen = self._policy.next(singles, left)
        is_known = bool(feasible(singles, self._limits))
        return None if is_known and chosen and not self._policy.is_hopeful(chosen, self._archive) else chosen

    def _is_cheap(self, trial: TrialRecord) -> bool:
        """Whether its full training takes a small part of the time, and is worth it by what is known."""
        time_limit = self._budget.search.time
        share = 0.0 if time_limit is None else self._policy.seconds(trial, list(self._archive)) / time_limit
        return share <= FIRST_PROMOTION_SHARE and self._policy.is_hopeful(trial, self._archive)

    def _is_first_due(self) -> bool:
        """One promotion comes early: it tells how much of a low-rung loss the rest of the training takes away."""
        if any(trial.origin == "promoted" for trial in self._archive):
            return False
        explored = [trial for trial in self._archive if trial.status == "complete" and trial.fidelity < FULL]
        return len(explored) >= TRIALS_BEFORE_FIRST_PROMOTION

    def _promote(self, trial: TrialRecord) -> None:
        self.counts.promoted += 1
        recipe = Recipe.from_dict(trial.recipe)
        self._fan_out(recipe, self._run(recipe, FULL, "promoted", None))

    def _propose(self) -> bool:
        """Ask for a recipe and finish it; False when nothing new is left."""
        if self._later and self.counts.finished % LATER_PERIOD == LATER_PERIOD - 1:
            self._enqueue("single", self._later.popleft())
        for asked in range(DUPLICATES_BEFORE_END):
            if asked and asked % DUPLICATES_BEFORE_MUTATION == 0:
                self._proposer.enqueue_mutation()
            proposal = self._proposer.ask(list(self._archive))
            if not self._fits(proposal.recipe):
                self.counts.unfit += 1
                self._proposer.reject(proposal)
                continue
            fidelity = self._policy.rung(proposal.recipe.trains, proposal.recipe.is_prepared)
            known = self._known(proposal.recipe, fidelity)
            if known is None:
                self._finish(proposal, fidelity)
                return True
            self.counts.replayed += 1
            self._proposer.tell(proposal, self._policy.expected(known, self._archive))
        return False

    def _fits(self, recipe: Recipe) -> bool:
        """Whether the steps' values fit together (no more tokens merged than the blocks left can merge)."""
        try:
            recipe.reshape(self._shape)
        except UserError:
            return False
        return True

    def _known(self, recipe: Recipe, fidelity: float) -> TrialRecord | None:
        seed = self._budget.search.seed
        return self._archive.trials.get(trial_key(recipe.to_dict(), fidelity, seed))

    def _finish(self, proposal: Proposal, fidelity: float) -> None:
        origin = self._origins.pop(proposal.recipe.hash, "proposed")
        record = self._gate(proposal, fidelity, origin)
        if record is None:
            record = self._run(proposal.recipe, fidelity, origin, proposal)
        else:
            self.counts.gated_analytic += 1
            self._record(record, proposal)
        self._fan_out(proposal.recipe, record)

    def _gate(self, proposal: Proposal, fidelity: float, origin: str) -> TrialRecord | None:
        """A gated record if shapes alone break a limit, or the deployment never pays."""
        recipe = proposal.recipe
        if origin == "proposed" and self._has_lost(recipe):
            message = "gated: every model that was deployed so was better off with another deployment"
            return self._new_record(recipe, fidelity, origin, proposal, "gated", message=message)
        values = analytic_values(recipe, self._shape, self._base.values)
        broken = broken_limits(values, self._limits)
        if not broken:
            return None
        message = f"gated by shape: {explain(broken, values, self._limits)}"
        return self._new_record(recipe, fidelity, origin, proposal, "gated", values=values, message=message)

    def _run(self, recipe: Recipe, fidelity: float, origin: str, proposal: Proposal | None) -> TrialRecord:
        self._watcher.begin(origin, recipe, fidelity)
        job = make_job(recipe, fidelity, self._budget.search, self._rivals(recipe) if recipe.trains else ())
        outcome = self._executor.run(job)
        record = record_of(job, outcome, origin, None if proposal is None else proposal.number)
        self.counts.gated_measured += record.status == "gated"
        self._record(record, proposal)
        return record

    def _rivals(self, recipe: Recipe) -> tuple[dict[str, float], ...]:
        """The front so far; for a single technique that of singles, because the best single is part of the answer."""
        only_singles = is_single(step.technique for step in recipe.steps)
        among = [trial for trial in self._archive if not only_singles or is_single(trial.techniques)]
        front = self._archive.front(self._limits, self._senses, among)
        return tuple({name: trial.get(name) for name in self._senses} for trial in front)

    def _record(self, record: TrialRecord, proposal: Proposal | None) -> None:
        """Archive first, then tell: a crash in between is mended on resume."""
        self._archive.add(record)
        if proposal is not None:
            self._proposer.tell(proposal, self._policy.expected(record, self._archive))
        if record.artifact:
            self._archive.drop_artifacts(self._limits, self._senses, record)
        self.counts.finished += 1
        self.counts.failed += record.status == "failed"
        self._watcher.trial(record, self.counts)

    def _new_record(
        self, recipe: Recipe, fidelity: float, origin: str, proposal: Proposal | None, status: str, **more: object
    ) -> TrialRecord:
        plain, seed = recipe.to_dict(), self._budget.search.seed
        number = None if proposal is None else proposal.number
        key = trial_key(plain, fidelity, seed)
        return TrialRecord(key, plain, fidelity, seed, status, origin=origin, number=number, **more)  # type: ignore[arg-type]

    def _fan_out(self, recipe: Recipe, record: TrialRecord) -> None:
        """Judge a fully recovered model's other deployments now: its weights are paid for, they cost seconds.

        A model that is not accurate enough will not be so in fewer bits.
        """
        if record.status != "complete" or record.fidelity < FULL or not recipe.trains:
            return
        if not self._policy.is_accurate(record):
            return
        for runtime, option in self._proposer.space.deploys_of(recipe.model_steps).values():
            last = () if option is None else (option.default_step(),)
            sibling = Recipe((*recipe.model_steps, *last), runtime)
            if self._is_over():
                return
            if self._known(sibling, FULL) is None and self._fits(sibling) and not self._has_lost(sibling):
                self.counts.fanned += 1
                self._run(sibling, FULL, "fanned", None)

    def _finish_fan_out(self) -> None:
        """Resumed: the last recovered model's deployments may have been cut short."""
        trained = [trial for trial in self._archive if trial.origin != "fanned" and trial.is_final]
        if trained:
            self._fan_out(Recipe.from_dict(trained[-1].recipe), trained[-1])

    def _has_lost(self, sibling: Recipe) -> bool:
        """Whether this deployment was tried, and was surely worse than another of the same model each time."""
        deploy = _deploy_name(sibling.to_dict())
        measured = [trial for trial in self._archive if all(name in trial.values for name in self._senses)]
        by_model: dict[str, list[TrialRecord]] = defaultdict(list)
        for trial in measured:
            by_model[trial.model_key].append(trial)
        tried = [trial for trial in measured if _deploy_name(trial.recipe) == deploy]
        return bool(tried) and all(
            any(self._beats(other, trial) for other in by_model[trial.model_key]) for trial in tried
        )

    def _beats(self, other: TrialRecord, trial: TrialRecord) -> bool:
        """Surely better in all that is optimised, and holding the limits wherever ``trial`` does."""
        holds = not violations(other, self._limits) or bool(violations(trial, self._limits))
        point = {name: other.get(name) for name in self._senses}
        return holds and dominated(trial.values, [point], self._senses)

    def _plan_priors(self, shape: ModelShape) -> None:
        """What is asked before and beside the sampler: every technique alone, which a hybrid must beat, and hybrids.

        Deployments come first: they need no training, and whatever is worse than one of them is not trained.
        The singles' further settings are asked in between the sampler's own recipes.
        """
        space, trials = self._proposer.space, self._budget.search.trials
        deploys, singles, more = single_recipes(space, shape)
        # A third of a small budget at most: the search itself must have its share.
        singles = [*deploys, *singles][: trials // 3]
        self._later.extend(more[: max(0, trials // 3 - len(singles))])
        if self._archive.own:
            return  # resumed: the study still holds what was not asked yet
        for trial in self._archive.front(self._limits, self._senses):
            self._enqueue("earlier", Recipe.from_dict(trial.recipe))  # known: replayed, so that the sampler learns it
        hybrids = [("prior", recipe) for recipe in hybrid_recipes(space, shape)]
        known = [("single", recipe) for recipe in singles]
        for origin, recipe in [*known[: len(deploys)], *hybrids, *known[len(deploys) :]]:
            self._enqueue(origin, recipe)

    def _enqueue(self, origin: str, recipe: Recipe) -> None:
        if self._proposer.enqueue(recipe):
            self._origins.setdefault(recipe.canonical(self._shape).hash, origin)

    def _check_not_hopeless(self) -> None:
        trials = list(self._archive)
        if len(trials) >= 10 and all(trial.status == "failed" for trial in trials):
            raise UserError(
                "some trial must work", f"{len(trials)} failed, the last: {trials[-1].message}", "see events.jsonl"
            )


def _deploy_name(recipe: dict[str, object]) -> tuple[object, object]:
    steps = recipe["steps"]
    assert isinstance(steps, list)
    last = steps[-1]["technique"] if steps else ""
    return recipe["runtime"], last if last and isinstance(get_technique(last), DeployTechnique) else ""
