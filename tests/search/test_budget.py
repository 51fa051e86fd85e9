"""Budgets: what they accept, and one clear line for everything they do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sousvit.errors import UserError
from sousvit.objectives.objective import Measurement
from sousvit.search.budget import Budget, SearchLimits, make_budget
from sousvit.search.limits import Limit, parse_duration

GOOD = {
    "model": {"name": "vit_tiny_patch16_224"},
    "data": {"format": "parquet", "train": "train.parquet"},
    "limits": {"accuracy_drop": 0.01, "latency": "2 ms", "size": 1.5},
    "optimize": ["latency", "size"],
}


def budget(**changes):
    return make_budget({**GOOD, **changes}, Path("/somewhere"))


def test_a_good_budget_is_typed_and_its_paths_absolute():
    made = budget()
    assert made.data.train == "/somewhere/train.parquet"
    assert made.optimize == ("latency", "size") and made.weights == {"latency": 1.0, "size": 1.0}
    assert [str(limit) for limit in made.hard_limits] == ["accuracy_drop <= 0.01", "latency <= 2 ms", "size <= 1.5 MB"]
    assert made.target.runtimes == ("onnxruntime",)


def test_budgets_round_trip_through_yaml(tmp_path):
    made = budget(
        optimize=["eer", "size"],
        prefer={"eer": 2.0},
        targets=["local-1-thread"],
        space={"techniques": {"prune_mlp": {"keep": [0.5, 1.0]}}},
    )
    path = tmp_path / "budget.yaml"
    path.write_text(yaml.safe_dump(made.model_dump(mode="json")))
    assert Budget.read(path) == made
    assert Budget.read(path).identity == made.identity


@pytest.mark.parametrize(
    ("prefer", "weights"),
    [
        ("latency", {"latency": 1.0, "size": 0.1}),
        (["size"], {"latency": 0.1, "size": 1.0}),
        (["size", "latency"], {"latency": 1.0, "size": 1.0}),
        ({"latency": 2, "size": 1}, {"latency": 2.0, "size": 1.0}),
        ({"latency": 3}, {"latency": 3.0, "size": pytest.approx(0.3)}),
        (None, {"latency": 1.0, "size": 1.0}),
    ],
)
def test_what_is_preferred_weighs_more_and_the_rest_a_tenth(prefer, weights):
    made = budget(prefer=prefer)
    assert made.weights == weights and list(made.weights) == ["latency", "size"]
    assert made.goals().weights == weights


def test_weights_as_earlier_versions_wrote_them_are_the_same_search():
    old, new = budget(optimize={"latency": 2, "size": 1}), budget(prefer={"latency": 2, "size": 1})
    assert old == new and old.identity == new.identity != budget().identity
    assert budget(optimize={"latency": 1.0, "size": 1.0}) == budget()


def test_more_trials_or_time_is_the_same_search():
    assert budget(search={"trials": 5}).identity == budget(search={"trials": 50, "time": "2h"}).identity
    assert budget(search={"without": ["gates"]}).identity == budget().identity  # it decides what is tried
    assert budget(search={"seed": 1}).identity != budget().identity
    assert budget(limits={}).identity != budget().identity


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("0.5h", 1800), (12, 12)])
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(("value", "bound"), [("2 ms", 2.0), ("2ms", 2.0), (2, 2.0), ("1e-1 ms", 0.1)])
def test_limits_take_their_unit(value, bound):
    assert budget(limits={"latency": value}).hard_limits[0].bound == bound


def test_percent_is_a_share():
    assert budget(limits={"accuracy": "91%"}).hard_limits[0] == Limit("accuracy", 0.91, True, 0.9)


def test_violations_are_signed_and_relative():
    assert Limit("latency", 2.0, False).violation(Measurement(3.0)) == 0.5
    assert Limit("accuracy", 0.9, True).violation(Measurement(0.99)) == pytest.approx(-0.1)
    assert Limit("accuracy_drop", 0.0, False).violation(Measurement(0.02)) == 0.02
    assert Limit("latency", 2.0, False).violation(Measurement(float("nan"))) == float("inf")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"limits": {"latncy": 2}}, "did you mean 'latency'"),
        ({"limits": {"latency": "2 MB"}}, "latency is measured in ms"),
        ({"limits": {"latency": "fast"}}, "a limit is a number"),
        ({"limits": {"latency": 0}}, "a limit must be reachable"),
        ({"limits": {"acuracy_drop": 0.1}}, "did you mean 'accuracy_drop'"),
        ({"limits": {"latency-ratio": 0.5}}, "did you mean 'latency_ratio'"),
        ({"limits": {"latency_ratio": -1}}, "a limit must be reachable"),
        ({"limits": {"accuracy": 91}}, "accuracy is a share between 0 and 1"),
        ({"limits": {"accuracy_drop": 1.5}}, "accuracy_drop is a share below 1"),
        ({"limits": {"latency": float("nan")}}, "finite number"),
        ({"limits": [1, 2]}, "limits"),
        ({"optimize": []}, "at least one objective"),
        ({"optimize": ["latency", "latency"]}, "names an objective once"),
        ({"optimize": {"latency": -1}}, "positive number"),
        ({"optimize": {"latency": 2}, "prefer": "latency"}, "weights stand in prefer"),
        ({"optimize": [3]}, "optimize lists names"),
        ({"prefer": "accuracy"}, "prefer names what is optimised; received accuracy; add it to optimize"),
        ({"prefer": ["latency", "latency"]}, "prefer lists names, each once"),
        ({"prefer": 2}, "prefer is a name, a list or weights"),
        ({"prefer": {"latency": 0}}, "a weight of prefer is a positive number; received latency: 0"),
        ({"prefer": {"latency": "much"}}, "a weight of prefer is a positive number"),
        ({"prefer": {"latency": True}}, "prefer takes no true or false"),
        ({"optimize": ["speed"]}, "objective must be a known name"),
        ({"targets": ["local-1-thread", "local-1-thread"]}, "different names"),
        ({"targets": ["local/openvino", {"name": "other", "runtime": "onnxruntime"}]}, "share a runtime"),
        ({"targets": []}, "targets"),
        ({"limits": {"latency@moon": 3}}, "behind the @ must be a known name"),
        ({"optimize": ["size@local"]}, "differs from target to target"),
        ({"optimize": ["latency@"]}, "a target stands behind the @"),
        ({"targets": [{"device": "moon"}]}, "a device is local, stand-in, or named with its agent; received 'moon'"),
        ({"targets": [{"runtime": "tensorrt"}]}, "runtime must be a known name"),
        ({"targets": [{"threads": 0}]}, "threads"),
        ({"search": {"trials": 0}}, "trials"),
        ({"search": {"time": "soon"}}, "a duration is a number"),
        ({"search": {"budget": 3}}, "known keys"),
        ({"model": {}}, "a model needs a name"),
        ({"model": {"checkpoint": "none.safetensors"}}, "checkpoint must exist"),
        ({"data": {"format": "cvs"}}, "format"),
        ({"plugins": {"objectives": ["nothing.py:Thing"]}}, "plug-in file must be"),
        ({"plugins": {"runtimes": ["no_such_module:Thing"]}}, "runtime plug-in must import"),
        ({"plugins": {"objective": ["a.py:A"]}}, "did you mean 'objectives'?"),
        ({"plugins": {"devices": "a.py:A"}}, "plugins: devices is a list"),
        ({"plugins": ["a.py:A"]}, "plugins are lists of file.py:ClassName by kind"),
        ({"objective": "latency"}, "known keys"),
    ],
)
def test_bad_budgets_are_one_clear_line(changes, words):
    with pytest.raises(UserError) as caught:
        budget(**changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named(tmp_path):
    with pytest.raises(UserError, match="optimize"):
        make_budget({name: value for name, value in GOOD.items() if name != "optimize"}, tmp_path)


def test_a_repeated_key_is_refused(tmp_path):
    path = tmp_path / "budget.yaml"
    path.write_text(yaml.safe_dump(GOOD) + "optimize: [accuracy]\n")
    with pytest.raises(UserError, match="twice"):
        Budget.read(path)


def test_a_search_can_only_do_without_what_it_has():
    with pytest.raises(ValueError, match=r"what a search may do without.*did you mean 'gates'"):
        SearchLimits(without=["gate"])
