"""A trial, from proposal to record."""

from __future__ import annotations

import pytest

from sousvit.objectives.objective import Measurement
from sousvit.search.executors.executor import JobResult, finished, make_job
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe, Step

RECIPE = Recipe((Step.make("prune_mlp", keep=0.5), Step.make("distill", epochs=4), Step.make("int8_dynamic")))


@pytest.fixture
def limits():
    from sousvit.search.budget import SearchLimits

    return SearchLimits(trial_timeout=60.0)


def test_a_pending_trial_becomes_its_record(limits):
    trial = Trial.pending(RECIPE, 0.25, seed=3, origin="starter")
    assert trial.status == "pending" and trial.parsed == RECIPE
    job = make_job(trial, limits)
    assert (job.recipe, job.fidelity, job.seed, job.timeout) == (trial.recipe, 0.25, 3, 60.0)
    values = {"accuracy": Measurement(0.9)}
    record = finished(trial, JobResult(job.attempt, "complete", values, {"judge": 1.0}, artifact="folder"))
    assert (record.key, record.origin, record.attempt) == (trial.key, "starter", job.attempt)
    assert (record.status, record.values, record.seconds, record.artifact) == (
        "complete",
        values,
        {"judge": 1.0},
        "folder",
    )
    assert not record.is_final and finished(Trial.pending(RECIPE, 1.0, 3), JobResult("a", "complete")).is_final


def test_every_attempt_at_a_trial_has_a_name_of_its_own(limits):
    trial = Trial.pending(RECIPE, 1.0, seed=0)
    assert make_job(trial, limits).attempt != make_job(trial, limits).attempt


def test_a_promoted_trial_is_the_same_recipe_at_a_higher_fidelity():
    low = Trial.pending(RECIPE, 0.25, seed=3)
    high = finished(low, JobResult("a", "complete", {"accuracy": Measurement(0.8)})).promoted(1.0)
    assert (high.status, high.fidelity, high.seed, high.origin) == ("pending", 1.0, 3, "promoted")
    assert high.recipe == low.recipe and high.key != low.key and not high.values and not high.attempt


def test_deployments_of_one_model_share_its_weights():
    other = Recipe(RECIPE.model_steps, "openvino")
    first, second = Trial.pending(RECIPE, 1.0, 0), Trial.pending(other, 1.0, 0)
    assert first.model_key == second.model_key and first.recipe_key != second.recipe_key
