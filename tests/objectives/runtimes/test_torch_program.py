"""Programs of PyTorch's read as data: nothing in a file runs as code, and honest files compute what the model does."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import timm
import torch

from sousvit.errors import TrialError
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.objectives.runtimes.torch_operators import CHECKS, OPERATORS, SIZES, TEXTS
from sousvit.spaces.context import Context
from sousvit.spaces.export.export import make_artifact
from tests.objectives.hostile_artifacts import PICKLED, PROGRAMS, SHAPE, pickled_artifact, rezipped, torch_artifact


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    size = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "num_heads": 2, "depth": 2, "num_classes": 5}
    return timm.create_model("vit_tiny_patch16_224", **size).eval()


@pytest.fixture(scope="module")
def honest(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest") / "artifact"
    return make_artifact(model, SHAPE, (0.5,) * 3, (0.5,) * 3, "torch", None, Context(torch.Tensor.float), folder)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_an_honest_program_computes_what_the_model_does(honest, model, batch):
    images = np.random.default_rng(0).standard_normal((batch, *SHAPE[1:]), dtype=np.float32)
    with open_session(honest, 1) as session, torch.inference_mode():
        assert np.array_equal(session.run(images), model(torch.from_numpy(images)).numpy())


@pytest.mark.parametrize("how", PROGRAMS)
def test_code_in_a_program_never_runs(how, honest, tmp_path):
    mark = tmp_path / "mark"
    hostile = torch_artifact(honest, tmp_path / "hostile", lambda program: PROGRAMS[how](program, mark))
    try:
        with open_session(hostile, 1) as session:
            session.run(np.zeros(SHAPE, np.float32))
    except TrialError as error:
        assert "\n" not in str(error)
    assert not mark.exists()


@pytest.mark.parametrize("part", PICKLED)
def test_pickles_are_never_read(part, honest, tmp_path):
    mark = tmp_path / "mark"
    hostile = pickled_artifact(honest, tmp_path / "hostile", part, mark)
    try:
        open_session(hostile, 1)
    except TrialError as error:
        assert part == "weights" and "not stored as plain numbers" in str(error)
    assert not mark.exists()


def test_the_format_of_older_versions_is_refused(honest, tmp_path):
    mark = tmp_path / "mark"
    hostile = rezipped(honest, tmp_path / "hostile", lambda name, content: content)
    with zipfile.ZipFile(honest.path) as old, zipfile.ZipFile(hostile.path, "w") as new:
        file = next(name for name in old.namelist() if name.endswith("models/model.json"))
        program = json.loads(old.read(file))
        PROGRAMS["a symbolic size"](program, mark)
        new.writestr("version", "8.0")
        new.writestr("serialized_exported_program.json", json.dumps(program))
        for name in ("state_dict", "constants", "example_inputs"):
            new.writestr(f"serialized_{name}.pt", b"")
    with pytest.raises(TrialError, match="malformed"):
        open_session(hostile, 1)
    assert not mark.exists()


def nodes(program):
    return program["graph_module"]["graph"]["nodes"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: nodes(p)[0].update(target="torch.ops.aten.conv2d.nothing"), "not known to be safe"),
        (lambda p: nodes(p)[0].update(target="x.torch.ops.aten.conv2d.default"), "not known to be safe"),
        (lambda p: nodes(p)[0]["inputs"].append({"name": "x", "arg": {"as_int": 1}, "kind": 1}), "no argument"),
        (lambda p: nodes(p)[0]["inputs"][0].update(arg={"as_operator": "torch.os.system"}), "not known to be safe"),
        (lambda p: nodes(p)[0]["inputs"][0].update(arg={"as_string": "same"}), "not known to be safe"),
        (lambda p: nodes(p)[0]["inputs"][0].update(arg={"as_int": 2**70}), "whole number"),
        (lambda p: nodes(p)[0]["inputs"][0].update(arg={"as_tensor": {"name": "other"}}), "malformed"),
        (lambda p: nodes(p).extend(nodes(p) * 2000), "more than"),
        (lambda p: p["graph_module"]["signature"]["input_specs"].pop(), "takes 0 inputs"),
        (lambda p: p["graph_module"]["signature"].update(output_specs=[]), "torch could not open"),
        (lambda p: p.pop("graph_module"), "malformed"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line(change, words, honest, tmp_path):
    with pytest.raises(TrialError, match=words) as raised:
        open_session(torch_artifact(honest, tmp_path / "hostile", change), 1)
    assert "\n" not in str(raised.value)


def test_weights_do_not_reach_beyond_their_bytes(honest, tmp_path):
    def longer(name, content):
        return (
            content.replace(b'"as_int": 32}', b'"as_int": 999999}') if name.endswith("weights_config.json") else content
        )

    with pytest.raises(TrialError, match="torch could not open"):
        open_session(rezipped(honest, tmp_path / "hostile", longer), 1)


def test_nothing_inflates(honest, tmp_path):
    bomb = rezipped(honest, tmp_path / "bomb", lambda name, content: content, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(TrialError, match="compressed"):
        open_session(bomb, 1)
    deep = rezipped(honest, tmp_path / "deep", lambda name, content: b"[" * 10**6 if "model.json" in name else content)
    with pytest.raises(TrialError, match="malformed"):
        open_session(deep, 1)


def test_operators_in_the_list_read_no_files():
    for name in sorted(OPERATORS):
        packet, overload = name.split(".")
        schema = getattr(getattr(torch.ops.aten, packet), overload)._schema
        texts = {argument.name for argument in schema.arguments if "str" in str(argument.type)}
        assert texts <= set(TEXTS), name
        assert not packet.startswith("_") or packet in ("_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa"), name
    assert not set(SIZES) & set(CHECKS)
