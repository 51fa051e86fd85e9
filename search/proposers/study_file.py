"""The trials of a run as a study of Optuna, for optuna-dashboard: ``optuna-dashboard runs/NAME/study.journal``.

It says what was measured, under the names of objectives and limits, in Optuna's journal format. The archive is the
durable log; the search reads nothing here, and what is missing is written from there.
"""

from __future__ import annotations

import json
import os
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from sousvit.errors import UserError
from sousvit.files import disk_errors_as_user_errors
from sousvit.search.archive import Archive
from sousvit.search.proposers.optuna_sampler import constraints_of, state_of
from sousvit.search.proposers.proposer import Problem
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe

STUDY_FILE, STUDY = "study.journal", "sousvit"
#: Where Optuna before 5 kept constraints, as a list; optuna-dashboard 0.21 reads them there.
OLD_CONSTRAINTS = "constraints"
#: What is shown of a trial beside its figures, where there is something to show.
SHOWN = ("key", "fidelity", "origin", "message")


class StudyFile:
    """The study of one run; only the process that writes the archive writes it.

    Args:
        archive: whose trials it holds, in their order; those of earlier sessions are added at once.
        problem: names its parameters, objectives and limits.

    Raises:
        UserError: the file cannot be written, or was damaged.
    """

    def __init__(self, archive: Archive, problem: Problem) -> None:
        self._archive, self._problem, self._path = archive, problem, archive.folder / STUDY_FILE
        directions = problem.goals.directions
        with disk_errors_as_user_errors(self._path), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # names of objectives are
            _drop_torn_line(self._path)
            try:
                storage = JournalStorage(_Journal(self._path))
                self._study = optuna.create_study(
                    storage=storage, study_name=STUDY, directions=list(directions.values()), load_if_exists=True
                )
                self._written = len(self._study.get_trials(deepcopy=False))
            except (ValueError, KeyError) as error:
                rule, action = "the study's file must be Optuna's journal", "delete it: it is written anew"
                raise UserError(rule, f"{self._path}: {error}", action) from error
            self._study.set_metric_names(list(directions))
        self.write()

    def write(self) -> None:
        """Add the trials that the archive has got since.

        Raises:
            UserError: the disk is full.
        """
        with disk_errors_as_user_errors(self._path):
            for trial in self._archive.since(self._written):
                self._study.add_trial(self._frozen(trial))
                self._written += 1

    def _frozen(self, trial: Trial) -> FrozenTrial:
        """The trial in Optuna's form: at a low rung it was stopped early, outside the space it has no parameters."""
        goals, parameters = self._problem.goals, self._problem.parameters(Recipe.from_dict(trial.recipe))
        asked = FixedTrial(parameters or {})
        if parameters is not None:
            self._problem.space.suggest(asked)
        state, constraints = state_of(trial, goals), constraints_of(trial, goals)
        is_complete = state is TrialState.COMPLETE
        found = create_trial(
            state=TrialState.PRUNED if is_complete and not trial.is_final else state,
            values=list(goals.figures(trial.values).values()) if is_complete else None,
            params=asked.params,
            distributions=asked.distributions,
            constraints=constraints,
            user_attrs={name: getattr(trial, name) for name in SHOWN if getattr(trial, name)},
            system_attrs={OLD_CONSTRAINTS: list(constraints.values())},
        )
        assert found.datetime_start is not None
        found.datetime_start -= timedelta(seconds=sum(trial.seconds.values()))
        return found


class _Journal(JournalFileBackend):
    """Appends without a lock and without waiting for the disk."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._to = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with self._to.open("ab") as stream:
            stream.write(b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs))


def _drop_torn_line(path: Path) -> None:
    """A full disk may have taken half a line: what follows it would be lost too."""
    if path.is_file():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)
