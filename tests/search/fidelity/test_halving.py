"""Successive halving: which low-rung trials are trained in full, and in which order."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest

from sousvit.objectives.objective import Measurement
from sousvit.search.fidelity.halving import Halving, make_rungs
from sousvit.search.fidelity.learning_curve import UNTRAINED_SHARE
from sousvit.search.goals import Goals
from sousvit.search.limits import Limit
from sousvit.search.trial import Trial, trial_key
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.techniques.recovery.distill import SPEED_UP

SETTINGS = {"prune_mlp": {"keep": 0.5}, "student": {"model": "vit_192x4"}}
LIMITS = (Limit("accuracy_drop", 0.02, False), Limit("latency_ratio", 0.5, False))
BASE = {"latency": Measurement(10.0), "accuracy": Measurement(0.9), "accuracy_drop": Measurement(0.0)}
GOALS = Goals(LIMITS, {"latency": 1.0}, BASE)


def after(*trials: Trial, rungs=(0.25, 1.0), untrained_first=False, eta=4.0, goals=GOALS) -> Halving:
    """A policy that has seen some trials."""
    return Halving(rungs, untrained_first, eta, 0.5, goals, trials)


def trial(
    name: str, drop: float, latency: float, fidelity: float = 0.25, recover: float = 10.0, macs: float = 1.0
) -> Trial:
    keep = zlib.crc32(name.encode()) / 2**32  # every name is another recipe
    recipe = Recipe((Step.make("prune_mlp", keep=keep), Step.make("distill", epochs=4))).to_dict()
    values = {
        "accuracy_drop": Measurement(drop),
        "accuracy": Measurement(0.9 - drop),
        "latency": Measurement(latency),
        "latency_ratio": Measurement(latency / 10),
        "macs": Measurement(macs),
    }
    seconds = {"recover": recover, "judge": 1.0}
    return Trial(trial_key(recipe, fidelity, 0), recipe, fidelity, 0, "complete", values, seconds=seconds)


def student(name: str, drop: float, latency: float, fidelity: float = 0.25, model: str = "residual", **known) -> Trial:
    """As :func:`trial`, of a network with random weights in the base's place."""
    made = trial(name, drop, latency, fidelity, **known)
    width = 8 * (1 + zlib.crc32(name.encode()) % 1000)
    steps = Step.make("student", model=model, width=width), Step.make("distill", passes=2)
    plain = Recipe(steps).to_dict()
    return replace(made, key=trial_key(plain, fidelity, 0), recipe=plain)


def recipe(*techniques: str) -> Recipe:
    return Recipe(tuple(Step.make(name, **SETTINGS.get(name, {})) for name in techniques))


def test_without_experience_the_smallest_miss_comes_first():
    near, far = trial("near", 0.03, 4.0), trial("far", 0.10, 1.0)
    assert after(far, near).next(1e9) == near


def test_what_already_fits_comes_in_order_of_preference():
    slow, fast = trial("slow", 0.01, 4.0), trial("fast", 0.015, 2.0)
    assert after(slow, fast).next(1e9) == fast


def test_promotions_teach_how_much_the_rest_of_the_training_brings():
    known_low, known_full = trial("known", 0.05, 4.0), trial("known", 0.005, 4.0, fidelity=1.0)
    optimistic, timid = trial("optimistic", 0.06, 1.0), trial("timid", 0.03, 4.5)
    assert after(optimistic, timid).next(1e9) == timid
    assert after(known_low, known_full, optimistic, timid).next(1e9) == optimistic


def test_what_training_leaves_of_a_loss_is_told_as_expected():
    known = [trial("known", 0.5, 4.0), trial("known", 0.1, 4.0, fidelity=1.0)]
    expected = after(*known).expected(trial("other", 0.1, 2.0))
    left = (0.1 + 0.02 * 0.25 ** (1 / 3)) / (0.5 + 0.02)  # what was seen, with a little of what is usual
    assert expected.get("accuracy_drop") == pytest.approx(0.1 * left)
    assert expected.get("accuracy") == pytest.approx(0.9 - 0.1 * left)
    assert expected.get("latency") == 2.0
    assert after(*known).expected(known[1]) is known[1]


def test_training_is_not_expected_to_take_a_gain_away():
    better = trial("better", -0.01, 2.0)
    assert after().expected(better).get("accuracy_drop") == -0.01
    assert after().expected(better).get("accuracy") == pytest.approx(0.91)


def test_a_loss_too_small_to_tell_from_noise_teaches_little():
    known = [trial("known", 0.004, 4.0), trial("known", 0.0, 4.0, fidelity=1.0)]
    expected = after(*known).expected(trial("other", 0.1, 2.0))
    assert expected.get("accuracy_drop") > 0.04


def test_limits_that_training_cannot_change_are_never_promoted():
    assert after(trial("slow", 0.0, 9.0)).next(1e9) is None


def test_full_trials_are_not_promoted_again():
    assert after(trial("a", 0.03, 4.0), trial("a", 0.01, 4.0, fidelity=1.0)).next(1e9) is None


def test_only_what_fits_the_time_left():
    assert after(trial("a", 0.03, 4.0, recover=10.0)).next(30.0) is None
    assert after(trial("a", 0.03, 4.0, recover=10.0)).next(42.0) is not None


@pytest.mark.parametrize(("share", "promotes"), [(0.4, False), (0.5, True), (0.9, True)])
def test_promotions_begin_after_the_explore_share(share, promotes):
    assert after().promotes(share) is promotes


def test_recipes_without_training_are_final_at_once():
    assert after().rung(recipe("prune_mlp")) == 1.0 and after().rung(recipe("prune_mlp", "distill")) == 0.25


THREE = (1 / 16, 0.25, 1.0)


def test_rungs_are_eta_apart_and_end_at_all_epochs():
    assert make_rungs(1 / 16, 4) == (1 / 16, 0.25, 1.0)
    assert make_rungs(0.25, 4) == (0.25, 1.0)
    assert make_rungs(0.2, 3) == pytest.approx((0.2, 0.6, 1.0))
    assert make_rungs(1.0, 4) == (1.0,)


def test_one_in_eta_rises_to_the_next_rung_each_once():
    there = [trial(str(place), 0.01, 1.0 + place / 10, fidelity=1 / 16) for place in range(8)]
    assert after(*there, rungs=THREE).survivors(1 / 16) == there[:2]
    risen: list[Trial] = []
    while (pending := after(*there, *risen, rungs=THREE).rise()) is not None:
        assert (pending.status, pending.fidelity, pending.origin) == ("pending", 0.25, "promoted")
        risen.append(replace(pending, status="complete", values=there[len(risen)].values))
    assert [one.recipe for one in risen] == [one.recipe for one in there[:2]]


def test_a_model_in_training_does_not_rise_beside_itself():
    there = [trial(str(place), 0.01, 1.0 + place / 10, fidelity=1 / 16) for place in range(8)]
    policy, busy = after(*there, rungs=THREE), {there[0].model_key}
    assert policy.rise(busy).recipe == there[1].recipe
    assert policy.next(1e9, busy) == there[1]


def test_full_training_starts_from_the_highest_rung_that_a_recipe_reached():
    low, high = trial("a", 0.03, 4.0, fidelity=1 / 16), trial("a", 0.02, 4.0, fidelity=0.25)
    assert after(low, high, rungs=THREE).next(1e9) == high


def test_after_the_answer_come_recipes_that_widen_the_front():
    goals = Goals(LIMITS, {"latency": 1.0, "accuracy": 0.01}, BASE)
    answer = trial("answer", 0.0, 2.0, fidelity=1.0)
    beaten, wide = trial("beaten", 0.001, 2.1), trial("wide", 0.01, 1.9)
    assert after(answer, beaten, wide, goals=goals).next(1e9) == wide


def untrained(name: str, drop: float, latency: float, macs: float = 1.0) -> Trial:
    """Of a cut of a prepared base: nothing was trained."""
    return trial(name, drop, latency, fidelity=0.0, recover=0.0, macs=macs)


def test_cuts_of_a_prepared_base_are_read_before_they_are_trained():
    prepared = recipe("elastic", "prune_mlp", "distill")
    assert after().rung(prepared) == 0.0 and after().rungs_from(0.0) == [0.0, 1.0]
    assert after().rung(recipe("prune_mlp")) == 1.0
    assert after(rungs=(1.0,)).rung(prepared) == 1.0


def test_repaired_models_may_be_read_first_and_are_then_trained_in_full():
    assert make_rungs(0.0, 4.0) == (0.25, 1.0)
    first = [untrained("a", 0.05, 4.0), untrained("b", 0.02, 4.0), untrained("c", 0.2, 4.0)]
    policy = after(*first, untrained_first=True)
    assert policy.rung(recipe("prune_mlp", "distill")) == 0.0
    for untold in (("distill",), ("student", "distill"), ("prune_mlp", "qat"), ("distill_token", "distill")):
        assert policy.rung(recipe(*untold)) == 0.25, untold
    assert policy.rise() is None and policy.next(1e9) == first[1]
    assert after(untrained_first=True, rungs=(1.0,)).rung(recipe("prune_mlp", "distill")) == 0.0


@pytest.mark.parametrize(
    ("rungs", "eta", "judge", "paying"),
    [
        ((1 / 16, 0.25, 1.0), 4.0, 0.0, (1 / 16, 0.25, 1.0)),
        ((1 / 16, 0.25, 1.0), 4.0, 0.8, (1 / 16, 0.25, 1.0)),
        ((1 / 16, 0.25, 1.0), 4.0, 2.0, (0.25, 1.0)),  # of 40 s of training
        ((1 / 16, 0.25, 1.0), 4.0, 20.0, (1.0,)),
        ((0.2, 0.8, 1.0), 4.0, 0.0, (0.2, 1.0)),
        ((0.25, 0.5, 1.0), 2.0, 0.0, (0.25, 0.5, 1.0)),
    ],
)
def test_a_rung_that_costs_nearly_what_the_next_one_does_is_left_out(rungs, eta, judge, paying):
    nothing, early = after(rungs=rungs, eta=eta), after(untrained("early", 0.1, 4.0), rungs=rungs, eta=eta)
    assert early.ladder() == nothing.ladder(), "an untrained evaluation tells nothing of trainings"
    trained = replace(trial("a", 0.03, 4.0, fidelity=rungs[0]), seconds={"recover": 40 * rungs[0], "judge": judge})
    policy = after(untrained("early", 0.1, 4.0), trained, rungs=rungs, eta=eta)
    assert policy.ladder() == paying
    assert policy.rung(recipe("prune_mlp", "distill")) == paying[0]
    assert policy.rungs_from(rungs[0]) == [rungs[0], *[rung for rung in paying if rung > rungs[0]]]


def test_what_is_as_good_already_is_not_trained_where_training_decides_nothing_that_is_optimised():
    early = untrained("early", 0.01, 3.0)
    twin = Trial("k", {"runtime": "onnxruntime", "steps": []}, 1.0, 0, "complete", dict(early.values))
    wider = untrained("wider", 0.05, 2.0)
    assert after(early).next(1e9) == early
    assert after(early, twin).next(1e9) is None
    assert after(early, twin, wider).next(1e9) == wider
    accuracy_too = Goals(LIMITS, {"latency": 1.0, "accuracy": 1.0}, BASE)
    assert after(early, twin, goals=accuracy_too).next(1e9) == early


def test_training_a_read_cut_should_cost_what_it_computes():
    trained = [trial("a", 0.03, 4.0, recover=10.0, macs=2.0), trial("b", 0.01, 4.0, fidelity=1.0, recover=20.0)]
    # 20 s an epochs-and-MACs of each, so 60 s for three times the smaller one's MACs, and 1 s of judging.
    assert after(*trained).seconds_in_full(untrained("c", 0.05, 4.0, macs=3.0)) == pytest.approx(3 * 20 + 1)
    assert after().seconds_in_full(untrained("c", 0.05, 4.0)) == 1.0


def test_untrained_evaluations_and_low_rungs_teach_each_other_nothing():
    known = [untrained("a", 0.10, 4.0), trial("a", 0.01, 4.0, fidelity=1.0)]
    left = (0.01 + 0.02 * UNTRAINED_SHARE) / (0.10 + 0.02)
    policy = after(*known)
    assert policy.expected(untrained("b", 0.10, 4.0)).get("accuracy_drop") == pytest.approx(0.1 * left)
    assert policy.expected(trial("b", 0.1, 4.0)) == after().expected(trial("b", 0.1, 4.0))


def test_a_bold_choice_takes_near_misses_that_would_be_the_better_answer():
    answer = trial("answer", 0.01, 4.0, fidelity=1.0)
    near, far = untrained("near", 0.035, 2.0), untrained("far", 0.2, 1.0)
    known = [answer, near, far]
    policy = after(*known)
    assert not policy.is_hopeful(near) and policy.is_hopeful(near, optimistic=True)
    assert policy.next(1e9, optimistic=True) == near and not policy.is_hopeful(far, optimistic=True)
    failed = [untrained("a", 0.035, 2.5), trial("a", 0.034, 2.5, fidelity=1.0)]
    failed += [untrained("b", 0.03, 2.5), trial("b", 0.03, 2.5, fidelity=1.0)]
    assert not after(*known, *failed).is_hopeful(near, optimistic=True), "failed trainings make careful"


def test_untrained_evaluations_are_promoted_beside_low_rungs():
    known = [trial("known", 0.05, 4.0), trial("known", 0.04, 4.0, fidelity=1.0)]
    known += [untrained("early", 0.10, 4.0), trial("early", 0.01, 4.0, fidelity=1.0)]
    low, early = trial("low", 0.03, 1.0), untrained("other", 0.09, 3.5)
    assert after(*known, low, early).next(1e9) == early


def test_students_are_ranked_among_themselves_at_a_low_rung():
    cut = [trial(f"cut {place}", 0.01 + place / 1000, 5.0 - place / 10, 1 / 16) for place in range(8)]
    grown = [student(f"grown {place}", 0.30 + place / 100, 1.0, 1 / 16) for place in range(4)]
    policy = after(*cut, *grown, rungs=(1 / 16, 1 / 4, 1.0))
    policy.standings()
    assert [one.key for one in policy.survivors(1 / 16)] == [*(one.key for one in policy._first_of(cut)), grown[0].key]
    assert len(policy._first_of(cut)) == 2


def test_each_kind_of_start_has_its_own_learning_curve():
    cut = [trial("cut", 0.10, 4.0), trial("cut", 0.05, 4.0, fidelity=1.0)]
    grown = [student("grown", 0.30, 1.0), student("grown", 0.01, 1.0, fidelity=1.0)]
    goals = Goals(LIMITS, {"latency": 1.0}, {**BASE, "accuracy": Measurement(0.8)})
    policy = after(*cut, *grown, goals=goals)
    usual = 0.25 ** (1 / 3)
    left = (0.05 + 0.02 * usual) / (0.10 + 0.02)
    assert policy.expected(trial("other", 0.08, 2.0)).get("accuracy_drop") == pytest.approx(0.08 * left)
    # Of the errors, which are 0.2 more than the drop: 0.50 became 0.21.
    learned = policy.expected(student("another", 0.20, 2.0)).get("accuracy_drop")
    guessed = after(goals=goals).expected(student("first", 0.20, 2.0)).get("accuracy_drop")
    assert 0.40 * 0.42 - 0.2 < learned < guessed < 0.20


def test_a_training_should_cost_what_others_of_its_family_cost():
    known = [
        trial("cut", 0.03, 4.0, recover=100.0, macs=50.0),
        student("plain", 0.03, 1.0, recover=10.0, macs=5.0),
        student("deep", 0.03, 1.0, recover=40.0, macs=5.0, model="inverted"),
    ]
    policy = after(*known, goals=Goals(LIMITS, {"latency": 1.0}, {**BASE, "macs": Measurement(100.0)}))
    # Two passes of the base each, in which twice the student takes little longer; 4 epochs of 25 where 50 took 400 s.
    found = [
        policy.seconds_in_full(replace(made, fidelity=0.0))
        for made in (
            student("a", 0.0, 1.0, macs=10.0),
            student("b", 0.0, 1.0, macs=10.0, model="inverted"),
            trial("c", 0.0, 1.0, macs=25.0),
        )
    ]
    longer = 2 ** (1 - SPEED_UP)
    assert found == [pytest.approx(40 * longer + 1), pytest.approx(160 * longer + 1), pytest.approx(200 + 1)]
