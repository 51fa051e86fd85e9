"""Images of every kind that a user has: their classes beside the base's, and what the answer is judged on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sousvit.data import DataSpec
from sousvit.data.formats.idx import write_idx
from sousvit.errors import UserError
from sousvit.models.load import load
from sousvit.spaces.images import match_classes, open_final, open_splits
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
        Image.new("RGB", (16, 16), tuple(hashlib.sha256(file.encode()).digest()[:3])).save(root / file)
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
    rng = np.random.default_rng(len(part))
    write_idx(root / f"{part}-images.idx.gz", rng.integers(0, 256, (6, 16, 16)).astype(np.uint8))
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
    splits = open_splits(other, named)
    assert splits.train.class_names == ["cell", "blob"]
    assert splits.train.targets(torch.tensor([0]))[0].labels.tolist() == [1, 0], "blob, and cell"
    assert splits.notes == ["labels were changed to those of the checkpoint's classes (blob, 0 in the data, is 1)"]
    mended = other.model_copy(update={"classes": ("cell", "blob")})
    assert open_splits(mended, named).train.targets(torch.tensor([0]))[0].labels.tolist() == [1, 0]


def test_one_of_the_bases_classes_has_its_label(detector, tmp_path):
    spec = DataSpec(format="coco", train=write_coco(tmp_path, "train", ["blob"]), validation=1)
    train = open_splits(spec, replace(detector, class_names=("cell", "blob"))).train
    assert train.targets(torch.tensor([0]))[0].labels.tolist() == [1]


@pytest.mark.parametrize(("names", "learned"), [(["cell", "dog"], ("cell", "blob")), (["cell", "dog"], ("cell",))])
def test_data_with_other_classes_than_the_bases(names, learned, detector, tmp_path):
    spec = DataSpec(format="coco", train=write_coco(tmp_path, "train", names), validation=1)
    message = refused(spec, replace(detector, class_names=learned))
    assert "1 of 2 that it did not (dog); it learned" in message and 'data.classes: ["cell"]' in message


@pytest.mark.parametrize("kind", ["labelled", "unlabelled", "none"])
@pytest.mark.parametrize(
    ("names", "words"), [(["a", "b", "c"], "1 of 3 that it did not (c)"), (["b", "x"], "1 of 2 that it did not (x)")]
)
def test_the_test_splits_boxes_are_checked_first(kind, names, words, detector, tmp_path):
    parts = {"labelled": {}, "unlabelled": {"labels": False}, "none": MADE}[kind]
    train = "none" if kind == "none" else write_coco(tmp_path, "train", [] if kind == "unlabelled" else ["a", "b"])
    spec = DataSpec(**{"validation": 1, **parts}, format="coco", train=train, test=write_coco(tmp_path, "test", names))
    synthesiser = Synthesiser(detector)
    message = refused(spec, replace(detector, class_names=("a", "b")), synthesiser)
    assert words in message or (kind == "labelled" and "same classes; received" in message)
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


def write_folders(root, part, names):
    """A folder a class, with three images of their own."""
    rng = np.random.default_rng([len(part), len(names)])
    for name in names:
        (root / part / name).mkdir(parents=True)
        for image in range(3):
            pixels = rng.integers(0, 256, (16, 16)).astype(np.uint8)
            Image.fromarray(pixels).save(root / part / name / f"{image}.png")
    return str(root / part)


def test_folders_in_another_order_have_the_checkpoints_labels(classifier, tmp_path):
    named = replace(classifier, class_names=("emu", "cat", "dog"))
    spec = DataSpec(
        train=write_folders(tmp_path, "train", ["cat", "dog", "emu"]),
        test=write_folders(tmp_path, "other", ["dog", "emu"]),
        validation=2,
    )
    splits = open_splits(spec, named)
    assert splits.train.class_names == ["emu", "cat", "dog"]
    assert splits.train.source.labels.tolist() == [1] * 3 + [2] * 3 + [0] * 3
    assert splits.open_test().labels.tolist() == [2] * 3 + [0] * 3
    assert "labels were changed to those of the checkpoint's classes (cat, 0 in the data, is 1)" in splits.notes
    same = open_splits(spec, replace(classifier, class_names=("Cat", "DOG", "emu")))
    assert same.train.source.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert not [note for note in same.notes if "labels were changed" in note]
    message = refused(spec, replace(classifier, class_names=("plane", "car", "dog")))
    assert "2 of 3 that it did not (cat, emu); it learned" in message
    chosen = spec.model_copy(update={"classes": ("emu", "dog", "cat")})
    taken = open_splits(chosen, replace(classifier, class_names=("ostrich", "hound", "tiger")))
    assert taken.train.source.labels.tolist() == [2] * 3 + [1] * 3 + [0] * 3
    assert any("data.classes was taken in the order of the checkpoint's classes" in note for note in taken.notes)


def test_a_checkpoint_without_names_is_trusted_with_a_word(classifier, tmp_path):
    spec = DataSpec(train=write_folders(tmp_path, "train", ["1", "10", "2"]), validation=2)
    assert any("sorted as text, so 10 is class 1" in note for note in open_splits(spec, classifier).notes)
    natural = open_splits(spec.model_copy(update={"classes": "natural"}), classifier)
    assert natural.train.class_names == ["1", "2", "10"] and natural.notes == []


def test_a_test_split_alone_has_the_checkpoints_labels(classifier, tmp_path):
    named = replace(classifier, class_names=("emu", "cat", "dog"))
    test = write_folders(tmp_path, "test", ["cat", "emu"])
    for spec in (
        DataSpec(train="none", test=test, **MADE),
        DataSpec(train=write_folders(tmp_path, "train", ["x"]), labels=False, validation=1, test=test),
    ):
        synthesiser = Synthesiser(named)
        images = open_final(open_splits(spec, named, synthesiser), synthesiser)
        assert images.labels.tolist() == [1] * 3 + [0] * 3


def test_folders_of_imagenet_are_known_by_their_numbers(classifier, tmp_path):
    spec = DataSpec(train=write_folders(tmp_path, "train", ["n01443537", "n02085620"]), validation=2)
    for base in (
        replace(classifier, num_classes=1000),
        replace(
            classifier, num_classes=3, class_names=("Chihuahua", "tench, Tinca tinca", "goldfish, Carassius auratus")
        ),
    ):
        labels = set(open_splits(spec, base).train.source.labels.tolist())
        assert labels == ({1, 151} if base.num_classes == 1000 else {2, 0})


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


def test_numbers_are_taken_as_the_checkpoints_with_a_word(classifier):
    named = replace(classifier, class_names=("cat", "dog", "bird"))
    match = match_classes(named, (), False)
    assert match.names is None and "0 is cat, 1 is dog, 2 is bird" in match.notes[0]
    assert match_classes(classifier, (), False).notes == []
