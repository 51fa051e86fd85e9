"""Files of ``torch.save``: read for values only, averaged weights first, named by the trainings that wrote them."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from sousvit.errors import UserError
from sousvit.models.checkpoints.torch_file import open_file
from sousvit.models.checkpoints.weights import in_float32, read_torch, stripped
from sousvit.models.load import load
from sousvit.specs import ModelSpec

NAME = "vit_tiny_patch16_224"
ARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(NAME, **ARGS)


def write(folder: Path, content: object, name: str = "model.pth", **options) -> Path:
    torch.save(content, folder / name, **options)
    return folder / name


def refused(call, *args) -> str:
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Touch:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("kind", ["tensor file", "old tensor file", "pickle", "whole module"])
def test_code_in_a_file_is_named_and_never_run(tmp_path, module, kind):
    trap, path = tmp_path / "executed", tmp_path / "model.pth"
    content = {"state_dict": module.state_dict(), "args": Touch(str(trap))}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    elif kind == "whole module":
        torch.save(module, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "tensor file")
    message = refused(open_file, path)
    assert "code in it is never run" in message or kind == "pickle"
    assert ("VisionTransformer" if kind == "whole module" else "open") in message or kind == "pickle"
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"junk" * 99, b"PK\x03\x04 cut", b"\x80\x02}q\x00."])
def test_no_file_of_pytorch_is_one_clear_line(tmp_path, content):
    (tmp_path / "model.pth").write_bytes(content)
    refused(open_file, tmp_path / "model.pth")
    assert "must exist" in refused(open_file, tmp_path / "absent.pth")


def test_values_that_trainings_store_are_read(tmp_path):
    stored = {"args": argparse.Namespace(out=Path("x")), "best": np.float64(0.5), "mean": np.float32(2), "step": 3}
    for zipped in (True, False):
        read = read_torch(write(tmp_path, stored, _use_new_zipfile_serialization=zipped))
        assert read == stored and read["args"].out == Path("x")


def test_a_file_without_weights_names_what_it_holds(tmp_path):
    assert "received epoch, optimizer" in refused(open_file, write(tmp_path, {"epoch": 3, "optimizer": {"lr": 1}}))
    assert "received list" in refused(open_file, write(tmp_path, [1, 2]))


@pytest.mark.parametrize(
    "place",
    [
        ("state_dict_ema",),
        ("model_ema",),
        ("ema",),
        ("ema", "module"),
        ("ema_state_dict", "shadow"),
    ],
)
def test_averaged_weights_are_preferred_and_said(tmp_path, module, place):
    content: dict = {key: torch.ones_like(value) for key, value in module.state_dict().items()}
    averaged = module.state_dict()
    for key in reversed(place[1:]):
        averaged = {key: averaged, "decay": 0.99}
    found = open_file(write(tmp_path, {"state_dict": content, "model": content, place[0]: averaged}))
    assert torch.equal(found.tensors()["cls_token"], module.cls_token)
    assert found.notes == (f"its averaged weights ({place[0]}) are taken",)


@pytest.mark.parametrize(
    "place", ["state_dict", "model_state_dict", "model", "net", "weights", "module", "params", None]
)
def test_weights_are_found_under_the_usual_keys(tmp_path, module, place):
    weights = module.state_dict()
    found = open_file(write(tmp_path, weights if place is None else {place: weights, "epoch": 3}))
    assert found.tensors().keys() == weights.keys() and found.notes == ()


def test_timm_s_training_names_its_model_and_its_preprocessing(tmp_path, module):
    kept = {key: ARGS[key] for key in ("patch_size", "embed_dim", "depth", "num_heads")}
    args = argparse.Namespace(
        model=f"timm/{NAME}",
        num_classes=3,
        img_size=32,
        input_size=None,
        in_chans=None,
        crop_pct=0.8,
        crop_mode="squash",
        interpolation="bilinear",
        mean=[0.1, 0.2, 0.3],
        std=None,
        gp="token",
        model_kwargs=kept,
    )
    path = write(tmp_path, {"arch": NAME, "args": args, "state_dict": module.state_dict()}, "model_best.pth.tar")
    spec = ModelSpec(checkpoint=str(path)).resolved(Path())
    assert (spec.name, spec.args) == (NAME, {**ARGS, "global_pool": "token"}) and spec.mean == (0.1, 0.2, 0.3)
    found = open_file(path).preprocess
    assert (found.crop_pct, found.resize, found.interpolation, found.std) == (0.8, "squash", "bilinear", None)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(load(spec).module(images), module.eval()(images))


@pytest.mark.parametrize(
    ("name", "made", "trained", "size"),
    [
        ("test_vit", {"img_size": 64}, {"img_size": 64}, (64, 64)),
        ("test_vit", {"img_size": (64, 96)}, {"input_size": [3, 64, 96]}, (64, 96)),
        ("test_vit", {}, {"img_size": None}, (160, 160)),
        ("test_convnext", {}, {"img_size": 96}, (96, 96)),
        ("test_convnext", {"in_chans": 1}, {"input_size": [1, 64, 96]}, (64, 96)),
    ],
)
def test_the_size_of_a_training_s_images_goes_where_the_model_takes_it(tmp_path, name, made, trained, size):
    module = timm.create_model(name, num_classes=3, **made)
    args = argparse.Namespace(model=name, num_classes=3, **trained)
    base = load(
        ModelSpec(checkpoint=str(write(tmp_path, {"args": args, "model": module.state_dict()}))).resolved(Path())
    )
    assert base.size == size and base.num_classes == 3
    assert all(torch.equal(base.module.state_dict()[key], value) for key, value in module.state_dict().items())


def test_a_named_model_without_arguments_has_as_many_classes_as_its_classifier(tmp_path):
    module = timm.create_model("test_convnext", num_classes=7)
    path = write(tmp_path, {"arch": "test_convnext", "state_dict": module.state_dict(), "best_acc1": 0.5})
    assert ModelSpec(checkpoint=str(path)).resolved(Path()).args == {"num_classes": 7}


def test_what_the_user_says_wins(tmp_path, module):
    args = argparse.Namespace(model="test_vit", num_classes=5)
    path = write(tmp_path, {"args": args, "state_dict": module.state_dict()})
    spec = ModelSpec(checkpoint=str(path), name=NAME, args=ARGS).resolved(Path())
    assert (spec.name, spec.args) == (NAME, ARGS) and load(spec).num_classes == 3


@pytest.mark.parametrize(
    ("stored", "names"),
    [
        ({"class_names": ["b", "a"]}, ("b", "a")),
        ({"classes": ("b", "a")}, ("b", "a")),
        ({"class_to_idx": {"b": 1, "a": 0}}, ("a", "b")),
        ({"classes": 3}, ()),
        ({"classes": torch.ones(3)}, ()),
    ],
)
def test_class_names_are_taken_along(tmp_path, module, stored, names):
    assert open_file(write(tmp_path, {"state_dict": module.state_dict(), **stored})).class_names == names


@pytest.mark.parametrize(
    ("given", "kept", "note"),
    [
        (["a", "b.c"], ["a", "b.c"], ""),
        (["module.a", "module.b"], ["a", "b"], "the wrapper's prefix module. was"),
        (["module.model.a", "module.model.b"], ["a", "b"], "the wrapper's prefix module.model. was"),
        (["_orig_mod.module.a"], ["a"], "the wrapper's prefix _orig_mod.module. was"),
        (["backbone.a", "backbone.b", "head.weight"], ["a", "b", "head.weight"], "the wrapper's prefix backbone. was"),
        (["net.a", "net.b", "a"], ["net.a", "net.b", "a"], ""),
        (["model.a", "model.b", "criterion.weight"], ["a", "b"], "criterion.weight of its training was left out"),
        (["module.a", "n_averaged"], ["module.a"], "n_averaged of its training"),
        (["module.a", "module.b", "n_averaged"], ["a", "b"], "the wrapper's prefix module. was"),
    ],
)
def test_prefixes_of_wrappers_are_removed_and_said(given, kept, note):
    names, notes = stripped(given)
    assert list(names.values()) == kept and set(names) <= set(given)
    assert note in " ".join(notes) and bool(notes) == bool(note)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32_and_are_said(tmp_path, module, dtype):
    weights = {key: value.to(dtype) for key, value in module.state_dict().items()}
    found = open_file(write(tmp_path, weights))
    assert found.notes == (f"its {str(dtype).removeprefix('torch.')} weights became float32",)
    assert all(value.dtype == torch.float32 for value in found.tensors().values())
    assert torch.equal(found.tensors()["head.weight"], weights["head.weight"].float())


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "an infinite value")])
def test_weights_that_are_not_finite_are_named(value, word):
    weights = {"good": torch.ones(2), "bad": torch.tensor([1.0, value]), "count": torch.tensor(3)}
    assert f"received {word} in bad of x.pth" in refused(in_float32, weights, "x.pth")


def test_a_file_that_does_not_fit_names_the_first_tensors(tmp_path, module):
    path = write(tmp_path, module.state_dict())
    wrong = ModelSpec(checkpoint=str(path), name=NAME, args={**ARGS, "depth": 2}).resolved(Path())
    assert "model.pth: blocks.1.norm1.weight is missing" in refused(load, wrong)
