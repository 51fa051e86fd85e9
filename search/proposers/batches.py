"""Batches of proposals for many workers: one look at the results gives several recipes that add most together.

With hundreds of recipes on their way, weighing one at a time would keep every worker waiting. So a model is fitted to
the results once in a batch: to the best of them and some of all others, which bounds its time however long the search
is. The batch is chosen greedily, each recipe by the hypervolume that it should add to what was reached, what is on its
way, and the batch so far, both taken as if they had come out as expected. Nothing hangs on the batches before, so a
search that was killed goes on with the same ones.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from sousvit.search.fidelity.learning_curve import LearningCurve
from sousvit.search.proposers.acquisition import greedy
from sousvit.search.proposers.candidates import Candidate, Pool
from sousvit.search.proposers.model_based import MIN_RESULTS, Learned, ModelBased, to_learn, with_one_thread
from sousvit.search.ranking import constrained_order, points_of
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe

#: A batch is one in so many of the recipes on their way, within these bounds and half of the results.
PENDING_A_PROPOSAL, LEAST, MOST = 8, 8, 256
#: Results that a model learns from: the best ones, and as many of the others.
BEST, OTHERS = 160, 120
#: Candidates drawn for every proposal of a batch, and good recipes that they are changed from.
DRAWN, PARENTS = 2, 64


class Batches(ModelBased):
    """The choice of batches for one search."""

    def propose_many(self, records: Sequence[Trial], pending: Sequence[Recipe], seed: int) -> list[dict[str, Any]]:
        """Parameters of several recipes that no record has, the one that adds most first; empty before enough is known.

        Args:
            records: all so far, in order; those of an earlier call come first.
            pending: on their way.
            seed: of the candidates that are drawn.
        """
        with with_one_thread():
            self._look_at(records)
            if any(len(learned.values) < MIN_RESULTS for learned in self._learned.values()):
                return []
            count = min(MOST, max(LEAST, min(len(pending) // PENDING_A_PROPOSAL, len(self._results) // 2)))
            return self._batch(records, pending, count, seed)

    def _look_at(self, records: Sequence[Trial]) -> None:
        """Learn from what may teach most: nothing of an earlier look stays, but what each recipe's shape told."""
        for record in records[self._read :]:
            self._tried.add(record.recipe_key)
            if record.status == "complete":
                self._results.append(record)
                known = self._highest.get(record.recipe_key)
                self._highest[record.recipe_key] = known if known and known.fidelity > record.fidelity else record
        self._read = len(records)
        self._curve = LearningCurve(self._references(), self._results)
        self._hoped = [self._curve.expected(record) for record in self._highest.values()]
        self._learned = {name: Learned() for name in self._learned}
        order = self._order()
        others = order[BEST:]
        step = max(1, len(others) // OTHERS)
        for record in sorted((self._hoped[place] for place in [*order[:BEST], *others[::step]]), key=_key):
            self._learn_from(record)
        for learned in self._learned.values():
            learned.fit_at_once()

    def _learn_from(self, record: Trial) -> None:
        candidate = self._candidates.describe(record.recipe, record.recipe_key)
        if candidate is None or not candidate.parameters:
            return
        self._features[record.recipe_key] = candidate.features
        for name, learned in self._learned.items():
            value = to_learn(name, record)
            if value is not None:
                learned.put(record.recipe_key, record.recipe, candidate.features, value)

    def _order(self) -> list[int]:
        """Places of the results as they should end, the best first."""
        misses = np.array([self._goals.miss(record.values) for record in self._hoped])
        return constrained_order(points_of(self._hoped, self._goals), misses) if self._hoped else []

    def _batch(
        self, records: Sequence[Trial], pending: Sequence[Recipe], count: int, seed: int
    ) -> list[dict[str, Any]]:
        good = [self._hoped[place].parsed for place in self._order()[:PARENTS]]
        fresh = self._candidates.drawn(good, DRAWN * count, random.Random(seed))
        awaited = [self._candidates.describe(recipe.to_dict(), recipe.key) for recipe in pending]
        believed = [candidate for candidate in awaited if candidate is not None]
        closed = self._tried | {candidate.key for candidate in believed}
        dominated = self._deployments.dominated(records)
        items = {one.key: one for one in [*self._candidates.sample, *fresh]}
        pool = Pool.of([one for one in items.values() if _is_open(one, closed, dominated)])
        if not pool.items:
            return []
        weighed = self._weighed(pool, Pool.of(believed))
        return [pool.items[place].parameters for place in greedy(weighed, self._chance_to_hold(pool), count)]


def _is_open(candidate: Candidate, closed: set[str], dominated: set[str]) -> bool:
    return candidate.key not in closed and candidate.deployment not in dominated


def _key(record: Trial) -> str:
    return record.recipe_key
