"""The engine: asks, gates, hands out jobs, records, tells, until the budget's trials or time are spent.

It decides and never waits: :meth:`Engine.next_job` and :meth:`Engine.take` are called by whatever runs the jobs (one
worker process, a simulation, Ray Tune), one or many at a time. One trial's way: the proposer's recipe is made
canonical; a finished key is replayed from the archive; the analytic gate rejects by shape alone; the executor gates the
untrained artifact, recovers, exports and judges; the result goes to the archive first and to the proposer second. A
recovered model's other deployments are asked next (:mod:`.fan_out`), because its weights are already paid for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sousvit.errors import UserError
from sousvit.search.archive import Archive
from sousvit.search.budget import Budget
from sousvit.search.callbacks import Watcher
from sousvit.search.executors.executor import Executor, Job, JobResult, make_job, trial_of
from sousvit.search.fidelity.fan_out import FanOut
from sousvit.search.fidelity.halving import Halving
from sousvit.search.fidelity.learning_curve import FULL, UNTRAINED
from sousvit.search.fidelity.promotion import Promotions
from sousvit.search.fidelity.untrained import UntrainedResults
from sousvit.search.judging.gate import analytic_values
from sousvit.search.pending import Work
from sousvit.search.proposers.proposer import Proposal
from sousvit.search.proposers.queue import ProposalQueue
from sousvit.search.proposers.starters import hybrid_recipes, single_recipes
from sousvit.search.trial import IS_SINGLE, Trial
from sousvit.spaces.recipe import Recipe

if TYPE_CHECKING:
    from sousvit.objectives.objective import Measurement
    from sousvit.search.trial import BaseRecord
    from sousvit.spaces.shape import ModelShape

#: Duplicates in a row, beside those that were enqueued, before a space too large to be listed counts as exhausted.
DUPLICATES_BEFORE_END = 60
#: A job whose worker was killed or crashed is tried so many times more before it counts as failed.
RETRIES = 1
#: Recipes that wait for weights in training; while so many do, and more than jobs run, no other is asked.
MOST_HELD = 8
#: One trial in this many may be a further setting of a single technique.
LATER_PERIOD = 4


class Engine:
    """Runs one search.

    Args:
        budget: the request.
        archive: open for writing; results of an earlier session are kept and count.
        proposals: what is asked for, over the same space, limits and objectives.
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
        proposals: ProposalQueue,
        executor: Executor,
        base: BaseRecord,
        shape: ModelShape,
        policy: Halving,
        watcher: Watcher | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget, self._archive, self._proposals, self._executor = budget, archive, proposals, executor
        self._base, self._shape, self._policy, self._clock = base, shape, policy, clock
        self._watcher = watcher or Watcher()
        self.goals = policy.goals
        self._begun, self._spent_before = clock(), archive.spent_seconds
        self._later: deque[Recipe] = deque()
        self._promotions = Promotions(budget, archive, policy)
        self._fan_out = FanOut(archive, proposals.space, policy)
        self._untrained = UntrainedResults(archive)
        self._running: dict[str, Work] = {}
        #: Asked, but the same weights are being trained for another recipe.
        self._held: list[Work] = []
        self._exhausted = False
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
        self.begin()
        self._executor.drive(self)

    def begin(self) -> None:
        """Take up what an earlier session left, and plan what is asked first."""
        self._plan_priors(self._shape)
        finished = {trial.number: trial for trial in self._archive if not trial.source}
        for proposal in self._proposals.unfinished:
            if proposal.number in finished:  # killed between archive and tell
                self._tell(finished[proposal.number], [proposal])
            else:
                self._weigh(proposal)
        self._fan_out.resume()

    def next_job(self) -> Job | None:
        """The next job to start now; None while nothing may start before a running one ends, or for good.

        Raises:
            UserError: the disk is full, or every trial so far failed.
        """
        while not self.is_over:
            work = next(self._choices(), None)
            if work is not None:
                return self._start(work)
            if self._exhausted or len(self._held) >= max(MOST_HELD, len(self._running)):
                return None
            if not self._propose():
                self.stopped_because = "the space is exhausted"
                self._exhausted = True
        return None

    def take(self, outcome: JobResult) -> bool:
        """Record an outcome; False for that of a lost attempt, which is discarded."""
        work = self._running.pop(outcome.attempt, None)
        if work is None:
            return False
        assert work.job is not None
        if outcome.lost and work.retries < RETRIES:
            work.retries += 1
            self._held.insert(0, work)
            return True
        record = trial_of(work.job, outcome, work.origin, work.number)
        self.counts.gated_measured += record.status == "gated"
        self._record(record, work.proposals)
        self._fan_out.offer(work.recipe, record)
        return True

    def cost_errors(self) -> dict[str, tuple[float, int]]:
        """How well what candidates cost was predicted before it was measured (median relative error, structures)."""
        return self._proposals.proposer.cost_errors()

    def rungs_of(self, job: Job) -> list[float]:
        """The fidelities at which the job's recipe may be judged, ascending, its own first."""
        recipe = Recipe.from_dict(job.recipe)
        return self._policy.rungs_from(job.fidelity, self._archive) if recipe.trains else [job.fidelity]

    def continue_with(self, job: Job, attempt: str) -> Job | None:
        """The same recipe at its next rung under a new ``attempt``, where that is the promotion to make next."""
        if self.is_over:
            return None
        promotion = self._promotions.next(self.seconds, [*self._running.values(), *self._held], self._exhausted)
        rungs = self.rungs_of(job)
        if promotion is None or promotion.trial.recipe != job.recipe or promotion.fidelity not in rungs[1:2]:
            return None
        self.counts.promoted += 1
        return self._start(self._work(Recipe.from_dict(job.recipe), promotion.fidelity, "promoted"), attempt)

    @property
    def is_over(self) -> bool:
        """Whether the budget's trials (those on their way included) or time are spent."""
        limits = self._budget.search
        if self._archive.own + len(self._running) >= limits.trials:
            self.stopped_because = f"{limits.trials} trials"
        elif limits.time is not None and self.seconds >= limits.time:
            self.stopped_because = f"{limits.time:.0f} s"
        else:
            return False
        return True

    def _choices(self) -> Iterator[Work]:
        """What may start now, best first: asked recipes, then deployments of recovered models, then promotions."""
        running = list(self._running.values())
        for work in self._held:
            if not work.shares_training(running):
                self._held.remove(work)
                yield work
                return
        while (following := self._fan_out.next()) is not None:
            recipe, origin = following
            work = self._work(recipe.canonical(self._shape), FULL, origin)
            if (
                self._fits(work.recipe)
                and work.key not in self._archive.trials
                and work.key not in self._on_their_way()
            ):
                self.counts.variants += 1
                yield work
                return
        promotion = self._promotions.next(self.seconds, [*running, *self._held], self._exhausted)
        if promotion is not None:
            self.counts.promoted += 1
            yield self._work(Recipe.from_dict(promotion.trial.recipe), promotion.fidelity, "promoted")

    def _work(self, recipe: Recipe, fidelity: float, origin: str, *proposals: Proposal) -> Work:
        return Work(recipe, fidelity, self._budget.search.seed, origin, list(proposals))

    def _start(self, work: Work, attempt: str | None = None) -> Job:
        self._watcher.begin(work.origin, work.recipe, work.fidelity)
        job = make_job(work.recipe, work.fidelity, self._budget.search, self._rivals(work))
        work.job = job if attempt is None else replace(job, attempt=attempt)
        self._running[work.job.attempt] = work
        return work.job

    def _propose(self) -> bool:
        """Ask for a new recipe and hold it ready, or record what gated it; False when nothing new is left."""
        while self._later and self._is_known(self._later[0]):
            self._later.popleft()
        if self._later and self._archive.own % LATER_PERIOD == LATER_PERIOD - 1:
            self._proposals.enqueue([("single", self._later.popleft())])
        repeated = 0
        while repeated < DUPLICATES_BEFORE_END:
            was_enqueued = self._proposals.is_waiting  # a known one says nothing of what else there is
            if repeated and not was_enqueued and not self._proposals.vary(self._is_new):
                return False
            proposal = self._proposals.ask([work.recipe for work in self._on_their_way().values()])
            if proposal is not None and self._weigh(proposal):
                return True
            repeated += not was_enqueued
        return False

    def _weigh(self, proposal: Proposal) -> bool:
        """Hold a proposal ready, or record what gates it; False where it brings nothing new."""
        if not self._fits(proposal.recipe):
            self.counts.unfit += 1
            self._proposals.reject(proposal)
            return False
        work = self._work(proposal.recipe, self._policy.rung(proposal.recipe, self._archive), proposal.origin, proposal)
        known, awaited = self._archive.trials.get(work.key), self._on_their_way().get(work.key)
        if known is not None:
            self._tell(known, [proposal])
        elif awaited is not None:
            awaited.proposals.append(proposal)
        else:
            self._hold_or_gate(work)
            return True
        self.counts.replayed += 1
        return False

    def _is_known(self, recipe: Recipe) -> bool:
        return self._fits(recipe) and self._planned(recipe).key in self._archive.trials

    def _is_new(self, recipe: Recipe) -> bool:
        """Whether asking for it would give a trial that its shape does not gate."""
        if not self._fits(recipe):
            return False
        work = self._planned(recipe)
        is_asked = work.key in self._archive.trials or work.key in self._on_their_way()
        return not is_asked and not self.goals.violations(self._analytic_values(work.recipe), measured_only=True)

    def _planned(self, recipe: Recipe) -> Work:
        canonical = recipe.canonical(self._shape)
        return self._work(canonical, self._policy.rung(canonical, self._archive), "")

    def _analytic_values(self, recipe: Recipe) -> dict[str, Measurement]:
        return analytic_values(recipe, self._shape, self._base.values)

    def _fits(self, recipe: Recipe) -> bool:
        """Whether the steps' values fit together (no more tokens merged than the blocks left can merge)."""
        try:
            recipe.reshape(self._shape)
        except UserError:
            return False
        return True

    def _on_their_way(self) -> dict[str, Work]:
        return {work.key: work for work in (*self._running.values(), *self._held)}

    def _hold_or_gate(self, work: Work) -> None:
        """Hold it ready, unless shapes gate it, or the same model was judged before its recovery already."""
        gated = self._gate(work)
        known = self._untrained.of(work) if gated is None and work.fidelity == UNTRAINED else None
        if gated is not None:
            self.counts.gated_analytic += 1
            self._record(gated, work.proposals)
        elif known is not None:
            self._record(known, work.proposals)
        else:
            self._held.append(work)

    def _gate(self, work: Work) -> Trial | None:
        """A gated record if shapes alone break a limit, or the deployment never pays."""
        if work.origin == "proposed" and self._fan_out.is_dominated(work.recipe):
            message = "gated: every model that was deployed so was better off with another deployment"
            return self._gated(work, message=message)
        values = self._analytic_values(work.recipe)
        broken = self.goals.explain(values, measured_only=True)
        if not broken:
            return None
        message = f"gated by shape: {'; '.join(broken)}"
        return self._gated(work, values=values, message=message)

    def _gated(self, work: Work, **more: Any) -> Trial:
        plain = work.recipe.to_dict()
        return Trial(work.key, plain, work.fidelity, work.seed, "gated", origin=work.origin, number=work.number, **more)

    def _rivals(self, work: Work) -> tuple[dict[str, float], ...]:
        """The front so far; for a single technique that of singles, because the best single is part of the answer."""
        return self._archive.rivals(self.goals, IS_SINGLE if work.is_single else None)

    def _record(self, record: Trial, proposals: list[Proposal]) -> None:
        """Archive first, then tell: a crash in between is mended on resume."""
        self._archive.add(record)
        self._tell(record, proposals)
        if record.artifact:
            self._archive.drop_artifacts(self.goals, record)
        self.counts.finished += 1
        self.counts.failed += record.status == "failed"
        self._watcher.trial(record, self.counts)
        self._check_not_hopeless()

    def _tell(self, record: Trial, proposals: list[Proposal]) -> None:
        for proposal in proposals:
            self._proposals.tell(proposal, self._policy.expected(record, self._archive.records))

    def _plan_priors(self, shape: ModelShape) -> None:
        """What is asked before and beside the sampler: every technique alone, which a hybrid must beat, and hybrids.

        Deployments come first: they need no training, and whatever is worse than one of them is not trained.
        The singles' further settings are asked in between the sampler's own recipes.
        """
        space, trials = self._proposals.space, self._budget.search.trials
        deploys, singles, more = single_recipes(space, shape)
        # A third of a small budget at most: the search itself must have its share.
        singles = [*deploys, *singles][: trials // 3]
        self._later.extend(more[: max(0, trials // 3 - len(singles))])
        if not self._proposals.is_new:
            return  # resumed: what was not asked for yet still waits
        # Known ones are replayed, so that the proposer learns them.
        earlier = [("earlier", Recipe.from_dict(trial.recipe)) for trial in self._archive.front(self.goals)]
        hybrids = [("starter", recipe) for recipe in hybrid_recipes(space, shape)]
        known = [("single", recipe) for recipe in singles]
        self._proposals.enqueue([*earlier, *known[: len(deploys)], *hybrids, *known[len(deploys) :]])

    def _check_not_hopeless(self) -> None:
        trials = self._archive.records
        if len(trials) >= 10 and all(trial.status == "failed" for trial in trials):
            raise UserError(
                "some trial must work", f"{len(trials)} failed, the last: {trials[-1].message}", "see events.jsonl"
            )
