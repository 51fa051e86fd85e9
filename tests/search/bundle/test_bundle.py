"""Bundles: a deploy engineer who has nothing but the folder gets what the run recorded."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import sousvit
from sousvit.errors import UserError
from sousvit.inputs import preprocess_input
from sousvit.models.load import load
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.search.bundle.bundle import write_bundle
from sousvit.search.bundle.facts import facts_of
from sousvit.search.bundle.program import predict_program
from sousvit.spaces.export.artifact import Artifact

FILES = ["README.md", "SHA256SUMS", "artifact.json", "config.json", "labels.txt", "model.onnx", "predict.py",
         "preprocessor_config.json", "pytorch", "recipe.yaml"]  # fmt: skip
NAMES = ("rows of stripes", "columns", "checkerboard")


def recorded_classes(result: sousvit.Result, tiny_project) -> list[str]:
    """What the run's own judging gives for every test image."""
    normal = sousvit.Workshop(tiny_project.checkpoint, train=tiny_project.data).images("test")[0].numpy()
    artifact = Artifact.open(result.artifact)
    with open_session(artifact, 1) as session:
        return [NAMES[int(session.run(normal[index : index + 1]).argmax())] for index in range(len(normal))]


def test_the_search_leaves_the_bundle_of_its_answer(finished):
    folder = finished.folder / "bundle"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert (folder / "labels.txt").read_text().splitlines() == list(NAMES)
    lines = [line.split("  ") for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert {name for _, name in lines} >= {"model.onnx", "pytorch/model.safetensors", "README.md"}
    assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for digest, name in lines)


@pytest.mark.slow
def test_predict_py_gives_the_recorded_classes_of_every_test_image_in_a_bare_environment(
    finished, tiny_project, test_images, bare_environment, tmp_path
):
    python = bare_environment("numpy", "pillow", "onnxruntime")
    missing = python.run("-c", "import sousvit")
    assert "No module named 'sousvit'" in missing.stderr and "torch" not in python.run("-m", "site").stdout
    bundle = shutil.copytree(finished.folder / "bundle", tmp_path / "elsewhere")
    done = python.run(bundle / "predict.py", *test_images)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == [str(path) for path in test_images]
    recorded = recorded_classes(finished, tiny_project)
    assert [row[1] for row in rows] == recorded and len(set(recorded)) == 3
    top1 = np.mean([row[1] == NAMES[label] for row, label in zip(rows, labels(tiny_project), strict=True)])
    assert top1 == pytest.approx(finished["accuracy"].value, abs=1e-9)


def labels(tiny_project) -> list[int]:
    return sousvit.Workshop(tiny_project.checkpoint, train=tiny_project.data).images("test")[1].tolist()


def test_sousvit_predict_agrees_with_predict_py(finished, test_images, run_sousvit, tmp_path):
    bundle = finished.folder / "bundle"
    few = test_images[:12]
    program = subprocess.run(
        [sys.executable, str(bundle / "predict.py"), *map(str, few)], capture_output=True, text=True, check=True
    )
    done = run_sousvit("predict", bundle, *few, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == program.stdout
    told = json.loads(run_sousvit("predict", bundle, *few, "--json", cwd=tmp_path).stdout)
    assert [row["image"] for row in told] == [str(path) for path in few]
    assert sum(one["score"] for one in told[0]["found"]) == pytest.approx(1.0, abs=1e-5)


def test_a_bundle_is_an_artifact_that_is_measured_and_verified_as_it_is(finished, tiny_project, measures_quickly):
    bundle = finished.folder / "bundle"
    measured = sousvit.measure(bundle)
    own = (bundle / "model.onnx").stat().st_size / 1e6
    assert measured.figures["size_mb"].value == pytest.approx(own, abs=1e-6)
    found = sousvit.verify(bundle, finished.budget)
    assert found.status == "holds"


def test_the_card_tells_figures_with_intervals_and_the_hub_reads_its_head(finished):
    card = (finished.folder / "bundle" / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["pipeline_tag"] == "image-classification" and "sousvit" in head["tags"]
    value = head["model-index"][0]["results"][0]["metrics"][0]["value"]
    assert value == pytest.approx(finished["accuracy"].value, abs=1e-4)
    figure = finished["accuracy"]
    assert f"{figure.value:.4g} [{figure.low:.4g}, {figure.high:.4g}]" in card
    assert "| holds |" in card and "on the test split" in card.lower() and finished.budget.where in card
    batch_dependent = Artifact.open(finished.artifact).batch_dependent
    assert ("Feed one image at a time" in card) == batch_dependent


def test_the_model_file_holds_the_facts_itself(finished):
    import onnx

    model = onnx.load(finished.folder / "bundle" / "model.onnx")
    props = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(props["labels"]) == list(NAMES) and json.loads(props["preprocess"])["mean"] == [0.5]
    assert json.loads(props["figures"])["accuracy"][0] == pytest.approx(finished["accuracy"].value, abs=1e-5)


def test_a_folded_graph_takes_pixels_and_gives_the_same_logits(finished, test_images, tmp_path):
    import onnxruntime

    plain = onnxruntime.InferenceSession(finished.folder / "bundle" / "model.onnx")
    pixels = np.asarray(Image.open(test_images[0]))[None, :, :, None]
    normal = (torch.from_numpy(pixels.copy()).float() / (255 * 0.27) - 0.5 / 0.27).permute(0, 3, 1, 2).numpy()
    wanted = plain.run(None, {"pixel_values": np.ascontiguousarray(normal)})[0]
    for layout, given in (("nhwc", pixels), ("nchw", pixels.transpose(0, 3, 1, 2))):
        bundle = finished.bundle(tmp_path / layout, uint8=layout)
        folded = onnxruntime.InferenceSession(bundle / "model.onnx")
        taken = folded.get_inputs()[0]
        assert taken.type == "tensor(uint8)" and taken.shape[1:] == list(given.shape[1:])
        np.testing.assert_allclose(
            folded.run(None, {"pixel_values": np.ascontiguousarray(given)})[0], wanted, atol=1e-4
        )
        rows = sousvit.predict(bundle, test_images[:8])
        assert [one[0].label for _, one in rows] == [
            one[0].label for _, one in sousvit.predict(finished.folder / "bundle", test_images[:8])
        ]
        program = subprocess.run(
            [sys.executable, str(bundle / "predict.py"), str(test_images[0])], capture_output=True, text=True
        )
        assert program.stdout.split("\t")[1] == rows[0][1][0].label, program.stderr
        with pytest.raises(UserError, match="takes normalised images"):
            sousvit.measure(bundle)
    with pytest.raises(UserError, match="nchw or nhwc"):
        finished.bundle(tmp_path / "other", uint8="chw")


def test_the_weights_before_quantization_load_without_base_or_data(finished, tmp_path):
    bundle = shutil.copytree(finished.folder / "bundle", tmp_path / "alone")
    model, own = sousvit.load_model(bundle), finished.model
    images = torch.randn(4, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(images), own(images))
    assert not model.training
    structure = json.loads((bundle / "pytorch" / "structure.json").read_text())
    for change, said in (
        ({"model": {**structure["model"], "factory": "os:getcwd"}}, "holds factory"),
        ({"model": {**structure["model"], "args": {"checkpoint_path": "/x.pth"}}}, "weights come from checkpoint"),
        ({"model": {**structure["model"], "args": {**structure["model"]["args"], "depth": 3}}}, "received"),
        ({"recipe": {"runtime": "onnxruntime", "steps": []}}, "as they were written"),
    ):
        (bundle / "pytorch" / "structure.json").write_text(json.dumps({**structure, **change}))
        with pytest.raises(UserError, match=said):
            sousvit.load_model(bundle)
    with pytest.raises(UserError, match="a model to load is a folder"):
        sousvit.load_model(tmp_path)


def test_trials_and_the_front_have_bundles_too(finished, run_sousvit, tmp_path):
    runs, name = finished.folder.parent, finished.folder.name
    run = sousvit.open_run(finished.folder)
    key = run.front["key"].iloc[0]
    done = run_sousvit("bundle", name, "--runs", runs, "--trial", key[:10], "--out", "one", cwd=tmp_path)
    assert done.returncode == 0 and "key" not in done.stderr, done.stderr
    assert (tmp_path / "one" / "predict.py").is_file()
    assert yaml.safe_load((tmp_path / "one" / "recipe.yaml").read_text())["status"] != "holds", "the search's figures"
    done = run_sousvit("bundle", name, "--runs", runs, "--front", "--out", "all", "--json", cwd=tmp_path)
    assert len(json.loads(done.stdout)["bundles"]) == len(run.front)
    for arguments in (("--trial", "nothing"), ("--trial", key, "--front")):
        refused = run_sousvit("bundle", name, "--runs", runs, *arguments, "--out", "no", cwd=tmp_path)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    full = run_sousvit("bundle", name, "--runs", runs, "--out", "one", cwd=tmp_path)
    assert full.returncode == 2 and "new or empty" in full.stderr


def test_a_changed_bundle_predicts_nothing(finished, test_images, tmp_path):
    bundle = shutil.copytree(finished.folder / "bundle", tmp_path / "changed")
    (bundle / "README.md").write_text("mine")
    assert sousvit.predict(bundle, test_images[:1])
    (bundle / "labels.txt").write_text("a\nb\nc\n")
    with pytest.raises(UserError, match=r"labels\.txt is missing or has changed"):
        sousvit.predict(bundle, test_images[:1])
    (bundle / "link").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="plain files only"):
        sousvit.predict(bundle, test_images[:1])
    with pytest.raises(UserError, match="a bundle is a folder with SHA256SUMS"):
        sousvit.predict(tmp_path, test_images[:1])


def test_a_transform_of_the_user_s_own_is_said_and_not_guessed(finished, tiny_project, test_images, tmp_path):
    spec, data = tiny_project.model_spec(), tiny_project.data_spec()
    spec, _, _ = preprocess_input(upside_down, spec, data, None, tmp_path / "inputs")
    facts = facts_of(finished.answer, finished.budget, finished._archive, Artifact.open(finished.artifact))
    artifact = replace(facts.artifact, preprocess=load(spec).preprocess.steps)
    bundle = write_bundle(replace(facts, artifact=artifact), tmp_path / "bundle")
    card = (bundle / "README.md").read_text()
    assert sum("upside_down" in line for line in card.splitlines()) == 1
    assert not (bundle / "preprocessor_config.json").exists()
    program = subprocess.run(
        [sys.executable, str(bundle / "predict.py"), str(test_images[0])], capture_output=True, text=True
    )
    assert program.returncode == 1 and "a transform of its maker's own, upside_down" in program.stderr
    with pytest.raises(UserError, match="upside_down"):
        sousvit.predict(bundle, test_images[:1])


def upside_down(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)


def test_every_classifier_s_program_has_at_most_40_lines(tmp_path):
    for runtime, file in (("onnxruntime", "model.onnx"), ("openvino", "model.xml"), ("litert", "model.tflite"),
                          ("torch", "model.pt2")):  # fmt: skip
        for how in (
            sousvit.Preprocess(resize="short", crop_pct=0.875),
            sousvit.Preprocess(resize="squash", exif=True),
            sousvit.Preprocess(resize="longest", fill=(3, 4, 5)),
            sousvit.Preprocess(resize="short", resize_size=(40, 60), channel_order="bgr", odd_margin="floor"),
        ):
            artifact = Artifact(Path(), runtime, file, (1, 3, 48, 48), (0.5,) * 3, (0.25,) * 3, how.steps)
            text = predict_program(artifact, None, None)
            compile(text, "predict.py", "exec")
            assert len(text.splitlines()) <= 40 and max(map(len, text.splitlines())) <= 120, text


HOSTILE = {
    "labels.txt": ("one\n", "an output for every label"),
    "config.json": ("[" * 100_000, "names its base"),
    "artifact.json": ('{"runtime": "onnxruntime"}', "must be whole"),
    "model.onnx": ("no model", ""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bundle_of_a_stranger_is_refused_in_one_line(name, finished, test_images, tmp_path):
    bundle = shutil.copytree(finished.folder / "bundle", tmp_path / "hostile")
    content, said = HOSTILE[name]
    (bundle / name).write_text(content)
    lines = (bundle / "SHA256SUMS").read_text().splitlines()
    digest = hashlib.sha256(content.encode()).hexdigest()
    mended = [f"{digest}  {name}" if line.endswith(f"  {name}") else line for line in lines]
    (bundle / "SHA256SUMS").write_text("\n".join(mended) + "\n")
    with pytest.raises(UserError, match=said) as raised:
        sousvit.predict(bundle, test_images[:1])
    assert "\n" not in str(raised.value)
