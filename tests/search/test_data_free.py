"""Searches without data, without labels, and with a test split only."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

import sousvit
from sousvit.cache import TensorCache
from sousvit.data.formats.idx import read_idx
from sousvit.errors import UserError
from sousvit.models.load import load
from sousvit.search.archive import EVENTS
from sousvit.search.budget import Budget, make_budget
from sousvit.search.callbacks import Callback
from sousvit.search.executors.open import inline_executor
from sousvit.search.proposers.starters import hybrid_recipes, single_recipes
from sousvit.search.report.page.write import write_report
from sousvit.search.report.terminal import console, print_answer
from sousvit.search.reuse import answer_other_budget
from sousvit.search.run import search
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.space import make_space, read_space
from sousvit.spaces.technique import Role, get_technique
from sousvit.spaces.techniques.synthesis.config import synthesis_of
from sousvit.spaces.techniques.synthesis.contact_sheet import contact_sheet
from sousvit.spaces.techniques.synthesis.synthesiser import FINAL, Synthesiser

SPACE = {
    "techniques": {
        "synthesize": {"method": ["inversion", "scenes"], "images": [64], "steps": [2]},
        "prune_depth": {"drop": [0, 1, 2]},
        "distill": {"epochs": [1], "batch_size": [32]},
        "static_int8": {"smoothing": ["none"], "clip": ["minmax"], "strength": [0.5]},
    }
}
SEARCH = {"trials": 5, "seed": 0, "explore_fidelity": 1.0, "measure_time": 0.1, "leave_one_out": False}
NONE_BUT_A_TEST = {"train": "none", "validation": 32, "synthesis": {"images": 64, "steps": 2}}
NONE = {"format": "none", "validation": 64, "synthesis": {"images": 64, "steps": 2}}


def budget_of(tiny_project, path: Path, data, **changes):
    values = {"limits": {"agreement": 0.3}, "optimize": ["size", "agreement"], "space": SPACE, "search": SEARCH}
    return Budget.read(tiny_project.write_budget(path / "budget.yaml", data=data, **{**values, **changes}))


def words_of(budget, folder: Path, answer) -> str:
    """Everything that the run tells: terminal, JSON, tables, report."""
    report = write_report(folder)
    out = console()
    with out.capture() as captured:
        print_answer(out, answer, budget, folder, report)
    page = re.sub(r"<script.*?</script>", "", report.read_text(), flags=re.DOTALL)  # what is data, or our own code
    files = [path.read_text() for path in folder.glob("*.csv")] + [(folder / "recipe.yaml").read_text()]
    return "\n".join([captured.get(), json.dumps(answer.to_dict()), page, *files])


def images_of(recipe, budget, folder: Path):
    """What a recipe of a run without data is calibrated and trained on."""
    own = next((step.config for step in Recipe.from_dict(recipe).steps if step.role is Role.SUPPLY), None)
    synthesiser = Synthesiser(load(budget.model), budget.search.seed, cache=TensorCache(folder / "cache"))
    made = synthesiser.made(own or synthesis_of(budget.data))
    assert synthesiser.seconds == 0, "the run has kept them"
    return made


def test_without_data_the_answer_says_agreement(tiny_project, tmp_path):
    budget = budget_of(tiny_project, tmp_path, NONE)
    folder = tmp_path / "run"
    answer = search(budget, folder, inline_executor)
    assert answer.feasible
    assert answer.chosen is not None and answer.chosen.values["agreement"].low is not None
    assert {"agreement", "agreement_drop"} <= set(answer.rows[0].values)
    assert "test_read" not in (folder / EVENTS).read_text()
    said = words_of(budget, folder, answer)
    assert "agreement %" in said and "held-out synthesised images" in said and "on fresh synthesised images" in said
    assert "accuracy" not in said.lower() and "top-1" not in said and "top1" not in said
    synthesiser = Synthesiser(load(budget.model), budget.search.seed, cache=TensorCache(folder / "cache"))
    assert len(synthesiser.made(synthesis_of(budget.data), FINAL)) == 64
    assert synthesiser.seconds == 0, "the answer was judged on images that no trial saw"
    assert (folder / "synthesised.png").read_bytes() == contact_sheet(images_of(answer.chosen.recipe, budget, folder))
    assert "data:image/png;base64," in (folder / "report.html").read_text()
    built = sousvit.build(folder / "recipe.yaml", out=tmp_path / "built")
    assert abs(built["agreement"].value - answer.chosen.values["agreement"].value) <= 0.05
    other = tmp_path / "other.yaml"
    other.write_text("limits: {accuracy: 0.5}\noptimize: [size]\n")
    with pytest.raises(UserError, match="accuracy needs labels"):
        answer_other_budget(folder, other)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["recipe"]["steps"] = [{"technique": "synthesize"}, {"technique": "prune_mlp"}]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(UserError, match="received data with images; use data: none"):
        sousvit.build(tmp_path / "recipe.yaml", out=tmp_path / "refused", train=tiny_project.data)


def test_a_killed_run_goes_on_with_the_images_it_has(tiny_project, tmp_path):
    budget = budget_of(tiny_project, tmp_path, NONE, search={**SEARCH, "trials": 3})
    folder, seen = tmp_path / "run", []

    class Killed(BaseException):
        pass

    class KillAfterTwo(Callback):
        def on_trial(self, trial, counts):
            seen.append(trial)
            if len(seen) == 2:
                raise Killed

    with pytest.raises(Killed):
        search(budget, folder, inline_executor, KillAfterTwo())
    kept = {path: path.stat().st_ino for path in (folder / "cache" / "images").glob("*.safetensors")}
    answer = search(budget, folder, inline_executor)
    assert answer.feasible and len(kept) >= 2
    assert {path: path.stat().st_ino for path in kept} == kept
    images_of(answer.chosen.recipe, budget, folder)


@pytest.mark.parametrize("preset", ["default", "training-free", "all"])
def test_a_space_that_makes_images_holds_all_that_is_asked_first(preset, shape):
    space, left_out = make_space(read_space(preset), shape, ("litert", "onnxruntime", "openvino"), has_images=False)
    assert "synthesize" not in left_out
    asked = [recipe for group in single_recipes(space, shape) for recipe in group] + hybrid_recipes(space, shape)
    outside = [str(recipe) for recipe in asked if fits(recipe, shape) and space.parameters(recipe, shape) is None]
    assert not outside and len(asked) > 10
    weights = get_technique("int8_dynamic").choices(shape)["weights"][0]
    blind = Recipe((Step.make("int8_dynamic", weights=weights),))
    assert space.parameters(blind, shape) is not None


def fits(recipe: Recipe, shape) -> bool:
    """Whether its values go together."""
    try:
        recipe.reshape(shape)
    except UserError:
        return False
    return True


def test_a_missing_test_split_is_told_before_images_are_made(tiny_project, tmp_path):
    data = {**NONE, "format": "idx", "train": "none", "test": str(tmp_path / "no-images.idx")}
    budget = budget_of(tiny_project, tmp_path, data)
    with pytest.raises(UserError, match="data must exist"):
        search(budget, tmp_path / "run", inline_executor)
    assert not (tmp_path / "run" / "cache").exists()


@pytest.mark.parametrize("classes", [0, 1])
def test_a_base_without_classes_has_nothing_to_agree_with(classes, tmp_path):
    from sousvit.spaces.images import open_splits
    from sousvit.specs import DataSpec, ModelSpec

    base = load(ModelSpec(name="vit_tiny_patch16_224", args={"img_size": 32, "depth": 1, "num_classes": classes}))
    with pytest.raises(UserError, match=f"must tell classes apart; received {classes} classes"):
        open_splits(DataSpec(format="none"), base, Synthesiser(base))


def test_a_test_split_alone_is_read_once_for_the_answer(tiny_project, tmp_path):
    data = {**NONE, "format": "idx", "train": "none", "test": tiny_project.data["test"]}
    budget = budget_of(tiny_project, tmp_path, data, search={**SEARCH, "trials": 2})
    answer = search(budget, tmp_path / "run", inline_executor)
    rows = {row.role: row.values for row in answer.rows}
    assert rows["base"]["accuracy"].value == pytest.approx(tiny_project.test_top1, abs=0.011)
    assert "agreement" in rows["base"] and "accuracy_drop" in rows["recipe"]
    assert "accuracy" not in answer.chosen.values


def test_a_folder_without_labels(tiny_project, tmp_path):
    pixels = read_idx(Path(tiny_project.data["train"]))[:160]
    (tmp_path / "images" / "deeper").mkdir(parents=True)
    for index, image in enumerate(pixels):
        folder = tmp_path / "images" / ("deeper" if index % 2 else "")
        Image.fromarray(image).save(folder / f"{index}.png")
    data = {"format": "folder", "train": str(tmp_path / "images"), "labels": False, "validation": 60}
    budget = budget_of(tiny_project, tmp_path, data, search={**SEARCH, "trials": 3})
    folder = tmp_path / "run"
    answer = search(budget, folder, inline_executor)
    assert answer.feasible and answer.chosen is not None
    assert "synthesize" not in answer.chosen.techniques
    said = words_of(budget, folder, answer)
    assert "images without labels" in said and "accuracy" not in said.lower() and "top-1" not in said


@pytest.mark.parametrize(
    ("data", "changes", "words"),
    [
        (NONE, {"limits": {"accuracy_drop": 0.01}}, "accuracy_drop needs labels; received data without training"),
        (NONE, {"optimize": ["eer"], "limits": {}}, "eer needs labels"),
        ("none", {"limits": {"agreement": 1.2}}, "agreement is a share"),
        ({"format": "none", "test": "x"}, {}, "data: none has no images to describe; received test"),
        ({"format": "none", "validation": 0.2}, {}, "count of synthesised ones"),
        ({"format": "none", "train": "x"}, {}, "data: none has no images to describe; received train"),
        ({"format": "none", "limit_train": 5}, {}, "received limit_train"),
        ({"format": "none", "synthesis": {"images": 0}}, {}, "greater than or equal to 16"),
        ({"format": "none", "validation": 0}, {}, "validation"),
        ({"format": "folder", "train": "x", "synthesis": {"images": 64}}, {}, "synthesis makes images where there"),
        ({"format": "none", "synthesis": {"picture": 64}}, {}, "picture"),
        ({"format": "folder", "train": "x", "labels": False}, {"limits": {"accuracy": 0.9}}, "with labels: false"),
    ],
)
def test_bad_combinations_get_one_clear_line(tiny_project, tmp_path, data, changes, words):
    values = {"limits": {"agreement": 0.9}, "optimize": ["size"], **changes}
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        make_budget(tiny_project.budget(data=data, **values), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_labelled_budget_can_limit_agreement_too(tiny_project, tmp_path):
    budget = make_budget(tiny_project.budget(limits={"agreement": 0.5, "accuracy_drop": 0.5}), tmp_path)
    assert budget.data.kind == "labelled"


def test_what_is_asked_first_suits_its_runtime(shape):
    """LiteRT takes nothing that was trained by qat, and qat's models are quantized already."""
    techniques = {"qat": {}, "prune_mlp": {}, "litert_dynamic": {}, "int8_dynamic": {}, "ptq_int8": {}}
    space, _ = make_space(read_space({"techniques": techniques}), shape, ("litert", "onnxruntime", "openvino"))
    deployed, middle, more = single_recipes(space, shape)
    assert {recipe.runtime for recipe in deployed} == {"litert", "onnxruntime", "openvino"}
    asked = [*deployed, *middle, *more, *hybrid_recipes(space, shape)]
    assert {recipe.runtime for recipe in asked if recipe.trains} == {"onnxruntime"}
    assert all(recipe.reshape(shape).params() > 0 for recipe in asked)


DETECTOR = {"techniques": {**SPACE["techniques"], "distill": {"epochs": [1], "batch_size": [16]}}}


@pytest.mark.parametrize("kind", ["none", "unlabelled"])
def test_a_detector_without_boxes(tiny_detection, tmp_path, kind):
    """Both with a test split that has boxes, which only the answer reads."""
    own = {**tiny_detection.data, "classes": ["bright", "dark"]}
    del own["validation"]
    data = {**own, "labels": False, "validation": 40} if kind == "unlabelled" else {**own, **NONE_BUT_A_TEST}
    techniques = dict(DETECTOR["techniques"])
    if kind == "unlabelled":
        del techniques["synthesize"]
    changes = {"limits": {"agreement_drop": 0.6}, "optimize": ["size", "agreement"], "search": SEARCH}
    budget = make_budget(tiny_detection.budget(data=data, space={"techniques": techniques}, **changes), tmp_path)
    folder = tmp_path / "run"
    answer = search(budget, folder, inline_executor)
    assert answer.chosen is not None and "map50" not in answer.chosen.values
    rows = {row.role: row.values for row in answer.rows}
    assert rows["base"]["map50"].value == pytest.approx(tiny_detection.test_map50, abs=0.02)
    assert rows["base"]["agreement"].value == pytest.approx(1) and "map50_drop" in rows["recipe"]
    said = words_of(budget, folder, answer)
    assert budget.data.validation_name in said
    applied = sousvit.build(folder / "recipe.yaml", out=tmp_path / "built").figures
    assert {"agreement", "test_map50", "test_map"} <= set(applied)
