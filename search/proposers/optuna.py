"""The proposer: Optuna 5 by ask and tell, several objectives, every hard limit told as a constraint on every path."""

from __future__ import annotations

import contextlib
import logging
import math
import random
import sqlite3
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from sousvit.errors import SharedInputError, UserError
from sousvit.search.goals import Goals
from sousvit.search.proposers.study_file import StudyFile
from sousvit.search.trial import Trial
from sousvit.spaces.space import Space

if TYPE_CHECKING:
    from sousvit.search.proposers.model_based import ModelBased
    from sousvit.spaces.recipe import Recipe
    from sousvit.spaces.shape import ModelShape

#: Optuna ignores nothing louder than this of what it would print.
logging.getLogger("optuna").setLevel(logging.ERROR)
#: Constraint values stay finite, so that the sampler can add them up.
WORST_VIOLATION = 1e6
STUDY = "sousvit"
#: User attribute of a trial.
ORIGIN = "origin"
#: From so many trials on NSGA-II samples: TPE's ask grows with them.
NSGA_TRIALS = 1000
#: Changed recipes that are drawn at most to find one that is new.
MUTATIONS = 20


@contextmanager
def storage_errors_as_user_errors(path: Path | None) -> Iterator[None]:
    """Turn what SQLite says of a full disk, or of a file it cannot write, into one line."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
        cause = error.__cause__ or error
        raise SharedInputError(
            "the study's file must be writable", f"{path}: {cause}", "free some space and run the same command again"
        ) from error


@dataclass(frozen=True)
class Proposal:
    """An asked trial and its canonical recipe."""

    trial: optuna.Trial
    recipe: Recipe

    @property
    def number(self) -> int:
        """Optuna's trial number."""
        return int(self.trial.number)

    @property
    def origin(self) -> str:
        """Who asked for it, where it was not the sampler; kept with the study, so that a resumed search knows it."""
        return str(self.trial.user_attrs.get(ORIGIN, "proposed"))


class Proposer:
    """Asks for recipes and tells results.

    Args:
        space: what may be combined.
        shape: the base's shape, for canonical recipes.
        goals: their limits are told as constraints.
        seed: of the sampler.
        path: SQLite file of the study, or None to keep it in memory.
        expected_trials: how long TPE draws at random first.
        sampler: ``nsga2``, or TPE for any other word.
        model: proposes first, where it applies.
    """

    def __init__(
        self,
        space: Space,
        shape: ModelShape,
        goals: Goals,
        seed: int,
        path: Path | None = None,
        expected_trials: int = 100,
        sampler: str = "tpe",
        model: ModelBased | None = None,
    ) -> None:
        self._model = model
        self.space, self._shape, self._goals = space, shape, goals
        with storage_errors_as_user_errors(path):
            self._file = None if path is None else StudyFile(path)
            self.study = optuna.create_study(
                storage=self._file,
                study_name=STUDY,
                load_if_exists=True,
                directions=list(goals.directions.values()),
            )
        self._seed, self._sampler, self._expected_trials = seed, sampler, expected_trials
        self._random = random.Random(seed)
        self._asked_after = (-1, 0)
        self._listed: list[tuple[dict[str, Any], Recipe]] | None = None
        #: Enqueued and not asked yet; counted, because Optuna looks at all trials to tell.
        self._waiting = len(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
        self._complete = _Complete(self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))

    def ask(
        self, records: Sequence[Trial] = (), pending: Sequence[Recipe] = (), dominated: Iterable[str] = ()
    ) -> Proposal:
        """The next recipe, canonical; enqueued ones come first, then what a model of ``records`` values most.

        ``pending`` recipes are on their way: the model takes them as it expects them to come out. It proposes no
        deployment that is ``dominated`` so far.

        A step that does not fit in its place (more tokens merged than the blocks left can merge) is left out.
        """
        self._draw_as_of(len(records))
        if self._model is not None and records and not self.is_waiting:
            parameters = self._model.propose(records, pending, dominated)
            if parameters is not None:
                self._enqueue(parameters)
        proposal = self._proposal(self.study.ask())
        self._waiting = max(0, self._waiting - 1)
        self._save()
        return proposal

    def _draw_as_of(self, known: int) -> None:
        """Draw by how many results are known, not by what was drawn before: so a resumed search goes on as it would."""
        last, times = self._asked_after
        self._asked_after = known, times + 1 if known == last else 0
        seed = zlib.crc32(f"{self._seed} {self._asked_after}".encode())
        self._random.seed(seed)
        if self._sampler == "nsga2":
            self.study.sampler = _Nsga2(self._complete, seed)
        else:
            self.study.sampler = _tpe(seed, self._expected_trials)

    @property
    def is_new(self) -> bool:
        """Whether nothing was asked or enqueued yet."""
        return not self.study.get_trials(deepcopy=False)

    def cost_errors(self) -> dict[str, tuple[float, int]]:
        """See :meth:`sousvit.search.proposers.model_based.ModelBased.cost_errors`; nothing where no model proposes."""
        return {} if self._model is None else self._model.cost_errors()

    @property
    def is_waiting(self) -> bool:
        """Whether some recipe was enqueued and not asked yet."""
        return self._waiting > 0

    def _enqueue(self, parameters: dict[str, Any], **attributes: str) -> None:
        self.study.enqueue_trial(parameters, user_attrs=attributes)
        self._waiting += 1

    def enqueue(self, recipe: Recipe, origin: str) -> bool:
        """Ask for ``recipe`` next, by ``origin``; False when the space does not hold it."""
        parameters = self.space.parameters(recipe, self._shape)
        if parameters is None:
            return False
        self._enqueue(parameters, **{ORIGIN: origin})
        return True

    def enqueue_mutation(self, is_new: Callable[[Recipe], bool]) -> None:
        """Ask next for a trial so far with one parameter drawn anew, or for all of them anew.

        Drawn until it ``is_new``, which takes less time than a trial that is not, but not for ever.
        """
        trials = self.study.get_trials(deepcopy=False)
        parameters: dict[str, Any] = {}
        for _ in range(MUTATIONS):
            known = dict(self._random.choice(trials).params) if trials and self._random.random() < 0.8 else {}
            if known:
                known.pop(self._random.choice(list(known)))
            parameters, recipe = self.space.draw(self._random, known)
            if is_new(recipe.fitting(self._shape)):
                break
        self._enqueue(parameters)

    def enqueue_listed(self, is_new: Callable[[Recipe], bool]) -> bool:
        """Ask next for some recipe of a listed space that ``is_new``; False where there is none left."""
        if self._listed is None:
            self._listed = list(self.space.suggestions())
            random.Random(self._seed).shuffle(self._listed)
        while self._listed:  # what is not new will never be
            parameters, recipe = self._listed.pop()
            if is_new(recipe.fitting(self._shape)):
                self._enqueue(parameters)
                return True
        return False

    def reject(self, proposal: Proposal) -> None:
        """Tell that a recipe's values do not fit together."""
        self._reject(proposal.trial)
        self._save()

    def tell(self, proposal: Proposal, record: Trial) -> None:
        """Tell a finished trial, its constraints first."""
        self._tell(proposal.trial, record)
        self._save()

    def reconcile(self, records: Sequence[Trial]) -> list[Proposal]:
        """After a crash: tell what the archive has of RUNNING trials, and give back the others to be tried again."""
        known = {record.number: record for record in records if record.number is not None}
        again = []
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            trial = optuna.Trial(self.study, frozen._trial_id)
            if frozen.number in known:
                self._tell(trial, known[frozen.number])
            else:
                again.append(self._proposal(trial))
        self._save()
        return again

    def _save(self) -> None:
        if self._file is not None:
            self._file.save()

    def _proposal(self, trial: optuna.Trial) -> Proposal:
        recipe = self.space.suggest(trial)
        recipe = recipe.fitting(self._shape)
        with contextlib.suppress(UserError):  # a stand-in that does not fit: the engine rejects it
            recipe = recipe.canonical(self._shape)
        return Proposal(trial, recipe)

    def _tell(self, trial: optuna.Trial, record: Trial) -> None:
        is_gated = record.status == "gated"
        values = {
            limit.name: limit.violation(record.values[limit.name])
            for limit in self._goals.limits
            if limit.name in record.values
        }
        self._set_constraints(trial, values, unmeasured=0.0 if is_gated else 1.0)
        point = [record.get(name) for name in self._goals.directions]
        if record.status == "complete" and all(math.isfinite(value) for value in point):
            self._complete.add(self.study.tell(trial, point))
        else:
            self.study.tell(trial, state=TrialState.PRUNED if is_gated else TrialState.FAIL)

    def _reject(self, trial: optuna.Trial) -> None:
        self._set_constraints(trial, {}, unmeasured=1.0)
        self.study.tell(trial, state=TrialState.FAIL)

    def _set_constraints(self, trial: optuna.Trial, violations: Mapping[str, float], unmeasured: float) -> None:
        """Every limit gets a value.

        Args:
            violations: those measured.
            unmeasured: value of the others: of a gated trial nothing is known, any other breaks what it did not tell.
        """
        for limit in self._goals.limits:
            value = violations.get(limit.name, unmeasured)
            trial.set_constraint(limit.name, max(-WORST_VIOLATION, min(WORST_VIOLATION, value)))


class _Complete:
    """What NSGA-II asks of all complete trials, kept as they come: Optuna's own way looks at all of them each time.

    Attributes:
        trials: by their identity in the storage.
        shared: the parameters that all of them have.
        generations: trials by generation; those that had another sampler have none.
    """

    def __init__(self, trials: Iterable[FrozenTrial]) -> None:
        self.trials: dict[int, FrozenTrial] = {}
        self.shared: dict[str, BaseDistribution] | None = None
        self.generations: Counter[int] = Counter()
        for trial in trials:
            self.add(trial)

    def add(self, trial: FrozenTrial) -> None:
        """Take in one more."""
        self.trials[trial._trial_id] = trial
        known = trial.distributions if self.shared is None else self.shared
        self.shared = {name: values for name, values in known.items() if name in trial.distributions}
        generation = trial.system_attrs.get(_Nsga2._get_generation_key())
        if generation is not None:
            self.generations[generation] += 1


class _Nsga2(optuna.samplers.NSGAIISampler):
    """NSGA-II that is told what it needs of the complete trials."""

    def __init__(self, complete: _Complete, seed: int) -> None:
        super().__init__(seed=seed)
        self._complete = complete

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._complete.shared or {})

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        """See :class:`optuna.samplers.BaseGASampler`: the newest generation, the next one once that is full."""
        key = self._get_generation_key()
        if key in trial.system_attrs:
            return int(trial.system_attrs[key])
        generations = self._complete.generations
        newest = max(generations, default=0)
        newest += generations[newest] >= self.population_size
        study._storage.set_trial_system_attr(trial._trial_id, key, newest)
        return newest

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        chosen = study._storage.get_study_system_attrs(study._study_id)
        parents = chosen.get(f"{self._get_parent_cache_key_prefix()}{generation}")
        if parents is None:
            found: list[FrozenTrial] = super().get_parent_population(study, generation)
            return found
        return [self._complete.trials[parent] for parent in sorted(parents)]


def _tpe(seed: int, expected_trials: int) -> optuna.samplers.TPESampler:
    startup = min(10, max(5, expected_trials // 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # multivariate and group are; their behaviour is tested
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=startup)
