"""The command line: bad input is one line and exit code 2; listings; help is light."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from typer.main import get_command

from sousvit.cli.app import exit_code
from sousvit.cli.main import _at_home, app
from sousvit.cli.searching import _command
from sousvit.spaces.module_shape import vit_shape

EXAMPLES = Path(__file__).parents[2] / "examples"
TOY_RUNTIME, TOY_TECHNIQUE, TOY_DEVICE = (
    Path(__file__).parents[1] / f"toy_{kind}.py" for kind in ("runtime", "technique", "device")
)


@pytest.fixture
def cli(run_sousvit, tmp_path):
    """Run the command line in an empty folder: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        done = run_sousvit(*arguments, cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    return run


def write(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b.pop("optimize"), "optimize"),
        (lambda b: b.update(limits={"latency": "soon"}), "a limit is a number"),
        (lambda b: b.update(space="everything"), "space must be a known name"),
        (lambda b: b.update(space={"techniques": {"prune_all": {}}}), "technique must be a known name"),
        (lambda b: b["model"].update(name="vit_tinny_patch16_224", checkpoint=None), "timm model"),
        (lambda b: b["model"].update(checkpoint="gone.safetensors"), "checkpoint must exist"),
        (lambda b: b["model"].update(args={"img_size": 16, "patch_size": 4, "depth": 2}), "checkpoint must fit"),
        (lambda b: b["data"].update(train="gone.idx.gz"), "gone.idx.gz"),
        (lambda b: b["data"].update(validation=10**9), "validation must leave images"),
        (lambda b: b["data"].pop("test"), "data needs a test path"),
        (lambda b: b["data"].update(test="gone.idx.gz"), "gone.idx.gz"),
        (lambda b: b["data"].update(test=b["data"]["train"]), "test split must be data of its own"),
        (lambda b: b.update(optimize=[{"latency": 2}]), "optimize lists names"),
        (lambda b: b.update(limits={"latency": True}), "limits takes no true or false"),
        (lambda b: b.update(targets=[{"threads": True}]), "threads takes no true or false"),
        (lambda b: b.update(targets=["gone.yaml"]), "gone.yaml"),
        (lambda b: b.update(space={"techniques": {"prune_mlp": True}}), "maps parameters to values"),
    ],
)
def test_bad_budgets_exit_with_2_and_one_line(cli, tiny_project, tmp_path, change, words):
    budget = tiny_project.budget()
    change(budget)
    code, _, err = cli("search", write(tmp_path / "b.yaml", budget), "--run", "r", "--executor", "inline")
    lines = [line for line in err.splitlines() if line.startswith("sousvit:")]
    assert code == 2 and len(lines) == 1 and words in lines[0], err
    assert "Traceback" not in err


def test_malformed_files(cli, tmp_path):
    for text, words in (("a: [", "must be YAML"), ("- 1", "keys and values"), ("", "keys and values")):
        code, _, err = cli("search", write(tmp_path / "b.yaml", text))
        assert code == 2 and words in err
    assert cli("search", tmp_path / "none.yaml")[0] == 2


def test_apply_replaces_nothing_but_an_artifact(cli, tiny_project, tmp_path):
    recipe = {"recipe": {"runtime": "onnxruntime", "steps": []}, **tiny_project.budget()}
    path = write(tmp_path / "recipe.yaml", {key: recipe[key] for key in ("recipe", "model", "data")})
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("precious")
    for out in (mine, mine / "notes.txt", "."):
        code, _, err = cli("apply", path, "--out", out)
        assert code == 2 and "must be new, empty, or an artifact" in err
    assert (mine / "notes.txt").read_text() == "precious"
    for _ in range(2):
        assert cli("apply", path, "--out", tmp_path / "new")[0] == 0


def test_apply_checks_that_the_recipe_fits_the_model(cli, tiny_project, tmp_path):
    recipe = {"runtime": "onnxruntime", "steps": [{"technique": "distill_token"}]}  # the tiny base has no class token
    content = {"recipe": recipe, **{key: tiny_project.budget()[key] for key in ("model", "data")}}
    code, _, err = cli("apply", write(tmp_path / "recipe.yaml", content), "--out", tmp_path / "new")
    assert code == 2 and "no class token" in err and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("runtime", "steps", "package"),
    [("litert", [], "ai_edge_litert"), ("openvino", [{"technique": "ptq_int8"}], "nncf")],
)
def test_apply_asks_for_packages_before_anything_else(
    cli, tiny_project, tmp_path, runtime, steps, package, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    content = {"recipe": {"runtime": runtime, "steps": steps}, "model": {"name": "no such model"}}
    code, _, err = cli("apply", write(tmp_path / "recipe.yaml", content), "--out", tmp_path / "new")
    assert code == 2 and f"needs the package {package}" in err and f"sousvit[{runtime}]" in err


def test_a_pickle_checkpoint_is_never_opened(cli, tiny_project, tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    budget = tiny_project.budget(
        model={"name": "vit_tiny_patch16_224", "checkpoint": str(tmp_path / "model.safetensors")}
    )
    code, _, err = cli("search", write(tmp_path / "b.yaml", budget))
    assert code == 2 and "safetensors" in err and "Traceback" not in err


def test_an_unwritable_run_folder(cli, tiny_project, tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    code, _, err = cli("search", tiny_project.write_budget(tmp_path / "b.yaml"), "--run", "r")
    assert code == 2 and "must be a folder" in err


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden"])
def test_run_names_stay_in_the_runs_folder(cli, tiny_project, tmp_path, name):
    code, _, _ = cli("search", tiny_project.write_budget(tmp_path / "b.yaml"), f"--run={name}")
    assert code == 2


def test_unknown_runs(cli, tmp_path):
    for command in (("recipe", "none", write(tmp_path / "b.yaml", "optimize: [size]")), ("report", "none")):
        code, _, err = cli(*command)
        assert code == 2 and "a run must exist" in err


@pytest.mark.parametrize("what", ["techniques", "objectives", "targets", "spaces"])
def test_listings(cli, what):
    code, out, _ = cli("list", what, "--json")
    rows = json.loads(out)
    assert code == 0 and len(rows) >= 2 and all(row["name"] for row in rows)
    assert cli("list", what)[0] == 0


def test_unknown_listing(cli):
    code, _, err = cli("list", "recipes")
    assert code == 2 and "choose one of" in err


def test_what_plug_ins_bring_is_listed_from_a_file_and_from_a_budget(cli, tiny_project, tmp_path):
    plugin = EXAMPLES / "worst_class.py"
    budget = tiny_project.write_budget(
        tmp_path / "b.yaml", plugins={"objectives": [f"{plugin}:WorstClassAccuracy"]}, limits={"size": 1}
    )
    for named in (plugin, f"{plugin}:WorstClassAccuracy", budget):
        code, out, _ = cli("list", "objectives", "--plugins", named, "--json")
        assert code == 0 and "worst_class_accuracy" in [row["name"] for row in json.loads(out)]
    code, out, _ = cli("list", "techniques", "--plugins", plugin, "--plugins", TOY_TECHNIQUE, "--json")
    assert code == 0 and "clip_weights" in [row["name"] for row in json.loads(out)]


@pytest.mark.parametrize(
    ("plugins", "words"),
    [
        ("gone.py", "plug-in file must be an existing .py file"),
        ("gone.yaml", "the file must exist"),
        ("gone.package:Mine", "plug-in must import; received ModuleNotFoundError"),
        ("mine", "is named file.py:ClassName or package.module:ClassName"),
        (Path(__file__), "a plug-in derives from the contract of one of objectives, techniques, runtimes"),
        (f"{Path(__file__)}:Nothing", "must hold its class; received 'Nothing'"),
    ],
)
def test_plug_ins_that_are_none_are_one_clear_line(cli, plugins, words):
    code, _, err = cli("list", "objectives", "--plugins", plugins)
    assert code == 2 and words in err and len(err.splitlines()) == 1, err


def test_a_device_of_the_users_own_is_checked_with_its_plug_ins(cli, tmp_path):
    target = write(tmp_path / "t.yaml", {"device": "when_idle", "runtime": "reference"})
    code, _, err = cli("device", "check", target)
    assert code == 2 and "runtime must be a known name; received 'reference'" in err
    code, out, _ = cli("device", "check", target, "--plugins", TOY_RUNTIME, "--plugins", TOY_DEVICE, "--json")
    assert code == 0 and "reference" in json.loads(out)["runtimes"]


def test_an_agent_serves_a_runtime_of_the_users_own():
    command = [sys.executable, "-m", "sousvit", "device", "serve", "--port", "0", "--plugins", str(TOY_RUNTIME)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as agent:
        try:
            assert "listening" in agent.stdout.readline() and ", reference " in agent.stdout.readline()
        finally:
            agent.terminate()


@pytest.mark.slow
def test_a_recipe_with_plug_ins_is_applied_and_its_artifact_measured(cli, tiny_project, tmp_path):
    recipe = {"runtime": "reference", "steps": [{"technique": "clip_weights"}]}
    content = {"recipe": recipe, **{key: tiny_project.budget()[key] for key in ("model", "data")}}
    path = write(tmp_path / "recipe.yaml", content)
    plugins = ("--plugins", TOY_TECHNIQUE, "--plugins", TOY_RUNTIME)
    code, _, err = cli("apply", path, "--out", tmp_path / "new")
    assert code == 2 and "must be a known name" in err
    code, _, err = cli("apply", path, "--out", tmp_path / "new", *plugins)
    assert code == 0, err
    code, _, err = cli("measure", tmp_path / "new")
    assert code == 2 and "runtime must be a known name; received 'reference'" in err
    code, out, err = cli("measure", tmp_path / "new", *plugins, "--json")
    assert code == 0 and json.loads(out)["figures"]["runtime"] == "reference", err


def test_what_libraries_print_does_not_stand_before_the_json(tiny_project, tmp_path):
    """In a process of its own, as programs call it: a plug-in prints, its compiled code writes, and so does a child."""
    plugin = tmp_path / "loud.py"
    loud = "import os\nprint('loaded')\nos.write(1, b'compiled')\nos.system('echo child')\n"
    plugin.write_text((EXAMPLES / "worst_class.py").read_text() + loud)
    path = tiny_project.write_budget(
        tmp_path / "b.yaml",
        plugins={"objectives": [f"{plugin}:WorstClassAccuracy"]},
        limits={"worst_class_accuracy_drop": 0.1},
    )
    command = [sys.executable, "-m", "sousvit", "list", "objectives", "--plugins", str(path), "--json"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "worst_class_accuracy" in [row["name"] for row in json.loads(found.stdout)]
    assert all(word in found.stderr for word in ("loaded", "compiled", "child"))


@pytest.mark.parametrize("command", [("search", "--executor", "inline"), ("study",)])
def test_data_paths_start_at_the_data_root(cli, tiny_project, tmp_path, command):
    path = write(
        tmp_path / "b.yaml", {**tiny_project.budget(), "data": {"format": "folder", "train": "cats", "test": "dogs"}}
    )
    code, _, err = cli(*command, path, "--data-root", tmp_path / "elsewhere")
    assert code == 2 and "elsewhere/dogs" in err


def test_other_executors_are_refused(cli, tiny_project, tmp_path):
    code, _, err = cli("search", tiny_project.write_budget(tmp_path / "b.yaml"), "--executor", "moon")
    assert code == 2 and "executor must be a known name" in err


def test_bad_artifacts_and_recipes(cli, tmp_path):
    code, _, err = cli("measure", tmp_path)
    assert code == 2 and "artifact.json" in err
    code, _, err = cli("apply", write(tmp_path / "r.yaml", "a: 1"), "--out", tmp_path / "o")
    assert code == 2 and "recipe file" in err


def test_version_and_help(cli):
    assert cli("--version")[1].strip()
    assert "search" in cli("--help")[1]


def helps(command, path="sousvit"):
    """What ``--help`` prints at 80 columns, by command."""
    context = command.context_class(command, info_name=path, terminal_width=80)
    yield path, command, command.get_help(context)
    for name, part in getattr(command, "commands", {}).items():
        yield from helps(part, f"{path} {name}")


@pytest.mark.parametrize(
    ("path", "command", "text"), [pytest.param(*one, id=one[0]) for one in helps(get_command(app))]
)
def test_the_help_of_every_command_reads_well_at_80_columns(path, command, text):
    assert all(len(line) <= 80 for line in text.splitlines())
    several = re.compile(r"\[ARGS\]\.\.\.|\{?(IMAGES|RUN)\}?\.\.\.")  # an argument that may be given again
    assert "..." not in several.sub("", text), "a line of the list of commands is cut short"
    unnamed = [one.name for one in command.params if not getattr(one, "help", None)]
    assert not unnamed, f"{unnamed} say nothing"
    options = text.partition("Options:")[2].partition("Commands:")[0].strip("\n").splitlines()
    assert all(line.startswith("  --") for line in options), "an option takes more than a line"
    assert not re.search(r"--\S+ <", text), "what an option takes is named by a noun"


def test_train_writes_a_checkpoint(cli, tiny_project, tmp_path):
    config = {
        "model": {
            "name": "vit_tiny_patch16_224",
            "args": {
                "img_size": 16,
                "patch_size": 8,
                "in_chans": 1,
                "embed_dim": 16,
                "depth": 1,
                "num_heads": 2,
                "num_classes": 3,
            },
        },
        "data": tiny_project.data,
        "training": {"epochs": 1, "batch_size": 64},
    }
    code, out, err = cli("train", write(tmp_path / "t.yaml", config), "--out", "new.safetensors", "--json")
    assert code == 0, err
    assert 0 <= json.loads(out)["test_top1"] <= 1 and (tmp_path / "new.safetensors").is_file()


#: Its data and the base trained on them are the user's.
#: Their base is trained by the user.
NOT_SHIPPED = [EXAMPLES / "bccd" / name for name in ("budget.yaml", "margin.yaml")]
MANIFEST = EXAMPLES / "cluster" / "kuberay.yaml"


@pytest.mark.parametrize("path", NOT_SHIPPED, ids=lambda path: path.name)
def test_the_detection_example_fits_the_base_that_its_training_file_makes(tmp_path, path):
    from sousvit.models.load import create, save_checkpoint
    from sousvit.search.budget import make_budget
    from sousvit.spaces.space import make_space
    from sousvit.spaces.training.base import read_training

    training = read_training(path.with_name("train.yaml"), tmp_path)
    model = create(training.model)
    description = {**training.model.model_dump(mode="json"), "checkpoint": None}
    save_checkpoint(tmp_path / "base.safetensors", model, description)
    budget = make_budget(yaml.safe_load(path.read_text()), tmp_path, data_root=tmp_path)
    same = ("format", "train", "validation", "test", "classes")
    assert all(getattr(budget.data, key) == getattr(training.data, key) for key in same)
    _, left_out = make_space(budget.space, vit_shape(model), budget.target.runtimes)
    assert not left_out


@pytest.mark.parametrize(
    "path",
    sorted({*EXAMPLES.rglob("*.yaml")} - {*NOT_SHIPPED, MANIFEST}),
    ids=lambda path: f"{path.parent.name}-{path.name}",
)
def test_every_example_is_a_valid_budget_or_training_file(path):
    from sousvit.search.budget import Budget
    from sousvit.spaces.training.base import read_training

    if path.name == "train.yaml":
        assert read_training(path).training.epochs >= 1
    else:
        budget = Budget.read(path)
        data = budget.data
        own = () if data.kind == "none" else (data.train, data.validation)
        for part in (*own, data.test, budget.model.checkpoint):
            assert Path(str(part)).is_file(), part


def test_the_embedded_example_keeps_its_sizes_and_its_splits_apart():
    from sousvit.data.formats.idx import read_idx

    data = EXAMPLES / "fashion-mnist" / "data"
    assert sum(path.stat().st_size for path in data.iterdir()) <= 8e6
    assert (EXAMPLES / "fashion-mnist" / "base.safetensors").stat().st_size <= 12e6
    parts = {part: read_idx(data / f"{part}-images-idx3-ubyte.gz") for part in ("train", "validation", "test")}
    seen = {part: {image.tobytes() for image in images} for part, images in parts.items()}
    assert not seen["validation"] & seen["train"] and not seen["test"] & seen["train"]


def test_the_command_to_go_on_keeps_every_option_that_was_given():
    given = {"trials": 3, "time": "60s", "seed": None, "data-root": Path("data")}
    assert _command("resume", "a run", Path("runs"), given, strict=True, allow_plugins=False) == (
        "resume 'a run' --trials 3 --time 60s --data-root data --strict"
    )
    assert _command("survey", "b.yaml", Path("/other"), {"run": "mine"}) == "survey b.yaml --run mine --runs /other"


@pytest.mark.parametrize(
    ("status", "lenient", "strict"), [("holds", 0, 0), ("not shown on the test split", 0, 4), ("infeasible", 3, 3)]
)
def test_what_was_not_shown_is_an_error_only_where_that_is_asked(status, lenient, strict):
    assert (exit_code(status, strict=False), exit_code(status, strict=True)) == (lenient, strict)


def test_a_tilde_is_the_users_home_in_every_option_and_argument(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    told = ["search", "~/b.yaml", "--run", "~/r", "--runs=~/runs", "--data-root", "~", "a~b", "~other/x", "-h"]
    assert [_at_home(argument) for argument in told] == [
        "search", "/home/me/b.yaml", "--run", "/home/me/r", "--runs=/home/me/runs", "--data-root", "/home/me", "a~b",
        "~other/x", "-h",
    ]  # fmt: skip


INTERRUPTED_EARLY = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "sousvit.cli.main":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
signal.signal(signal.SIGINT, signal.default_int_handler)
from sousvit.__main__ import main
main()
"""


def test_an_interrupt_while_a_command_is_imported_is_no_traceback():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_EARLY], capture_output=True, text=True, check=False)
    assert done.returncode == 130 and done.stderr == ""
