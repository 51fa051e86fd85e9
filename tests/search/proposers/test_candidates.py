"""Candidates: which recipes may be asked next, and what is known of them."""

from __future__ import annotations

import pytest

from sousvit.objectives.objective import Measurement
from sousvit.search.goals import Goals
from sousvit.search.limits import Limit
from sousvit.search.proposers.candidates import SAMPLED, Candidates
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.space import make_space, read_space

SMALL = {
    "prune_depth": {"drop": [0, 1, 2]},
    "prune_mlp": {"keep": [1.0, 0.5], "importance": ["activation", "magnitude"], "allocation": ["uniform"]},
    "int8_dynamic": {"weights": ["uint8"], "per_channel": [True]},
}


def base(shape):
    return {name: Measurement(value) for name, value in shape.figures(4.0).items()}


def space_of(techniques, shape):
    return make_space({"techniques": techniques}, shape, ("onnxruntime",))[0]


def candidates_of(definition, shape, *limits):
    return Candidates(space_of(definition, shape), shape, Goals(limits, base=base(shape)), seed=0)


def test_every_suggestion_of_a_space_comes_once(shape):
    space = space_of(SMALL, shape)
    listed = [tuple(sorted(parameters.items())) for parameters, _ in space.suggestions()]
    assert len(listed) == len(set(listed)) <= space.size
    recipes = {recipe.canonical(shape).hash for _, recipe in space.suggestions()}
    # 3 depths, 1 + 2 ways to prune (the importance of nothing pruned does not matter), int8 or not
    assert len(recipes) == 3 * 3 * 2


def test_a_listed_pool_keeps_its_arrays_and_closes_what_was_tried(shape):
    candidates = candidates_of(SMALL, shape)
    pool = candidates.untried(set(), [])
    assert len(pool.items) == 18 and pool.open.all()
    assert len(pool.features) == 18 and len(set(pool.figures["macs"])) == 6
    again = candidates.untried({pool.items[3].key, "no candidate"}, [])
    assert again.features is pool.features and not again.open[3] and again.open.sum() == 17


def test_a_large_space_is_sampled_and_refreshed_around_good_recipes(shape):
    definition = {name: values for name, values in read_space("default")["techniques"].items() if name != "ptq_int8"}
    candidates = candidates_of(definition, shape)
    good = next(item for item in candidates.untried(set(), []).items if "prune_depth.drop" in item.parameters)
    for _ in range(30):
        pool = candidates.untried({good.key}, [candidates._space.suggest(Known(good.parameters))])
    assert SAMPLED / 2 < len(pool.items) <= 2 * SAMPLED and good.key not in {item.key for item in pool.items}
    near = [sum(item.parameters.get(k) != v for k, v in good.parameters.items()) for item in pool.items]
    assert sum(count <= 2 for count in near) > 100


class Known:
    """Answers with given parameters."""

    def __init__(self, parameters):
        self.parameters = parameters

    def suggest_categorical(self, name, choices):
        return self.parameters.get(name, choices[0])


def test_what_breaks_a_limit_by_its_shape_is_no_candidate(shape):
    bound = 0.6 * shape.macs() / 1e6
    pool = candidates_of(SMALL, shape, Limit("macs", bound, maximise=False)).untried(set(), [])
    assert 0 < len(pool.items) < 18 and pool.figures["macs"].max() <= bound


def test_a_recipe_of_the_archive_is_described_and_a_foreign_one_too(shape):
    candidates = candidates_of(SMALL, shape)
    item = candidates.untried(set(), []).items[5]
    own = candidates.describe(candidates._space.suggest(Known(item.parameters)).canonical(shape).to_dict())
    assert own is not None and own.key == item.key and own.features == pytest.approx(item.features)
    foreign = Recipe.from_dict({"steps": [{"technique": "tome", "keep": 0.5}], "runtime": "onnxruntime"})
    described = candidates.describe(foreign.canonical(shape).to_dict())
    assert described is not None and described.features.shape == item.features.shape
    unfit = {"steps": [{"technique": "prune_depth", "drop": 99}], "runtime": "onnxruntime"}
    assert candidates.describe(unfit) is None
