"""Starters: what a search tries before a proposer knows anything."""

from __future__ import annotations

import pytest

from sousvit.search.proposers.starters import (
    STUDENT_PATIENCE,
    STUDENT_SHARES,
    hybrid_recipes,
    single_recipes,
    student_recipes,
)
from sousvit.spaces.context import Start
from sousvit.spaces.shape import OtherShape
from sousvit.spaces.space import make_space, read_space

RUNTIMES = ("onnxruntime", "openvino")


@pytest.fixture
def space(shape):
    return make_space(read_space("default"), shape, RUNTIMES)[0]


def test_students_span_the_sizes_and_are_trained_and_quantized(space, shape):
    found = student_recipes(space, shape)
    assert len(found) == len(STUDENT_SHARES)
    costs = [recipe.reshape(shape).macs() / shape.macs() for recipe in found]
    for cost, share in zip(costs, STUDENT_SHARES, strict=True):
        assert share / 2.5 < cost < share * 2.5
    for recipe in found:
        assert recipe.start is Start.RANDOM and recipe.trains and recipe.bytes_per_weight == 1
        assert space.parameters(recipe, shape) is not None and recipe.canonical(shape) == recipe


def test_a_base_of_another_family_has_students_of_its_own_sizes():
    shape = OtherShape("swin", (64, 64), 3, 10, 28_000_000, 360_000_000, 27_000_000, 40)
    space, _ = make_space(read_space("default"), shape, RUNTIMES)
    costs = [recipe.reshape(shape).macs() / shape.macs() for recipe in student_recipes(space, shape)]
    assert min(costs) < 1 / 50 and max(costs) > 1 / 5


def test_a_space_without_students_has_none(shape):
    space, _ = make_space({"techniques": {"prune_mlp": {}, "distill": {}}}, shape, RUNTIMES)
    assert student_recipes(space, shape) == []


def test_the_student_alone_is_one_of_a_middle_size(space, shape):
    _, middle, more = single_recipes(space, shape)
    alone = [recipe for recipe in (*middle, *more) if recipe.start is Start.RANDOM]
    assert len(alone) == 2 and all(recipe.trains and not recipe.is_quantized for recipe in alone)
    costs = [recipe.reshape(shape).macs() / shape.macs() for recipe in alone]
    assert 1 / 100 < costs[0] < 1 / 3 < costs[1] <= 1


@pytest.mark.parametrize(("longest", "passes"), [(100.0, 4), (4.0, 4), (3.0, 2), (1.0, 1), (0.1, 1)])
def test_starters_train_as_long_as_time_allows(longest, passes, space, shape):
    singles = [one for one in single_recipes(space, shape, longest)[1] if one.start is Start.BASE and one.trains]
    students = student_recipes(space, shape, longest / STUDENT_PATIENCE)
    assert singles and students
    for recipe in (*singles, *students, *hybrid_recipes(space, shape, longest)):
        assert next(step for step in recipe.steps if step.technique == "distill").config.passes == passes


def test_starters_take_the_epochs_that_a_space_lists(shape):
    space, _ = make_space({"techniques": {"prune_mlp": {}, "distill": {"epochs": [0, 3, 9]}}}, shape, RUNTIMES)
    for longest, epochs in ((100.0, 3), (2.0, 3)):  # the middle value; and where nothing fits, the shortest
        _, middle, _ = single_recipes(space, shape, longest)
        assert [recipe.steps[-1].config.epochs for recipe in middle] == [epochs]


def test_a_student_that_does_not_suit_the_images_is_no_starter(shape):
    given = {"student": {"model": ["none", "mixer_b16_224"]}, "distill": {}, "prune_mlp": {}}
    space, _ = make_space({"techniques": given}, shape, RUNTIMES)
    assert student_recipes(space, shape) == []
