"""Checkpoints of other forms in the commands: search, apply, train, import, and calls from Python."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
import yaml

from sousvit.inputs import model_input
from sousvit.models.load import load
from sousvit.specs import ModelSpec

SEARCH = {"trials": 1, "seed": 0, "leave_one_out": False, "measure_time": 0.05}


@pytest.fixture(scope="module")
def training(tiny_project, tmp_path_factory) -> Path:
    """The tiny project's base as timm's training would have left it, under a name with spaces and other letters."""
    base = load(tiny_project.model_spec())
    kept = {key: value for key, value in base.spec.args.items() if key not in ("img_size", "num_classes", "in_chans")}
    args = argparse.Namespace(
        model=base.spec.name,
        num_classes=3,
        input_size=[1, 16, 16],
        crop_pct=1.0,
        mean=[0.5],
        std=[0.27],
        model_kwargs=kept,
    )
    broken = {name: torch.zeros_like(tensor) for name, tensor in base.module.state_dict().items()}
    stored = {"args": args, "state_dict": broken, "state_dict_ema": base.module.state_dict()}
    folder = tmp_path_factory.mktemp("training") / "lauf ü 模型"
    folder.mkdir()
    torch.save(stored, folder / "model best.pth.tar")
    return folder / "model best.pth.tar"


@pytest.mark.slow
def test_a_search_takes_a_checkpoint_as_it_is_and_says_what_it_decided(tiny_project, training, run_sousvit, tmp_path):
    folder = tmp_path / "ein ordner"
    folder.mkdir()
    (folder / "base link.tar").symlink_to(training)
    space = {"techniques": {"prune_depth": {"drop": [1]}}}
    budget = folder / "mein 模型.yaml"
    tiny_project.write_budget(budget, model={"from": "base link.tar"}, space=space, search=SEARCH)
    done = run_sousvit("search", budget, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert "its averaged weights (state_dict_ema) are taken" in answer["notes"]
    run = tmp_path / answer["run"]
    assert run.name.startswith("mein-模型-")
    base = next(row for row in answer["rows"] if row["role"] == "base")
    assert base["values"]["accuracy"][0] == pytest.approx(tiny_project.test_top1, abs=0.01)
    built = run_sousvit("apply", run / "recipe.yaml", "--model", training, "--out", tmp_path / "out", cwd=tmp_path)
    assert built.returncode == 0, built.stderr


def test_a_backbone_gets_a_classifier_by_training(table, tiny_project, run_sousvit, tmp_path):
    pytest.importorskip("transformers")
    small = {"num_channels": 1, "image_size": 16, "patch_size": 4, "num_register_tokens": 2}
    table.hugging_face(*table._DINOV3[:2], {**table._TOWER, **small}).save_pretrained(tmp_path / "dinov3")
    model = {"from": "dinov3", "args": {"num_classes": 3}, "mean": [0.5], "std": [0.27]}
    data = {**tiny_project.data, "limit_train": 100}
    config = {"model": model, "data": data, "training": {"epochs": 1, "augmentation": "none", "precision": "fp32"}}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    done = run_sousvit("train", "train.yaml", "--out", "tuned.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "its classifier is new: all zeros, to be trained" in done.stderr
    tuned = load(ModelSpec(checkpoint="tuned.safetensors").resolved(tmp_path))
    assert tuned.num_classes == 3 and tuned.module.head.weight.any()


def test_import_prints_what_it_decided_and_refuses_in_one_line(training, run_sousvit, tmp_path):
    done = run_sousvit("import", training, "--out", "base.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    noted, written = done.stdout.splitlines()
    assert noted == "its averaged weights (state_dict_ema) are taken"
    assert written == "base.safetensors: vit_tiny_patch16_224, 3 classes"
    assert noted in load(ModelSpec(checkpoint="base.safetensors").resolved(tmp_path)).notes
    weights = load(ModelSpec(checkpoint="base.safetensors").resolved(tmp_path)).module.state_dict()
    torch.save(weights, tmp_path / "bare.pth")
    refused = run_sousvit("import", "bare.pth", "--out", "b.safetensors", cwd=tmp_path)
    assert refused.returncode == 2 and refused.stderr.startswith("sousvit: a model needs a name")
    args = load(ModelSpec(checkpoint="base.safetensors").resolved(tmp_path)).spec.args
    told = ("--name", "vit_tiny_patch16_224", "--args", json.dumps(args))
    done = run_sousvit("import", "bare.pth", *told, "--out", "b.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_dinov2_s_module_travels_from_python(table, tmp_path):
    pytest.importorskip("transformers")
    table.hugging_face(*table.ARCHITECTURES["DINOv2"]).save_pretrained(tmp_path / "hf")
    base = load(ModelSpec(checkpoint=str(tmp_path / "hf")).resolved(Path()))
    base.module.blocks[0].norm1.eps = base.module.norm.eps = 1e-3
    for block in base.module.blocks:
        block.norm1.eps = block.norm2.eps = 1e-3
    spec, kept = model_input(base.module, tmp_path)
    assert kept is None and spec.args["head"] == "class_and_mean" and spec.args["layer_norm_eps"] == 1e-3
    assert table.difference(load(spec).module, base.module, (3, 32, 32)) == 0
