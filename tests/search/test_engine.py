"""The engine on the simulated executor: gates, duplicates, constraints, promotions, crashes, resuming."""

from __future__ import annotations

from collections import Counter
from itertools import count

import pytest
from optuna.trial import TrialState

from sousvit.errors import UserError
from sousvit.objectives.objective import Measurement
from sousvit.search.engine import DUPLICATES_BEFORE_END, MOST_HELD
from sousvit.search.executors.executor import Job, JobResult
from sousvit.search.fidelity.halving import Halving
from sousvit.search.proposers.model_based import ModelBased
from sousvit.search.results import choose
from sousvit.spaces.recipe import Recipe


def test_a_search_spends_its_trials_and_returns_a_recipe_within_all_limits(simulated):
    run = simulated()
    run.engine.run()
    assert len(run.archive) == 40
    answer = choose(run.archive, run.engine.goals)
    assert answer.feasible and answer.chosen is not None
    assert run.engine.goals.holds(answer.chosen.values)
    assert answer.chosen.fidelity == 1.0


def test_the_hybrid_beats_the_best_single_technique(simulated):
    run = simulated(search={"trials": 80})
    run.engine.run()
    answer = choose(run.archive, run.engine.goals)
    assert len(answer.chosen.techniques) > len(answer.single.techniques)
    assert answer.chosen.get("size") < answer.single.get("size")


def test_what_cannot_win_is_not_trained(simulated):
    run = simulated(optimize=["latency", "size"], search={"trials": 80})
    run.engine.run()
    beaten = [trial for trial in run.archive if "a finished recipe is better" in trial.message]
    assert beaten and all("recover" not in trial.seconds for trial in beaten)
    assert choose(run.archive, run.engine.goals).feasible


def test_the_first_promotion_comes_before_the_explore_share_is_spent(simulated):
    run = simulated(search={"trials": 60, "explore_share": 0.9})
    run.engine.run()
    promoted = [place for place, trial in enumerate(run.archive) if trial.origin == "promoted"]
    assert promoted and promoted[0] < 30


def test_full_trainings_have_their_share_while_exploring(simulated):
    run = simulated(search={"trials": 200, "explore_share": 0.4})
    run.engine.run()
    exploring = list(run.archive)[: int(200 * 0.4)]
    late = [trial for trial in exploring if trial.origin in ("promoted", "variant") and trial.fidelity == 1.0]
    promoted = [trial for trial in late if trial.origin == "promoted"]
    assert len(promoted) >= 2, "a search that is stopped early has an answer"
    spent, on_late = (sum(sum(trial.seconds.values()) for trial in trials) for trials in (exploring, late))
    assert on_late <= (1 - 0.4) * spent + on_late / len(promoted)  # the last one with its variants comes on top


def test_a_fan_out_cut_short_is_taken_up_again(simulated):
    def trouble(job: Job) -> None:
        if job.fidelity == 1.0 and trained and Recipe.from_dict(job.recipe).trains:
            raise Killed
        if job.fidelity == 1.0 and Recipe.from_dict(job.recipe).trains:
            trained.append(job)

    trained: list[Job] = []
    run = simulated(trouble=trouble, in_memory=False)
    with pytest.raises(Killed):
        run.engine.run()
    run.archive.close()
    resumed = simulated(in_memory=False)
    resumed.engine.run()
    first = Recipe.from_dict(resumed.executor.jobs[0].recipe)
    assert first.model_steps == Recipe.from_dict(trained[0].recipe).model_steps


def test_no_work_is_paid_twice(simulated):
    run = simulated(search={"trials": 60})
    run.engine.run()
    paid = Counter((Recipe.from_dict(job.recipe).hash, job.fidelity) for job in run.executor.jobs)
    assert max(paid.values()) == 1


def test_every_told_trial_has_a_constraint_for_every_limit(simulated):
    jobs = count(1)
    run = simulated(
        trouble=lambda job: JobResult(job.attempt, "failed", message="boom") if next(jobs) % 3 == 0 else None,
        search={"trials": 60},
    )
    run.engine.run()
    trials = run.engine._proposals.proposer.study.trials
    told = [trial for trial in trials if trial.state.is_finished()]
    assert {trial.state for trial in told} >= {TrialState.COMPLETE, TrialState.FAIL}
    for trial in told:
        assert set(trial.constraints) == {"accuracy_drop", "latency_ratio"}, trial.state
    for trial in told:
        if trial.state is TrialState.FAIL:
            assert min(trial.constraints.values()) > 0


def test_a_finished_trial_without_a_limits_figure_is_told_to_break_it(simulated):
    values = {
        "latency": Measurement(1.0),
        "size": Measurement(1.0),
        "accuracy": Measurement(0.9),
        "latency_ratio": Measurement(0.1),
    }
    run = simulated(trouble=lambda job: JobResult(job.attempt, "complete", values), search={"trials": 8})
    run.engine.run()
    complete = run.engine._proposals.proposer.study.get_trials(states=(TrialState.COMPLETE,))
    assert complete and all(trial.constraints["accuracy_drop"] > 0 for trial in complete)
    assert all(trial.constraints["latency_ratio"] < 0 for trial in complete)


def test_a_trial_gated_by_one_limit_is_not_told_to_break_the_others(simulated):
    run = simulated(limits={"macs_ratio": 0.4, "accuracy_drop": 0.03}, search={"trials": 60})
    run.engine.run()
    pruned = [trial for trial in run.engine._proposals.proposer.study.trials if trial.state is TrialState.PRUNED]
    assert any(trial.constraints["macs_ratio"] > 0 for trial in pruned)
    assert all(trial.constraints["accuracy_drop"] == 0 for trial in pruned)


def test_gates_stop_candidates_before_they_are_trained(simulated):
    run = simulated(limits={"macs_ratio": 0.4, "latency_ratio": 0.3}, search={"trials": 60})
    run.engine.run()
    assert run.engine.counts.gated_analytic > 0
    assert run.engine.counts.gated_measured > 0
    gated = [trial for trial in run.archive if trial.status == "gated"]
    assert all("recover" not in trial.seconds for trial in gated)
    submitted = [Recipe.from_dict(job.recipe) for job in run.executor.jobs]
    shape = run.engine._shape
    assert all(recipe.reshape(shape).macs() <= 0.4 * shape.macs() for recipe in submitted)


ELASTIC_SPACE = {
    "techniques": {
        "elastic": {"epochs": [4]},
        "prune_depth": {},
        "prune_mlp": {"importance": ["activation"], "allocation": ["uniform"]},
        "low_rank": {"keep": [0.6, 1.0], "layers": ["all"], "method": ["svd"], "allocation": ["uniform"]},
        "distill": {"epochs": [4]},
        "int8_dynamic": {"weights": ["uint8"], "per_channel": [True]},
    }
}


@pytest.mark.parametrize("proposer", ["tpe", "auto"])
def test_cuts_of_an_elastic_base_are_read_and_the_best_are_trained(proposer, simulated):
    search = {"trials": 60, "proposer": proposer}
    run = simulated(space=ELASTIC_SPACE, search=search)
    run.engine.run()
    trained = [trial for trial in run.archive if "distill" in trial.techniques and trial.status == "complete"]
    by_kind = Counter(("elastic" in trial.techniques, trial.fidelity) for trial in trained)
    assert by_kind[True, 0.0] > 0 and by_kind[True, 1.0] > 0 and by_kind[False, 0.25] > 0
    assert not by_kind[True, 0.25] and not by_kind[False, 0.0]
    assert all("low_rank" not in trial.techniques for trial in run.archive if "elastic" in trial.techniques)
    singles = [trial for trial in run.archive if trial.is_single]
    assert {"elastic", "prune_mlp", "distill"} in [set(trial.techniques) for trial in singles]
    answer = choose(run.archive, run.engine.goals)
    assert answer.feasible and answer.chosen.fidelity == 1.0


def test_low_rung_results_never_answer(simulated):
    run = simulated(search={"trials": 30, "explore_share": 1.0})
    run.engine.run()
    low = [trial for trial in run.archive if trial.fidelity < 1 and trial.status == "complete"]
    assert low
    answer = choose(run.archive, run.engine.goals)
    assert not answer.feasible or answer.chosen.fidelity == 1.0


def test_promotions_train_in_full_what_looked_best(simulated):
    run = simulated(search={"trials": 40, "explore_share": 0.5})
    run.engine.run()
    promoted = [trial for trial in run.archive if trial.origin == "promoted"]
    assert promoted and all(trial.fidelity == 1.0 for trial in promoted)
    assert run.engine.counts.promoted == len(promoted)


def test_recovered_models_are_asked_again_with_other_deployments(simulated):
    run = simulated()
    run.engine.run()
    variants = [trial for trial in run.archive if trial.origin == "variant"]
    assert variants
    others = {trial.model_key for trial in run.archive if trial.origin != "variant"}
    assert all(trial.model_key in others for trial in variants)


def test_an_infeasible_budget_gives_the_nearest_miss(simulated):
    run = simulated(limits={"accuracy_drop": 0.0001, "size_ratio": 0.06}, search={"trials": 30})
    run.engine.run()
    answer = choose(run.archive, run.engine.goals)
    assert not answer.feasible and answer.chosen is not None
    assert answer.violated and all("limit <=" in phrase for phrase in answer.violated)


@pytest.mark.parametrize("status", ["crash", "nan"])
def test_bad_trials_are_recorded_and_the_search_goes_on(simulated, status):
    def trouble(job: Job) -> JobResult | None:
        seen.append(job.attempt)
        if len(seen) % 3:
            return None
        bad.add(job.attempt)
        if status == "nan":
            return JobResult(job.attempt, "complete", {"accuracy": Measurement(float("nan"))}, {"judge": 1.0})
        return JobResult(job.attempt, "failed", message="the worker was killed by signal 9")

    seen: list[str] = []
    bad: set[str] = set()
    run = simulated(trouble=trouble)
    run.engine.run()
    assert len(run.archive) == 40
    recorded = [trial for trial in run.archive if trial.attempt in bad]
    assert len(recorded) >= 5
    answer = choose(run.archive, run.engine.goals)
    assert answer.feasible and answer.chosen not in recorded
    if status != "nan":
        assert all(trial.status == "failed" and "signal 9" in trial.message for trial in recorded)


def test_a_search_in_which_everything_fails_says_so(simulated):
    run = simulated(trouble=lambda job: JobResult(job.attempt, "failed", message="no such operator"))
    with pytest.raises(UserError, match="no such operator"):
        run.engine.run()


@pytest.mark.parametrize("seconds", [18, 20, 24])
def test_a_short_search_trains_what_looks_good_while_there_is_time(seconds, simulated):
    """By the share for exploring, only half of the time would be left, too little for one full training."""
    run = simulated(limits={"accuracy_drop": 0.06, "latency_ratio": 0.6}, search={"trials": 200, "time": seconds})
    run.engine.run()
    promoted = [trial for trial in run.archive if trial.origin == "promoted"]
    assert promoted and promoted[0].is_final
    assert run.archive.front(run.engine.goals)


def test_the_time_limit_ends_the_search(simulated):
    run = simulated(search={"trials": 1000, "time": 120})
    run.engine.run()
    assert 120 <= run.executor.clock.now < 150
    assert run.engine.stopped_because == "120 s"


def test_a_tiny_space_is_exhausted_without_repeating(simulated):
    space = {"techniques": {"prune_depth": {"drop": [0, 1, 2]}, "int8_dynamic": {}}}
    run = simulated(space=space, search={"trials": 500})
    run.engine.run()
    assert run.engine.stopped_because == "the space is exhausted"
    assert len(run.archive) == len({trial.key for trial in run.archive}) >= 6


def test_known_recipes_that_wait_do_not_count_as_an_exhausted_space(simulated):
    run = simulated(search={"trials": 5})
    run.engine.run()
    run.archive.close()
    again = simulated(search={"trials": 10})
    known = Recipe.from_dict(next(trial.recipe for trial in run.archive if trial.is_final))
    again.engine.begin()
    while again.engine._proposals.is_waiting:
        again.engine._proposals.ask()
    again.engine._proposals.enqueue([("earlier", known)] * 2 * DUPLICATES_BEFORE_END)
    assert again.engine._ask() is not None


#: Listed whole by the model-based proposer.
SMALL = {
    "techniques": {
        "prune_mlp": {"keep": [0.25, 0.5, 0.75, 1.0], "importance": ["activation"], "allocation": ["uniform"]},
        "prune_depth": {"drop": [0, 1, 2, 3]},
        "distill": {"epochs": [2], "learning_rate": [0.001]},
        "int8_dynamic": {},
    }
}


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs."""


@pytest.mark.parametrize("after", [1, 7, 15])
@pytest.mark.parametrize("moment", ["judging", "between archive and tell"])
def test_a_killed_search_resumes_without_losing_or_repaying(simulated, after, moment, monkeypatch):
    jobs = []

    def trouble(job: Job) -> None:
        jobs.append((Recipe.from_dict(job.recipe).hash, job.fidelity))
        if moment == "judging" and len(jobs) == after:
            raise Killed

    run = simulated(trouble=trouble, in_memory=False)
    if moment != "judging":
        tell, told = run.engine._proposals.tell, []

        def killed_tell(*arguments):
            told.append(1)
            if len(told) == after:
                raise Killed
            tell(*arguments)

        monkeypatch.setattr(run.engine._proposals, "tell", killed_tell)
    with pytest.raises(Killed):
        run.engine.run()
    finished = set(run.archive.trials)
    run.archive.close()
    before = len(jobs)

    again = simulated(
        trouble=lambda job: jobs.append((Recipe.from_dict(job.recipe).hash, job.fidelity)), in_memory=False
    )
    again.engine.run()
    assert finished <= set(again.archive.trials)
    assert len(again.archive) == 40
    lost = 1 if moment == "judging" else 0  # the one that was running is paid again, once
    assert len(jobs) - len(set(jobs)) <= lost
    assert before >= 1
    running = [trial for trial in again.engine._proposals.proposer.study.trials if trial.state is TrialState.RUNNING]
    assert not running


def test_the_same_seed_gives_the_same_search(simulated):
    runs = [simulated(folder=name) for name in ("one", "two")]
    for run in runs:
        run.engine.run()
    assert list(runs[0].archive.trials) == list(runs[1].archive.trials)


def test_late_results_of_lost_attempts_are_discarded(simulated):
    run = simulated(search={"trials": 3})
    executor = run.executor
    real_wait = executor.wait
    stale = iter([JobResult("lost", "complete", {"accuracy": Measurement(1.0)})])
    executor.wait = lambda: next(stale, None) or real_wait()
    run.engine.run()
    assert all(trial.attempt != "lost" for trial in run.archive)


def test_a_deployment_that_lost_on_the_base_is_not_paid_for_again(simulated):
    targets = [{"runtime": ["onnxruntime", "openvino"]}]
    run = simulated(optimize=["latency", "size"], targets=targets, search={"trials": 80})
    run.engine.run()
    gated = [trial for trial in run.archive if "better off with another deployment" in trial.message]
    assert all(not trial.seconds and trial.origin == "proposed" for trial in gated)
    plain = [trial for trial in run.archive if trial.status == "complete" and trial.techniques[-1:] == ("bf16",)]
    assert len(plain) <= 2, "bf16 changes nothing here"


def test_a_model_that_is_not_accurate_is_not_deployed_in_other_ways(simulated, monkeypatch):
    run = simulated(search={"trials": 60})
    monkeypatch.setattr(Halving, "is_accurate", lambda self, trial, tolerance=0.0: False)
    run.engine.run()
    assert not [trial for trial in run.archive if trial.origin == "variant"]
    assert [trial for trial in run.archive if trial.origin == "promoted"]


def test_few_promotions_go_to_single_techniques(simulated):
    run = simulated(search={"trials": 80, "explore_share": 0.3})
    run.engine.run()
    promoted = [trial for trial in run.archive if trial.origin == "promoted"]
    singles = [trial for trial in promoted if trial.is_single]
    assert len(promoted) >= 4
    assert 1 <= len(singles) <= 1 + len(promoted) // 4


@pytest.mark.parametrize("workers", [2, 7])
def test_many_workers_spend_the_same_trials_and_pay_nothing_twice(simulated, workers):
    run = simulated(search={"trials": 60}, workers=workers)
    run.engine.run()
    assert len(run.archive) == 60
    paid = Counter((Recipe.from_dict(job.recipe).hash, job.fidelity) for job in run.executor.jobs)
    assert max(paid.values()) == 1
    assert choose(run.archive, run.engine.goals).feasible
    running = [trial for trial in run.engine._proposals.proposer.study.trials if trial.state is TrialState.RUNNING]
    assert len(running) <= MOST_HELD


def test_workers_are_kept_busy(simulated):
    run = simulated(search={"trials": 200, "proposer": "nsga2"}, workers=8)
    run.engine.run()
    assert run.executor.busy_until() > 0.9 * 8 * run.executor.clock.now


def test_a_large_space_keeps_many_workers_busy_until_the_trials_are_spent(simulated):
    run = simulated(search={"trials": 150}, space="all", workers=60)
    run.engine.run()
    assert len(run.archive) == 150 and run.engine.stopped_because == "150 trials"
    assert run.engine.counts.unfit < 150 // 20  # students that nothing would train


def test_equal_weights_are_trained_once_at_a_time(simulated):
    training: Counter[str] = Counter()
    run = simulated(search={"trials": 80}, workers=6, targets=[{"runtime": ["onnxruntime", "openvino"]}])
    submit, wait = run.executor.submit, run.executor.wait
    jobs, trained = {}, set()

    def submitted(job: Job) -> None:
        recipe = Recipe.from_dict(job.recipe)
        jobs[job.attempt] = f"{recipe.model_steps}{job.fidelity}" if recipe.trains else job.attempt
        training[jobs[job.attempt]] += 1
        assert training[jobs[job.attempt]] == 1 or jobs[job.attempt] in trained
        submit(job)

    def waited() -> JobResult:
        outcome = wait()
        training[jobs[outcome.attempt]] -= 1
        trained.add(jobs[outcome.attempt])
        return outcome

    run.executor.submit, run.executor.wait = submitted, waited
    run.engine.run()
    assert len(run.archive) == 80


def test_three_rungs_rise_by_rank(simulated):
    run = simulated(search={"trials": 120, "explore_fidelity": 1 / 16}, seconds=100.0)
    run.engine.run()
    trained = [trial for trial in run.archive if trial.status == "complete" and trial.seconds["recover"]]
    by_rung = Counter(trial.fidelity for trial in trained)
    assert by_rung[1 / 16] > by_rung[0.25] > 0 and by_rung[1.0]
    assert all(trial.origin == "promoted" for trial in run.archive if trial.fidelity == 0.25)


def test_rungs_that_cost_as_much_as_a_training_are_left_out(simulated):
    run = simulated(search={"trials": 60, "explore_fidelity": 1 / 16}, seconds=1.0)
    run.engine.run()
    trained = [trial for trial in run.archive if trial.seconds.get("recover")]
    assert Counter(trial.fidelity for trial in trained)[1 / 16] <= 1 and len(trained) > 3


UNTRAINED_FIRST = {"explore_fidelity": 0.0, "trials": 60, "proposer": "auto"}


def test_untrained_evaluations_that_hold_the_limits_are_final_without_their_recovery(simulated):
    run = simulated(search=UNTRAINED_FIRST, limits={"accuracy_drop": 0.1, "latency_ratio": 0.6})
    run.engine.run()
    early = {Recipe.from_dict(trial.recipe).unrecovered().hash: trial for trial in run.archive if trial.fidelity == 0}
    found = [trial for trial in run.archive if trial.origin == "unrecovered"]
    assert found and all(trial.is_final and not Recipe.from_dict(trial.recipe).trains for trial in found)
    same = [early[key] for trial in found if (key := Recipe.from_dict(trial.recipe).hash) in early]
    assert same and len(found) > len(same), "and their other deployments"
    assert all(trial.get("accuracy_drop") < 0.12 for trial in same)


def test_the_model_proposes_no_deployment_that_is_dominated(simulated, monkeypatch):
    run = simulated(search={"trials": 30, "explore_fidelity": 1.0})
    run.engine.run()
    problem, records, dominated = run.engine._proposals.problem, list(run.archive), set()
    model = ModelBased(problem)
    monkeypatch.setattr(model._deployments, "dominated", lambda trials: dominated)
    while (parameters := model.propose(records)) is not None:
        proposed = problem.recipe(parameters).deployment
        assert proposed not in dominated
        dominated.add(proposed)
    assert len(dominated) > 1


def test_cuts_of_an_elastic_base_that_hold_the_limits_are_final_too(simulated):
    space = {"techniques": {name: values for name, values in ELASTIC_SPACE["techniques"].items() if name != "low_rank"}}
    run = simulated(search=UNTRAINED_FIRST, space=space, limits={"accuracy_drop": 0.1, "latency_ratio": 0.6})
    run.engine.run()
    found = [set(trial.techniques) for trial in run.archive if trial.origin == "unrecovered" and trial.is_final]
    assert any("elastic" in names and "distill" not in names for names in found)


def test_models_that_differ_in_their_recovery_only_are_read_once(simulated):
    space = {"techniques": {**SMALL["techniques"], "distill": {"epochs": [2, 4, 8], "learning_rate": [0.001]}}}
    run = simulated(search=UNTRAINED_FIRST, space=space)
    run.engine.run()
    early = [trial for trial in run.archive if trial.fidelity == 0 and trial.status == "complete"]
    judged = Counter(Recipe.from_dict(trial.recipe).unrecovered().hash for trial in early if trial.seconds)
    assert max(judged.values()) == 1 and len(early) > len(judged)
    known = [trial for trial in early if not trial.seconds]
    assert known and all(trial.get("accuracy_drop") > 0 for trial in known)


def test_one_training_shows_what_training_brings(simulated):
    """By guess no untrained evaluation comes within the limit, though training wins nearly all back."""
    run = simulated(search=UNTRAINED_FIRST, limits={"accuracy_drop": 0.02}, optimize=["latency", "accuracy"])
    run.engine.run()
    promoted = [place for place, trial in enumerate(run.archive) if trial.origin == "promoted"]
    assert promoted[0] < 15 and len(promoted) > 3


def test_the_error_of_predicted_costs_is_stated(simulated):
    run = simulated(search={"trials": 60, "proposer": "auto"}, optimize=["latency", "accuracy"])
    run.engine.run()
    share, structures = run.engine.cost_errors()["latency"]
    trained = {Recipe.from_dict(trial.recipe).structure().hash for trial in run.archive if "latency" in trial.values}
    assert 0 <= share < 0.3 and 8 <= structures <= len(trained)


def test_no_model_states_no_error(simulated):
    run = simulated(search={"trials": 12})
    run.engine.run()
    assert run.engine.cost_errors() == {}


@pytest.mark.parametrize(("proposer", "lowest"), [("tpe", 0.25), ("auto", 0.25), ("nsga2", 0.25), ("auto", 0.0)])
@pytest.mark.parametrize("after", [5, 21])
def test_a_killed_search_goes_on_as_if_nothing_had_happened(simulated, proposer, lowest, after):
    def trouble(job: Job) -> None:
        jobs.append(job)
        if len(jobs) == after:
            raise Killed

    jobs: list[Job] = []
    options = {"search": {"trials": 34, "proposer": proposer, "explore_fidelity": lowest}, "space": SMALL}
    calm = simulated(folder="calm", in_memory=False, **options)
    calm.engine.run()
    run = simulated(trouble=trouble, in_memory=False, **options)
    with pytest.raises(Killed):
        run.engine.run()
    run.archive.close()
    again = simulated(in_memory=False, **options)
    again.engine.run()
    told = [[(trial.key, trial.origin) for trial in one.archive] for one in (calm, again)]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("lever", "gone"),
    [("starters", {"starter", "single"}), ("variants", {"variant", "unrecovered"}), ("unrecovered", {"unrecovered"})],
)
def test_a_lever_that_is_off_asks_for_nothing(simulated, lever, gone):
    run = simulated(search={"trials": 30, "explore_fidelity": 0.0, "without": [lever]})
    run.engine.run()
    assert len(run.archive) and not gone & {trial.origin for trial in run.archive}


def test_without_gates_no_trial_is_rejected_by_its_shape_or_by_what_beats_it(simulated):
    asked = []
    run = simulated(
        search={"trials": 30, "without": ["gates"]},
        limits={"params_ratio": 0.5},
        trouble=lambda job: asked.append(job.rivals),
    )
    run.engine.run()
    assert run.engine.counts.gated_analytic == 0 and run.engine.counts.gated_measured > 0  # limits stay hard
    assert set(asked) == {()}
