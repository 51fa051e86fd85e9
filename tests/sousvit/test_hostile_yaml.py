"""The worst YAML through the command line: one line, exit code 2, within 5 seconds and 1 GB, and nothing written."""

from __future__ import annotations

import pytest

from sousvit.checked import parse_yaml
from sousvit.errors import UserError
from sousvit.search.judging.build import RecipeFile
from sousvit.spaces.space import PRESETS, preset_names, read_space

BUDGET = """\
model: {{name: vit_tiny_patch16_224{model}}}
data: {{format: folder, train: a, test: b{data}}}
targets: [{{device: local{target}}}]
limits: {{accuracy_drop: {limit}}}
optimize: [latency, size]
space: {space}
search: {{trials: {trials}, time: {time}}}
"""
USUAL = {"model": "", "data": "", "target": "", "limit": "0.01", "space": "default", "trials": "4", "time": "30m"}
BOMB = "x0: &x0 [a, a, a, a, a, a, a, a, a, a]\n" + "".join(
    f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


def budget(**changes: str) -> str:
    return BUDGET.format(**{**USUAL, **changes})


def one_line(done) -> str:
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("sousvit: "), done.stderr[-2000:]
    assert len(lines[0]) < 3100 and lines[0].isprintable() and done.stdout == ""
    return lines[0]


@pytest.fixture
def hostile(run_bounded, tmp_path):
    """The line that a command prints of a file, which it must print soon and in little memory."""

    def told(text: str) -> str:
        path = tmp_path / "hostile.yaml"
        path.write_text(text)
        done = run_bounded("search", path, "--run", "r", cwd=tmp_path)
        line = one_line(done)
        assert done.cpu_seconds < 5 and done.peak_mb < 1000, (done.cpu_seconds, done.peak_mb, line)
        assert [entry.name for entry in tmp_path.iterdir()] == ["hostile.yaml"]
        return line

    return told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB + budget(), "a YAML file holds at most"),
        (budget(model=", args: {img_size: 60000}"), "img_size is at most"),
        (budget(target=", batch: 1000000000"), "batch: Input should be less than or equal to 4096"),
        (budget(limit="'" + "1" * 4000 + "'"), "a limit is a number"),
        ("[" * 1_000_000, "nested at most"),
        (budget().replace("train: a", "train: '{0..999999999}'"), "stand for at most"),
    ],
    ids=["aliases", "pixels", "batch", "digits", "nesting", "braces"],
)
def test_the_worst_budgets_in_a_process_of_their_own(hostile, text, words):
    assert words in hostile(text)


@pytest.mark.parametrize(
    "command",
    [
        ("check", "hostile.yaml"),
        ("survey", "hostile.yaml"),
        ("train", "hostile.yaml", "--out", "x.safetensors"),
        ("apply", "hostile.yaml", "--out", "x"),
        ("replay", "hostile.yaml"),
        ("measure", "x", "--target", "hostile.yaml"),
        ("device", "check", "hostile.yaml"),
        ("search", "other.yaml"),
        ("list", "techniques", "--plugins", "hostile.yaml"),
        ("import", "x", "--out", "y.safetensors", "--args", BOMB),
    ],
    ids=lambda command: command[0],
)
def test_every_command_reads_within_the_same_bounds(run_sousvit, tmp_path, command):
    (tmp_path / "hostile.yaml").write_text(BOMB)
    (tmp_path / "other.yaml").write_text(budget(space="hostile.yaml"))
    before = sorted(tmp_path.iterdir())
    done = run_sousvit(*command, cwd=tmp_path)
    assert done.returncode == 2 and "a YAML file holds at most" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"time": "true"}, "time takes no true or false"),
        ({"time": "no"}, "write false, or 'no' in quotes"),
        ({"time": "1:30"}, "which YAML reads as 90"),
        ({"time": ".inf"}, "finite number"),
        ({"time": "9" * 17}, "less than or equal"),
        ({"trials": "017"}, "which YAML reads as 15"),
        ({"trials": "0o17"}, "valid integer"),
        ({"trials": "1_000"}, "which YAML reads as 1000"),
        ({"trials": "1000000000"}, "less than or equal"),
        ({"trials": "true"}, "trials takes no true or false"),
        ({"limit": ".nan"}, "finite number"),
        ({"limit": "true"}, "limits takes no true or false"),
        ({"target": ", threads: 1000000000"}, "less than or equal"),
        ({"target": ", memory: .inf, device: stand-in"}, "given twice"),
        ({"model": ", preprocess: {size: 60000}"}, "less than or equal to 8192"),
        ({"model": ", args: {drop_rate: .nan}"}, "drop_rate is at most"),
        ({"data": ", classes: [yes, no]"}, "'yes' in quotes"),
        ({"data": ", classes: [true, false]"}, "classes takes no true or false"),
        ({"data": ", classes: [001, 002]"}, "'001' in quotes"),
        ({"data": ', root: "a\\0b"'}, "no control characters"),
        ({"data": ", root: ~nosuchuser/x"}, "the home of a user"),
        ({"data": ", on: 1"}, "a key in YAML is a word"),
        ({"data": ", split_seed: -1"}, "greater than or equal"),
        ({"data": ", calibration: 1000000000"}, "less than or equal"),
        ({"space": "'~nosuchuser/x.yaml'"}, "the file must exist"),
    ],
)
def test_clumsy_values_are_one_line(run_sousvit, tmp_path, changes, words):
    (tmp_path / "b.yaml").write_text(budget(**changes))
    done = run_sousvit("search", tmp_path / "b.yaml", cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and [entry.name for entry in tmp_path.iterdir()] == ["b.yaml"]


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ("{techniques: {prune_mlp: {keep: [2.0]}}}", "prune_mlp in the space: keep: Input should be less than"),
        ("{techniques: {prune_mlp: {keep: [0.5, .nan]}}}", "finite number"),
        ("{techniques: {prune_mlp: {keep: [true]}}}", "keep takes no true or false"),
        ("{techniques: {prune_mlp: {keep: {a: 1}}}}", "valid number"),
        ("{techniques: {prune_mlp: {keep: []}}}", "has 1 to 1000 values"),
        ("{techniques: {prune_mlp: {kept: [0.5]}}}", "parameter of prune_mlp"),
        ("{techniques: {prune_everything: {}}}", "technique must be a known name"),
        ("{techniques: {patch_size: {patch: [0]}}}", "patch: Input should be greater"),
        ("{techniques: {student: {model: [no_such_network]}}}", "no_such_network"),
        ("{techniques: {student: {width: [7]}}}", "width: Input should be"),
        ("{techniques: {int8_dynamic: {weights: [int9]}}}", "weights: Input should be 'int8'"),
        ("{techniques: {distill: {epochs: [-1]}}}", "epochs: Input should be greater"),
    ],
)
@pytest.mark.parametrize("command", ["search", "survey", "check"])
def test_a_wrong_value_in_a_space_is_told_before_anything_is_loaded(run_sousvit, tmp_path, command, space, words):
    # Neither the model's weights nor the images are there: whoever looked for them would say so.
    (tmp_path / "b.yaml").write_text(budget(space=space))
    done = run_sousvit(command, tmp_path / "b.yaml", cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and [entry.name for entry in tmp_path.iterdir()] == ["b.yaml"]


def test_a_missing_test_split_is_told_before_anything_is_loaded(run_sousvit, tmp_path):
    (tmp_path / "b.yaml").write_text(budget().replace(", test: b", ""))
    done = run_sousvit("search", tmp_path / "b.yaml", cwd=tmp_path)
    assert done.returncode == 2 and "data needs a test path" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and [entry.name for entry in tmp_path.iterdir()] == ["b.yaml"]


def test_numbers_that_yaml_takes_for_text_are_numbers_in_a_space():
    space = {"techniques": {"distill": {"learning_rate": ["1e-3", 0.01], "epochs": "3"}, "prune_mlp": None}}
    read = read_space(space)
    assert read["techniques"] == {"distill": {"learning_rate": [0.001, 0.01], "epochs": 3}, "prune_mlp": None}
    assert space["techniques"]["distill"]["epochs"] == "3"


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_read_as_they_are_written(name):
    assert read_space(name) == parse_yaml((PRESETS / f"{name}.yaml").read_text(), name)


@pytest.mark.parametrize(
    "line", ["fidelity: .inf", "fidelity: .nan", "fidelity: 2", "fidelity: true", "seed: 1.0e+300"]
)
def test_numbers_of_a_recipe_file_are_in_their_bounds(tmp_path, line):
    (tmp_path / "r.yaml").write_text(f"recipe: {{runtime: onnxruntime, steps: []}}\n{line}\n")
    file = RecipeFile.read(tmp_path / "r.yaml")
    with pytest.raises(UserError, match="is a number from 0 to"):
        getattr(file, line.partition(":")[0])


def test_values_that_do_not_go_together_are_told_before_the_base_is_measured(run_sousvit, tiny_project, tmp_path):
    shares = {"distill": {"soft_weight": [0.9], "hard_weight": [0.9]}}
    tiny_project.write_budget(tmp_path / "b.yaml", space={"techniques": shares})
    done = run_sousvit("search", tmp_path / "b.yaml", "--run", "r", "--executor", "inline", cwd=tmp_path)
    assert done.returncode == 2 and "shares of one loss" in done.stderr
    assert "measuring" not in done.stderr and "devices" not in done.stderr and not (tmp_path / "runs" / "r").exists()
