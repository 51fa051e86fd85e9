"""A survey: what it lists, that it resumes, and what it writes."""

from __future__ import annotations

import pandas as pd
import pytest

from sousvit.errors import UserError
from sousvit.search.executors.executor import Job, JobResult
from sousvit.search.report.survey import write_survey
from sousvit.search.survey import COMBINATIONS, entries, run_survey
from sousvit.spaces.space import make_space, read_space
from sousvit.spaces.technique import techniques


@pytest.fixture(scope="module")
def space(shape):
    return make_space(read_space("all"), shape, ("onnxruntime", "openvino", "litert"))[0]


def test_every_technique_and_combination_of_the_space_is_listed_once(space, shape):
    listed = entries(space, shape, seed=0)
    names = {trial.origin for trial in listed}
    compressing = {technique.name for technique in techniques() if technique.role.compresses}
    assert names >= compressing | set(COMBINATIONS) | {"base"}
    assert names >= {"tome, untrained", "attention, untrained"} and names.isdisjoint(
        {"qat, untrained", "student, untrained"}
    )
    assert len(listed) == len({trial.key for trial in listed})
    [elastic] = [trial.parsed for trial in listed if trial.origin == "recovery, elastic"]
    assert [step.technique for step in elastic.steps[::2]] == ["elastic", "distill"]
    kinds = {step.config.kind for trial in listed for step in trial.parsed.steps if step.technique == "attention"}
    assert kinds == {"nystrom", "sima", "focused"}
    for trial in listed:
        assert trial.parsed.reshape(shape).params() > 0


@pytest.fixture
def survey(simulated_survey, tmp_path):
    def run(*arguments, **changes):
        budget, executor = simulated_survey(*arguments, **changes)
        return run_survey(budget, tmp_path, lambda *_: executor), executor

    return run


def test_a_survey_measures_all_resumes_and_writes_table_and_plot(survey, tmp_path):
    class Killed(BaseException):
        pass

    done: list[Job] = []

    def trouble(job: Job) -> JobResult | None:
        done.append(job)
        if len(done) == 9:
            raise Killed
        return JobResult(job.attempt, "failed", message="boom") if len(done) == 4 else None

    with pytest.raises(Killed):
        survey(trouble, space="all")
    archive, executor = survey(space="all")
    first = [(str(job.recipe), job.fidelity) for job in done[:8]]
    assert not set(first) & {(str(job.recipe), job.fidelity) for job in executor.jobs}
    table, page = write_survey(archive, tmp_path)
    text = table.read_text()
    assert text.count("\n") == len(archive) + 2 and "boom" in text and "structure + int8" in text
    assert "plotly" in page.read_text()
    frame = pd.read_csv(tmp_path / "study.csv")
    assert len(frame) == len(archive) and set(frame["name"]) >= {"base", "prune_mlp", "structure + int8"}
    assert (frame["fidelity"] == 1.0).all()


def test_another_budget_wants_another_run(survey):
    survey(space={"techniques": {"prune_mlp": {}, "int8_dynamic": {}}})
    with pytest.raises(UserError, match="keeps its budget"):
        survey(space={"techniques": {"prune_mlp": {}}})
