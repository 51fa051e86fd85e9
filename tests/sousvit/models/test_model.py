from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sousvit.checked import validated
from sousvit.errors import UnknownNameError, UserError
from sousvit.models.checkpoints.safetensors_file import open_file, read_checkpoint_metadata
from sousvit.models.load import create, fill, load, normalise, save_checkpoint
from sousvit.models.preprocess import Preprocess
from sousvit.specs import ModelSpec

NAME = "vit_tiny_patch16_224"
ARGS = {
    "img_size": 16,
    "patch_size": 8,
    "in_chans": 1,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "num_classes": 3,
    "class_token": False,
    "global_pool": "avg",
}
SPEC = ModelSpec(name=NAME, args=ARGS)


def refused(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return create(SPEC)


def load_weights(module, path):
    fill(module, open_file(path).tensors(), path.name)


def same_weights(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# building


def test_a_model_is_described_as_loaded():
    loaded = load(ModelSpec(name=NAME, args=ARGS, mean=(0.2,), std=(0.3,)))
    assert (loaded.size, loaded.channels, loaded.num_classes) == ((16, 16), 1, 3)
    assert (loaded.mean, loaded.std) == ((0.2,), (0.3,))
    assert not loaded.module.training
    assert loaded.module(loaded.normalise(torch.zeros(2, 1, 16, 16, dtype=torch.uint8))).shape == (2, 3)


def test_an_unknown_timm_name_gets_a_hint():
    with pytest.raises(UnknownNameError, match=r"did you mean .*'vit_tiny_patch16_224'"):
        create(ModelSpec(name="vit_tiny_patch16_225"))
    assert len(refused(create, ModelSpec(name="zzz"))) < 1500


@pytest.mark.parametrize(
    "change",
    [
        {"foo": 1},
        {"num_heads": 7},
        {"depth": "many"},
        {"embed_dim": 0},
        {"patch_size": 0},
        {"in_chans": -1},
        {"global_pool": "best"},
    ],
)
def test_wrong_arguments_are_one_clear_line(change):
    message = refused(create, ModelSpec(name=NAME, args={**ARGS, **change}))
    assert message.startswith(f"model.args must suit timm's {NAME}")


def test_an_unknown_tag_is_one_clear_line():
    assert "foo" in refused(create, ModelSpec(name=f"{NAME}.foo"))


def test_unreachable_pretrained_weights_are_one_clear_line(monkeypatch):
    import timm.models._builder as builder

    def offline(*args, **kwargs):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(builder, "load_state_dict_from_hf", offline)
    message = refused(create, ModelSpec(name=NAME, pretrained=True))
    assert "pretrained weights of vit_tiny_patch16_224 must be reachable" in message and "no network" in message


def test_wrong_arguments_are_told_before_pretrained_weights():
    assert "model.args must suit" in refused(create, ModelSpec(name=NAME, pretrained=True, args={"foo": 1}))


@pytest.fixture
def published(tmp_path, module, monkeypatch):
    """The module's weights as those that timm knows of the model; a local file in the place of the hub."""
    from timm.models import _registry

    save_file(module.state_dict(), tmp_path / "hub.safetensors")
    known = {"file": str(tmp_path / "hub.safetensors"), "num_classes": 3, "input_size": (1, 16, 16)}
    config = replace(_registry.get_pretrained_cfg(NAME), url=None, hf_hub_id=None, custom_load=False, **known)
    monkeypatch.setitem(_registry._model_pretrained_cfgs, NAME, config)


def test_pretrained_weights_load_through_timms_own_path(published, module):
    spec = ModelSpec(name=NAME, pretrained=True, args=ARGS)
    assert same_weights(load(spec).module, module)


def test_pretrained_weights_that_do_not_fit_are_one_clear_line(published):
    args = {**ARGS, "embed_dim": 32}
    assert "fit model.args" in refused(create, ModelSpec(name=NAME, pretrained=True, args=args))


def test_weights_come_from_one_place():
    message = refused(validated, ModelSpec, {"name": NAME, "pretrained": True, "checkpoint": "x"}, "model")
    assert "one place" in message


def test_the_fingerprint_follows_the_weights_and_the_normalisation(tmp_path, module):
    save_checkpoint(tmp_path / "a.safetensors", module, {})
    spec = ModelSpec(name=NAME, args=ARGS, checkpoint=str(tmp_path / "a.safetensors"))
    assert load(spec).fingerprint == load(spec).fingerprint
    assert load(spec).fingerprint != load(spec.model_copy(update={"mean": (0.1,)})).fingerprint
    torch.manual_seed(1)
    assert load(SPEC).fingerprint != load(SPEC).fingerprint, "two random initialisations"


# normalisation


def test_normalise_against_the_definition():
    images = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    expected = (images.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(normalise(images, mean, std), expected.float(), atol=1e-5, rtol=1e-5)


def test_mean_and_std_fit_the_channels():
    grey = load(ModelSpec(name=NAME, args=ARGS, mean=(0.3, 0.4, 0.5)))
    assert grey.mean == pytest.approx((0.4,))
    rgb = {**ARGS, "in_chans": 3}
    assert load(ModelSpec(name=NAME, args=rgb, std=(0.3,))).std == (0.3, 0.3, 0.3)
    assert "2 values for 3 channels" in refused(load, ModelSpec(name=NAME, args=rgb, mean=(0.1, 0.2)))


@pytest.mark.parametrize("values", [{"std": [0.0]}, {"std": [-1]}, {"mean": [float("nan")]}, {"std": [float("inf")]}])
def test_impossible_normalisation_is_refused(values):
    assert next(iter(values)) in refused(validated, ModelSpec, {"name": NAME, **values}, "model")


# checkpoints


def test_a_checkpoint_describes_itself(tmp_path, module):
    description = {"name": NAME, "args": ARGS, "mean": [0.2], "std": [0.3], "validation_top1": 0.9}
    save_checkpoint(tmp_path / "base.safetensors", module, description)
    assert read_checkpoint_metadata(tmp_path / "base.safetensors") == description
    spec = ModelSpec(checkpoint="base.safetensors").resolved(tmp_path)
    assert (spec.name, spec.args, spec.mean, spec.std) == (NAME, ARGS, (0.2,), (0.3,))
    assert spec.checkpoint == str(tmp_path / "base.safetensors")
    assert same_weights(load(spec).module, module)


def test_a_checkpoint_names_its_classes(tmp_path, module):
    path = tmp_path / "base.safetensors"
    spec = ModelSpec(name=NAME, args=ARGS, checkpoint=str(path))
    for description, names in (({}, ()), ({"class_names": ["b", "a"]}, ("b", "a"))):
        save_checkpoint(path, module, description)
        assert load(spec).class_names == names
    save_checkpoint(path, module, {"class_names": "b, a"})
    assert "class_names of a checkpoint's description is a list of names; received b, a" in refused(load, spec)
    save_checkpoint(path, module, {})
    path.with_suffix(".json").write_text(json.dumps({"model_name": NAME, **ARGS, "class_names": ["c"]}))
    resolved = ModelSpec(checkpoint=str(path)).resolved(tmp_path)
    assert resolved.args == ARGS and load(resolved).class_names == ("c",)


def test_what_the_user_says_wins_over_the_description(tmp_path, module):
    save_checkpoint(tmp_path / "base.safetensors", module, {"name": NAME, "args": ARGS, "mean": [0.2], "std": [0.3]})
    spec = ModelSpec(checkpoint="base.safetensors", mean=(0.9,)).resolved(tmp_path)
    assert (spec.mean, spec.std) == ((0.9,), (0.3,))


SIDECARS = {
    "flat": {
        "model_name": NAME,
        **ARGS,
        "mean": [0.2],
        "std": [0.3],
        "val_top1": 0.79,
        "test_top1": 0.79,
        "epochs": 23,
    },
    "nested": {"name": NAME, "args": ARGS, "mean": [0.2], "std": [0.3], "accuracy": 0.5, "whatever": 1},
}


@pytest.mark.parametrize("kind", SIDECARS)
def test_a_json_file_beside_the_checkpoint_describes_it(tmp_path, module, kind):
    save_file(module.state_dict(), tmp_path / "base.v1.safetensors")
    (tmp_path / "base.v1.json").write_text(json.dumps(SIDECARS[kind]))
    spec = ModelSpec(checkpoint="base.v1.safetensors").resolved(tmp_path)
    assert (spec.name, spec.args, spec.mean, spec.std) == (NAME, ARGS, (0.2,), (0.3,))
    assert same_weights(load(spec).module, module)


def test_the_checkpoints_own_description_wins_over_the_sidecar(tmp_path, module):
    save_checkpoint(tmp_path / "base.safetensors", module, {"name": NAME, "args": ARGS})
    (tmp_path / "base.json").write_text("broken, but never read")
    assert ModelSpec(checkpoint="base.safetensors").resolved(tmp_path).name == NAME


def test_a_json_file_that_describes_no_model_is_passed_over(tmp_path, module):
    save_file(module.state_dict(), tmp_path / "base.safetensors")
    (tmp_path / "base.json").write_text('{"labels": ["a", "b"]}')
    assert ModelSpec(name=NAME, args=ARGS, checkpoint="base.safetensors").resolved(tmp_path).args == ARGS
    assert "needs a name" in refused(ModelSpec(checkpoint="base.safetensors").resolved, tmp_path)


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", b"\xff\xfe", '{"name": "x", "args": 3}', '{"name": "x", "mean": "grey"}', '{"name": "x", "std": [0]}'],
)
def test_a_broken_description_is_one_clear_line(tmp_path, module, text):
    save_file(module.state_dict(), tmp_path / "base.safetensors")
    (tmp_path / "base.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert "base." in refused(ModelSpec(checkpoint="base.safetensors").resolved, tmp_path)


def test_broken_metadata_is_one_clear_line(tmp_path, module):
    save_file(module.state_dict(), tmp_path / "base.safetensors", metadata={"sousvit": "{"})
    assert "must be JSON" in refused(ModelSpec(checkpoint="base.safetensors").resolved, tmp_path)


def test_a_nameless_spec_is_refused(tmp_path):
    assert "needs a name" in refused(ModelSpec().resolved, tmp_path)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("kind", ["pickle", "torch", "junk", "empty", "cut", "huge header"])
def test_only_safetensors_are_opened(tmp_path, module, kind):
    path, trap = tmp_path / "base.safetensors", tmp_path / "executed"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Touch(str(trap))))
    elif kind == "torch":
        torch.save({"weights": Touch(str(trap))}, path)
    elif kind == "cut":
        save_file(module.state_dict(), path)
        path.write_bytes(path.read_bytes()[:-10])
    else:
        path.write_bytes({"junk": b"junk" * 9, "empty": b"", "huge header": b"\xff" * 8 + b"{}"}[kind])
    assert "safetensors file (pickles are never opened)" in refused(ModelSpec(checkpoint=str(path)).resolved, tmp_path)
    assert not trap.exists()


def test_a_missing_checkpoint_is_named(tmp_path):
    assert str(tmp_path / "absent") in refused(ModelSpec(checkpoint="absent").resolved, tmp_path)


def test_a_checkpoint_that_does_not_fit_names_the_first_tensors(tmp_path, module):
    tensors = dict(module.state_dict())
    tensors["extra"] = torch.zeros(1)
    del tensors["norm.bias" if "norm.bias" in tensors else "fc_norm.bias"]
    tensors["head.weight"] = torch.zeros(5, 16)
    save_file(tensors, tmp_path / "a.safetensors")
    message = refused(load_weights, module, tmp_path / "a.safetensors")
    assert "norm.bias is missing, extra is not in the model, head.weight is [5, 16], the model has [3, 16]" in message


def test_many_misfits_are_counted(tmp_path, module):
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "a.safetensors")
    message = refused(load_weights, module, tmp_path / "a.safetensors")
    assert message.count(" is missing") == 3 and f"and {len(module.state_dict()) + 2 - 3} more" in message


def test_a_failed_load_leaves_the_model_as_it_was(tmp_path, module):
    before = {key: value.clone() for key, value in module.state_dict().items()}
    tensors = {key: torch.zeros_like(value) for key, value in before.items()}
    tensors["head.weight"] = torch.zeros(5, 16)
    save_file(tensors, tmp_path / "a.safetensors")
    refused(load_weights, module, tmp_path / "a.safetensors")
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def fed(module_args, **spec):
    """How images reach a small ViT with timm's configuration of 224 px, which keeps 90% of the short side."""
    torch.manual_seed(0)
    return load(ModelSpec(name=NAME, args={**ARGS, **module_args}, **spec))


def test_a_model_of_the_size_that_timm_knows_is_fed_as_timm_says_and_a_word_tells():
    big = {"img_size": 224, "patch_size": 56}
    assumed = fed(big)
    assert assumed.preprocess.crop_pct == 0.9 and "crop_pct 0.9" in assumed.notes[0]
    other = fed({})
    assert (other.preprocess.crop_pct, other.preprocess.geometry, other.notes) == (1.0, "", ())
    given = fed(big, preprocess=Preprocess(interpolation="box"))
    assert (given.preprocess.crop_pct, given.preprocess.interpolation, given.notes) == (0.9, "box", ())
    assert given.mean == assumed.mean and given.fingerprint == assumed.fingerprint
    other_mean = fed(big, preprocess=Preprocess(mean=(0.2,)))
    assert other_mean.mean == (0.2,) and other_mean.fingerprint != assumed.fingerprint and other_mean.notes


def test_a_checkpoint_says_how_images_reach_its_model(tmp_path):
    module = create(ModelSpec(name=NAME, args=ARGS))
    description = {"name": NAME, "args": ARGS, "mean": [0.2], "std": [0.3]}
    save_checkpoint(tmp_path / "trained.safetensors", module, description)
    trained = load(ModelSpec(checkpoint="trained.safetensors").resolved(tmp_path))
    assert trained.preprocess.geometry == "" and trained.preprocess.crop_pct == 1.0 and not trained.notes
    said = {**description, "preprocess": {"resize": "squash", "crop_pct": 0.8}}
    save_checkpoint(tmp_path / "said.safetensors", module, said)
    read = load(ModelSpec(checkpoint="said.safetensors").resolved(tmp_path))
    assert (read.preprocess.resize, read.preprocess.crop_pct, read.mean) == ("squash", 0.8, (0.2,))
    over = ModelSpec(checkpoint="said.safetensors", preprocess={"crop_pct": 1.0, "mean": [0.9]}).resolved(tmp_path)
    assert (load(over).preprocess.resize, load(over).preprocess.crop_pct, load(over).mean) == ("squash", 1.0, (0.9,))
    again = ModelSpec.model_validate_json(over.model_dump_json())  # as worker processes get it
    assert load(again).preprocess == load(over).preprocess
    save_checkpoint(tmp_path / "wrong.safetensors", module, {**description, "preprocess": {"resize": "no"}})
    assert "resize" in refused(ModelSpec(checkpoint="wrong.safetensors").resolved, tmp_path)


def test_pixels_that_are_not_rescaled_are_normalised_all_the_same():
    halved = load(ModelSpec(name=NAME, args=ARGS, preprocess={"rescale": 1.0, "mean": [51.0], "std": [102.0]}))
    assert halved.mean == pytest.approx((0.2,)) and halved.std == pytest.approx((0.4,))


def test_images_have_the_size_that_the_model_takes():
    assert "model.args.img_size" in refused(load, ModelSpec(name=NAME, args=ARGS, preprocess={"size": 64}))
    free = load(ModelSpec(name="convnext_atto", args={"num_classes": 3}, preprocess={"size": [64, 96]}))
    assert free.size == (64, 96)
    assert "channels" in refused(load, ModelSpec(name=NAME, args={**ARGS, "in_chans": 7}))
