"""What other tools make of a bundle: Hugging Face's processors, OpenVINO, LiteRT, PyTorch; and detectors."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import sousvit
from sousvit.models.preprocess import Preprocess
from sousvit.search.bundle.bundle import write_bundle
from sousvit.search.bundle.card import model_card
from sousvit.search.bundle.facts import Facts, facts_of, label_names
from sousvit.search.bundle.hugging_face import model_config, processor_config
from sousvit.search.bundle.program import package_of
from sousvit.spaces.export.artifact import Artifact
from sousvit.specs import DataSpec, ModelSpec

STEPS = {
    "short": Preprocess(resize="short", crop_pct=0.875, odd_margin="floor"),
    "short, square": Preprocess(resize="short", interpolation="bilinear"),
    "squash": Preprocess(resize="squash", interpolation="lanczos"),
    "squash and crop": Preprocess(resize="squash", resize_size=(60, 52), odd_margin="floor"),
}


def facts_with(how: Preprocess, channels: int = 3, size: tuple[int, int] = (44, 44)) -> Facts:
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels]
    artifact = Artifact(Path(), "onnxruntime", "model.onnx", (1, channels, *size), mean, std, how.steps)
    return Facts(artifact, ModelSpec(name="vit_tiny_patch16_224"), ("a", "b"), True, sousvit.Recipe(), "", "holds", (),
                 {}, {}, "", "accuracy", "", {}, "", DataSpec(format="idx"), {}, ())  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", STEPS)
def test_the_image_processor_of_transformers_gives_our_pixels(name, channels, tmp_path):
    from transformers import AutoImageProcessor

    how, facts = STEPS[name], facts_with(STEPS[name], channels)
    config = processor_config(facts)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config.values))
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    rng = np.random.default_rng(0)
    mean, std = (np.array(part)[:, None, None] for part in (facts.artifact.mean, facts.artifact.std))
    for shape in ((90, 134), (131, 57), (44, 44), (64, 64)):
        image = Image.fromarray(rng.integers(0, 256, (*shape, channels), dtype=np.uint8).squeeze())
        found = processor(image, return_tensors="np")["pixel_values"][0]
        own = np.asarray(how.fit(image, (44, 44), channels)).reshape(44, 44, channels).transpose(2, 0, 1)
        np.testing.assert_allclose(found, (own / 255 - mean) / std, atol=1e-5)
    assert config.differs == ("the crop may begin a pixel elsewhere where its margins are odd"
                              if name == "short, square" else "")  # fmt: skip


def test_steps_that_hugging_face_has_not_are_not_written():
    for how in (
        Preprocess(resize="longest"),
        Preprocess(resize="short", resize_size=(50, 60)),
        Preprocess(transform="Compose(...)"),
        Preprocess(channel_order="bgr"),
    ):
        assert processor_config(facts_with(how)) is None


def test_the_config_opens_as_a_classifier_s(finished):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(finished.folder / "bundle")
    assert config.id2label == {0: "rows of stripes", 1: "columns", 2: "checkerboard"} and config.num_labels == 3
    assert model_config(facts_with(STEPS["short"]))["id2label"] == {"0": "a", "1": "b"}


@pytest.fixture(scope="module")
def other_runtimes(finished, tiny_project, tmp_path_factory):
    """Bundles of a model for each runtime that is installed, with the facts of the search's answer."""
    folder = tmp_path_factory.mktemp("runtimes")
    workshop = sousvit.Workshop(tiny_project.checkpoint, train=tiny_project.data)
    facts = facts_of(finished.answer, finished.budget, finished._archive, Artifact.open(finished.artifact))

    def make(runtime: str):
        place = folder / runtime
        if not place.is_dir():
            recipe = sousvit.Recipe([sousvit.Step.make("prune_mlp", keep=0.5)], runtime=runtime)
            artifact = workshop.export(folder / f"{runtime}-artifact", recipe)
            write_bundle(replace(facts, artifact=artifact, recipe=recipe), place)
        return place

    return make


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["openvino", "torch", "litert"])
def test_predict_py_of_other_runtimes_gives_the_recorded_classes(
    runtime, other_runtimes, test_images, bare_environment, tmp_path
):
    pytest.importorskip({"litert": "ai_edge_litert"}.get(runtime, runtime))
    bundle = shutil.copytree(other_runtimes(runtime), tmp_path / "elsewhere")
    python = bare_environment("numpy", "pillow", package_of(runtime))
    assert "No module named 'sousvit'" in python.run("-c", "import sousvit").stderr
    done = python.run(bundle / "predict.py", *test_images)
    assert done.returncode == 0, done.stderr
    classes = [line.split("\t")[1] for line in done.stdout.splitlines()]
    own = sousvit.predict(bundle, test_images)
    assert classes == [found[0].label for _, found in own] and len(set(classes)) == 3


def test_openvino_s_file_holds_the_facts_itself(other_runtimes):
    openvino = pytest.importorskip("openvino")
    bundle = other_runtimes("openvino")
    model = openvino.Core().read_model(bundle / "model.xml")
    assert model.get_rt_info(["model_info", "labels"]).value == "rows_of_stripes columns checkerboard"
    info = ElementTree.parse(bundle / "model.xml").getroot().find("rt_info/sousvit/task")
    assert info is not None and info.get("value") == "image-classification"


def test_classes_that_nobody_named_are_said_to_be_so():
    assert label_names(("a", "", "c  d"), 4) == ("a", "LABEL_1", "c d", "LABEL_3")
    card = model_card(replace(facts_with(STEPS["short"]), labels=("LABEL_0", "LABEL_1"), named=False), None, False)
    assert "Nobody named them" in card and "Nobody named them" not in model_card(facts_with(STEPS["short"]), None, True)


@pytest.mark.slow
def test_a_detector_s_program_finds_what_the_run_s_judging_finds(detected, tiny_detection, bare_environment, tmp_path):
    bundle = shutil.copytree(detected.folder / "bundle", tmp_path / "elsewhere")
    assert (bundle / "labels.txt").read_text() == "bright\ndark\n"
    root = tiny_detection.root / "voc"
    names = (root / "ImageSets" / "Main" / "test.txt").read_text().split()
    paths = [root / "JPEGImages" / f"{name}.png" for name in names]
    big = tmp_path / "big.png"
    Image.open(paths[0]).resize((256, 144)).save(big)
    python = bare_environment("numpy", "pillow", "onnxruntime")
    done = python.run(bundle / "predict.py", *paths, big)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    own = sousvit.predict(bundle, [*paths, big])
    wanted = [(str(path), one.label, one.score, *one.box) for path, found in own for one in found]
    assert [tuple(row[:2]) for row in rows] == [row[:2] for row in wanted] and len(rows) > len(paths)
    found, known = (np.array([row[2:] for row in many], float) for many in (rows, wanted))
    np.testing.assert_allclose(found, known, atol=2e-3, rtol=2e-3)
    sure = [row for row in wanted if row[0] == str(big) and row[2] > 0.3]
    assert sure and max(row[5] for row in sure) > 64, "boxes are in pixels of the file"
