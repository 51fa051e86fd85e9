"""The study of a run: what optuna-dashboard reads of it, and what a file that cannot be used says."""

from __future__ import annotations

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from sousvit.errors import SharedInputError
from sousvit.search.proposers.study_file import STUDY, STUDY_FILE, StudyFile
from sousvit.search.report.terminal import short_recipe


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


def test_every_judged_trial_has_its_measured_figures_rungs_and_recipe(simulated):
    run = simulated(in_memory=False, search={"explore_fidelity": 0.05})
    run.engine.run()
    study, reached = opened(run.archive.folder), {}
    for trial, stored in zip(run.archive, study.trials, strict=True):
        assert stored.user_attrs["recipe"] == short_recipe(trial.recipe)
        measured = {name: value.value for name, value in trial.values.items()}
        assert {name: stored.user_attrs[name] for name in measured} == measured
        if trial.status == "complete":
            assert stored.values == [trial.values[name].value for name in run.budget.optimize]
            rungs = reached.setdefault(trial.recipe_key, {})
            rungs[round(100 * trial.fidelity)] = trial.values["accuracy"].value
            assert stored.intermediate_values == rungs
        else:
            assert stored.values is None, "nothing that was only expected"
    assert any(len(rungs) > 1 for rungs in reached.values()), "else no recipe rose"


def test_constraints_stand_in_both_forms(simulated):
    run = simulated(in_memory=False)
    run.engine.run()
    for trial, stored in zip(run.archive, opened(run.archive.folder).trials, strict=True):
        named = {limit.name: stored.constraints[limit.name] for limit in run.budget.hard_limits}
        assert list(named.values()) == stored.system_attrs["constraints"]
        if trial.is_final:
            assert (max(stored.constraints.values()) <= 0) == run.engine.goals.holds(trial.values)


def test_a_study_that_is_opened_again_goes_on_with_the_rungs(simulated):
    run = simulated(in_memory=False, search={"explore_fidelity": 0.05, "trials": 15})
    run.engine.run()
    run.archive.close()
    again = simulated(in_memory=False, search={"explore_fidelity": 0.05, "trials": 40})
    again.engine.run()
    risen = [trial for trial in opened(again.archive.folder).trials if len(trial.intermediate_values) > 1]
    late = [trial for trial in again.archive.since(15) if trial.status == "complete" and trial.is_final]
    assert risen and late
