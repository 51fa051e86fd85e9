"""A search with a user's own runtime, technique and device, each from one file."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml

from sousvit.errors import UserError
from sousvit.objectives.devices.open import open_device
from sousvit.objectives.runtimes.runtime import RUNTIMES
from sousvit.objectives.targets.profiles import make_target
from sousvit.search.archive import Archive
from sousvit.search.budget import make_budget
from sousvit.search.plugins import KINDS, load_plugins
from sousvit.spaces.export.exporter import EXPORTERS
from sousvit.spaces.recipe import Recipe, Step

TESTS = Path(__file__).parents[1]
PLUGINS = {
    "runtimes": ["toy_runtime.py:Reference"],
    "techniques": ["toy_technique.py:ClipWeights"],
    "devices": ["toy_device.py:WhenIdle"],
}


@pytest.mark.slow
def test_a_search_uses_a_runtime_a_technique_and_a_device_of_the_users_files(tiny_project, tmp_path):
    for name in ("toy_runtime.py", "toy_technique.py", "toy_device.py"):
        (tmp_path / name).write_text((TESTS / name).read_text())
    tiny_project.write_budget(
        tmp_path / "budget.yaml",
        plugins=PLUGINS,
        targets={"device": "when_idle", "runtime": "reference", "patience": 0},
        optimize=["latency", "memory"],
        limits={"accuracy_drop": 0.5},
        space={"techniques": {"clip_weights": {}, "fp16": {}}},
        search={"trials": 3, "seed": 0, "leave_one_out": False, "measure_time": 0.1},
    )
    command = [sys.executable, "-m", "sousvit", "search", "budget.yaml", "--run", "one", "--json"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["status"] != "infeasible"
    trials = list(Archive(tmp_path / "runs/one"))
    finished = [trial for trial in trials if trial.status == "complete"]
    assert {trial.recipe["runtime"] for trial in finished} == {"reference"}
    assert any("clip_weights" in trial.techniques for trial in finished)
    assert not [trial.message for trial in trials if trial.status == "failed"]
    # The measuring process, which knows nothing but its orders, opened the artifacts of the plug-in.
    assert all(trial.values["memory"].value > 0 for trial in finished)
    kept = yaml.safe_load((tmp_path / "runs/one/budget.yaml").read_text())["plugins"]
    assert kept["runtimes"] == [f"{tmp_path}/toy_runtime.py:Reference"]


def test_a_budget_registers_what_it_names_and_keeps_it(tiny_project, forget_plugins):
    target = {"device": "when_idle", "runtime": "reference"}
    budget = make_budget(tiny_project.budget(plugins=PLUGINS, targets=target), TESTS)
    assert budget.plugins["devices"] == (f"{TESTS}/toy_device.py:WhenIdle",)
    assert type(open_device(budget.target)).__name__ == "WhenIdle"
    recipe = Recipe((Step.make("clip_weights", deviations=2.5), Step.make("fp16")), "reference")
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    again = make_budget(budget.model_dump(mode="json", by_alias=True), Path("elsewhere"))
    assert again == budget and again.identity == budget.identity


def test_without_plug_ins_a_budget_is_what_it_was(tiny_project):
    budget = make_budget(tiny_project.budget(), TESTS)
    assert budget.model_dump(mode="json")["plugins"] == {"objectives": []}


def test_without_its_plug_in_a_runtime_is_unknown_everywhere_in_one_line(tiny_project):
    for attempt in (
        lambda: Recipe((), "reference"),
        lambda: make_target({"runtime": "reference"}, TESTS),
        lambda: make_budget(tiny_project.budget(targets={"runtime": "reference"}), TESTS),
    ):
        with pytest.raises(UserError, match="runtime must be a known name; received 'reference'") as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_a_runtime_from_a_module_and_one_from_a_file_are_named_alike(forget_plugins, monkeypatch):
    monkeypatch.syspath_prepend(str(TESTS))
    load_plugins({"runtimes": ["toy_runtime:Reference"]}, Path("nowhere"))
    assert RUNTIMES.reference("reference") == "toy_runtime:Reference" and "reference" in EXPORTERS
    del sys.modules["toy_runtime"]


def test_one_entry_point_of_an_installed_package_brings_a_runtime_with_its_exporter(forget_plugins, monkeypatch):
    monkeypatch.syspath_prepend(str(TESTS))
    point = EntryPoint("reference", "toy_runtime:Reference", RUNTIMES.group)
    for registry in (RUNTIMES, EXPORTERS):
        monkeypatch.setitem(vars(registry), "_points", {"reference": point})
    recipe = Recipe((Step.make("int8_dynamic"),), "reference")
    assert RUNTIMES.get("reference").exporter is type(EXPORTERS.get(recipe.runtime))
    del sys.modules["toy_runtime"]


@pytest.mark.parametrize(
    ("kind", "source", "words"),
    [
        ("runtimes", "class Mine(Runtime): name, packages = 'mine', ('onnx',)", "declares name, packages, exporter"),
        (
            "runtimes",
            "class Mine(Runtime):\n    name, packages, exporter = 'mine', ('onnx',), int\n    def open(self, *a): ...",
            "derives from sousvit.spaces.export.exporter.Exporter; received int",
        ),
        (
            "runtimes",
            "class Mine(Runtime):\n    name, packages, exporter = 'mine', (), int\n    def open(self, *a): ...",
            "a runtime's packages are a tuple of names; received ()",
        ),
        (
            "runtimes",
            "class Mine(Runtime): name, packages, exporter = 'mine', ('onnx',), int",
            "a runtime defines open",
        ),
        ("devices", "class Mine: name = 'mine'", "a device derives from sousvit.objectives.devices.device.Device"),
        ("devices", "class Mine(Device): name = 'mine'", "a device defines energy_mj, facts, probe, time"),
        ("techniques", "class Mine: name = 'mine'", "a technique derives from sousvit.spaces.technique.Technique"),
        ("techniques", "class Mine(ModelTechnique): name = 'mine'", "a technique declares name, stage, config"),
        (
            "techniques",
            "class Mine(DeployTechnique):\n    name, config, summary, source = 'mine', StepConfig, 's', 's'\n"
            "    def choices(self, shape): return {}",
            "a technique that deploys has a table deployments",
        ),
    ],
)
def test_a_plug_in_that_breaks_its_contract_is_one_clear_line(kind, source, words, tmp_path, forget_plugins):
    head = (
        "from sousvit.objectives.runtimes.runtime import Runtime\n"
        "from sousvit.objectives.devices.device import Device\n"
        "from sousvit.spaces.technique import DeployTechnique, ModelTechnique, StepConfig\n"
    )
    (tmp_path / "mine.py").write_text(head + source)
    with pytest.raises(UserError) as caught:
        load_plugins({kind: ["mine.py:Mine"]}, tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_every_kind_of_plug_in_refuses_the_names_of_ours(tmp_path, forget_plugins):
    for kind, registries in KINDS.items():
        for registry in registries:
            taken = registry.names()[0]
            with pytest.raises(UserError, match="names are unique"):
                registry.add(taken, object())
        assert registries[0].group == f"sousvit.{kind}"
