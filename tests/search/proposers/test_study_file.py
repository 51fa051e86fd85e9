"""The study's file: what Optuna itself reads from it, when it is written, and that it is taken up again."""

import sqlite3
from dataclasses import dataclass

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sousvit.search.proposers.study_file import StudyFile


@dataclass
class Kept:
    """A study on file, and the file as Optuna reads it."""

    storage: StudyFile
    study: optuna.Study
    path: str

    def read(self):
        return optuna.load_study(study_name="kept", storage=f"sqlite:///{self.path}").trials


@pytest.fixture
def kept(tmp_path):
    storage = StudyFile(tmp_path / "study.db")
    study = optuna.create_study(study_name="kept", storage=storage, directions=["minimize", "maximize"])
    return Kept(storage, study, str(tmp_path / "study.db"))


def ask(study):
    trial = study.ask()
    trial.suggest_categorical("technique", ["none", "tome", 3, 0.5, True])
    trial.suggest_float("share", 0.1, 0.9)
    trial.suggest_int("rank", 2, 64, log=True)
    return trial


def test_optuna_reads_every_trial_as_it_is(kept):
    for number in range(6):
        trial = ask(kept.study)
        trial.set_user_attr("origin", f"prior {number}")
        trial.set_constraint("latency", number - 2.5)
        if number % 2:
            kept.study.tell(trial, [number * 0.1, -1e300])
        elif number:
            kept.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    kept.study.enqueue_trial({"technique": "tome"}, user_attrs={"origin": "earlier"})
    kept.storage.save()
    assert kept.read() == kept.study.trials
    kinds = {type(values) for trial in kept.read() for values in trial.distributions.values()}
    assert kinds == {CategoricalDistribution, FloatDistribution, IntDistribution}


def test_a_study_taken_up_again_is_the_same_and_goes_on(kept, tmp_path):
    kept.study.enqueue_trial({"share": 0.25})
    kept.study.tell(ask(kept.study), [1.0, 2.0])
    running = ask(kept.study)
    kept.storage.set_study_system_attr(kept.study._study_id, "parents", [0, 1])
    kept.storage.save()
    again = StudyFile(tmp_path / "study.db")
    study = optuna.create_study(
        study_name="kept", storage=again, directions=["minimize", "maximize"], load_if_exists=True
    )
    assert study.trials == kept.study.trials and study.directions == kept.study.directions
    assert again.get_study_system_attrs(study._study_id) == {"parents": [0, 1]}
    study.tell(optuna.Trial(study, running._trial_id), [3.0, 4.0])
    study.tell(ask(study), [5.0, 6.0])
    again.save()
    assert [trial.values for trial in kept.read()] == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    assert kept.read()[0].params["share"] == 0.25


def test_what_is_not_saved_is_not_there_and_what_is_saved_is_there_whole(kept):
    trial = ask(kept.study)
    assert kept.read() == []
    kept.storage.save()
    kept.study.tell(trial, [1.0, 2.0])
    [stored] = kept.read()
    assert stored.state is optuna.trial.TrialState.RUNNING and len(stored.params) == 3


def test_what_could_not_be_written_is_written_the_next_time(kept, tmp_path):
    kept.study.tell(ask(kept.study), [1.0, 2.0])
    locked = sqlite3.connect(tmp_path / "study.db", timeout=0.1, isolation_level=None)
    locked.execute("BEGIN IMMEDIATE")
    kept.storage._connection.execute("PRAGMA busy_timeout=100")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        kept.storage.save()
    locked.execute("ROLLBACK")
    assert kept.read() == []
    kept.storage.save()
    assert kept.read() == kept.study.trials
