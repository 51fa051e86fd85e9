"""A detector judged through its artifact: figures, intervals, and the objectives that read them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
import torch

from sousvit.data import Splits
from sousvit.data.detection import Objects
from sousvit.errors import UserError
from sousvit.models.load import load
from sousvit.models.mean_ap import MeanAveragePrecision
from sousvit.objectives.conformance import check_objective
from sousvit.objectives.objective import get_objective
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.objectives.tasks.detection import BoxEvaluation, Detection, paired_drop
from sousvit.objectives.tasks.task import JUDGING_TASKS, task_measured
from sousvit.objectives.timing import TimingPlan, compare
from sousvit.spaces.builder import apply_steps
from sousvit.spaces.context import Context
from sousvit.spaces.export.export import make_artifact
from sousvit.spaces.recipe import Recipe, Step

FAST = TimingPlan.of(0.05)
SHAPE = (1, 3, 48, 64)


@dataclass
class RealSubject:
    """The Subject protocol on the tiny detector."""

    model: torch.nn.Module
    loaded: object
    images: object
    folder: object
    reference: RealSubject | None = None
    input_shape = SHAPE

    @property
    def base(self):
        return self.reference or self

    @cached_property
    def artifact(self):
        mean, std = self.loaded.mean, self.loaded.std
        context = Context(self.loaded.normalise)
        return make_artifact(self.model, SHAPE, mean, std, "onnxruntime", None, context, self.folder)

    @cached_property
    def timing(self):
        with open_session(self.artifact, 1, 1) as own, open_session(self.base.artifact, 1, 1) as base:
            return compare(own, base, SHAPE, FAST)

    @cached_property
    def evaluation(self):
        with open_session(self.artifact, 1) as session:
            return Detection().evaluate(session, self.model, self.images, self.loaded.normalise, 8)

    memory_bytes = 1

    @property
    def weight_bits(self):
        return 8 * self.artifact.size_bytes / sum(parameter.numel() for parameter in self.model.parameters())


@pytest.fixture(scope="module")
def subject(tiny_detection, tmp_path_factory):
    folder = tmp_path_factory.mktemp("detectors")
    loaded = load(tiny_detection.model_spec())
    images = Splits(tiny_detection.data_spec(), loaded.size, 3).open_test()
    base = RealSubject(loaded.module, loaded, images, folder / "base")
    blind = Recipe((Step.make("prune_mlp", keep=0.125), Step.make("prune_heads", keep=0.25)))
    worse = apply_steps(loaded.module, blind, Context(loaded.normalise))
    return RealSubject(worse, loaded, images, folder / "pruned", base)


def test_the_artifact_is_judged_like_the_pytorch_model(subject, tiny_detection):
    whole = subject.base.evaluation.precision.whole
    assert whole["map50"] == pytest.approx(tiny_detection.test_map50, abs=1e-3)
    assert 0 < whole["map"] < whole["map50"]
    found = subject.base.evaluation.figures()
    assert set(found) == {"map50", "map"}
    assert all(0 <= low <= value <= high <= 1 for value, low, high in found.values())


@pytest.mark.parametrize("name", ["map", "map50"])
def test_objectives_keep_the_contract(name, subject):
    check_objective(get_objective(name), subject)


def test_drops_are_paired(subject):
    drop = get_objective("map50_drop").measure(subject)
    base, own = (one.evaluation.precision for one in (subject.base, subject))
    assert drop.value == pytest.approx(base.whole["map50"] - own.whole["map50"])
    assert drop.low < drop.value < drop.high
    unpaired = np.hypot(base.resampled["map50"].std(), own.resampled["map50"].std()) * 2 * 1.96
    assert drop.high - drop.low < 1.2 * unpaired
    same = get_objective("map50_drop").measure(subject.base)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    ratio = get_objective("map50_ratio").measure(subject)
    assert ratio.value == pytest.approx(own.whole["map50"] / base.whole["map50"])


def test_eer_reads_one_minus_map50(subject):
    evaluation = subject.evaluation
    assert evaluation.error == pytest.approx(1 - evaluation.precision.whole["map50"])
    worse, base = (get_objective("eer").measure(one).value for one in (subject, subject.base))
    terms = {"params": 0.0, "error": evaluation.error / max(subject.base.evaluation.error, evaluation.least_error)}
    assert worse > terms["error"] / 5 and base > 0


def test_evaluations_of_different_images_do_not_compare(subject):
    one = Objects(torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0]))
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)}
    other = BoxEvaluation(MeanAveragePrecision([nothing], [one], (48, 64), 2), 1)
    with pytest.raises(UserError, match="same images"):
        paired_drop(subject.evaluation, other, "map50")


def test_an_empty_split_cannot_be_judged(subject):
    with open_session(subject.artifact, 1) as session, pytest.raises(UserError, match="must hold images"):
        Detection().evaluate(session, subject.model, subject.images.subset([]), subject.loaded.normalise, 8)


def test_tasks_are_told_by_their_figure_of_merit():
    assert {task.name: task.quality for task in JUDGING_TASKS} == {
        "classification": "accuracy",
        "detection": "map50",
    }
    assert task_measured(["latency", "map50"]).name == "detection"
    assert task_measured(["accuracy", "size"]).name == task_measured(["latency"]).name == "classification"
    assert all(get_objective(task.quality).task == task.name for task in JUDGING_TASKS)


def test_agreement_is_judged_on_the_boxes_of_the_base(subject):
    agreement = get_objective("agreement")
    check_objective(agreement, subject)
    assert agreement.measure(subject.base).value == pytest.approx(1)
    own = agreement.measure(subject)
    assert own.low <= own.value <= own.high and own.value < 1
    drop = get_objective("agreement_drop").measure(subject)
    assert drop.value == pytest.approx(1 - own.value) and drop.low < drop.value < drop.high
