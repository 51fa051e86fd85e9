"""The study of a run: what optuna-dashboard reads of it, and what a file that cannot be used says."""

from __future__ import annotations

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from sousvit.errors import SharedInputError
from sousvit.search.proposers.study_file import STUDY, STUDY_FILE, StudyFile


def opened(folder) -> optuna.Study:
    return optuna.load_study(study_name=STUDY, storage=JournalStorage(JournalFileBackend(str(folder / STUDY_FILE))))


def test_optuna_reads_every_trial_with_named_objectives_and_constraints(simulated):
    run = simulated(in_memory=False)
    run.engine.run()
    study = opened(run.archive.folder)
    assert study.metric_names == list(run.budget.optimize)
    assert len(study.trials) == len(run.archive)
    for trial, stored in zip(run.archive, study.trials, strict=True):
        assert stored.user_attrs["key"] == trial.key
        assert set(stored.constraints) >= {limit.name for limit in run.budget.hard_limits}
        assert (stored.state is TrialState.COMPLETE) == trial.is_final
    feasible = [trial for trial in run.archive if trial.is_final and run.engine.goals.holds(trial.values)]
    assert {one.user_attrs["key"] for one in study.best_trials} <= {trial.key for trial in feasible}


def test_what_is_missing_is_written_from_the_archive(simulated):
    run = simulated(in_memory=False)
    run.engine.run()
    path = run.archive.folder / STUDY_FILE
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])  # as a full disk leaves it
    StudyFile(run.archive, run.engine._proposals.problem)
    assert len(opened(run.archive.folder).trials) == len(run.archive)


def test_a_study_that_cannot_be_written_is_one_clear_line(simulated):
    run = simulated()
    (run.archive.folder / STUDY_FILE).mkdir()
    with pytest.raises(SharedInputError, match="the path must be a file"):
        StudyFile(run.archive, run.engine._proposals.problem)


def test_a_damaged_study_is_written_anew(simulated):
    run = simulated(in_memory=False)
    run.engine.run()
    (run.archive.folder / STUDY_FILE).write_text("no journal\n")
    assert StudyFile(run.archive, run.engine._proposals.problem).damaged
    assert len(opened(run.archive.folder).trials) == len(run.archive)
