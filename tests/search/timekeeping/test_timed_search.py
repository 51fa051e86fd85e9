"""A search and its answer end within the time that they are given, on a simulated clock."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sousvit.objectives.objective import Measurement
from sousvit.search.archive import Archive
from sousvit.search.callbacks import AnswerStage, Callback
from sousvit.search.executors.executor import Job, JobResult, MakeTable, Verify
from sousvit.search.executors.simulated import SimulatedClock, SimulatedExecutor
from sousvit.search.results import FinalTable, Row
from sousvit.search.run import search
from sousvit.spaces.recipe import Recipe

#: What the made-up machine takes, in seconds.
LOAD, EXPORT, TIMING, JUDGE, TEST_SHARE = 12.0, 1.0, 2.0, 1.5, 2.0


class Machine:
    """A machine where loading, confirming and the final table take time, too."""

    def __init__(self, made_up, shape, budget, clock, load=LOAD, slower=1.0, epoch=2.0):
        self.figures, self.clock, self.shape, self.load, self.slower = made_up.figures, clock, shape, load, slower
        self.simulation = made_up.simulation(shape, budget, seconds=40.0)
        seconds = {"load": load - 4, "export": EXPORT, "timing": TIMING, "judge": JUDGE}
        images = {"validation": 100, "test": int(100 * TEST_SHARE), "train": 1000, "calibration": 100}
        self.base = replace(made_up.base_record(shape), seconds=seconds, images=images, epoch_seconds=epoch)
        self.jobs: list[Job] = []
        self.tables: list[MakeTable] = []

    def judge(self, job: Job) -> JobResult:
        self.jobs.append(job)
        found = self.simulation.judge(job)
        seconds = {**found.seconds, "gate": EXPORT + TIMING}
        if found.status == "complete":
            seconds |= {"export": EXPORT, "judge": JUDGE}
        seconds = {part: took * self.slower for part, took in seconds.items()}
        if seconds.get("recover", 0.0) > job.timeout:
            message = "training ran past its deadline"
            return JobResult(job.attempt, "failed", seconds={"failed": job.timeout}, message=message)
        return replace(found, seconds=seconds)

    def verify(self, request: Verify) -> dict[str, Measurement]:
        self.clock.now += (EXPORT + TIMING) * self.slower
        return self.figures(Recipe.from_dict(request.recipe), self.shape, 1.0)

    def table(self, request: MakeTable) -> FinalTable:
        self.tables.append(request)
        row = EXPORT + TIMING + JUDGE * TEST_SHARE
        made, skipped, end = ["base", "recipe", "best single"], [], self.clock.now + request.parts_seconds
        for name in [step["technique"] for step in request.recipe["steps"]] * bool(request.parts_seconds):
            needed = request.training_seconds + request.row_seconds
            if self.clock.now + needed > end:
                skipped.append(f"without {name}")
                continue
            self.clock.now += request.training_seconds
            end -= request.row_seconds
            made.append(f"without {name}")
        self.clock.now += len(made) * row * self.slower
        values = self.figures(Recipe.from_dict(request.recipe), self.shape, 1.0)
        return FinalTable(tuple(Row(role, request.recipe, values, role) for role in made), tuple(skipped))

    def executor(self):
        executor = SimulatedExecutor(self.base, self.judge, self.clock, {Verify: self.verify, MakeTable: self.table})
        start = executor.start

        def loading(known):
            self.clock.now += self.load
            return (known and start(known)) or start(None)

        executor.start = loading
        return executor


class Told(Callback):
    def __init__(self):
        self.stages, self.left = [], []

    def on_stage(self, stage):
        self.stages.append(stage)

    def on_trial(self, trial, counts):
        self.left.append(counts.answer_seconds)


@pytest.fixture
def timed(made_up, shape, tmp_path):
    """A search in so many seconds: its machine, its answer, and when it ended."""

    def run(seconds, folder="run", told=None, load=LOAD, slower=1.0, epoch=2.0, parts_seconds=None, **changes):
        changes = {"limits": {"accuracy_drop": 0.1, "latency_ratio": 0.9}, **changes}
        budget = made_up.budget(
            search={"trials": 1000, "time": seconds, "explore_fidelity": 0.0, **changes.pop("search", {})}, **changes
        )
        clock = SimulatedClock()
        machine = Machine(made_up, shape, budget, clock, load, slower, epoch)
        answer = search(
            budget, tmp_path / folder, lambda *_: machine.executor(), told or Told(), clock, parts_seconds=parts_seconds
        )
        return machine, answer, clock.now

    return run


@pytest.mark.parametrize("seconds", [60, 90, 150, 300, 1200])
def test_a_search_ends_within_its_time_with_its_answer(seconds, timed):
    machine, answer, ended = timed(seconds)
    assert answer.rows and answer.feasible
    assert ended <= 1.1 * seconds
    assert ended >= 0.6 * seconds, "the time is used"
    assert len(machine.jobs) >= 3


def test_a_machine_that_slows_down_is_noticed_in_time(timed):
    _, answer, ended = timed(300, slower=2.5)
    assert answer.rows and ended <= 330


def test_leaving_out_parts_takes_a_quarter_at_most(timed):
    for seconds in (90, 300):
        machine, _, _ = timed(seconds, f"run{seconds}")
        assert machine.tables[-1].parts_seconds <= seconds / 4
        assert machine.tables[-1].seconds <= seconds


def test_a_trial_that_cannot_end_in_time_is_not_begun_and_trainings_have_deadlines(timed, tmp_path):
    machine, _, _ = timed(120)
    archive = Archive(tmp_path / "run")
    assert not [trial for trial in archive if "deadline" in trial.message]
    trained = [job for job in machine.jobs if Recipe.from_dict(job.recipe).trains and job.fidelity > 0]
    assert all(job.timeout < 120 for job in machine.jobs) and all(job.timeout < 3600 for job in trained)


def test_where_loading_takes_longer_than_the_time_the_bases_deployments_are_the_answer(timed, tmp_path):
    machine, answer, _ = timed(10, load=30.0, limits={"accuracy_drop": 0.05})
    assert answer.chosen is not None and answer.feasible and answer.rows
    assert all(not Recipe.from_dict(job.recipe).model_steps for job in machine.jobs) and machine.jobs
    said = [note for note in answer.notes if "loading and measuring the base took 30 s of 10 s" in note]
    assert len(said) == 1 and "only the base's deployments were judged" in said[0]
    assert machine.tables[-1].parts_seconds == 0.0


def test_without_a_limit_nothing_is_foretold_to_the_search(timed):
    machine, _, _ = timed(None, search={"trials": 25})
    assert {job.timeout for job in machine.jobs} == {3600.0} and {job.grace for job in machine.jobs} == {20.0}


def test_a_run_that_ended_in_time_is_over(timed, tmp_path):
    _, answer, _ = timed(90)
    machine, again, _ = timed(90)
    assert again == answer and not machine.jobs and not machine.tables
    _, more, _ = timed(400)
    assert more.cost["trials"] > answer.cost["trials"]


def test_the_rows_that_no_time_was_left_for_are_named_and_made_later(timed, tmp_path):
    folder = "short"
    _, answer, _ = timed(100, folder)
    assert answer.skipped, "else this test shows nothing"
    note = next(note for note in answer.notes if "not made" in note)
    assert all(role in note for role in answer.skipped) and "sousvit resume short" in note
    before = Archive(tmp_path / folder)
    machine, whole, _ = timed(100, folder, parts_seconds=float("inf"))
    after = Archive(tmp_path / folder)
    assert not machine.jobs and len(machine.tables) == 1 and len(after) == len(before)
    assert not whole.skipped and whole.chosen == answer.chosen and whole.confirmation == answer.confirmation
    assert {row.role for row in whole.rows} == {row.role for row in answer.rows} | set(answer.skipped)
    assert after.test_answers == before.test_answers, "the same answer told nothing new"


def test_the_answers_stages_are_told_in_their_order(timed):
    told = Told()
    timed(90, told=told)
    assert told.stages == [AnswerStage.CHOOSING, AnswerStage.CONFIRMING, AnswerStage.BUILDING, AnswerStage.WRITING]
    assert all(seconds > 0 for seconds in told.left)


#: Every recipe of it trains for longer than there is.
ALWAYS_TRAINED = {"techniques": {"patch_size": {"patch": [8]}, "distill": {"passes": [8]}, "int8_dynamic": {}}}


def test_deployments_outside_of_the_space_are_the_answer_where_no_training_ends_in_time(timed):
    machine, answer, ended = timed(60, epoch=100.0, space=ALWAYS_TRAINED)
    assert answer.feasible and [step["technique"] for step in answer.chosen.recipe["steps"]] == ["int8_dynamic"]
    assert [step["technique"] for step in machine.jobs[-1].recipe["steps"]] == ["int8_dynamic"]
    assert ended <= 66


@pytest.mark.parametrize("seconds", [300, 1200])
def test_a_training_whose_cost_is_only_a_guess_is_tried(seconds, timed, tmp_path):
    """A busy machine took a few steps of the base's training for many times what trainings take."""
    machine, answer, ended = timed(seconds, epoch=100.0)
    trained = [job for job in machine.jobs if Recipe.from_dict(job.recipe).trains and job.fidelity > 0]
    assert len(trained) > 1, "the first one has shown what they take"
    assert answer.rows and answer.feasible and ended <= 1.1 * seconds
    assert not [trial for trial in Archive(tmp_path / "run") if "deadline" in trial.message]


def test_a_nearest_miss_that_would_have_to_be_trained_first_is_told_and_not_made(timed):
    limits = {"accuracy_drop": 0.1, "latency_ratio": 0.9, "params_ratio": 0.01}
    machine, answer, ended = timed(
        60, epoch=100.0, space=ALWAYS_TRAINED, limits=limits, search={"explore_fidelity": 0.25}
    )
    assert not answer.feasible and answer.chosen is not None and not answer.rows and not machine.tables
    assert any("no time was left to build and measure the nearest miss" in note for note in answer.notes)
    assert ended <= 66
