"""Images of every kind that a user has: their classes beside the base's, and what the answer is judged on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sousvit.data import DataSpec
from sousvit.data.idx import write_idx
from sousvit.errors import UserError
from sousvit.models.load import load
from sousvit.spaces.images import open_final, open_splits
from sousvit.spaces.techniques.synthesis.synthesiser import Synthesiser
from sousvit.specs import ModelSpec

ARGS = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "class_token": False}
DETECTOR = {"channels": 32, "strides": [8], "convs": 1}
MADE = {"validation": 16, "synthesis": {"images": 16}}


@pytest.fixture(scope="module")
def detector():
    """An untrained detector of two classes that is sure of everything."""
    base = load(ModelSpec(name="vit_tiny_patch16_224", args={**ARGS, "num_classes": 2}, detector=DETECTOR))
    with torch.no_grad():
        base.module.head.fcos.head.classification_head.cls_logits.bias.fill_(2.0)
    return base


@pytest.fixture(scope="module")
def classifier():
    args = {**ARGS, "num_classes": 3, "global_pool": "avg", "in_chans": 1}
    return load(ModelSpec(name="vit_tiny_patch16_224", args=args))


def write_coco(root, part, names, count=3):
    """A part whose images hold an object of every class; labels are in the order of ``names``."""
    root.mkdir(exist_ok=True)
    files = [f"{part}{number}.png" for number in range(count)]
    for file in files:
        Image.new("RGB", (16, 16)).save(root / file)
    content = {
        "images": [{"id": number, "file_name": file, "width": 16, "height": 16} for number, file in enumerate(files)],
        "categories": [{"id": label, "name": name} for label, name in enumerate(names)],
        "annotations": [
            {"image_id": number, "category_id": label, "bbox": [0, 0, 9, 9]}
            for number in range(count)
            for label in range(len(names))
        ],
    }
    (root / f"{part}.json").write_text(json.dumps(content))
    return str(root / f"{part}.json")


def write_digits(root, part, classes):
    """IDX images with a label of each class."""
    write_idx(root / f"{part}-images.idx.gz", np.random.default_rng(0).integers(0, 256, (6, 16, 16)).astype(np.uint8))
    write_idx(root / f"{part}-labels.idx.gz", (np.arange(6) % classes).astype(np.uint8))
    return str(root / f"{part}-images.idx.gz")


def refused(spec, base, synthesiser=None):
    with pytest.raises(UserError) as caught:
        open_splits(spec, base, synthesiser)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


def test_data_with_the_bases_classes_in_its_order(detector, tmp_path):
    named = replace(detector, class_names=("cell", "blob"))
    for names in (["cell", "blob"], ["cell"]):
        spec = DataSpec(format="coco", train=write_coco(tmp_path, "train", names), validation=1)
        assert open_splits(spec, named).train.class_names == names
    other = DataSpec(format="coco", train=write_coco(tmp_path, "train", ["blob", "cell"]), validation=1)
    assert open_splits(other, detector).num_classes == 2, "a checkpoint that names no classes is trusted"
    message = refused(other, named)
    assert "blob as class 0" in message and "the base learned cell" in message
    assert message.endswith('write data.classes: ["cell", "blob"]')
    mended = other.model_copy(update={"classes": ("cell", "blob")})
    assert open_splits(mended, named).train.targets(torch.tensor([0]))[0].labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["cell", "dog"], "dog as class 1 in"),
        (["blob"], "blob as class 0 in"),
        (["cell", "blob", "dog"], "2 classes for 3 labels"),
    ],
)
def test_data_with_other_classes_than_the_bases(names, words, detector, tmp_path):
    spec = DataSpec(format="coco", train=write_coco(tmp_path, "train", names), validation=1)
    assert words in refused(spec, replace(detector, class_names=("cell", "blob")))


def test_fewer_classes_were_learned_than_there_are_outputs(detector, tmp_path):
    spec = DataSpec(format="coco", train=write_coco(tmp_path, "train", ["cell", "blob"]), validation=1)
    message = refused(spec, replace(detector, class_names=("cell",)))
    assert "where the base learned none; use a base for these classes" in message


@pytest.mark.parametrize("kind", ["labelled", "unlabelled", "none"])
@pytest.mark.parametrize(
    ("names", "words"), [(["a", "b", "c"], "2 classes for 3 labels"), (["b", "a"], "b as class 0 in")]
)
def test_the_test_splits_boxes_are_checked_first(kind, names, words, detector, tmp_path):
    parts = {"labelled": {}, "unlabelled": {"labels": False}, "none": MADE}[kind]
    train = "none" if kind == "none" else write_coco(tmp_path, "train", [] if kind == "unlabelled" else ["a", "b"])
    spec = DataSpec(**{"validation": 1, **parts}, format="coco", train=train, test=write_coco(tmp_path, "test", names))
    synthesiser = Synthesiser(detector)
    message = refused(spec, replace(detector, class_names=("a", "b")), synthesiser)
    assert words in message or (kind == "labelled" and "every part of the data has the same classes" in message)
    assert synthesiser.seconds == 0, "before images are made"


@pytest.mark.parametrize("kind", ["labelled", "unlabelled", "none"])
def test_the_test_splits_labels_are_checked_first(kind, classifier, tmp_path):
    parts = {"labelled": {}, "unlabelled": {"labels": False}, "none": MADE}[kind]
    train = "none" if kind == "none" else write_digits(tmp_path, "train", 3)
    spec = DataSpec(**{"validation": 2, **parts}, format="idx", train=train, test=write_digits(tmp_path, "test", 4))
    synthesiser = Synthesiser(classifier)
    assert "3 classes for 4 labels in" in refused(spec, classifier, synthesiser)
    assert synthesiser.seconds == 0, "before images are made"
    write_digits(tmp_path, "test", 3)
    assert open_splits(spec, classifier, synthesiser).test_reads == 0


def test_an_answer_without_data_is_judged_on_images_of_its_own(classifier):
    synthesiser = Synthesiser(classifier)
    splits = open_splits(DataSpec(format="none", **MADE), classifier, synthesiser)
    final, again = open_final(splits, synthesiser), open_final(splits, synthesiser)
    assert len(final) == 16 and final.fingerprint == again.fingerprint
    for seed in (0, 1):  # a run may go on with another seed
        splits = open_splits(splits.spec, classifier, Synthesiser(classifier, seed))
        for part in (splits.train, splits.validation):
            assert not (final.images()[:, None] == part.images()[None]).flatten(2).all(2).any()


def test_an_answer_is_judged_on_the_test_split_where_there_is_one(classifier, tmp_path):
    spec = DataSpec(format="idx", train="none", test=write_digits(tmp_path, "test", 3), **MADE)
    synthesiser = Synthesiser(classifier)
    splits = open_splits(spec, classifier, synthesiser)
    assert len(open_final(splits, synthesiser)) == 6 and splits.test_reads == 1
    bare = DataSpec(format="idx", train=write_digits(tmp_path, "train", 3), labels=False, validation=2)
    splits = open_splits(bare, classifier)
    assert open_final(splits, synthesiser) is splits.validation
