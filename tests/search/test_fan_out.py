"""Which deployments of a model are worth judging."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from sousvit.search.archive import violations
from sousvit.search.budget import Budget
from sousvit.search.fan_out import FanOut
from sousvit.search.gate import dominated
from sousvit.search.record import TrialRecord, Value, trial_key
from sousvit.spaces.recipe import Recipe

BUDGET = Budget.model_validate(
    {
        "model": {"name": "vit_tiny_patch16_224"},
        "data": {"format": "idx", "train": "train-images"},
        "limits": {"accuracy_drop": 0.02},
        "optimize": ["latency", "size"],
    }
)
KEEPS = (0.5, 0.75)
DEPLOYS = (("onnxruntime", None), ("onnxruntime", "int8_dynamic"), ("openvino", None), ("openvino", "bf16"))


@dataclass
class Trials:
    """What a FanOut reads of an archive."""

    found: list[TrialRecord] = field(default_factory=list)

    def __iter__(self):
        return iter(self.found)


def recipe(keep: float, deploy: tuple[str, str | None]) -> Recipe:
    runtime, name = deploy
    steps = [{"technique": "prune_mlp", "keep": keep}, *([] if name is None else [{"technique": name}])]
    return Recipe.from_dict({"runtime": runtime, "steps": steps})


def trial(chance: random.Random, models: int) -> TrialRecord:
    plain = recipe(chance.choice(KEEPS[:models]), chance.choice(DEPLOYS)).to_dict()
    latency, size, drop = chance.choice((1.0, 2.0, 3.0)), chance.choice((1.0, 2.0)), chance.choice((0.01, 0.05))
    values = {"latency": Value(latency, latency - 0.5, latency + 0.5), "accuracy_drop": Value(drop)}
    if chance.random() < 0.9:
        values["size"] = Value(size)
    fidelity = chance.random()
    return TrialRecord(trial_key(plain, fidelity, 0), plain, fidelity, 0, "complete", values)


def lost_by_definition(trials: list[TrialRecord], deploy: tuple[str, str | None]) -> bool:
    """Tried, and each time surely worse than another deployment of the same model that holds what it holds."""
    limits, senses = BUDGET.hard_limits, BUDGET.senses
    measured = [one for one in trials if all(name in one.values for name in senses)]
    key = recipe(KEEPS[0], deploy)
    tried = [one for one in measured if one.recipe["runtime"] == key.runtime and one.techniques[1:] == key_deploy(key)]

    def beaten(one: TrialRecord) -> bool:
        others = (other for other in measured if other.model_key == one.model_key)
        return any(
            (not violations(other, limits) or bool(violations(one, limits)))
            and dominated(one.values, [{name: other.get(name) for name in senses}], senses)
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
        fan_out = FanOut(BUDGET, trials, None, None)
        for _ in range(30):
            trials.found.append(trial(chance, models))
            for deploy in DEPLOYS:
                expected = lost_by_definition(trials.found, deploy)
                seen.add(expected)
                assert fan_out.has_lost(recipe(KEEPS[0], deploy)) == expected
    assert seen == {True, False}
