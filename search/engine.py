"""The engine: asks, gates, hands out jobs, records, tells, until the budget's trials or time are spent.

It decides and never waits: :meth:`Engine.next_job` and :meth:`Engine.take` are called by whatever runs the jobs (one
worker process, a simulation, Ray Tune), one or many at a time. A trial begins: the proposer asks for a canonical
recipe; one that was judged before is told from the archive; the analytic gate rejects by shape alone; what is left is
held until it may start. The executor gates the untrained artifact, recovers, exports and judges. The result goes to the
archive first and to the proposer second. A recovered model's other deployments are next
(:mod:`sousvit.search.fidelity.fan_out`), because its weights are already paid for.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from sousvit.errors import UserError
from sousvit.search.archive import Archive
from sousvit.search.budget import Budget
from sousvit.search.callbacks import Callback, Counts
from sousvit.search.executors.executor import Executor, Job, JobResult, finished, make_job
from sousvit.search.fidelity.fan_out import FanOut
from sousvit.search.fidelity.halving import Halving
from sousvit.search.fidelity.learning_curve import FULL
from sousvit.search.fidelity.promotion import Promotions
from sousvit.search.fidelity.underway import Underway
from sousvit.search.fidelity.untrained import UntrainedResults
from sousvit.search.judging.gate import analytic_values
from sousvit.search.proposers.proposer import Proposal
from sousvit.search.proposers.queue import ProposalQueue
from sousvit.search.proposers.starters import deployments, hybrid_recipes, single_recipes, student_recipes
from sousvit.search.results import best, every_failure
from sousvit.search.stored.lines import collection_paused
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe

if TYPE_CHECKING:
    from sousvit.objectives.objective import Measurement
    from sousvit.search.timekeeping.schedule import Schedule
    from sousvit.search.trial import BaseRecord
    from sousvit.spaces.shape import ModelShape

#: Duplicates in a row, beside those that were enqueued, before a space too large to be listed counts as exhausted.
DUPLICATES_BEFORE_END = 60
#: A job whose worker was killed or crashed is tried so many times more before it counts as failed.
RETRIES = 1
#: Recipes that wait for weights in training; while so many do, and more than jobs run, no other is asked.
MOST_HELD = 8
#: While so many jobs run, one trial is asked for ahead of the worker that will take it.
RUNNING_A_TRIAL_AHEAD = 64
#: Share of a search's time that the full training of one starter should take at most.
TRAINING_SHARE = 1 / 10
#: One trial in this many may be a further setting of a single technique.
LATER_PERIOD = 4


class Engine:
    """The loop of one search.

    Args:
        budget: the request.
        archive: open for writing; results of an earlier session are kept and count.
        proposals: what is asked for, over the same space, limits and objectives.
        executor: started.
        base: the base's figures.
        shape: the base's shape.
        policy: fidelity of trials.
        callback: told of every trial.
        clock: seconds; the simulated executor brings its own.
        schedule: keeps time for the answer; without one the budget's time is the search's alone.
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
        callback: Callback | None = None,
        clock: Callable[[], float] = time.monotonic,
        schedule: Schedule | None = None,
    ) -> None:
        self._budget, self._archive, self._proposals, self._executor = budget, archive, proposals, executor
        self._base, self._shape, self._policy, self._clock = base, shape, policy, clock
        self._schedule = schedule
        self._callback = callback or Callback()
        self.goals = policy.goals
        self._begun, self._spent_before = clock(), archive.spent_seconds
        self._promotions = Promotions(budget, archive, policy)
        self._without = frozenset(budget.search.without)
        self._fan_out = FanOut(archive, proposals.space, policy, self._without)
        self._untrained = UntrainedResults(archive)
        #: Further settings of single techniques, asked in between.
        self._later: deque[Recipe] = deque()
        self._underway = Underway()
        #: What was asked and waits for a trial, by its key; the proposer may ask for one recipe several times.
        self._awaited: dict[str, list[Proposal]] = defaultdict(list)
        #: How often a trial's worker was lost, by its key.
        self._losses: Counter[str] = Counter()
        self._exhausted = False
        #: Whether what waits takes longer than the search has.
        self._is_late = False
        self.counts = Counts()

    @property
    def seconds(self) -> float:
        """Search time spent, earlier sessions included."""
        return self._spent_before + self._clock() - self._begun

    @property
    def stopped_because(self) -> str:
        """Why no job is given any more; "" while there may be one."""
        late = f"{self._budget.search.time:.0f} s" if self._is_late else ""
        return self._limit_reached() or late or ("the space is exhausted" if self._exhausted else "")

    @property
    def _time_limit(self) -> float | None:
        """Search time that there is, in the terms of :attr:`seconds`."""
        if self._schedule is None:
            return self._budget.search.time
        return self.seconds + self._schedule.for_search()

    def _limit_reached(self) -> str:
        """The budget's trials (those on their way included) or time, where they are spent; "" while some are left."""
        limits = self._budget.search
        if self._archive.own + self._underway.num_running >= limits.trials:
            return f"{limits.trials} trials"
        if limits.time is not None and self.seconds >= (self._time_limit or 0.0):
            return f"{limits.time:.0f} s"
        return ""

    def cost_errors(self) -> dict[str, tuple[float, int]]:
        """How well what candidates cost was predicted before it was measured (median relative error, structures)."""
        return self._proposals.proposer.cost_errors()

    def run(self) -> None:
        """Search until the budget is spent.

        Raises:
            UserError: the disk is full, or every trial so far failed.
        """
        with collection_paused():
            self.begin()
        self._executor.drive(self)
        self._callback.on_wait(self._underway.num_running)

    def begin(self) -> None:
        """Plan what is asked first, and take up what an earlier session left."""
        self._plan_starters()
        by_number = {trial.number: trial for trial in self._archive if not trial.source}
        for proposal in self._proposals.unfinished:
            if proposal.number in by_number:  # killed between archive and tell
                self._tell(by_number[proposal.number], [proposal])
            elif (trial := self._new_trial(proposal)) is not None:
                self._hold_or_record(trial)
        self._fan_out.resume()

    # What starts

    def next_job(self) -> Job | None:
        """The next job to start now; None while nothing may start before a running one ends, or for good.

        Raises:
            UserError: the disk is full, or every trial so far failed.
        """
        while not self._limit_reached():
            trial = self._underway.take_held(self._in_time) or self._next_variant() or self._next_promotion()
            if trial is not None:
                return self._start(trial)
            if self._exhausted or self._underway.num_held >= max(MOST_HELD, self._underway.num_running):
                break
            trial = self._underway.take_stocked() or self._ask()
            if trial is None:
                self._exhausted = True
            else:
                self._hold_or_record(trial)
        trial = self._owed_deployment()
        if trial is not None:
            return self._start(trial)
        waits = self._underway.num_held > 0 and not self._underway.num_running
        self._is_late = self._schedule is not None and waits
        return None

    def prepare(self) -> None:
        """Use the wait for a result: ask ahead for one trial in so many that run, so that few workers wait for that."""
        self._callback.on_wait(self._underway.num_running)
        ahead = self._underway.num_running // RUNNING_A_TRIAL_AHEAD
        while self._underway.num_ahead < ahead and not self._exhausted and not self._limit_reached():
            trial = self._ask()
            if trial is None:
                return
            self._underway.stock(trial)

    def _in_time(self, trial: Trial) -> bool:
        return self._schedule is None or self._schedule.fits(trial)

    def _owed_deployment(self) -> Trial | None:
        """A deployment of the base, where nothing else ends in time and nothing holds the limits: it needs no training.

        One is judged though the time is over: no search can do without.
        """
        if self._schedule is None or self._underway.num_running or self._archive.own >= self._budget.search.trials:
            return None
        if self._archive.front(self.goals):
            return None
        for recipe in deployments(self._proposals.space):
            trial = self._trial(recipe.canonical(self._shape), FULL, "single")
            if trial.key in self._archive.trials or not self._fits(trial.parsed) or self._gated(trial) is not None:
                continue
            if self._schedule.fits_at_all(trial) or not any(one.seconds for one in self._archive):
                self._underway.drop(trial.key)
                self.counts.owed += 1
                return trial
        return None

    def _next_variant(self) -> Trial | None:
        """The next other deployment of a recovered model that nobody has judged."""
        while (following := self._fan_out.next()) is not None:
            recipe, origin = following
            trial = self._trial(recipe.canonical(self._shape), FULL, origin)
            if self._fits(trial.parsed) and not self._is_asked(trial) and self._in_time(trial):
                self.counts.variants += 1
                return trial
        return None

    def _next_promotion(self) -> Trial | None:
        """The trial that is trained further now."""
        promoted = self._promotions.next(self.seconds, self._time_limit, self._underway, self._exhausted)
        if promoted is None or not self._in_time(promoted):
            return None
        self.counts.promoted += 1
        return promoted

    def _ask(self) -> Trial | None:
        """The next recipe of the proposer that is neither judged nor on its way; None when nothing new is left."""
        self._enqueue_later()
        repeated = 0
        while repeated < DUPLICATES_BEFORE_END:
            was_enqueued = self._proposals.is_waiting  # a known one says nothing of what else there is
            if repeated and not was_enqueued and not self._proposals.vary(self._is_new):
                return None
            pending = [trial.parsed for trial in self._underway]
            proposal = self._proposals.ask(pending)
            trial = None if proposal is None else self._new_trial(proposal)
            if trial is not None:
                return trial
            repeated += not was_enqueued
        return None

    def _new_trial(self, proposal: Proposal) -> Trial | None:
        """The trial that a proposal asks for; None where it brings nothing new, which the proposer is told."""
        if not self._fits(proposal.recipe):
            self.counts.unfit += 1
            self._proposals.reject(proposal)
            return None
        trial = self._trial(proposal.recipe, self._policy.rung(proposal.recipe), proposal.origin)
        known = self._archive.trials.get(trial.key)
        if known is not None:
            self._tell(known, [proposal])
        else:
            is_new = not self._is_asked(trial)
            self._awaited[trial.key].append(proposal)
            if is_new:
                return trial
        self.counts.replayed += 1
        return None

    def _hold_or_record(self, trial: Trial) -> None:
        """Hold a new trial ready, unless it need not run: shapes gate it, or its untrained model was judged before."""
        gated = self._gated(trial)
        ended = gated or self._untrained.of(trial)
        self.counts.gated_analytic += gated is not None
        if ended is None:
            self._underway.hold(trial)
        else:
            self._record(ended)

    def _gated(self, trial: Trial) -> Trial | None:
        """The trial as gated, if shapes alone break a limit or its deployment never pays."""
        if "gates" in self._without:
            return None
        if trial.origin == "proposed" and self._fan_out.is_dominated(trial.parsed):
            message = "gated: every model that was deployed so was better off with another deployment"
            return trial.changed(status="gated", message=message)
        values = self._analytic_values(trial.parsed)
        broken = self.goals.explain(values, measured_only=True)
        if not broken:
            return None
        return trial.changed(status="gated", values=values, message=f"gated by shape: {'; '.join(broken)}")

    def _start(self, trial: Trial, attempt: str | None = None) -> Job:
        self._callback.on_begin(trial.origin, trial.parsed, trial.fidelity)
        job = make_job(trial, self._budget.search, self._rivals(trial))
        job = job if self._schedule is None else self._schedule.bounded(job, trial)
        job = job if attempt is None else replace(job, attempt=attempt)
        self._underway.start(job.attempt, trial.changed(status="running", attempt=job.attempt))
        return job

    def _rivals(self, trial: Trial) -> tuple[dict[str, float], ...]:
        """The front so far; for a single technique that of singles, because the best single is part of the answer."""
        if "gates" in self._without:
            return ()
        return self._archive.rivals(self.goals, singles_only=trial.is_single)

    def rungs_of(self, job: Job) -> list[float]:
        """The fidelities at which the job's recipe may be judged, ascending, its own first."""
        return self._policy.rungs_from(job.fidelity) if Recipe.from_dict(job.recipe).trains else [job.fidelity]

    def continue_with(self, job: Job, attempt: str) -> Job | None:
        """The same recipe at its next rung under a new ``attempt``, where that is the promotion to make next."""
        if self._limit_reached():
            return None
        promoted = self._promotions.next(self.seconds, self._time_limit, self._underway, self._exhausted)
        if (
            promoted is None
            or not self._in_time(promoted)
            or promoted.recipe != job.recipe
            or promoted.fidelity not in self.rungs_of(job)[1:2]
        ):
            return None
        self.counts.promoted += 1
        return self._start(promoted, attempt)

    # What ends

    def keep(self, results: Sequence[JobResult]) -> None:
        """Make results durable that are taken next, all in one wait for the disk.

        Each is told of as ever when it is taken, in its order: so what is asked does not hang on how many came at once.
        """
        kept = []
        for result in results:
            trial = self._underway.running(result.attempt)
            if trial is not None and not self._tries_again(trial, result):
                kept.append(self._numbered(finished(trial, result)))
        self._archive.keep(kept)

    def _tries_again(self, trial: Trial, result: JobResult) -> bool:
        return result.lost and self._losses[trial.key] < RETRIES

    def _numbered(self, trial: Trial) -> Trial:
        """With the number of the first proposal that waits for it."""
        proposals = self._awaited.get(trial.key, [])
        return trial.changed(number=proposals[0].number if proposals else None)

    def take(self, result: JobResult) -> bool:
        """Record a job's result; False for that of a lost attempt, which is discarded."""
        trial = self._underway.end(result.attempt)
        if trial is None:
            return False
        if self._tries_again(trial, result):
            self._losses[trial.key] += 1
            self._underway.hold(trial.changed(status="pending", attempt=""), first=True)
            return True
        trial = finished(trial, result)
        self.counts.gated_measured += trial.status == "gated"
        self._record(trial)
        self._fan_out.offer(trial)
        return True

    def _record(self, trial: Trial) -> None:
        """Archive first, then tell: a crash in between is mended on resume."""
        trial, proposals = self._numbered(trial), self._awaited.pop(trial.key, [])
        self._archive.add(trial)
        self._tell(trial, proposals)
        if trial.artifact:
            self._archive.drop_artifacts(self.goals, trial)
        self.counts.finished += 1
        self.counts.of_run = self._archive.own
        self.counts.failed += trial.status == "failed"
        if trial.is_final:
            front = self._archive.front(self.goals)
            self.counts.front, self.counts.best = len(front), best(front, self.goals)
        self._callback.on_trial(trial, self.counts)
        self._check_not_hopeless()

    def _tell(self, trial: Trial, proposals: list[Proposal]) -> None:
        """Tell the proposer what came of proposals; a low-rung result as its full training should end."""
        for proposal in proposals:
            self._proposals.tell(proposal, self._policy.expected(trial))

    def _check_not_hopeless(self) -> None:
        trials = self._archive.records
        if len(trials) >= 10 and all(trial.status == "failed" for trial in trials):
            raise UserError("some trial must succeed", every_failure(trials), "see events.jsonl")

    # What is asked beside the proposer's own choices

    def _plan_starters(self) -> None:
        """Plan what is asked beside the proposer: every technique alone, which a hybrid must beat, and hybrids.

        Deployments come first: they need no training, and whatever is worse than one of them is not trained.
        The singles' further settings are asked in between the proposer's own recipes.
        """
        if "starters" in self._without:
            return
        space, trials, longest = self._proposals.space, self._budget.search.trials, self._longest_training()
        deploys, singles, more = single_recipes(space, self._shape, longest)
        # A third of a small budget at most: the search itself must have its share.
        singles = [*deploys, *singles][: trials // 3]
        self._later.extend(more[: max(0, trials // 3 - len(singles))])
        if not self._proposals.is_new:
            return  # resumed: what was not asked for yet still waits
        # Known ones are replayed, so that the proposer learns them.
        earlier = [("earlier", trial.parsed) for trial in self._archive.front(self.goals)]
        ladders = student_recipes(space, self._shape, longest), hybrid_recipes(space, self._shape, longest)
        hybrids = [("starter", recipe) for rung in zip_longest(*ladders) for recipe in rung if recipe is not None]
        known = [("single", recipe) for recipe in singles]
        self._proposals.enqueue([*earlier, *known[: len(deploys)], *hybrids, *known[len(deploys) :]])

    def _longest_training(self) -> float:
        """Epochs of the base that the training of a starter should cost at most."""
        time_limit, epoch = self._time_limit, self._base.epoch_seconds
        return math.inf if time_limit is None or not epoch else time_limit * TRAINING_SHARE / epoch

    def _enqueue_later(self) -> None:
        """Ask next for a further setting of a single technique, where it is its turn."""
        while self._later and self._is_judged(self._later[0]):
            self._later.popleft()
        if self._later and self._archive.own % LATER_PERIOD == LATER_PERIOD - 1:
            self._proposals.enqueue([("single", self._later.popleft())])

    def _is_judged(self, recipe: Recipe) -> bool:
        return self._fits(recipe) and self._planned(recipe).key in self._archive.trials

    def _is_new(self, recipe: Recipe) -> bool:
        """Whether asking for it would give a trial that its shape does not gate."""
        if not self._fits(recipe):
            return False
        trial = self._planned(recipe)
        values = self._analytic_values(trial.parsed)
        return not self._is_asked(trial) and not self.goals.violations(values, measured_only=True)

    # Trials

    def _planned(self, recipe: Recipe) -> Trial:
        """The trial that a proposal of this recipe would be."""
        canonical = recipe.canonical(self._shape)
        return self._trial(canonical, self._policy.rung(canonical), "proposed")

    def _trial(self, recipe: Recipe, fidelity: float, origin: str) -> Trial:
        return Trial.pending(recipe, fidelity, self._budget.search.seed, origin)

    def _is_asked(self, trial: Trial) -> bool:
        """Whether it is finished or on its way."""
        return trial.key in self._archive.trials or self._underway.has(trial.key)

    def _fits(self, recipe: Recipe) -> bool:
        """Whether the steps' values fit together (no more tokens merged than the blocks left can merge)."""
        try:
            recipe.reshape(self._shape)
        except UserError:
            return False
        return True

    def _analytic_values(self, recipe: Recipe) -> dict[str, Measurement]:
        return analytic_values(recipe, self._shape, self._base.values)
