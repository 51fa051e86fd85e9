"""The run's trials as a study of Optuna: what is in it, how it is taken up again, and what goes wrong in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from sousvit.errors import SharedInputError, UserError
from sousvit.search.proposers.study_file import STUDY_FILE, StudyFile
from sousvit.spaces.recipe import Recipe

SEARCH = {"trials": 24, "explore_fidelity": 0.25}


def read(folder: Path) -> optuna.Study:
    """As anyone with Optuna reads it."""
    storage = JournalStorage(JournalFileBackend(str(folder / STUDY_FILE)))
    return optuna.load_study(study_name="sousvit", storage=storage)


@pytest.fixture
def run(simulated):
    run = simulated(search=SEARCH, in_memory=False)
    run.engine.run()
    run.archive.close()
    return run


def test_it_says_of_every_trial_what_was_measured_under_its_names(run):
    study, problem = read(run.archive.folder), run.engine._proposals.problem
    assert study.metric_names == ["latency", "size", "accuracy"]
    assert [trial.user_attrs["key"] for trial in study.trials] == [trial.key for trial in run.archive]
    for told, trial in zip(study.trials, run.archive, strict=True):
        recipe = Recipe.from_dict(trial.recipe)
        assert problem.recipe(told.params) == recipe.canonical(problem.shape)
        assert told.user_attrs["origin"] == trial.origin
        is_finite = trial.status == "complete"
        assert told.values == ([trial.get(name) for name in study.metric_names] if is_finite else None)
        assert told.duration.total_seconds() == pytest.approx(sum(trial.seconds.values()), abs=1.0)
        for limit in problem.goals.limits:
            if limit.name in trial.values:
                assert told.constraints[limit.name] == pytest.approx(limit.violation(trial.values[limit.name]))
        # Where Optuna kept them before version 5.
        assert told.system_attrs["constraints"] == [told.constraints[limit.name] for limit in problem.goals.limits]


def test_only_what_was_trained_in_full_is_complete(run):
    states = {"complete": TrialState.COMPLETE, "gated": TrialState.PRUNED, "failed": TrialState.FAIL}
    trials = list(zip(read(run.archive.folder).trials, run.archive, strict=True))
    assert any(trial.status == "complete" and not trial.is_final for _, trial in trials)
    for told, trial in trials:
        assert told.state is (TrialState.PRUNED if trial.fidelity < 1 else states[trial.status])


def test_optunas_best_trials_are_the_front(run):
    front = {trial.key for trial in run.archive.front(run.engine.goals)}
    assert front and front == {trial.user_attrs["key"] for trial in read(run.archive.folder).best_trials}


@pytest.mark.parametrize("torn", [False, True])
def test_a_resumed_search_adds_to_it_even_after_half_a_line(run, simulated, torn):
    path = run.archive.folder / STUDY_FILE
    if torn:
        os.truncate(path, path.stat().st_size - 40)
    again = simulated(search={**SEARCH, "trials": 32}, in_memory=False)
    again.engine.run()
    assert [told.user_attrs["key"] for told in read(run.archive.folder).trials] == list(again.archive.trials)
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_file_that_was_lost_is_written_anew(run, simulated):
    (run.archive.folder / STUDY_FILE).unlink()
    simulated(search=SEARCH, in_memory=False)
    assert len(read(run.archive.folder).trials) == len(run.archive)


def test_a_damaged_file_is_one_clear_line(run):
    (run.archive.folder / STUDY_FILE).write_text("no study\nat all\n")
    with pytest.raises(UserError, match=r"must be Optuna's journal.*written anew") as caught:
        StudyFile(run.archive, run.engine._proposals.problem)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_clear_line(simulated, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / STUDY_FILE).symlink_to("/dev/full")
    with pytest.raises(SharedInputError, match=f"must have free space.*{STUDY_FILE}"):
        simulated(in_memory=False)
