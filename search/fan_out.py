"""Fan-out: a fully recovered model is expensive, its other deployments are nearly free, so they are judged next."""

from __future__ import annotations

from collections import defaultdict, deque
from itertools import islice
from typing import TYPE_CHECKING

from sousvit.search.archive import Archive, violations
from sousvit.search.budget import Budget
from sousvit.search.fidelity import Halving
from sousvit.search.gate import dominated
from sousvit.search.learning_curve import FULL
from sousvit.search.record import TrialRecord
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.technique import DeployTechnique, get_technique

if TYPE_CHECKING:
    from sousvit.spaces.space import Space

#: What quantization may cost where it went well, in the unit of shares: two points.
QUANTIZED_LOSS = 0.02


class FanOut:
    """Deployments of recovered models that wait to be judged.

    Args:
        budget: its limits and objectives say which deployments lose.
        archive: what is known.
        space: the deployments there are.
        policy: says which results are accurate enough.
    """

    def __init__(self, budget: Budget, archive: Archive, space: Space, policy: Halving) -> None:
        self._limits, self._senses = budget.hard_limits, budget.senses
        self._archive, self._space, self._policy = archive, space, policy
        self._waiting: deque[Recipe] = deque()
        #: Measured trials by weights, and per deployment those that no other deployment of their weights beats.
        self._by_weights: dict[tuple[str, float], list[TrialRecord]] = defaultdict(list)
        self._unbeaten: dict[tuple[object, object], set[str]] = defaultdict(set)
        self._read = 0

    def offer(self, recipe: Recipe, record: TrialRecord) -> None:
        """Note the other deployments of a recovered model.

        Where a quantized one misses its accuracy by little, others of as many bits or more may hold it.
        """
        if record.status != "complete" or record.fidelity < FULL or not recipe.trains:
            return
        is_accurate = self._policy.is_accurate(record)
        if not is_accurate and not (recipe.is_quantized and self._policy.is_accurate(record, QUANTIZED_LOSS)):
            return
        for runtime, option in self._space.deploys_of(recipe.model_steps).values():
            last = () if option is None else (option.default_step(),)
            sibling = Recipe((*recipe.model_steps, *last), runtime)
            if is_accurate or sibling.bytes_per_weight >= recipe.bytes_per_weight:
                self._waiting.append(sibling)

    def resume(self) -> None:
        """The last recovered model's deployments may have been cut short."""
        trained = [trial for trial in self._archive if trial.origin != "fanned" and trial.is_final]
        if trained:
            self.offer(Recipe.from_dict(trained[-1].recipe), trained[-1])

    def next(self) -> Recipe | None:
        """The next deployment that has not lost so far."""
        while self._waiting:
            sibling = self._waiting.popleft()
            if not self.has_lost(sibling):
                return sibling
        return None

    def has_lost(self, sibling: Recipe) -> bool:
        """Whether this deployment was tried, and was surely worse than another of the same weights each time."""
        self._read_on()
        deploy = _deploy_name(sibling.to_dict())
        return deploy in self._unbeaten and not self._unbeaten[deploy]

    def _read_on(self) -> None:
        """Hold what the archive has got since against the deployments of the same weights."""
        for trial in islice(self._archive, self._read, None):
            self._read += 1
            if all(name in trial.values for name in self._senses):
                self._hold_against_siblings(trial)

    def _hold_against_siblings(self, trial: TrialRecord) -> None:
        siblings = self._by_weights[trial.model_key, trial.fidelity]
        unbeaten = self._unbeaten[_deploy_name(trial.recipe)]
        if not any(self._beats(other, trial) for other in siblings):
            unbeaten.add(trial.key)
        for other in siblings:
            if self._beats(trial, other):
                self._unbeaten[_deploy_name(other.recipe)].discard(other.key)
        siblings.append(trial)

    def _beats(self, other: TrialRecord, trial: TrialRecord) -> bool:
        """Surely better in all that is optimised, and holding the limits wherever ``trial`` does."""
        holds = not violations(other, self._limits) or bool(violations(trial, self._limits))
        point = {name: other.get(name) for name in self._senses}
        return holds and dominated(trial.values, [point], self._senses)


def _deploy_name(recipe: dict[str, object]) -> tuple[object, object]:
    steps = recipe["steps"]
    assert isinstance(steps, list)
    last = steps[-1]["technique"] if steps else ""
    return recipe["runtime"], last if last and isinstance(get_technique(last), DeployTechnique) else ""
