"""The default proposer: a model of the results, and a sampler of Optuna where the model says nothing."""

from __future__ import annotations

from collections.abc import Sequence

from sousvit.search.proposers.batches import Batches
from sousvit.search.proposers.model_based import MAX_PENDING, ModelBased
from sousvit.search.proposers.nsga2 import Nsga2
from sousvit.search.proposers.proposer import Problem, Proposal, Proposer, Suggestion
from sousvit.search.proposers.samplers import Tpe
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe

#: From so many trials on NSGA-II samples: TPE's ask grows with them.
NSGA_TRIALS = 1000


class Auto(Proposer):
    """The model first (:mod:`.model_based`); TPE, or NSGA-II in a large search, where it knows too little or too much.

    The sampler learns every result, whoever asked for it.
    """

    name = "auto"
    summary = "what should add most by a model of the results, otherwise TPE, from 1,000 trials on NSGA-II"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._model, self._batches = ModelBased(problem), Batches(problem)
        self.sampler: Tpe | Nsga2 = (Nsga2 if problem.expected_trials >= NSGA_TRIALS else Tpe)(problem)

    def ask(self, history: Sequence[Trial], pending: Sequence[Recipe], seed: int) -> Suggestion | None:
        parameters = self._model.propose(history, pending)
        return self.sampler.ask(history, pending, seed) if parameters is None else Suggestion(parameters)

    def ask_many(self, history: Sequence[Trial], pending: Sequence[Recipe], seed: int) -> Sequence[Suggestion]:
        found = self._batches.propose_many(history, pending, seed) if len(pending) > MAX_PENDING else ()
        return [Suggestion(parameters) for parameters in found] or super().ask_many(history, pending, seed)

    def begin(self, proposal: Proposal) -> None:
        self.sampler.begin(proposal)

    def tell(self, trial: Trial) -> None:
        self.sampler.tell(trial)

    def cost_errors(self) -> dict[str, tuple[float, int]]:
        return self._model.cost_errors()
