"""Fan-out: which deployments of a model are worth judging."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from sousvit.objectives.objective import Measurement
from sousvit.search.archive import Archive
from sousvit.search.budget import Budget
from sousvit.search.fidelity.fan_out import FanOut
from sousvit.search.fidelity.halving import Halving
from sousvit.search.trial import Trial, trial_key
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.space import Option, Space

BUDGET = Budget.model_validate(
    {
        "model": {"name": "vit_tiny_patch16_224"},
        "data": {"format": "idx", "train": "train-images", "test": "test-images"},
        "limits": {"accuracy_drop": 0.02},
        "optimize": ["latency", "size"],
    }
)
POLICY = Halving((0.25, 1.0), True, 4.0, 0.5, BUDGET.goals(), [])
KEEPS = (0.5, 0.75)
DEPLOYS = (("onnxruntime", None), ("onnxruntime", "int8_dynamic"), ("openvino", None), ("openvino", "bf16"))


class Trials(Archive):
    """An archive without a folder; its rivals are what was put there."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"))
        self.best: list[Trial] = []

    def rivals(self, goals, singles_only=False):
        return tuple(goals.figures(trial.values) for trial in self.best)


def recipe(keep: float, deploy: tuple[str, str | None]) -> Recipe:
    runtime, name = deploy
    steps = [{"technique": "prune_mlp", "keep": keep}, *([] if name is None else [{"technique": name}])]
    return Recipe.from_dict({"runtime": runtime, "steps": steps})


def trial(chance: random.Random, models: int) -> Trial:
    plain = recipe(chance.choice(KEEPS[:models]), chance.choice(DEPLOYS)).to_dict()
    latency, size, drop = chance.choice((1.0, 2.0, 3.0)), chance.choice((1.0, 2.0)), chance.choice((0.01, 0.05))
    values = {"latency": Measurement(latency, latency - 0.5, latency + 0.5), "accuracy_drop": Measurement(drop)}
    if chance.random() < 0.9:
        values["size"] = Measurement(size)
    fidelity = chance.choice((0.25, 1.0))
    key = trial_key(plain, fidelity, chance.randrange(2**31))
    return Trial(key, plain, fidelity, 0, "complete", values)


def lost_by_definition(trials: list[Trial], deploy: tuple[str, str | None]) -> bool:
    """Tried, and each time surely worse than another deployment of the same weights that holds what it holds."""
    goals = BUDGET.goals()
    measured = [one for one in trials if all(name in one.values for name in goals.directions)]
    key = recipe(KEEPS[0], deploy)
    tried = [one for one in measured if one.recipe["runtime"] == key.runtime and one.techniques[1:] == key_deploy(key)]

    def beaten(one: Trial) -> bool:
        weights = (one.model_key, one.fidelity)
        others = (other for other in measured if (other.model_key, other.fidelity) == weights)
        return any(
            (goals.holds(other.values) or not goals.holds(one.values))
            and goals.dominates(goals.figures(other.values), one.values)
            for other in others
        )

    return bool(tried) and all(map(beaten, tried))


def key_deploy(one: Recipe) -> tuple[str, ...]:
    return tuple(step.technique for step in one.steps[1:])


@pytest.mark.parametrize("models", [1, 2])
def test_lost_deployments_are_counted_as_results_come(models):
    seen = set()
    for seed in range(20):
        chance, trials = random.Random(seed), Trials()
        fan_out = FanOut(trials, None, POLICY)
        for _ in range(30):
            trials.records.append(trial(chance, models))
            for deploy in DEPLOYS:
                expected = lost_by_definition(trials.records, deploy)
                seen.add(expected)
                assert fan_out.is_dominated(recipe(KEEPS[0], deploy)) == expected
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("drop", "deploy", "offered"),
    [
        (0.01, DEPLOYS[1], set(DEPLOYS)),  # accurate
        (0.03, DEPLOYS[1], set(DEPLOYS)),  # not so: perhaps its quantization's fault
        (0.03, DEPLOYS[0], set()),  # surely not
        (0.05, DEPLOYS[1], set()),  # more than quantization costs
    ],
)
def test_other_deployments_are_offered_where_they_may_hold_the_accuracy(drop, deploy, offered):
    fan_out = make_fan_out(Trials())
    fan_out.offer(result(deploy, 1.0, drop))
    found = set()
    while (following := fan_out.next()) is not None:
        sibling, origin = following
        assert origin == "variant" and sibling.trains
        found.add((sibling.runtime, None if sibling.deploy_step is None else sibling.deploy_step.technique))
    assert found == offered


def make_fan_out(trials: Trials) -> FanOut:
    options = {
        runtime if name is None else f"{runtime}:{name}": (runtime, None if name is None else Option(name, {}))
        for runtime, name in DEPLOYS
    }
    return FanOut(trials, Space((), options), POLICY)


def result(deploy: tuple[str, str | None], fidelity: float, drop: float) -> Trial:
    """Of a model that was pruned and trained."""
    plain = recipe(0.5, deploy).to_dict()
    plain["steps"].insert(1, {"technique": "distill", "epochs": 1})
    values = {"accuracy_drop": Measurement(drop), "latency": Measurement(2.0), "size": Measurement(2.0)}
    return Trial("k", plain, fidelity, 0, "complete", values)


@pytest.mark.parametrize(("drop", "offered"), [(0.01, True), (0.025, True), (0.05, False)])
def test_a_reading_that_may_hold_the_accuracy_is_judged_without_its_recovery(drop, offered):
    trials = Trials()
    fan_out = make_fan_out(trials)
    early = result(DEPLOYS[1], 0.0, drop)
    early = replace(early, values={**early.values, "accuracy_drop": Measurement(drop, drop - 0.015, drop + 0.015)})
    fan_out.offer(early)
    following = fan_out.next()
    assert following == ((recipe(0.5, DEPLOYS[1]), "unrecovered") if offered else None)
    assert fan_out.next() is None
    trials.best = [replace(early, values={"latency": Measurement(1.0), "size": Measurement(1.0)})]
    fan_out = make_fan_out(trials)
    fan_out.offer(early)
    assert fan_out.next() is None, "another recipe is better in everything"


def test_what_several_results_lead_to_is_given_once():
    trials = Trials()
    fan_out = make_fan_out(trials)
    given = []
    for deploy in DEPLOYS:  # four deployments of one model: each leads to all of them
        fan_out.offer(result(deploy, 1.0, 0.01))
        given += [sibling.hash for sibling, _ in iter(fan_out.next, None)]
    assert len(given) == len(set(given)) == len(DEPLOYS)


def test_a_deployment_that_had_lost_is_given_once_it_no_longer_loses(monkeypatch):
    fan_out, dominated = make_fan_out(Trials()), {recipe(0.5, DEPLOYS[2]).deployment}
    monkeypatch.setattr(fan_out, "is_dominated", lambda sibling: sibling.deployment in dominated)
    given = []
    for kept in (len(DEPLOYS) - 1, 1):
        fan_out.offer(result(DEPLOYS[0], 1.0, 0.01))
        found = list(iter(fan_out.next, None))
        assert len(found) == kept
        given += [sibling.hash for sibling, _ in found]
        dominated.clear()
    assert len(set(given)) == len(DEPLOYS)


def test_what_does_without_recovery_is_deployed_otherwise_too():
    trials, plain = Trials(), recipe(0.5, DEPLOYS[1]).to_dict()
    values = {"accuracy_drop": Measurement(0.01), "latency": Measurement(2.0), "size": Measurement(2.0)}
    record = Trial("k", plain, 1.0, 0, "complete", values, origin="unrecovered")
    for origin, best, offered in (("proposed", [], 0), ("unrecovered", [], len(DEPLOYS)), ("unrecovered", [1.0], 0)):
        trials.best = [replace(record, values={"latency": Measurement(at), "size": Measurement(at)}) for at in best]
        fan_out = make_fan_out(trials)
        fan_out.offer(replace(record, origin=origin))
        found = list(iter(fan_out.next, None))
        assert len(found) == offered and all(given == "unrecovered" for _, given in found)
