"""The order in which results rise: constrained non-dominated rank, then hypervolume contribution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sousvit.search.ranking import constrained_order

#: A coarse grid, so that equal and dominated points are common.
POINTS = arrays(float, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=st.integers(0, 5).map(float))


def dominates(a, b) -> bool:
    return bool((a <= b).all() and (a < b).any())


@given(POINTS, st.data())
def test_the_order_does_not_depend_on_the_order_of_arrival(points, data):
    misses = np.array([data.draw(st.sampled_from([-1.0, 0.5, 2.0])) for _ in points])
    permutation = np.array(data.draw(st.permutations(range(len(points)))), dtype=int)
    there = [(*points[place], misses[place]) for place in constrained_order(points, misses)]
    shuffled_points, shuffled_misses = points[permutation], misses[permutation]
    again = [(*shuffled_points[place], shuffled_misses[place])
             for place in constrained_order(shuffled_points, shuffled_misses)]  # fmt: skip
    assert there == again


@given(POINTS)
def test_nothing_comes_before_what_dominates_it(points):
    order = constrained_order(points, np.full(len(points), -1.0))
    assert sorted(order) == list(range(len(points)))
    for earlier, first in enumerate(order):
        assert not any(dominates(points[later], points[first]) for later in order[earlier + 1 :])


@given(POINTS)
def test_a_non_dominated_newcomer_is_kept_while_the_front_fits_the_quota(points):
    misses = np.full(len(points), -1.0)
    front = [i for i, a in enumerate(points) if not any(dominates(b, a) for b in points)]
    newcomer = len(points) - 1
    kept = constrained_order(points, misses)[: len(front)]
    assert set(kept) == set(front)
    assert (newcomer in kept) is (newcomer in front)


def test_what_holds_the_limits_comes_first_then_the_smallest_miss():
    points = np.array([[0.0, 0.0], [9.0, 9.0], [1.0, 1.0]])
    assert constrained_order(points, np.array([0.5, -0.1, 0.2])) == [1, 2, 0]


def test_among_equals_the_largest_contribution_comes_first():
    crowded = np.array([[0.0, 1.0], [0.05, 0.95], [0.5, 0.1], [1.0, 0.0]])
    # By hand, against (1.1, 1.1): 0.05 x 0.1, 0.45 x 0.05, 0.5 x 0.85, 0.1 x 0.1.
    assert constrained_order(crowded, np.zeros(4)) == [2, 1, 3, 0]


def test_what_is_there_already_leaves_less_to_contribute():
    points = np.array([[0.2, 0.8], [0.8, 0.2]])
    assert constrained_order(points, np.zeros(2), reached=np.array([[0.7, 0.21]])) == [0, 1]
    assert constrained_order(points, np.zeros(2), reached=np.array([[0.21, 0.7]])) == [1, 0]
    assert constrained_order(points, np.zeros(2), reached=np.array([[0.1, 0.1], [0.0, 0.9]])) == [0, 1]


@pytest.mark.parametrize("count", [0, 1])
def test_few_points_are_no_special_case(count):
    assert constrained_order(np.zeros((count, 2)), np.zeros(count)) == list(range(count))
