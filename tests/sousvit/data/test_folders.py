"""Folders of classes: what is one, what is not, and the same list as torchvision's and timm's readers."""

from __future__ import annotations

import shutil

import pytest
from data_forms import refused, write
from timm.data.readers.reader_image_folder import ReaderImageFolder
from torchvision.datasets import ImageFolder

from sousvit.data import DataSpec, Splits
from sousvit.data.formats.folder import FolderSource


@pytest.fixture
def pets(tmp_path):
    return write(tmp_path / "pets", "cat/1.png", "cat/deep/2.PNG", "dog/1.jpg", "dog/2.webp", "emu/x.png")


def test_the_list_is_torchvisions(pets):
    source, theirs = FolderSource(pets), ImageFolder(pets)
    assert source.class_names == theirs.classes and source.notes == []
    assert [(str(file), int(label)) for file, label in zip(source.files, source.labels, strict=True)] == theirs.samples


def test_the_list_is_timms(tmp_path):
    root = write(tmp_path, "cat/1.png", "cat/2.PNG", "dog/1.jpg", "emu/x.png")
    source, theirs = FolderSource(root), ReaderImageFolder(str(root))
    assert {name: label for label, name in enumerate(source.class_names)} == theirs.class_to_idx
    assert {(str(f), int(n)) for f, n in zip(source.files, source.labels, strict=True)} == set(theirs.samples)


def test_the_natural_order_is_timms_and_the_usual_one_torchvisions(tmp_path):
    root = write(tmp_path, *(f"{number}/{image}.png" for number in range(1, 12) for image in range(3)))
    spec = DataSpec(format="folder", train=str(root), validation=3)
    usual, natural = (Splits(one, (8, 8), 3).train for one in (spec, spec.model_copy(update={"classes": "natural"})))
    assert usual.class_names == ImageFolder(root).classes
    assert natural.class_names == list(ReaderImageFolder(str(root)).class_to_idx)
    names = [natural.class_names[label] for label in natural.labels]
    assert names == [usual.class_names[label] for label in usual.labels], "the same images, other numbers"


def test_folders_that_are_no_classes_are_named_and_counted(pets):
    before = FolderSource(pets)
    for folder in (".git", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", ".thumbnails",
                   "lost+found", "dog/@eaDir", "cat/.thumbnails"):  # fmt: skip
        write(pets, f"{folder}/thumb.jpg", seed=50)
    (pets / "fox").mkdir()
    (pets / "gnu" / "later").mkdir(parents=True)
    for file in ("Thumbs.db", ".DS_Store", "cat/notes.txt", "cat/._1.png", "dog/a.heic", "dog/b.heic", "labels.csv"):
        (pets / file).write_bytes(b"no image")
    write(pets, "loose.png", seed=60)
    source = FolderSource(pets)
    assert (source.class_names, source.files) == (before.class_names, before.files)
    assert source.fingerprint == before.fingerprint
    notes = " ".join(source.notes)
    assert "9 folders of the system ($RECYCLE.BIN, .git, .thumbnails, @eaDir and 3 more) left out" in notes
    assert "2 folders without an image, which are no classes (fox, gnu) left out" in notes
    assert "7 files that are no images of a known kind (.heic 2, " in notes
    assert "1 images beside the class folders left out" in notes


def test_links_are_followed_and_dead_ones_counted(pets, tmp_path):
    elsewhere = write(tmp_path / "elsewhere", "9.png", seed=70)
    (pets / "fox").symlink_to(elsewhere)
    (pets / "cat" / "linked.png").symlink_to(elsewhere / "9.png")
    (pets / "cat" / "dead.png").symlink_to(tmp_path / "nowhere.png")
    (pets / "dog" / "round").symlink_to(pets)
    (pets / "dead").symlink_to(tmp_path / "unmounted")
    source = FolderSource(pets)
    assert source.class_names == ["cat", "dog", "emu", "fox"] and len(source.files) == 7
    notes = " ".join(source.notes)
    assert "2 links that lead nowhere (cat/dead.png, dead) left out" in notes
    assert "1 links that lead back to a folder around them (dog/round) left out" in notes


def test_the_same_folder_linked_as_a_whole_has_the_same_fingerprint(pets, tmp_path):
    (tmp_path / "link").symlink_to(pets)
    assert FolderSource(tmp_path / "link").fingerprint == FolderSource(pets).fingerprint


def test_a_test_split_that_lacks_a_class_keeps_the_numbers(pets, tmp_path):
    test = write(tmp_path / "test", "emu/1.png", "cat/1.png", seed=30)
    splits = Splits(DataSpec(format="folder", train=str(pets), test=str(test), validation=1), (8, 8), 3)
    images = splits.look_at_test()
    assert images.labels.tolist() == [0, 2] and images.class_names == ["cat", "dog", "emu"]
    assert f"no image is of dog in {test}" in splits.notes


def test_flat_folders_and_folders_of_other_things_are_told_in_one_line(tmp_path):
    flat = write(tmp_path / "flat", "1.png", "2.png")
    assert "a folder for each class; received 2 images and no folder" in refused(FolderSource, flat)
    assert len(FolderSource(flat, labelled=False).files) == 2
    (tmp_path / "other" / "a").mkdir(parents=True)
    (tmp_path / "other" / "a" / "x.heic").write_bytes(b"no image")
    assert "must hold images; received none in" in refused(FolderSource, tmp_path / "other")
    assert ".heic" in refused(FolderSource, tmp_path / "other")


def test_names_in_any_alphabet_and_with_signs(tmp_path):
    names = ["日本語", "ça va", "café", "a b", "№ 1", "x'y", "emoji 🐈"]
    root = write(tmp_path / "mes données (1)", *(f"{name}/ä 1.png" for name in names))
    source = FolderSource(root)
    assert source.class_names == ImageFolder(root).classes == sorted(names)
    copy = shutil.copytree(root, tmp_path / "copy")
    assert FolderSource(copy).fingerprint == source.fingerprint


def test_names_that_are_no_text_are_read_and_can_be_told(tmp_path):
    root = write(tmp_path, "cat/1.png", "dog/1.png")
    (root / "cat" / b"\xff\xfe.png".decode("utf-8", "surrogateescape")).write_bytes(b"broken")
    source = FolderSource(root)
    broken = next(row for row, file in enumerate(source.files) if file.name != "1.png")
    assert refused(source.read, broken).encode(), "fit for any terminal"
