"""Code that a run names: loaded where the user named it and did not change it, refused in one line everywhere else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

import sousvit
from sousvit.errors import UserError
from sousvit.search.archive import Archive
from sousvit.search.budget import Budget
from sousvit.search.run import claim_run
from sousvit.search.stored import trust
from sousvit.search.stored.opened import open_run
from sousvit.search.stored.seal import sealed
from sousvit.specs import ModelSpec

OBJECTIVE = """
from pathlib import Path

from sousvit.objectives.objective import Measurement, Objective, Stage

Path(__file__).with_suffix(".ran").touch()


class Mine(Objective):
    name, unit, direction, stage, summary = "mine_alone", "x", "minimize", Stage.STRUCTURE, "of my own"

    def measure(self, subject):
        return Measurement(1.0)
"""


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> Path:
    """A user who named nothing yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "sousvit" / "code.json"


@pytest.fixture(scope="module")
def whole(simulated_search, tmp_path_factory) -> Path:
    """A finished run without plug-ins."""
    folder = tmp_path_factory.mktemp("home") / "runs" / "whole"
    simulated_search(folder, search={"trials": 6}, space={"techniques": {"prune_mlp": {}, "int8_dynamic": {}}})
    return folder


@pytest.fixture
def foreign(whole, tmp_path) -> Path:
    """The same run from somewhere else, which brings a file of its own and names it."""
    folder = tmp_path / "runs" / "foreign"
    shutil.copytree(whole, folder)
    (folder / "evil.py").write_text(OBJECTIVE)
    name(folder, plugins={"objectives": ["evil.py:Mine"]})
    return folder


def name(folder: Path, **changes: object) -> None:
    """Let a run's budget name something, as whoever made the run would: with a new seal."""
    path = folder / "budget.yaml"
    path.write_text(sealed(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes})))


def other_budget(place: Path) -> Path:
    path = place / "other.yaml"
    path.write_text("limits: {}\noptimize: [size]\n")
    return path


@pytest.mark.parametrize("command", ["report", "recipe", "retarget"])
def test_no_command_runs_what_a_foreign_run_names_unless_it_is_allowed(command, foreign, run_sousvit, tmp_path):
    asked = [] if command == "report" else [other_budget(tmp_path)]
    found = run_sousvit(command, "foreign", *asked, cwd=tmp_path)
    assert found.returncode == 2 and "add --allow-plugins" in found.stderr and "evil.py:Mine" in found.stderr
    assert len(found.stderr.splitlines()) == 1 and not (foreign / "evil.ran").exists()
    found = run_sousvit(command, "foreign", *asked, "--allow-plugins", cwd=tmp_path)
    assert (foreign / "evil.ran").exists() and "allow-plugins" not in found.stderr
    assert found.returncode == 0 or command == "retarget", found.stderr  # a simulated run kept no artifacts


def test_a_search_that_continues_from_a_foreign_run_asks_too(foreign, run_sousvit, tmp_path, tiny_project):
    budget = tiny_project.write_budget(tmp_path / "b.yaml")
    found = run_sousvit("search", budget, "--from", "foreign", "--executor", "inline", cwd=tmp_path)
    assert found.returncode == 2 and "add --allow-plugins" in found.stderr and not (foreign / "evil.ran").exists()
    found = run_sousvit("search", budget, "--from", "foreign", "--executor", "inline", "--allow-plugins", cwd=tmp_path)
    assert found.returncode == 2 and "same model, data and target" in found.stderr
    assert (foreign / "evil.ran").exists()


def test_python_asks_in_the_same_words(foreign, forget_plugins):
    with pytest.raises(UserError, match=r"allow_plugins=True"):
        sousvit.open_run(foreign)
    assert not (foreign / "evil.ran").exists()
    run = sousvit.open_run(foreign, allow_plugins=True)
    assert (foreign / "evil.ran").exists() and run.answer(limits={}).recipe is not None
    assert sousvit.open_run(foreign).result is not None, "what this process runs already is not asked for again"


def test_the_plug_in_may_be_named_on_the_command_instead(foreign, run_sousvit, tmp_path):
    found = run_sousvit("report", "foreign", "--plugins", foreign / "evil.py", cwd=tmp_path)
    assert found.returncode == 0, found.stderr


def test_what_a_user_named_for_a_search_opens_until_it_changes_or_moves(whole, tmp_path, forget_plugins, monkeypatch):
    folder, plugin = tmp_path / "runs" / "own", tmp_path / "mine.py"
    shutil.copytree(whole, folder)
    plugin.write_text(OBJECTIVE)
    name(folder, plugins={"objectives": [f"{plugin}:Mine"]})
    budget, archive = Budget.read(folder / "budget.yaml"), Archive(folder, writable=True)
    claim_run(archive, budget.model_copy(update={}), archive.header["identity"])  # as a search of the user's begins
    archive.close()
    monkeypatch.setattr("sousvit.search.stored.trust.loaded_references", frozenset)  # as in another process
    assert open_run(folder)[0].plugins["objectives"] == (f"{plugin}:Mine",)
    shutil.copy(plugin, tmp_path / "copy.py")
    name(folder, plugins={"objectives": [f"{tmp_path}/copy.py:Mine"]})
    with pytest.raises(UserError, match="add --allow-plugins"):
        open_run(folder)
    name(folder, plugins={"objectives": [f"{plugin}:Mine"]})
    plugin.write_text(OBJECTIVE + "\n# changed\n")
    with pytest.raises(UserError, match=r"did not change it since; received .*mine\.py:Mine in .*own"):
        open_run(folder)


def test_what_a_run_folder_brings_along_is_no_record(foreign, state, tmp_path):
    for place in (foreign, foreign / "sousvit", foreign / "state" / "sousvit"):
        place.mkdir(parents=True, exist_ok=True)
        reference = f"{foreign}/evil.py:Mine"
        (place / "code.json").write_text(json.dumps({reference: trust._content(reference)}))
    with pytest.raises(UserError, match="add --allow-plugins"):
        open_run(foreign)
    assert not state.exists()


def test_a_module_of_the_working_folder_is_not_imported_to_look_at_it(foreign, monkeypatch, tmp_path):
    package = tmp_path / "shadow"
    (package / "inner").mkdir(parents=True)
    for file in (package / "__init__.py", package / "inner" / "__init__.py"):
        file.write_text("from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    name(foreign, plugins={"techniques": ["shadow.inner:Mine"], "objectives": []})
    with pytest.raises(UserError, match=r"shadow\.inner:Mine"):
        open_run(foreign)
    assert not list(package.rglob("*.ran"))
    content = trust._content("shadow.inner:Mine")
    (package / "__init__.py").write_text("import os\n")
    assert content is not None and trust._content("shadow.inner:Mine") != content, "packages around it count"
    assert trust._content("no.such.module:Mine") is None


def test_a_factory_is_run_for_a_user_who_named_it_with_the_same_arguments(tmp_path):
    named = ModelSpec(factory="os.path:join", args={"a": 1})
    budget = type("B", (), {"plugins": {}, "model": named})
    with pytest.raises(UserError, match=r"factory os\.path:join in"):
        trust.require_known_factory(named, tmp_path, allowed=False)
    trust.note_code(budget)
    trust.require_known_factory(named, tmp_path, allowed=False)
    other = ModelSpec(factory="os.path:join", args={"a": 2})
    with pytest.raises(UserError, match="add --allow-plugins"):
        trust.require_known_factory(other, tmp_path, allowed=False)
    trust.require_known_factory(other, tmp_path, allowed=True)


@pytest.mark.parametrize("text", ["", "[", "[1]", '"x"', '{"a": 3}'])
def test_a_damaged_record_knows_nothing(text, state, foreign):
    state.parent.mkdir(parents=True)
    state.write_text(text)
    with pytest.raises(UserError, match="add --allow-plugins"):
        open_run(foreign)


def test_a_state_that_cannot_be_written_ends_no_search(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    budget = type("B", (), {"plugins": {}, "model": ModelSpec(factory="os.path:join")})
    trust.note_code(budget)
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert trust._state() == Path.home() / ".local" / "state" / "sousvit" / "code.json"


def test_an_agent_that_only_a_run_names_gets_no_token(whole, tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "whole"
    shutil.copytree(whole, folder)
    agent = {"device": "remote", "agent": "127.0.0.1:9", "token_env": "SECRET", "runtime": ["onnxruntime"]}
    name(folder, targets=[agent])
    monkeypatch.setenv("SECRET", "a token of sixteen letters")
    run = sousvit.open_run(folder)
    with pytest.raises(UserError, match=r"an agent is asked where you name it; received 127\.0\.0\.1:9 in .*whole"):
        run.retarget(limits={})
    with pytest.raises(UserError, match="a run must have kept artifacts"):  # the next thing that it looks at
        run.retarget(target=agent, limits={})
