"""Proposers that are no more than a sampler: Optuna's TPE and Gaussian process, BoTorch's qLogNEHVI, and chance."""

from __future__ import annotations

import importlib
import random
import warnings
from collections.abc import Sequence

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler

from sousvit.errors import MissingPackageError
from sousvit.search.proposers.optuna_sampler import SamplerProposer
from sousvit.search.proposers.proposer import Proposer, Suggestion
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe


class Random(Proposer):
    """Random search: of every parameter all values are equally likely."""

    name = "random"
    summary = "drawn at random"

    def ask(self, history: Sequence[Trial], pending: Sequence[Recipe], seed: int) -> Suggestion | None:
        return Suggestion(self.problem.space.draw(random.Random(seed), {})[0])


class Tpe(SamplerProposer):
    """Tree-structured Parzen estimator over groups of parameters that are asked together."""

    name = "tpe"
    summary = "Optuna's tree-structured Parzen estimator, multivariate in groups"

    def sampler(self, seed: int) -> BaseSampler:
        startup = min(10, max(5, self.problem.expected_trials // 5))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # multivariate and group are
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=startup)


class GaussianProcess(SamplerProposer):
    """Expected hypervolume improvement over the parameters that all recipes have; the others are drawn."""

    name = "gp"
    summary = "Optuna's Gaussian process with constraints (logEHVI)"

    def sampler(self, seed: int) -> BaseSampler:
        return gp_sampler(seed)


class QLogNehvi(SamplerProposer):
    """Noisy expected hypervolume improvement over the parameters that all recipes have; the others are drawn."""

    name = "qlognehvi"
    summary = "BoTorch's noisy expected hypervolume improvement with constraints (extra: botorch)"

    @classmethod
    def require(cls) -> None:
        for package, module in (("botorch", "botorch"), ("optuna-integration", "optuna_integration")):
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise MissingPackageError(package, "the proposer qlognehvi", "botorch") from error

    def ask(self, history: Sequence[Trial], pending: Sequence[Recipe], seed: int) -> Suggestion | None:
        found = super().ask(history, pending, seed)
        # Its best guess is often the one that is on its way already, whatever it is told of that.
        if found is None or self.problem.recipe(found.parameters) in pending:
            return Suggestion(self.problem.space.draw(random.Random(seed), {})[0])
        return found

    def sampler(self, seed: int) -> BaseSampler:
        return qlognehvi_sampler(seed, len(self.problem.goals.directions))


def gp_sampler(seed: int) -> BaseSampler:
    """Optuna's Gaussian process sampler, without warnings about the parameters that it draws."""
    return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)


def qlognehvi_sampler(seed: int, num_objectives: int) -> BaseSampler:
    """BoTorch's sampler through Optuna; with one objective, where there is no hypervolume, qLogEI.

    Raises:
        MissingPackageError: the extra ``botorch`` is not installed.
    """
    QLogNehvi.require()
    from optuna_integration import BoTorchSampler
    from optuna_integration.botorch import qlogei_candidates_func, qnehvi_candidates_func

    # Optuna's name for the function is that of its ancestor; it maximises BoTorch's qLogNEHVI.
    candidates = qnehvi_candidates_func if num_objectives > 1 else qlogei_candidates_func
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return BoTorchSampler(candidates_func=candidates, consider_running_trials=True, seed=seed)
