"""Searches from Python: a module and data sets in memory, what comes back, and going on from it."""

from __future__ import annotations

import copy
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch.utils.data import TensorDataset

import sousvit
from sousvit.data.formats.idx import read_idx
from sousvit.errors import UserError
from sousvit.models.load import load
from sousvit.objectives.objective import Stage
from sousvit.spaces.export.artifact import Artifact

SPACE = {
    "techniques": {
        "prune_depth": {"drop": [0, 1, 2]},
        "distill": {"epochs": [0, 1], "num_views": [1]},
        "int8_dynamic": {"weights": ["uint8"], "per_channel": [True]},
    }
}
OPTIONS = {"explore_fidelity": 1.0, "measure_time": 0.05, "leave_one_out": False}


class BlockCount(sousvit.Objective):
    """The number of transformer blocks."""

    name, unit, direction = "block_count", "blocks", "minimize"
    stage = Stage.STRUCTURE
    summary = "number of transformer blocks"

    def measure(self, subject):
        return sousvit.Measurement(float(len(subject.model.blocks)))


class Log(sousvit.Callback):
    """Notes what a search tells."""

    def __init__(self):
        self.told: list[str] = []
        self.result: object = None

    def on_start(self, base, space, left_out):
        self.told.append("start")

    def on_trial(self, trial, counts):
        self.told.append(f"trial {counts.finished}")

    def on_end(self, result):
        self.told.append("end")
        self.result = result


def part(project, name: str, count: int) -> TensorDataset:
    """Images of the tiny project in memory, as torchvision's ``ToTensor`` would give them."""
    images = read_idx(project.root / "data" / f"{name}-images.idx.gz")[:count].copy()
    labels = read_idx(project.root / "data" / f"{name}-labels.idx.gz")[:count]
    return TensorDataset(torch.from_numpy(images)[:, None].float() / 255, torch.from_numpy(labels.astype(np.int64)))


def base(project) -> torch.nn.Module:
    """The tiny base as somebody would have it in a notebook: in training mode, and with its normalisation."""
    module = copy.deepcopy(load(project.model_spec()).module)
    module.pretrained_cfg = {**module.pretrained_cfg, "mean": (0.5,), "std": (0.27,)}
    return module.train()


@pytest.fixture(scope="module", autouse=True)
def one_core():
    """Searches in this process would take all cores, which other tests use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sousvit.search.judging.subjects.available_cores", lambda: 1)
        patch.setattr("sousvit.search.judging.build.available_cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def asked(tiny_project):
    """Arguments of a small search in this process, all from memory."""
    return {
        "model": base(tiny_project),
        "train": part(tiny_project, "train", 300),
        "validation": 80,
        "test": part(tiny_project, "test", 100),
        "target": "local-1-thread",
        "limits": {"accuracy_drop": 0.4, "size_ratio": 0.9},
        "optimize": ["size", "block_count"],
        "prefer": "size",
        "objectives": [BlockCount],
        "space": SPACE,
        "trials": 4,
        "executor": "inline",
        **OPTIONS,
    }


@pytest.fixture(scope="module")
def finished(asked, tmp_path_factory):
    """One finished search, shared by the tests that only read it."""
    log = Log()
    threads, numbers = torch.get_num_threads(), torch.get_rng_state()
    weights = copy.deepcopy(asked["model"].state_dict())
    result = sousvit.compress(**asked, run=tmp_path_factory.mktemp("home") / "mine", callbacks=[log])
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), numbers)
    assert asked["model"].training and all(torch.equal(weights[k], v) for k, v in asked["model"].state_dict().items())
    return result, log


def test_a_result_says_what_holds_on_which_images(finished):
    result, _ = finished
    assert result.status in ("holds", "not shown on the test split")
    limits = result.limits
    assert list(limits.index) == ["accuracy_drop", "size_ratio"]
    assert limits.loc["accuracy_drop", "images"] == "the test split" and limits.loc["size_ratio", "images"] == ""
    assert limits.loc["size_ratio", "holds"] and limits.loc["size_ratio", "value"] == result["size_ratio"].value < 0.9
    assert result["accuracy_drop"].low <= result["accuracy_drop"].value <= result["accuracy_drop"].high
    assert (result.status == "holds") == bool(limits["holds"].all())
    with pytest.raises(UserError, match="did you mean 'latency'"):
        result["latencyy"]


def test_a_result_says_why_it_was_chosen_and_what_else_could_have_been(finished):
    result, _ = finished
    assert result.budget.weights == {"size": 1.0, "block_count": 0.1}
    assert result.reason and result.reason in str(result) and result.reason in result._repr_html_()
    beside = result.alternatives
    assert beside.index[0].startswith("answer") and beside.iloc[0]["size"] == result.answer.chosen.get("size")
    assert sousvit.Recipe.from_dict(beside.iloc[0]["recipe"]) == result.recipe
    words = ", ".join(beside.index).split(", ")
    assert {"fastest", "smallest", "most accurate", "lowest block_count"} <= set(words)
    assert len(words) == len(set(words))


def test_a_result_shows_itself_in_a_terminal_and_in_a_notebook(finished):
    result, _ = finished
    assert str(result).splitlines()[0] == result.status and "size_ratio" in str(result) and "recipe" in str(result)
    page = result._repr_html_()
    assert "<table" in page and "size_ratio" in page and result.status in page
    assert result.plot().data and repr(result).startswith("<Result ")


def test_the_table_comes_as_markdown_with_intervals(finished):
    lines = finished[0].markdown().splitlines()
    assert lines[0].startswith("| | top-1 % | drop, points |") and lines[0].endswith("| recipe |")
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {role}" for role in finished[0].table.index]
    assert "[" in lines[2]


def test_a_run_says_on_which_machine_it_was_made(finished):
    assert sousvit.open_run(finished[0].folder).machine["cpu"] == sousvit.machine_facts()["cpu"]


def test_a_preset_is_read_as_values_that_can_be_changed():
    space = sousvit.read_space("all")
    assert space["techniques"]["prune_mlp"] == {} and "crop_flip" in space["techniques"]["distill"]["augmentation"]
    space["techniques"].clear()
    assert sousvit.read_space("all")["techniques"]


def test_trials_and_front_are_data_frames(finished):
    result, log = finished
    assert isinstance(result.trials, pd.DataFrame) and len(result.trials) == 4
    assert {"recipe", "status", "feasible", "size", "block_count"} <= set(result.trials.columns)
    assert len(result.front) >= 1 and result.front["feasible"].all()
    assert {"base", "recipe"} <= set(result.table.index) and "size_ratio" in result.table.columns
    assert log.told == ["start", *(f"trial {count}" for count in range(1, 5)), "end"] and log.result is result


def test_an_objective_of_the_user_s_own_is_measured_and_optimised(finished, tiny_project):
    result, _ = finished
    dropped = [step.config.drop for step in result.recipe.steps if step.technique == "prune_depth"]
    assert result["block_count"].value == 4 - sum(dropped)
    own = yaml.safe_load((result.folder / "budget.yaml").read_text())["plugins"]["objectives"]
    assert own == [f"{Path(__file__).resolve()}:BlockCount"]


def test_the_model_of_the_answer_comes_back_as_a_module(finished, tiny_project):
    result, _ = finished
    model = result.model
    dropped = sum(step.config.drop for step in result.recipe.steps if step.technique == "prune_depth")
    assert len(model.blocks) == 4 - dropped and result.model is model
    images, labels = part(tiny_project, "test", 100).tensors
    with torch.no_grad():
        top1 = float((model((images - 0.5) / 0.27).argmax(1) == labels).float().mean())
    assert top1 == pytest.approx(result["accuracy"].value, abs=0.06)


def test_a_bundle_is_the_artifact_with_its_recipe(finished, tmp_path):
    result, _ = finished
    out = result.bundle(tmp_path / "dist")
    bundled, own = Artifact.open(out), Artifact.open(result.artifact)
    assert bundled.input_shape == own.input_shape and bundled.options == own.options
    assert 0 <= bundled.size_bytes - own.size_bytes < 8000, "the file holds the facts besides"
    assert sousvit.Recipe.from_yaml((out / "recipe.yaml").read_text()) == result.recipe
    with pytest.raises(UserError, match="new or empty"):
        result.bundle(tmp_path / "dist")
    assert result.report(tmp_path / "page.html").stat().st_size > 1000


def test_the_same_call_returns_the_same_answer_and_adds_nothing(finished, asked):
    result, _ = finished
    log = Log()
    again = sousvit.compress(**asked, run=result.folder, callbacks=[log])
    assert again.answer == result.answer and log.told == ["end"]
    assert len(list((result.folder / "inputs").iterdir())) == 3, "the same inputs are written once"


def test_other_data_in_the_same_run_is_refused(finished, asked, tiny_project):
    result, _ = finished
    with pytest.raises(UserError, match="a run keeps its budget"):
        sousvit.compress(**{**asked, "train": part(tiny_project, "train", 290)}, run=result.folder)


def test_a_search_goes_on_with_more_trials_in_a_folder_that_was_moved(finished, tmp_path):
    result, _ = finished
    folder = shutil.copytree(result.folder, tmp_path / "moved")
    more = sousvit.Budget.read(folder / "budget.yaml", trials=5)
    assert more.search.trials == 5 and result.budget.search.trials == 4
    log = Log()
    continued = sousvit.Search(more, run=folder, executor="inline", callbacks=[log]).optimize()
    assert log.told == ["start", "trial 1", "end"] and len(continued.trials) == 5


def test_a_run_answers_other_limits_at_once(finished):
    result, _ = finished
    run = sousvit.open_run(result.folder)
    assert run.budget.limits == result.budget.limits and "latency" in run.base and len(run.trials) >= 4
    loose = run.answer(limits={}, optimize=["size"])
    assert loose.status == "not shown on the test split" and loose.limits.empty
    assert loose["size"].value == run.trials.query("status == 'complete'")["size"].min()
    assert run.answer().recipe is not None and run.result.recipe is not None
    hopeless = run.answer({"limits": {"size_ratio": 0.0001}, "optimize": ["size"]})
    assert hopeless.status == "infeasible" and not hopeless.limits["holds"].any()
    with pytest.raises(UserError, match="what its run measured"):
        run.answer(optimize=["energy"])
    with pytest.raises(UserError, match="its own targets only"):
        run.answer({"targets": [{"batch": 2}], "optimize": ["size"]})
    with pytest.raises(UserError, match="a budget holds all its parts; received limits beside it"):
        run.answer({"optimize": ["size"]}, limits={})


def test_a_run_is_asked_for_another_target(finished):
    result, _ = finished
    asked = {"target": {"batch": 2, "runtime": "onnxruntime"}, "limits": {}, "prefer": {"block_count": 3}}
    moved = sousvit.open_run(result.folder).retarget(**asked)
    assert moved.budget.target.batch == 2 and moved["latency"].value > 0
    assert moved.budget.prefer == {"block_count": 3.0} and moved.reason


def test_artifacts_are_measured_beside_a_baseline(finished, measures_quickly):
    result, _ = finished
    measured = sousvit.measure(result.artifact, baseline=result.folder / "artifacts" / "base")
    assert measured["ratio"].low <= measured["ratio"].value <= measured["ratio"].high
    assert measured["size_ratio"].value == pytest.approx(result["size_ratio"].value)


def test_a_recipe_of_one_s_own_is_built_from_a_module(asked, tmp_path):
    from sousvit.techniques import Int8Dynamic, PruneMlp

    recipe = sousvit.Recipe([PruneMlp(keep=0.5), Int8Dynamic(weights="uint8")])
    data = {name: asked[name] for name in ("train", "validation", "test")}
    built = sousvit.build(recipe, asked["model"], out=tmp_path / "out", **data)
    assert built.artifact.path.is_file() and built["test_top1"].low < built["test_top1"].value <= 1.0
    assert built.model.blocks[0].mlp.fc1.out_features == 64 and {*tmp_path.iterdir()} == {tmp_path / "out"}
    with pytest.raises(UserError, match="a recipe needs data"):
        sousvit.build(recipe, asked["model"], out=tmp_path / "other")


@pytest.fixture(scope="module")
def stumbled(asked, tmp_path_factory):
    """A search for what nothing holds, ended by a callback after a trial, and then gone on with."""

    class Clumsy(sousvit.Callback):
        def on_trial(self, trial, counts):
            raise KeyError("oops")

    folder = tmp_path_factory.mktemp("stumbled") / "r"
    values = {**asked, "limits": {"size_ratio": 0.001, "accuracy_drop": 0.5}, "optimize": ["size"], "trials": 2}
    with pytest.raises(UserError) as raised:
        sousvit.compress(**values, run=folder, callbacks=[Clumsy()])
    return str(raised.value), len(sousvit.open_run(folder).trials), sousvit.compress(**values, run=folder)


def test_a_callback_that_fails_stops_the_search_and_loses_nothing(stumbled):
    said, known, result = stumbled
    assert said.startswith("a callback must not fail; received Clumsy.on_trial: KeyError: 'oops'") and "\n" not in said
    assert known == 1 and len(result.trials) == 2


def test_limits_that_nothing_holds_give_the_nearest_miss(stumbled, tmp_path):
    _, _, result = stumbled
    assert result.status == "infeasible" and result.recipe is not None
    assert not result.limits.loc["size_ratio", "holds"] and result.limits.loc["size_ratio", "value"] > 0.001
    assert "infeasible" in str(result) and "infeasible" in result._repr_html_()
    assert "status: infeasible" in (result.bundle(tmp_path / "miss") / "recipe.yaml").read_text()


def test_a_search_without_time_judges_a_deployment_of_the_base(asked, tmp_path):
    result = sousvit.compress(**asked, time=1e-6, run=tmp_path / "r")
    assert len(result.trials) == 1 and not result.recipe.model_steps
    assert any("only the base's deployments were judged" in note for note in result.answer.notes)


def test_a_result_without_a_trial_says_so(finished, tmp_path):
    from sousvit.search.results import Answer, judged

    found = finished[0]
    result = sousvit.Result(found.budget, tmp_path, judged(Answer(False, None, None), found.budget), lambda: None)
    assert result.status == "infeasible" and result.recipe is None
    assert result.limits["value"].isna().all() and not result.limits["holds"].any() and "infeasible" in str(result)


def test_a_callback_that_fails_within_a_trial_does_not_fail_the_trial(asked, tmp_path):
    class Clumsy(sousvit.Callback):
        def on_progress(self, what, done, total):
            if what == "exporting" and self.started:
                raise RuntimeError("oops")

        started = False

        def on_start(self, base, space, left_out):
            self.started = True

    with pytest.raises(UserError, match=r"Clumsy\.on_progress"):
        sousvit.compress(**asked, run=tmp_path / "r", callbacks=[Clumsy()])


def test_a_module_that_nobody_can_make_again_stays_in_this_process(tiny_project, asked, tmp_path):
    class Scaled(torch.nn.Module):
        """Not timm's: two convolutions and a classifier."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = torch.nn.Conv2d(1, 8, 4, 4), torch.nn.Conv2d(8, 8, 3, padding=1)
            self.head = torch.nn.Linear(8, 3)

        def forward(self, images):
            return self.head(self.second(self.first(images).relu()).relu().mean((2, 3)))

    values = {**asked, "model": Scaled(), "space": ["low_rank", "int8_dynamic"], "trials": 1, "objectives": []}
    values |= {
        "optimize": "size",
        "prefer": None,
        "limits": {"accuracy_drop": 0.9},
        "expected_accuracy": 0.3,
    }  # it knows nothing
    with pytest.raises(UserError, match=r"says how images reach it; received .*Scaled without input_size, mean, std"):
        sousvit.compress(**values, run=tmp_path / "r")
    values["model"].pretrained_cfg = {"input_size": (1, 16, 16), "mean": (0.5,), "std": (0.27,)}
    with pytest.raises(UserError, match=r"timm cannot make this one; .* use executor='inline', or give factory"):
        sousvit.compress(**{**values, "executor": "local"}, run=tmp_path / "r")
    result = sousvit.compress(**values, run=tmp_path / "r")
    assert not math.isnan(result["accuracy"].value) and isinstance(result.model, torch.nn.Module)
    with pytest.raises(UserError, match="known to its own process only"):
        sousvit.open_run(tmp_path / "r").answer(limits={}).model  # noqa: B018


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"executor": "moon"}, "executor must be a known name"),
        ({"trails": 3}, "argument of compress must be a known name; received 'trails'; did you mean 'trials'"),
        ({"limits": {"latency": "soon"}}, "a limit is a number"),
        ({"prefer": "latency"}, "prefer names what is optimised; received latency; add it to optimize"),
        ({"optimize": ["latencyy"], "prefer": None}, "objective must be a known name"),
        ({"target": "moon"}, "target must be a known name"),
        ({"model": 3}, "a model is a module, or names one"),
        ({"model": "vit_tinny_patch16_224"}, "timm model must be a known name"),
        ({"model": "gone.safetensors"}, "a checkpoint must exist"),
        ({"train": "gone"}, "data must exist"),
        ({"train": 5}, "train data is a path or a data set"),
        ({"train": {"format": "idx", "train": "a"}}, "train as a description names all parts of the data"),
        ({"space": "everything"}, "space must be a known name"),
        ({"space": ["prune_all"]}, "technique must be a known name"),
        ({"callbacks": [print]}, "a callback derives from sousvit.Callback"),
        ({"objectives": [3]}, "an objective"),
        ({"objectives": ["memory"]}, "name it in optimize or limits"),
        ({"techniques": [3]}, "a technique derives from sousvit.spaces.technique.Technique"),
        ({"factory": "os:getcwd"}, "a factory returns an nn.Module"),
        ({"test": None}, "data needs a test path"),
        ({"limits": {"macs": 5e6}}, "a limit lies near the base's figure; received macs <= 5e+06 M for a base of"),
    ],
)
def test_what_is_wrong_with_a_call_is_one_clear_line(asked, tmp_path, change, words):
    with pytest.raises(UserError) as raised:
        sousvit.compress(**{**asked, **change}, run=tmp_path / "r")
    assert words in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "r").exists()


def test_a_base_that_is_another_than_expected_stops_the_search_and_leaves_no_run(asked, tmp_path):
    with pytest.raises(UserError, match=r"the base's accuracy is model\.expected_accuracy 5\.0%; received 100\.0%"):
        sousvit.compress(**asked, expected_accuracy=0.05, run=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_survey_lists_what_each_technique_does(tiny_project, tmp_path):
    space = {"techniques": {"prune_depth": {"drop": [1]}}}
    budget = tiny_project.budget(space=space, limits={}, search={"measure_time": 0.05})
    run = sousvit.survey(budget, run=tmp_path / "s", executor="inline")
    assert set(run.trials["origin"]) == {"base", "prune_depth"} and (run.folder / "study.md").is_file()


def test_policies_are_replayed_on_a_table(tmp_path):
    table = Path(__file__).parents[2] / "benchmarks" / "recorded_table" / "fashion-mnist.yaml"
    found = sousvit.replay(table, ["random"], evaluations=8, seeds=2, out=tmp_path / "out")
    assert len(found.curves["random"]) == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"replay.json", "replay.md", "replay.html"}
