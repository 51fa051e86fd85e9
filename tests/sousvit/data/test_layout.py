"""Where the parts of a data set lie: one root, globs, odd paths; and what is said where they do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from data_forms import PIXELS, encoded, refused, write, write_table

from sousvit.data import DataSpec, Splits, require_test
from sousvit.data.layout import expand, parts_below, readable, resolve_data
from sousvit.errors import SharedInputError


def root_of_folders(root, *names):
    for number, name in enumerate(names):
        write(root / name, "cat/1.png", "cat/2.png", "dog/1.png", seed=10 * number)
    return root


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val"])
@pytest.mark.parametrize("key", ["root", "train"])
def test_folders_below_one_root_are_the_parts(key, validation, tmp_path):
    root_of_folders(tmp_path / "pets", "train", validation, "test")
    (tmp_path / "pets" / ".git").mkdir()
    spec = resolve_data(DataSpec(**{key: "pets"}), tmp_path)
    assert (spec.train, spec.validation, spec.test) == tuple(
        str(tmp_path / "pets" / name) for name in ("train", validation, "test")
    )
    splits = Splits(spec, (8, 8), 3)
    assert (len(splits.train), len(splits.validation), len(splits.open_test())) == (3, 3, 3)
    assert resolve_data(spec, Path("/elsewhere")) == spec, "a written budget is read again"


def test_what_the_user_says_of_validation_stands(tmp_path):
    root_of_folders(tmp_path, "train", "val", "test")
    assert resolve_data(DataSpec(root=".", validation=0.5), tmp_path).validation == 0.5
    root_of_folders(tmp_path / "b", "train", "test")
    assert resolve_data(DataSpec(root="b"), tmp_path).validation == 0.1


def test_a_class_called_train_is_no_part(tmp_path):
    write(tmp_path, "train/1.png", "test/1.png", "truck/1.png")
    assert resolve_data(DataSpec(train="."), tmp_path).train == str(tmp_path)
    write(tmp_path / "b", "train/1.png", "truck/1.png")
    assert parts_below(tmp_path / "b", alone=True) == {}


def test_files_below_one_root_are_the_parts(tmp_path):
    for number, name in enumerate(
        ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001", "validation-00000-of-00001")
    ):
        write_table(tmp_path, [bytes([number]) + encoded(one) for one in PIXELS], name=f"{name}.parquet")
    for key in ("root", "train"):
        spec = resolve_data(DataSpec(**{key: "."}), tmp_path)
        assert [Path(path).name for path in spec.train] == [f"train-0000{n}-of-00002.parquet" for n in (0, 1)]
        assert Path(spec.test).name == "test-00000-of-00001.parquet"
        splits = Splits(spec, (8, 8), 3)
        assert (len(splits.train), len(splits.validation)) == (12, 6)


def test_the_layout_of_the_hub_is_a_root(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("a card")
    for name in ("train-0", "test-0"):
        write_table(tmp_path / "data", [encoded(one) for one in PIXELS], name=f"{name}.parquet")
    assert set(parts_below(tmp_path)) == set(parts_below(tmp_path, alone=True)) == {"train", "test"}
    assert len(Splits(resolve_data(DataSpec(train="."), tmp_path), (8, 8), 3).train) > 0
    (tmp_path / "cats").mkdir()  # then data may be a class
    assert parts_below(tmp_path, alone=True) == {}


def test_a_root_without_parts_is_told_in_one_line(tmp_path):
    write(tmp_path / "a", "cat/1.png")
    assert "called train, val and test; received none in" in refused(resolve_data, DataSpec(root="a"), tmp_path)
    assert "data.root must be a folder" in refused(resolve_data, DataSpec(root="nowhere"), tmp_path)


def test_paths_start_in_the_root_where_there_is_one(tmp_path):
    root_of_folders(tmp_path / "pets", "one", "two", "three")
    spec = resolve_data(DataSpec(root="pets", train="one", validation="two", test="three"), tmp_path)
    assert spec.train == str(tmp_path / "pets" / "one") and spec.test == str(tmp_path / "pets" / "three")


def test_a_tilde_a_space_and_other_alphabets_in_every_key(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "mein Zuhause"))
    root_of_folders(tmp_path / "mein Zuhause" / "фото (2)", "обучение", "проверка", "тест [1]")
    keys = {"train": "обучение", "validation": "проверка", "test": "тест [1]"}
    for spec in (
        DataSpec(root="~/фото (2)", **keys),
        DataSpec(**{key: f"~/фото (2)/{name}" for key, name in keys.items()}),
    ):
        splits = Splits(resolve_data(spec, tmp_path), (8, 8), 3)
        assert (len(splits.train), len(splits.validation), len(splits.open_test())) == (3, 3, 3)
    images = resolve_data(DataSpec(train="a.csv", images=("~/b c", "x")), tmp_path).images
    assert images == (str(tmp_path / "mein Zuhause" / "b c"), str(tmp_path / "x"))
    message = refused(resolve_data, DataSpec(train="~nobody-of-this-name/x"), tmp_path)
    assert "the home of a user" in message


def test_links_in_every_place(tmp_path):
    root_of_folders(tmp_path / "real", "train", "val", "test")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    spec = resolve_data(DataSpec(root="link"), tmp_path)
    assert spec.train == str(tmp_path / "real" / "train")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    lost = resolve_data if os.name == "nt" else lambda *args: Splits(resolve_data(*args), (8, 8), 3)
    assert refused(lost, DataSpec(train="a"), tmp_path)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("part-*.tar", ["part-00.tar", "part-01.tar", "part-02.tar"]),
        ("part-{00..01}.tar", ["part-00.tar", "part-01.tar"]),
        ("{part-02,odd[1]}.tar", ["part-02.tar", "odd[1].tar"]),
        ("odd[1].tar", ["odd[1].tar"]),
        ("*/deep-?.tar", ["sub/deep-1.tar"]),
    ],
)
def test_globs_and_braces(given, found, tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("part-00.tar", "part-01.tar", "part-02.tar", "odd[1].tar", "sub/deep-1.tar"):
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in expand(str(tmp_path / given))] == found


def test_what_is_not_there_is_told_in_one_line(tmp_path):
    for given, words in (
        ("none*.parquet", "none*.parquet, which no file matches"),
        ("none", "data must exist; received"),
        ("x-{0..2}.tar", "x-0.tar; correct the path"),
    ):
        assert words in refused(expand, str(tmp_path / given))
    spec = DataSpec(train=str(tmp_path), test=str(tmp_path / "gone-*.tar"), validation=1)
    assert "which no file matches" in refused(require_test, spec)


def test_a_mount_that_has_vanished_is_one_line(tmp_path, monkeypatch):
    root_of_folders(tmp_path, "train", "test")
    stat = Path.stat

    def gone(path, **options):
        if path.name == "train":
            raise OSError(107, "Transport endpoint is not connected", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", gone)
    message = refused(resolve_data, DataSpec(root="."), tmp_path)
    assert "Transport endpoint is not connected; mount it" in message
    with pytest.raises(SharedInputError):
        Splits(DataSpec(train=str(tmp_path / "train")), (8, 8), 3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_one_line(tmp_path):
    root_of_folders(tmp_path, "train")
    (tmp_path / "train" / "cat").chmod(0)
    try:
        assert "Permission denied" in refused(Splits, DataSpec(train=str(tmp_path / "train")), (8, 8), 3)
    finally:
        (tmp_path / "train" / "cat").chmod(0o755)


def test_errors_of_the_disk_name_the_path():
    with pytest.raises(SharedInputError, match="/data: Input/output error; mount it"), readable(Path("/data")):
        raise OSError(5, "Input/output error")
