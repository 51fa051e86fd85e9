"""Optuna's study, held in memory and kept in a SQLite file that Optuna and its dashboard read.

Optuna's own SQLite storage reads every unfinished trial again at each question and gives every parameter a transaction,
which takes a second a question with dozens of workers. Here questions are answered from memory, and what has changed is
written in one transaction when the proposer says so: a crash leaves a trial as asked or as told, never in between.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

#: The file holds one study.
STUDY_ID = 1
#: Rows of the file's tables, in Optuna's schema; the key columns come first.
_TABLES = {
    "study_system_attributes": ("study_id", "key", "value_json"),
    "trials": ("trial_id", "number", "study_id", "state", "datetime_start", "datetime_complete"),
    "trial_params": ("trial_id", "param_name", "param_value", "distribution_json"),
    "trial_user_attributes": ("trial_id", "key", "value_json"),
    "trial_system_attributes": ("trial_id", "key", "value_json"),
    "trial_values": ("trial_id", "objective", "value", "value_type"),
}


class StudyFile(InMemoryStorage):
    """A storage for one study of one process.

    Args:
        path: of the file; created where it is not there yet.

    Raises:
        sqlalchemy.exc.SQLAlchemyError, sqlite3.Error: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._connection = self._connect()
        self._file = RDBStorage(f"sqlite:///{path}", engine_kwargs={"creator": self._connect})
        #: Since the last time: trials, and attributes of the study.
        self._changed: set[int] = set()
        self._attributes: dict[str, Any] = {}
        for study in self._file.get_all_studies():
            study_id = super().create_new_study(study.directions, study.study_name)
            for key, value in study.system_attrs.items():
                super().set_study_system_attr(study_id, key, value)
            for trial in self._file.get_all_trials(study._study_id, deepcopy=False):
                super().create_new_trial(study_id, trial)

    def save(self) -> None:
        """Write all that changed since the last time, in one transaction."""
        rows: dict[str, list[tuple[Any, ...]]] = {table: [] for table in _TABLES}
        for trial_id in sorted(self._changed):
            for table, row in _rows(self.get_trial(trial_id)):
                rows[table].append(row)
        rows["study_system_attributes"] = [(STUDY_ID, *row) for row in _as_json(self._attributes)]
        with self._connection:
            for table, columns in _TABLES.items():
                marks = ", ".join("?" * len(columns))
                statement = f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) VALUES ({marks})"
                self._connection.executemany(statement, rows[table])
        self._changed.clear()
        self._attributes.clear()

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        study_id = super().create_new_study(directions, study_name)
        self._file.create_new_study(directions, study_name)
        return study_id

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        super().set_study_system_attr(study_id, key, value)
        self._attributes[key] = value

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        return self._note(super().create_new_trial(study_id, template_trial))

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        super().set_trial_param(self._note(trial_id), param_name, param_value_internal, distribution)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        return super().set_trial_state_values(self._note(trial_id), state, values)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        super().set_trial_user_attr(self._note(trial_id), key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        super().set_trial_system_attr(self._note(trial_id), key, value)

    def _note(self, trial_id: int) -> int:
        self._changed.add(trial_id)
        return trial_id

    def _connect(self) -> sqlite3.Connection:
        """Commits do not wait for the disk: the archive is the durable log, resuming mends what a power cut takes."""
        connection = sqlite3.connect(self._path, timeout=60, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection


def _rows(trial: FrozenTrial) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """A trial in the file: per row its table and values. Trials have the same identifier there as in memory."""
    own = trial._trial_id
    times = [_moment(moment) for moment in (trial.datetime_start, trial.datetime_complete)]
    yield "trials", (own, trial.number, STUDY_ID, trial.state.name, *times)
    for name, distribution in trial.distributions.items():
        value = distribution.to_internal_repr(trial.params[name])
        yield "trial_params", (own, name, value, distribution_to_json(distribution))
    yield from (("trial_user_attributes", (own, *row)) for row in _as_json(trial.user_attrs))
    yield from (("trial_system_attributes", (own, *row)) for row in _as_json(trial.system_attrs))
    for objective, value in enumerate(trial.values or ()):
        yield "trial_values", (own, objective, value, "FINITE")


def _as_json(attributes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    return ((key, json.dumps(value)) for key, value in attributes.items())


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(sep=" ", timespec="microseconds")
