"""The trials of a run as a study of Optuna, for optuna-dashboard: ``optuna-dashboard runs/NAME/study.journal``.

It says what was measured, under the names of objectives and limits, with the rungs of each recipe and the recipe as
text, in Optuna's journal format, its lines with numbers and checksums. The archive is the durable log; the search reads
nothing here, what is missing is written from there, and a damaged file is written anew.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from sousvit.files import disk_errors_as_user_errors
from sousvit.search.archive import Archive
from sousvit.search.proposers.optuna_sampler import constraints_of, state_of
from sousvit.search.proposers.proposer import Problem
from sousvit.search.report.terminal.words import short_recipe
from sousvit.search.stored.lines import TORN, Lines, are_whole, sealed_line
from sousvit.search.trial import Trial, quality_of
from sousvit.spaces.recipe import Recipe

STUDY_FILE, STUDY = "study.journal", "sousvit"
#: Where Optuna before 5 kept constraints, as a list; optuna-dashboard 0.21 reads them there.
OLD_CONSTRAINTS = "constraints"
#: Optuna's code of a trial's making, how its line begins, and where its key stands: no text holds bare quotes.
_TRIAL = 4
_TRIAL_LINE, _KEY = b'{"op_code":%d,' % _TRIAL, re.compile(rb'"key":"([^"\\]*)"')
#: What is shown of a trial beside its figures, where there is something to show.
SHOWN = ("key", "fidelity", "origin", "message")


class StudyFile:
    """The study of one run; only the process that writes the archive writes it.

    Args:
        archive: whose trials it holds, in their order; those of earlier sessions are added at once.
        problem: names its parameters, objectives and limits.

    Attributes:
        damaged: whether there was a file of other content, which was written anew.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, archive: Archive, problem: Problem) -> None:
        self._archive, self._problem, self._path = archive, problem, archive.folder / STUDY_FILE
        self._rungs: dict[str, dict[int, float]] = {}
        with disk_errors_as_user_errors(self._path), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # names of objectives are
            self.damaged = _remove_damage(self._path)
            try:
                self._open()
            except OSError:
                raise
            except Exception:  # Optuna checks nothing: lines of an earlier version may hold anything
                self.damaged = True
                self._path.unlink()
                self._open()
        self.write()

    def _open(self) -> None:
        directions, journal = self._problem.goals.directions, _Journal(self._path)
        self._study = optuna.create_study(
            storage=JournalStorage(journal), study_name=STUDY, directions=list(directions.values()), load_if_exists=True
        )
        self._written = len(journal.keys)
        if journal.keys != [trial.key for trial in self._archive.records[: self._written]]:
            raise ValueError("of other trials")
        for trial in self._archive.records[: self._written]:
            self._note_rung(trial)
        if self._study.metric_names != list(directions):
            self._study.set_metric_names(list(directions))

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
        """The trial in Optuna's form: at a low rung it was stopped early, outside the space it has no parameters.

        Its intermediate values are what its recipe reached at the rungs so far, by percent of the training.
        """
        goals, parameters = self._problem.goals, self._problem.parameters(Recipe.from_dict(trial.recipe))
        asked = FixedTrial(parameters or {})
        if parameters is not None:
            self._problem.space.suggest(asked)
        state, constraints = state_of(trial, goals), constraints_of(trial, goals)
        is_complete = state is TrialState.COMPLETE
        rungs = self._note_rung(trial)
        found = create_trial(
            state=TrialState.PRUNED if is_complete and not trial.is_final else state,
            values=list(goals.figures(trial.values).values()) if is_complete else None,
            params=asked.params,
            distributions=asked.distributions,
            constraints=constraints,
            intermediate_values=dict(rungs),
            user_attrs=_shown(trial),
            system_attrs={OLD_CONSTRAINTS: list(constraints.values())},
        )
        assert found.datetime_start is not None
        found.datetime_start -= timedelta(seconds=sum(trial.seconds.values()))
        return found

    def _note_rung(self, trial: Trial) -> dict[int, float]:
        """The quality of a trial's recipe at its rungs so far, this one included."""
        rungs = self._rungs.setdefault(trial.recipe_key, {})
        quality = trial.get(quality_of(trial.values))
        if trial.status == "complete" and math.isfinite(quality):
            rungs[round(100 * trial.fidelity)] = quality
        return rungs


def _shown(trial: Trial) -> dict[str, Any]:
    """The recipe as text, what came of it, and every measured figure."""
    said = {name: getattr(trial, name) for name in SHOWN if getattr(trial, name)}
    figures = {name: value.value for name, value in sorted(trial.values.items()) if value.is_finite}
    return {"recipe": short_recipe(trial.recipe), "status": trial.status, **said, **figures}


class _Journal(BaseJournalBackend):
    """Appends without a lock and without waiting for the disk, lines with numbers and checksums.

    Optuna is shown what is said of the study, and of the trials that it adds the first, which it wants to see once: it
    would make objects of all others, and nobody asks it for them.

    Attributes:
        keys: of the trials that the file held when it was opened.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._last = path, 0
        self._shown: list[dict[str, Any]] = []
        self._has_added = False
        self.keys: list[str] = []
        if path.exists():
            for line in path.open("rb"):
                self._last += 1
                found = _KEY.search(line) if line.startswith(_TRIAL_LINE) else None
                content = json.loads(line) if found is None else {}
                if found is not None:
                    self.keys.append(found[1].decode())
                elif content["op_code"] == _TRIAL:
                    self.keys.append(content["user_attrs"]["key"])
                else:
                    self._shown.append(content)

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self._shown[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [sealed_line(log, self._last + place) for place, log in enumerate(logs, 1)]
        with self._path.open("ab") as stream:
            stream.write(b"".join(lines))
        self._last += len(lines)
        for line in lines:
            is_trial = line.startswith(_TRIAL_LINE)
            if not is_trial or not self._has_added:
                self._shown.append(json.loads(line))
            self._has_added |= is_trial


def _remove_damage(path: Path) -> bool:
    """Whether a damaged file was removed; half a line, of a full disk, is cut off."""
    if path.exists() and are_whole(path):
        return False
    lines = Lines(path)
    for _ in lines:
        pass
    if not lines.damage:
        return False
    if lines.damage.keys() == {TORN}:
        os.truncate(path, lines.whole_bytes)
        return False
    path.unlink()
    return True
