"""A job on its way, with what the search wants of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sousvit.search.trial import is_single, recipe_model_key, trial_key

if TYPE_CHECKING:
    from sousvit.search.executors.executor import Job
    from sousvit.search.proposers.proposer import Proposal
    from sousvit.spaces.recipe import Recipe


@dataclass
class Work:
    """A recipe to judge at one fidelity.

    Attributes:
        origin: who asked (see :class:`sousvit.search.trial.Trial`).
        proposals: asked trials that wait for the result; the sampler may ask for one recipe several times.
        job: set when it is given to an executor.
        retries: times that its worker was lost.
    """

    recipe: Recipe
    fidelity: float
    seed: int
    origin: str
    proposals: list[Proposal] = field(default_factory=list)
    job: Job | None = None
    retries: int = 0

    def __post_init__(self) -> None:
        plain = self.recipe.to_dict()
        self.trains = self.recipe.trains
        self.key = trial_key(plain, self.fidelity, self.seed)
        self.model_key = recipe_model_key(plain)

    @property
    def number(self) -> int | None:
        """Of the first proposal, or None for what the engine asked itself."""
        return self.proposals[0].number if self.proposals else None

    @property
    def is_single(self) -> bool:
        """Whether it is one compression technique alone."""
        return is_single(step.technique for step in self.recipe.steps)

    def shares_training(self, others: Sequence[Work]) -> bool:
        """Whether one of ``others`` is training the same weights now, so that waiting is cheaper."""
        return self.trains and any(
            other.model_key == self.model_key and other.fidelity == self.fidelity for other in others
        )
