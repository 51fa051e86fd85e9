"""Fan-out: variants of a model that is paid for, judged next because they cost next to nothing.

Of a fully recovered model these are its other deployments: after ``int8_dynamic``, ``static_int8`` trains nothing. A
model that was evaluated untrained is also that of the recipe without its recovery. Where it is good enough, that recipe
is a final result, and so are its other deployments.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING

from sousvit.search.archive import Archive
from sousvit.search.fidelity.deployments import Deployments
from sousvit.search.fidelity.halving import Halving
from sousvit.search.fidelity.learning_curve import FULL, UNTRAINED
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe

if TYPE_CHECKING:
    from sousvit.spaces.space import Space

#: What quantization may cost where it went well, in the unit of shares: two points.
QUANTIZED_LOSS = 0.02
#: Origin of recipes that an untrained evaluation showed to do without their recovery, and of their other deployments.
UNRECOVERED = "unrecovered"
#: From so many of the last results a resumed search takes up what follows.
RESUMED = 16


class FanOut:
    """Deployments of recovered models that wait to be judged.

    Args:
        archive: what is known.
        space: the deployments there are.
        policy: says which results are accurate enough; its goals say which deployments lose.
        without: ``variants`` where nothing is to follow, ``unrecovered`` where nothing from untrained evaluations is.
    """

    def __init__(self, archive: Archive, space: Space, policy: Halving, without: Collection[str] = frozenset()) -> None:
        self._archive, self._space, self._policy, self._goals = archive, space, policy, policy.goals
        self._waiting: deque[tuple[Recipe, str]] = deque()
        #: Recipes that were given before: most results lead to deployments that earlier results led to.
        self._given: set[str] = set()
        self._deployments = Deployments(self._goals)
        self._without = without

    def offer(self, trial: Trial) -> None:
        """Note what follows: of an untrained evaluation its recipe without recovery, of a model its deployments.

        Where a quantized one misses its accuracy by little, others of as many bits or more may hold it.
        """
        if trial.status != "complete" or "variants" in self._without:
            return
        if trial.fidelity == UNTRAINED:
            if "unrecovered" not in self._without:
                self._offer_unrecovered(trial)
        elif trial.origin == UNRECOVERED:
            if self._policy.is_accurate(trial) and not self._is_beaten(trial):
                self._offer_deployments(trial, UNRECOVERED)
        elif trial.fidelity >= FULL and trial.parsed.trains:
            self._offer_deployments(trial, "variant")

    def _offer_unrecovered(self, trial: Trial) -> None:
        rest = trial.parsed.unrecovered()
        if rest != trial.parsed and self._policy.may_be_accurate(trial) and not self._is_beaten(trial):
            self._waiting.append((rest, UNRECOVERED))

    def _offer_deployments(self, trial: Trial, origin: str) -> None:
        recipe, is_accurate = trial.parsed, self._policy.is_accurate(trial)
        if not is_accurate and not (recipe.is_quantized and self._policy.is_accurate(trial, QUANTIZED_LOSS)):
            return
        for runtime, option in self._space.deploys_of(recipe.model_steps).values():
            last = () if option is None else (option.default_step(),)
            sibling = Recipe((*recipe.model_steps, *last), runtime)
            if is_accurate or sibling.bytes_per_weight >= recipe.bytes_per_weight:
                self._waiting.append((sibling, origin))

    def _is_beaten(self, trial: Trial) -> bool:
        return any(self._goals.dominates(rival, trial.values) for rival in self._archive.rivals(self._goals))

    def resume(self) -> None:
        """Offer the last results again, because a kill may have cut short what follows; nothing is judged twice."""
        for trial in self._archive.records[-RESUMED:]:
            self.offer(trial)

    def next(self) -> tuple[Recipe, str] | None:
        """The next recipe whose deployment is not dominated so far, and its origin; each is given once."""
        while self._waiting:
            recipe, origin = self._waiting.popleft()
            if recipe.hash not in self._given and not self.is_dominated(recipe):
                self._given.add(recipe.hash)
                return recipe, origin
        return None

    def is_dominated(self, sibling: Recipe) -> bool:
        """Whether its deployment never pays: see :class:`.Deployments`."""
        return self._deployments.is_dominated(sibling, self._archive.records)
