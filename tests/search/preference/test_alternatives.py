"""Alternatives: the ends of the front, its knee, and the sentence that says why the answer was chosen."""

from __future__ import annotations

import json
from itertools import count

import pytest

from sousvit.objectives.objective import Measurement
from sousvit.search.goals import Goals
from sousvit.search.limits import parse_limits
from sousvit.search.preference.alternatives import Alternative, find_alternatives, find_reason
from sousvit.search.results import best, choose_among, explained
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe, Step

BASE = {"accuracy": Measurement(0.8), "latency": Measurement(8.0), "size": Measurement(8.0)}
LIMITS = parse_limits({"accuracy_drop": 0.02})
WEIGHTS = {"latency": 1.0, "size": 1.0}
NUMBERS = count()


def trial(latency, size, accuracy=0.79):
    recipe = Recipe((Step.make("prune_depth", drop=1),)).to_dict()
    values = {"accuracy": accuracy, "accuracy_drop": 0.8 - accuracy, "latency": latency, "size": size}
    measured = {name: Measurement(value) for name, value in values.items()}
    return Trial(f"key {next(NUMBERS)}", recipe, 1.0, 0, "complete", measured)


def goals(**weights):
    return Goals(LIMITS, weights or WEIGHTS, BASE)


def names(chosen, held, asked):
    return {one.trial.key: one.names for one in find_alternatives(chosen, held, asked)}


def test_the_ends_and_the_knee_stand_beside_the_answer_and_those_that_coincide_once():
    fast, small, knee = trial(1.0, 4.0, 0.785), trial(4.0, 1.0), trial(1.5, 1.5)
    accurate, worse = trial(6.0, 6.0, 0.81), trial(5.0, 5.0, 0.78)
    held = [fast, small, knee, accurate, worse]
    assert best(held, goals()) == knee
    assert names(knee, held, goals()) == {
        knee.key: ("answer", "knee"),
        fast.key: ("fastest",),
        small.key: ("smallest",),
        accurate.key: ("most accurate",),
    }


@pytest.mark.parametrize(
    ("middle", "is_knee"), [((2.0, 2.0), False), ((1.9, 2.0), True), ((2.1, 2.0), False), ((1.2, 3.0), True)]
)
def test_the_knee_lies_beyond_the_line_between_the_ends_in_logs(middle, is_knee):
    """From (1, 4) to (4, 1) that line is where latency times size is 4."""
    held = [trial(1.0, 4.0), trial(4.0, 1.0), trial(*middle)]
    assert ("knee" in names(held[0], held, goals()).get(held[2].key, ())) is is_knee


def test_a_front_of_two_has_no_knee():
    held = [trial(1.0, 4.0), trial(4.0, 1.0)]
    assert names(held[0], held, goals()) == {
        held[0].key: ("answer", "fastest", "most accurate"),
        held[1].key: ("smallest",),
    }


def test_the_reason_names_what_the_answer_is_best_in_and_what_the_others_would_give():
    fast, small, other = trial(1.0, 1.0, 0.785), trial(1.3, 0.88, 0.785), trial(3.0, 3.0, 0.785)
    asked = goals(latency=1.0, size=0.1)
    assert best([fast, small, other], asked) == fast
    assert find_reason(fast, [fast, small, other], asked) == (
        "it is the fastest and most accurate of 3 that hold every limit; the smallest is 12% smaller and 30% slower"
    )


def test_an_answer_that_is_no_end_says_what_was_weighed():
    fast, small, middle = trial(1.0, 4.0, 0.795), trial(4.0, 1.0), trial(1.5, 1.5)
    said = find_reason(middle, [fast, small, middle], goals())
    assert said == (
        "of 3 that hold every limit it gains most in latency and size together, and is the knee of the front; "
        "the fastest and most accurate is 33% faster, 0.5 points more accurate and 2.7x larger; "
        "the smallest is 33% smaller and 2.7x slower"
    )
    weighed = find_reason(middle, [fast, small, middle], goals(latency=2.0, size=1.0))
    assert "it gains most in latency (weight 2) and size (weight 1)" in weighed


def test_an_answer_that_others_would_beat_says_that_they_held_the_limits_less_surely():
    fast, chosen = trial(1.0, 1.0), trial(2.0, 2.0)
    assert "1 would gain more, but held the limits less surely" in find_reason(chosen, [fast, chosen], goals())


def test_the_only_one_needs_no_comparison():
    only = trial(1.0, 1.0)
    assert find_reason(only, [only], goals()) == "it is the only one that holds every limit"
    assert find_reason(only, [only], Goals((), WEIGHTS, BASE)) == "it is the only one judged in full"


def test_an_answer_carries_both_through_json_and_a_miss_has_no_alternatives():
    held, far = [trial(1.0, 4.0), trial(4.0, 1.0)], trial(1.0, 1.0, accuracy=0.5)
    answer = explained(choose_among([*held, far], goals()), [*held, far], goals())
    plain = json.loads(json.dumps(answer.to_dict()))
    assert [Alternative.from_dict(one) for one in plain["alternatives"]] == list(answer.alternatives)
    assert plain["reason"] == answer.reason != "" and far not in [one.trial for one in answer.alternatives]
    missed = explained(choose_among([far], goals()), [far], goals())
    assert (
        missed.alternatives == ()
        and missed.reason == "none of 1 judged in full holds every limit; it misses them least"
    )
