"""What a running search tells: where it is, how long it took and takes, the best so far; as lines or as JSON."""

from __future__ import annotations

import io
import json
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from sousvit.search.callbacks import AnswerStage, Counts
from sousvit.search.report.terminal import JsonLines, SearchView
from sousvit.search.report.terminal.following import Following
from sousvit.search.report.terminal.live import status_lines
from sousvit.search.results import Answer
from sousvit.spaces.recipe import Recipe


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def searched(simulated):
    """A finished simulated search: its run, and the trial that would be its answer."""
    run = simulated()
    run.engine.run()
    return run, run.engine.counts.best


def followed(run, tmp_path, **search):
    limits = run.budget.search.model_copy(update=search)
    view = Following(run.budget.model_copy(update={"search": limits}), tmp_path / "none", 100.0, clock := Clock())
    view.on_start(run.archive.base, None, {})
    return view, clock


def test_the_search_counts_its_front_and_its_best(searched):
    run, best = searched
    counts, front = run.engine.counts, run.archive.front(run.engine.goals)
    assert counts.of_run == run.archive.own == 40 and counts.front == len(front) > 1
    assert best in front and run.engine.goals.score(best.values) == max(
        run.engine.goals.score(trial.values) for trial in front
    )


def test_a_status_says_trial_time_best_and_front(searched, tmp_path):
    run, best = searched
    view, clock = followed(run, tmp_path, time=600.0, trials=100)
    view.on_begin("proposed", best.parsed, 1.0)
    view.on_progress("recover", 3, 10)
    view.on_trial(best, Counts(finished=11, of_run=11, front=4, best=best, answer_seconds=60.0))
    clock.now += 110
    first, second, third = status_lines(view)
    assert first == "trial 12 of 100 | 1:50 spent, 8:10 left | front 4"
    assert second.startswith("best: ") and "x as fast" in second and "x smaller" in second and "top-1" in second
    assert third == "[proposed] recover"


def test_what_is_left_includes_the_answer_and_is_the_shorter_of_trials_and_time(searched, tmp_path):
    run, best = searched
    counts = Counts(finished=10, of_run=10, answer_seconds=60.0)
    by_trials, clock = followed(run, tmp_path, trials=20)
    assert by_trials.left is None, "nobody can tell before the first trial"
    by_trials.on_trial(best, counts)
    clock.now += 50  # 5 s a trial
    assert by_trials.left == pytest.approx(10 * 5 + 60)
    by_time, clock = followed(run, tmp_path, trials=1000, time=80.0)
    by_time.on_trial(best, counts)
    clock.now += 50
    assert by_time.left == pytest.approx(30)


def test_the_answers_stages_count_down(searched, tmp_path):
    run, best = searched
    view, clock = followed(run, tmp_path, trials=10)
    view.on_trial(best, Counts(finished=10, of_run=10, answer_seconds=60.0))
    view.on_stage(AnswerStage.CONFIRMING)
    clock.now += 20
    assert "answer 2 of 6: confirming" in status_lines(view)[0] and "0:40 left" in status_lines(view)[0]
    view.on_progress("building: recipe", 0, 0)
    assert "answer 2 of 6" in status_lines(view)[0], "it is built to be confirmed"
    view.on_stage(AnswerStage.BUILDING)
    for what, told in (("building: recipe", "3 of 6"), ("timing all rows", "4 of 6"), ("judging on test", "5 of 6")):
        view.on_progress(what, 0, 0)
        assert f"answer {told}" in status_lines(view)[0]


def test_progress_before_the_answer_is_no_stage_of_it(searched, tmp_path):
    view, _ = followed(searched[0], tmp_path)
    view.on_progress("building: recipe", 0, 0)
    assert view.stage is None


@pytest.mark.parametrize("width", [80, 100, 140])
def test_a_terminals_lines_fit_it(width, searched, tmp_path):
    run, best = searched
    out = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, height=30)
    with SearchView(run.budget, tmp_path / "none", out=out) as view:
        for trial in run.archive:
            view.on_trial(trial, Counts(finished=1, of_run=1, front=3, best=best))
        view.on_progress("recover", 3, 10)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.file.getvalue())
    lines = [part for line in plain.split("\n") for part in line.split("\r")]
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for trial in run.archive:
        assert all(f"{name}" in text for name in trial.techniques)


def test_elsewhere_every_line_begins_with_the_time_of_day_and_is_whole(searched, tmp_path):
    run, best = searched
    out = Console(file=io.StringIO(), width=80, soft_wrap=True)
    with SearchView(run.budget, tmp_path / "none", out=out) as view:
        view.on_trial(best, Counts(finished=1))
        view.on_stage(AnswerStage.CONFIRMING)
    lines = out.file.getvalue().splitlines()
    assert len(lines) == 4 and all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    assert best.recipe["runtime"] in lines[2] and "answer: confirming" in lines[3]


def test_json_progress_is_an_object_a_line(searched, tmp_path):
    run, best = searched
    stream = io.StringIO()
    with JsonLines(run.budget, tmp_path / "none", stream=stream) as view:
        view.on_start(run.archive.base, SimpleNamespace(size=12), {"tome": "no tokens"})
        view.on_progress("recover", 0, 10)
        view.on_progress("recover", 1, 10)  # too soon after the last
        view.on_trial(best, Counts(finished=1, of_run=7, front=3, best=best, answer_seconds=5.0))
        view.on_stage(AnswerStage.BUILDING)
        view.on_progress("timing all rows, interleaved", 0, 0)
        view.on_message("a line\nof two")
        view.on_end(SimpleNamespace(answer=Answer(True, best, None)))
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [one["event"] for one in told] == [
        "run", "base", "progress", "trial", "stage", "stage", "progress", "message", "answer"]  # fmt: skip
    assert all(one["spent"] >= 0 and one["at"] for one in told)
    trial = told[3]
    assert (trial["number"], trial["of"], trial["front"]) == (7, 40, 3) and trial["left"] > 0
    assert Recipe.from_dict(trial["recipe"]) == best.parsed and trial["best"]["key"] == best.key
    assert [one["number"] for one in told if one["event"] == "stage"] == [3, 4]
    assert told[-1]["status"] == "not shown on the test split"
