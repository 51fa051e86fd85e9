"""Any source finds its form, wherever it lies and however its path is written."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import sousvit
from sousvit.checked import validated
from sousvit.errors import UserError
from sousvit.inputs import model_input
from sousvit.models.checkpoints.forms import is_source, open_source
from sousvit.models.load import load, save_checkpoint
from sousvit.search.archive import new_run_name, run_folder
from sousvit.specs import ModelSpec

NAME = "vit_tiny_patch16_224"
ARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}
DESCRIPTION = {"name": NAME, "args": ARGS, "class_names": ["a", "b", "c"]}


@pytest.fixture(scope="module")
def module() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(NAME, **ARGS)


def is_it(module, given, folder: Path = Path()) -> bool:
    """Whether ``given`` opens as ``module``."""
    weights = load(validated(ModelSpec, given, "model").resolved(folder)).module.state_dict()
    return all(torch.equal(weights[key], value) for key, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("base.safetensors", True),
        ("model_best.pth.tar", True),
        ("LAST.CKPT", True),
        ("~/models", True),
        ("./folder", True),
        ("models/folder", True),
        ("hf-hub:owner/model", True),
        ("local-dir:folder", True),
        ("vit_tiny_patch16_224", False),
        ("vit_tiny_patch16_224.augreg_in21k", False),
    ],
)
def test_text_that_can_only_be_a_place_is_told_from_names(text, is_one):
    assert is_source(text) is is_one
    spec = validated(ModelSpec, text, "model")
    assert (spec.checkpoint, spec.name) == ((text, None) if is_one else (None, text))


def test_from_is_another_word_for_the_checkpoint(tmp_path, module):
    save_checkpoint(tmp_path / "a.safetensors", module, DESCRIPTION)
    assert validated(ModelSpec, {"from": "a.safetensors"}, "model") == ModelSpec(checkpoint="a.safetensors")
    assert is_it(module, {"from": "a.safetensors"}, tmp_path)
    with pytest.raises(UserError, match="from and checkpoint, which are the same key"):
        validated(ModelSpec, {"from": "a", "checkpoint": "b"}, "model")


def test_a_bare_word_is_timm_s_name_or_else_what_lies_there(tmp_path, module, monkeypatch):
    for word in ("mine", NAME):
        (tmp_path / word).mkdir()
        save_checkpoint(tmp_path / word / "base.safetensors", module, DESCRIPTION)
    assert is_it(module, "mine", tmp_path) and is_it(module, {"from": NAME}, tmp_path)
    assert ModelSpec.model_validate(NAME).resolved(tmp_path) == ModelSpec(name=NAME, pretrained=True)
    assert ModelSpec.model_validate({"from": NAME}).resolved(Path()) == ModelSpec(name=NAME, pretrained=True)
    monkeypatch.chdir(tmp_path)
    assert model_input("mine", tmp_path)[0].name == NAME


@pytest.mark.parametrize("name", ["base", "two words", "модель-模型", "$(x) 'q'", "a.b.c"])
@pytest.mark.parametrize("kind", ["safetensors", "pth", "folder"])
def test_odd_paths_open(tmp_path, module, name, kind, monkeypatch):
    place = tmp_path / name
    place.mkdir()
    if kind == "pth":
        path = place / f"{name}.pth"
        torch.save(module.state_dict(), path)
    else:
        path = place / f"{name}.safetensors"
        save_checkpoint(path, module, DESCRIPTION)
    given = {"from": str(place if kind == "folder" else path), "name": NAME, "args": ARGS}
    assert is_it(module, given)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert is_it(module, {**given, "from": f"~/{Path(given['from']).relative_to(tmp_path)}"})
    assert is_it(module, {**given, "from": str(Path(given["from"]).relative_to(tmp_path))}, tmp_path)
    assert new_run_name(path.stem).endswith(tuple("0123456789")) and run_folder(tmp_path, new_run_name(path.stem))


def test_new_runs_are_called_by_what_a_name_can_hold():
    names = {"a b": "a-b", "模型": "模型", "": "run", "...": "run", "a/b": "a-b", "model_best.pth": "model_best.pth"}
    for stem, name in names.items():
        assert new_run_name(stem).rpartition("-")[0].rpartition("-")[0] == name
    assert run_folder(Path("runs"), "моё имя").name == "моё имя"
    for name in ("..", "a/b", "-x", ""):
        with pytest.raises(UserError, match="a run name has"):
            run_folder(Path("runs"), name)


def test_links_open_and_what_lies_beside_either_end_describes_them(tmp_path, module):
    (tmp_path / "store").mkdir()
    save_file(module.state_dict(), tmp_path / "store" / "0123")  # as the hub's cache names its files
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "store" / "0123")
    assert is_it(module, {"from": str(tmp_path / "link.safetensors"), "name": NAME, "args": ARGS})
    (tmp_path / "store" / "0123.json").write_text(json.dumps(DESCRIPTION))
    assert is_it(module, str(tmp_path / "link.safetensors"))
    (tmp_path / "folder").symlink_to(tmp_path / "store")
    shutil.copy(tmp_path / "store" / "0123", tmp_path / "store" / "x.safetensors")
    (tmp_path / "store" / "x.json").write_text(json.dumps(DESCRIPTION))
    assert is_it(module, str(tmp_path / "folder"))


def test_a_file_without_an_ending_is_known_by_its_first_bytes(tmp_path, module):
    save_checkpoint(tmp_path / "one", module, DESCRIPTION)
    torch.save(module.state_dict(), tmp_path / "two")
    for name in ("one", "two"):
        assert is_it(module, {"from": str(tmp_path / name), "name": NAME, "args": ARGS})


def test_what_cannot_be_read_is_one_clear_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="~ stands for the home of a user; received ~nobody-of-that-name/x"):
        ModelSpec(checkpoint="~nobody-of-that-name/x").resolved(tmp_path)
    (tmp_path / "model.pth").touch()

    def gone(*args, **options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "iterdir", gone)
    with pytest.raises(UserError, match=r"must be readable; received .*: Input/output error; mount it"):
        open_source(str(tmp_path))


def test_a_folder_that_holds_no_model_says_what_it_holds(tmp_path):
    (tmp_path / "checkpoint-500").mkdir()
    (tmp_path / "checkpoint-900").mkdir()
    with pytest.raises(UserError, match="received checkpoint-500, checkpoint-900 in"):
        open_source(str(tmp_path))
    with pytest.raises(UserError, match="models of the hub are hf-hub:owner/model"):
        open_source(str(tmp_path / "google/vit-base-patch16-224"))


def write_timm_folder(folder: Path, **changes) -> torch.nn.Module:
    from timm.models import save_for_hf

    torch.manual_seed(0)
    module = timm.create_model("test_vit", **{"num_classes": 3, **changes})
    save_for_hf(module, folder, model_config={"label_names": ["a", "b", "c"]}, safe_serialization=True)
    return module


@pytest.mark.parametrize(
    "changes", [{}, {"img_size": (64, 96)}, {"global_pool": "avg"}, {"in_chans": 1, "img_size": 64}]
)
@pytest.mark.parametrize("old", [False, True])
def test_a_folder_of_timm_gives_size_classes_and_preprocessing(tmp_path, changes, old):
    module = write_timm_folder(tmp_path, **changes)
    config = json.loads((tmp_path / "config.json").read_text())
    if old:  # earlier versions stored no arguments
        size = [config["model_args"]["in_chans"], *config["model_args"]["img_size"]]
        del config["model_args"]
        config["pretrained_cfg"] |= {"input_size": size, "fixed_input_size": True}
        (tmp_path / "config.json").write_text(json.dumps(config))
    base = load(ModelSpec(checkpoint=str(tmp_path)).resolved(Path()))
    assert base.class_names == ("a", "b", "c") and base.size == tuple(module.patch_embed.img_size)
    images = torch.randn(2, base.channels, *base.size)
    with torch.no_grad():
        assert torch.equal(base.module(images), module.eval()(images))
    found = open_source(str(tmp_path)).preprocess
    assert found.size == base.size and (found.crop_pct, found.interpolation) == (0.95, "bicubic")


def test_features_of_timm_without_a_classifier_are_told(tmp_path):
    from timm.models import save_for_hf

    module = timm.create_model("test_vit", num_classes=0)
    save_for_hf(module, tmp_path, safe_serialization=True)
    with pytest.raises(UserError, match="has a classifier; received test_vit without one"):
        ModelSpec(checkpoint=str(tmp_path)).resolved(Path())
    base = load(ModelSpec(checkpoint=str(tmp_path), args={"num_classes": 4}).resolved(Path()))
    assert base.num_classes == 4 and not base.module.head.weight.any()


def test_import_writes_a_file_that_describes_itself(tmp_path, module):
    torch.save({"state_dict_ema": module.state_dict(), "classes": ["a", "b", "c"]}, tmp_path / "a.pth")
    given = {"from": str(tmp_path / "a.pth"), "name": NAME, "args": ARGS, "mean": [0.1, 0.2, 0.3]}
    description = sousvit.import_model(given, out=tmp_path / "out" / "a.safetensors")
    assert description["notes"] == ("its averaged weights (state_dict_ema) are taken",)
    shutil.move(tmp_path / "out" / "a.safetensors", tmp_path / "b.safetensors")
    spec = ModelSpec(checkpoint="b.safetensors").resolved(tmp_path)
    assert (spec.name, spec.args, spec.mean) == (NAME, ARGS, (0.1, 0.2, 0.3))
    assert load(spec).class_names == ("a", "b", "c") and is_it(module, "b.safetensors", tmp_path)
    with pytest.raises(UserError, match=r"let --out end in \.safetensors"):
        sousvit.import_model(given, out=tmp_path / "out")


class Hub(http.server.BaseHTTPRequestHandler):
    """The Hugging Face hub with one model, ``owner/tiny``, whose files lie in ``folder``."""

    commit = "1" * 40

    def __init__(self, folder: Path, *args) -> None:
        self.folder = folder
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        files = {path.name: path for path in self.folder.iterdir()}
        if self.path.startswith("/api/models/owner/tiny"):
            listed = [{"rfilename": name} for name in files]
            content = json.dumps({"id": "owner/tiny", "sha": self.commit, "siblings": listed}).encode()
            if "/tree/" in self.path:
                entries = [{"type": "file", "path": name, "size": 1, "oid": name} for name in files]
                content = json.dumps(entries).encode()
        elif self.path.startswith("/owner/tiny/resolve/") and self.path.rpartition("/")[2] in files:
            content = files[self.path.rpartition("/")[2]].read_bytes()
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args) -> None:
        pass


def test_a_model_of_the_hub_is_downloaded_once_and_then_lies_in_the_cache(tmp_path, monkeypatch):
    module = write_timm_folder(tmp_path / "hub", img_size=64)
    (tmp_path / "hub" / "training_args.bin").write_bytes(b"never asked for")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, tmp_path / "hub"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    environment = {**kept, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "sousvit", "import", "hf-hub:owner/tiny", "--out", "a.safetensors", "--json"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["class_names"] == ["a", "b", "c"]
    server.shutdown()
    server.server_close()
    assert not list((tmp_path / "home").rglob("training_args.bin"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    assert is_it(module, "a.safetensors", tmp_path) and is_it(module, "hf-hub:owner/tiny")
    with pytest.raises(UserError, match="hf-hub:owner/other must be in the hub, or in its cache") as caught:
        open_source("hf-hub:owner/other")
    assert "\n" not in str(caught.value)
