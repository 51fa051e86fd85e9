"""Every form in which labelled images lie on disk gives the same pixels, labels and names; or one clear line."""

from __future__ import annotations

import re
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_forms import (
    FORMS,
    LABELS,
    NAMES,
    PIXELS,
    WORDS,
    encoded,
    hugging_face,
    pictures,
    refused,
    write_folder,
    write_saved,
    write_table,
    write_tar,
)

from sousvit.data import DataSpec, Splits
from sousvit.data.formats import BUILTIN
from sousvit.data.formats.csv_table import CsvSource
from sousvit.data.formats.datasets_folder import DatasetsSource
from sousvit.data.formats.format import FORMATS, Format, format_of
from sousvit.data.formats.parquet import ParquetSource
from sousvit.data.formats.webdataset import WebDatasetSource
from sousvit.data.layout import resolve_data
from sousvit.data.numbering import content_of
from sousvit.errors import SharedInputError
from sousvit.search.plugins import load_plugins
from sousvit.specs import _SHIPPED_FORMATS, Columns


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images_labels_and_names(form, tmp_path):
    path = FORMS[form](tmp_path)
    spec = resolve_data(DataSpec(train=str(path), validation=1), tmp_path)
    splits = Splits(spec, (8, 8), 3)
    source = splits.train.source
    assert source.class_names == NAMES and splits.num_classes == 3
    found = {np.asarray(source.read(row)).tobytes(): int(source.labels[row]) for row in range(6)}
    assert found == {pixels.tobytes(): label for pixels, label in zip(PIXELS, LABELS, strict=True)}
    assert len({content_of(source, row) for row in range(6)}) == 6
    again = Splits(resolve_data(DataSpec(train=str(path), validation=1), tmp_path), (8, 8), 3)
    assert again.fingerprint == splits.fingerprint


def test_the_list_of_formats_is_known_to_the_specification():
    assert sorted(_SHIPPED_FORMATS) == sorted(BUILTIN) == FORMATS.names()


def test_an_unknown_format_is_told_with_the_likely_one(tmp_path):
    assert "did you mean 'parquet'" in refused(resolve_data, DataSpec(format="paquet"), tmp_path)
    (tmp_path / "x.doc").write_bytes(b"")
    assert "a folder, or a parquet, CSV, tar or IDX file; received x.doc; name data.format" in refused(
        format_of, tmp_path / "x.doc"
    )


def test_a_format_of_the_users_own_is_found_by_its_word_and_by_its_path(tmp_path, monkeypatch):
    class Halves(Format):
        """A text file whose lines are paths; the first half is of class 0."""

        name = "halves"

        def suits(self, path):
            return path.suffix == ".halves"

        def open(self, part):
            files = [part.path.parent / line for line in part.path.read_text().splitlines()]
            table = pa.table({"image": [str(file) for file in files], "label": [0] * 3 + [1] * 3})
            pq.write_table(table, part.path.with_suffix(".parquet"))
            return ParquetSource(part.path.with_suffix(".parquet"))

    monkeypatch.setitem(FORMATS._items, "halves", Halves())
    (tmp_path / "in.halves").write_text("\n".join(pictures(tmp_path)))
    for told in ({"format": "halves"}, {}):
        spec = resolve_data(DataSpec(train="in.halves", validation={"last": 1}, **told), tmp_path)
        assert Splits(spec, (8, 8), 3).train.labels.tolist() == [0, 0, 0, 1, 1]


# tables


@pytest.mark.parametrize(
    ("image", "label"), [("img", "fine_label"), ("Image", "Label"), ("pixel_values", "y"), ("anything", "target")]
)
def test_columns_are_found_by_their_names_and_types(image, label, tmp_path):
    pq.write_table(pa.table({"id": range(6), image: [encoded(one) for one in PIXELS], label: LABELS}), tmp_path / "a")
    source = ParquetSource(tmp_path / "a")
    assert source.labels.tolist() == LABELS and source.class_names == []


def test_columns_can_be_named(tmp_path):
    images = [encoded(one) for one in PIXELS]
    path = write_table(tmp_path, images, other=LABELS[::-1], thumb=images[::-1])
    source = ParquetSource(path, columns=Columns(image="thumb", label="other"))
    assert source.labels.tolist() == LABELS[::-1] and source.content(0) == images[-1]
    assert "data.columns.label is a column; received 'lable'; " in refused(
        ParquetSource, path, columns=Columns(label="lable")
    )


def test_the_words_of_a_test_file_that_lacks_one_are_numbered_alike(tmp_path):
    images = [encoded(one) for one in PIXELS]
    train = write_table(tmp_path, images[:4], WORDS[:4])
    test = write_table(tmp_path, images[4:], ["cat", "bee"], "test.parquet")
    splits = Splits(DataSpec(train=str(train), test=str(test), validation=1), (8, 8), 3)
    assert splits.look_at_test().labels.tolist() == [2, 1]
    foreign = write_table(tmp_path, images[4:], ["cat", "cow"], "foreign.parquet")
    message = refused(splits.__class__, DataSpec(train=str(train), validation=str(foreign)), (8, 8), 3)
    assert f"cow in {foreign}, which the training part does not have" in message


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([*WORDS[:5], None], "every image has a label; received none in row 5"),
        ([[1], [0], [1], [0], [1], [0, 1]], "an image has one label; received list"),
        ([0.5] * 6, "labels must be whole numbers"),
    ],
)
def test_wrong_labels_are_told_in_one_line(labels, words, tmp_path):
    assert words in refused(ParquetSource, write_table(tmp_path, [encoded(one) for one in PIXELS], labels))


def test_an_image_that_is_gone_is_a_shared_fault(tmp_path):
    source = ParquetSource(write_table(tmp_path, pictures(tmp_path)))
    (tmp_path / "3.png").unlink()
    with pytest.raises(SharedInputError, match=r"3\.png: No such file"):
        source.read(3)


def test_hugging_face_columns_of_paths(tmp_path):
    names = pictures(tmp_path)
    data = datasets.Dataset.from_dict(
        {"picture": [str(tmp_path / name) for name in names], "kind": LABELS},
        features=datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=NAMES)}),
    )
    data.save_to_disk(str(tmp_path / "saved"))
    source = DatasetsSource(tmp_path / "saved")
    assert source.class_names == NAMES, "by their types"
    assert np.array_equal(np.asarray(source.read(2)), PIXELS[2])


def test_a_dictionary_of_data_sets_is_one_root(tmp_path):
    parts = hugging_face().train_test_split(test_size=2, seed=0)
    parts.save_to_disk(str(tmp_path / "all"))
    spec = resolve_data(DataSpec(train="all", validation=1), tmp_path)
    assert spec.test == str(tmp_path / "all" / "test")
    assert len(Splits(spec, (8, 8), 3).open_test()) == 2
    assert "a part of the data is one data set" in refused(DatasetsSource, tmp_path / "all")


def test_a_broken_folder_of_save_to_disk_is_told_in_one_line(tmp_path):
    path = write_saved(tmp_path)
    (path / "data-00001-of-00002.arrow").unlink()
    assert "lie beside it" in refused(DatasetsSource, path)
    (path / "state.json").write_text("{")
    assert "holds state.json with its files" in refused(DatasetsSource, path)
    (tmp_path / "x.arrow").write_bytes(b"no arrow")
    assert "an Arrow file must be readable" in refused(DatasetsSource, tmp_path / "x.arrow")


# CSV


@pytest.mark.parametrize(
    "text",
    [
        "0.png,ant\n1.png,bee\n",
        "path\tclass\n0.png\tant\n1.png\tbee\n",
        "id;file name;label\n7;0.png;ant\n8;1.png;bee\n".replace("file name", "filename"),
        "0.png ant\n1.png bee\n",
        '\ufeffimage,label,remark\n"0.png",ant,"so, so"\n.\\1.png,bee,\n\n',
        "# made by hand\nFile,Label\n0.png, ant\n1.png, bee\n",
    ],
)
def test_a_csv_however_it_is_written(text, tmp_path):
    pictures(tmp_path)
    (tmp_path / "in.csv").write_text(text, encoding="utf-8")
    source = CsvSource(tmp_path / "in.csv")
    assert (source.class_names, source.labels.tolist()) == (["ant", "bee"], [0, 1])
    assert np.array_equal(np.asarray(source.read(1)), PIXELS[1])


def test_a_csv_of_numbers_and_images_elsewhere(tmp_path):
    pictures(tmp_path / "pictures here")
    (tmp_path / "in.csv").write_text("image,label\n0.png,3\n1.png,0\n")
    spec = DataSpec(train="in.csv", images="pictures here", validation=1)
    source = Splits(resolve_data(spec, tmp_path), (8, 8), 3).train.source
    assert source.labels.tolist() == [3, 0] and source.class_names == []


def test_a_csv_of_names_without_endings_and_of_a_column_for_each_class(tmp_path):
    pictures(tmp_path)
    (tmp_path / "in.csv").write_text("id,breed\n0,bee\n1,ant\n")
    assert CsvSource(tmp_path / "in.csv").files == [tmp_path / "0.png", tmp_path / "1.png"]
    (tmp_path / "in.csv").write_text("filename, cat, bee\n0.png,0,1\n1.png,1,0\n")
    source = CsvSource(tmp_path / "in.csv")
    assert [source.class_names[label] for label in source.labels] == ["bee", "cat"]
    (tmp_path / "in.csv").write_text("filename, cat, bee\n0.png,1,1\n1.png,1,0\n")
    assert "columns of paths and labels" in refused(CsvSource, tmp_path / "in.csv")


def test_labels_counted_from_one_are_a_word(tmp_path):
    path = write_table(tmp_path, [encoded(one) for one in PIXELS], [label + 1 for label in LABELS])
    [note] = Splits(DataSpec(train=str(path), validation=1), (8, 8), 3).notes
    assert note == f"no image of {path} has the label 0, with which the model's classes begin"


def test_the_format_of_the_page_on_extending_is_read_from_a_users_file(tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs" / "extending.md").read_text(encoding="utf-8")
    [block] = [one for one in re.findall(r"```python run\n(.*?)```", page, re.S) if "Format" in one]
    (tmp_path / "arrays.py").write_text(block)
    monkeypatch.setattr(FORMATS, "_items", dict(FORMATS._items))
    monkeypatch.setattr(FORMATS, "_plugins", dict(FORMATS._plugins))
    load_plugins({"formats": ["arrays.py:Arrays"]}, tmp_path)
    np.save(tmp_path / "photos.npy", PIXELS)
    np.save(tmp_path / "photos.labels.npy", LABELS)
    spec = resolve_data(DataSpec(format="arrays", train="photos.npy", validation={"last": 2}), tmp_path)
    splits = Splits(spec, (8, 8), 3)
    assert splits.train.labels.tolist() == LABELS[:4]
    assert np.array_equal(splits.validation.images()[0].permute(1, 2, 0).numpy(), PIXELS[4])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold images"),
        ("image,label\n", "only the names of columns"),
        ("image,label\n0.png\n", "row 1 of"),
        ("image,label\n0.png,a\nnine.png,b\n", "1 of 2 are not"),
        ("image,label\nnine.png,b\n", "name data.images, the folder of the images"),
        ("a,b,c\n0.png,1,2\n", "say which in data.columns"),
        ("0.png,1,2\n", "the first row of a CSV names the columns"),
        ("image,label,split\n0.png,a,train\n1.png,b,test\n", "a column split with test, train"),
        ("image,label\n0.png,\n", "every image has a label; received none in row 0"),
        ('image,label\n"0.png,a\n', "a CSV is a text file"),
        (b"\xff\xfe\x00", "a CSV is a text file"),
    ],
)
def test_a_wrong_csv_is_told_in_one_line(text, words, tmp_path):
    pictures(tmp_path)
    (tmp_path / "in.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert words in refused(CsvSource, tmp_path / "in.csv")


def test_the_fingerprint_of_a_csv_follows_images_and_labels(tmp_path):
    found = set()
    for name, text in (("a", "0.png,a\n1.png,b\n"), ("b", "0.png,b\n1.png,a\n"), ("c", "1.png,a\n0.png,b\n")):
        pictures(tmp_path / name)
        (tmp_path / name / "in.csv").write_text(text)
        found.add(CsvSource(tmp_path / name / "in.csv").fingerprint)
    assert len(found) == 3


# WebDataset


def test_webdataset_writes_what_is_read(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "train-%03d.tar"), maxcount=2, verbose=0) as writer:
        for number, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
            writer.write({"__key__": f"s{number}", "png": encoded(pixels), "cls": label})
    for given in ("train-*.tar", "train-{000..002}.tar", ["train-000.tar", "train-{001,002}.tar"]):
        spec = resolve_data(DataSpec(train=given, validation={"last": 2}), tmp_path)
        splits = Splits(spec, (8, 8), 3)
        assert splits.train.labels.tolist() == LABELS[:4] and splits.validation.labels.tolist() == LABELS[4:]
        assert np.array_equal(splits.validation.images()[1].permute(1, 2, 0).numpy(), PIXELS[5])


def test_wrong_tars_are_told_in_one_line(tmp_path):
    path = write_tar(tmp_path, ending="note")
    assert "every sample has its label; received none of d/000 in" in refused(WebDatasetSource, path)
    assert len(WebDatasetSource(path, labelled=False).labels) == 6
    assert "no webp of d/000" in refused(WebDatasetSource, path, columns=Columns(image="webp"))
    assert WebDatasetSource(path, columns=Columns(label="note")).class_names == NAMES
    assert "holds one of label" in refused(WebDatasetSource, write_tar(tmp_path, ["{}"] * 6, "json"))
    (tmp_path / "x.tar").write_bytes(b"no tar" * 200)
    assert "uncompressed tar file" in refused(WebDatasetSource, tmp_path / "x.tar")


# classes


@pytest.mark.parametrize("form", FORMS)
def test_classes_give_order_and_subset_in_every_form(form, tmp_path):
    path = FORMS[form](tmp_path)
    spec = DataSpec(train=str(path), validation=1, classes=("cat", "ant"))
    splits = Splits(resolve_data(spec, tmp_path), (8, 8), 3)
    source = splits.train.source
    assert source.class_names == ["cat", "ant"] and len(source.labels) == 4 == len(splits.train) + 1
    found = {np.asarray(source.read(row)).tobytes(): int(source.labels[row]) for row in range(4)}
    wanted = {"cat": 0, "ant": 1}
    assert found == {one.tobytes(): wanted[word] for one, word in zip(PIXELS, WORDS, strict=True) if word in wanted}
    assert any("2 images of classes that data.classes leaves out, bee, in" in note for note in splits.notes)


def numbered(tmp_path, classes):
    path = write_table(tmp_path, [encoded(one) for one in PIXELS], LABELS)
    return Splits(DataSpec(train=str(path), validation={"last": 1}, classes=classes), (8, 8), 3).train.source


def test_classes_are_the_names_of_numbers_or_some_of_the_numbers(tmp_path):
    named = numbered(tmp_path, tuple(NAMES))
    assert named.class_names == NAMES and named.labels.tolist() == LABELS
    some = numbered(tmp_path, [2, 0])
    assert some.class_names == ["2", "0"] and some.labels.tolist() == [1, 0, 1, 0]
    few = write_table(tmp_path, [encoded(one) for one in PIXELS[:2]], [0, 1], "few.parquet")
    spec = DataSpec(train=str(few), validation={"last": 1}, classes=[2, 0])
    message = refused(Splits, spec, (8, 8), 3)
    assert "validation must leave images" in message, "one image is of a class that was chosen, and none is renamed"
    assert "names every label where labels are numbers; received 2 names, and labels up to 2" in refused(
        numbered, tmp_path, ("ant", "bee")
    )


def test_a_class_without_images_keeps_its_number_and_a_misspelt_one_is_an_error(tmp_path):
    path = write_folder(tmp_path)
    spec = DataSpec(train=str(path), validation=1)
    splits = Splits(spec.model_copy(update={"classes": ("ant", "wolf", "bee", "cat")}), (8, 8), 3)
    assert set(splits.train.source.labels.tolist()) == {0, 2, 3}
    assert any("no image is of wolf" in note for note in splits.notes)
    for classes, words in (
        (("ant", "bees", "cat"), "did you mean 'bee'"),
        (("ant", "ant"), "named once; received ant"),
        (("x", "y"), "names classes of the data; received x, where"),
    ):
        assert words in refused(Splits, spec.model_copy(update={"classes": classes}), (8, 8), 3)


# several paths


def test_several_folders_are_one_part_and_their_classes_are_joined_by_name(tmp_path):
    first = write_folder(tmp_path / "first")
    second = tmp_path / "second"
    (second / "bee").mkdir(parents=True)
    (second / "eel").mkdir()
    extra = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    for name, pixels in zip(("bee", "eel"), extra, strict=True):
        (second / name / "1.png").write_bytes(encoded(pixels))
    spec = DataSpec(train=("first/in", "second"), validation={"last": 1})
    splits = Splits(resolve_data(spec, tmp_path), (8, 8), 3)
    assert splits.train.class_names == [*NAMES, "eel"] and splits.validation.labels.tolist() == [3]
    assert np.array_equal(splits.validation.images()[0].permute(1, 2, 0).numpy(), extra[1])
    twice = resolve_data(DataSpec(train=(str(first), str(first)), validation=1), tmp_path)
    assert "every file of a part is named once" in refused(Splits, twice, (8, 8), 3)


def test_files_that_tell_classes_in_two_ways_are_not_joined(tmp_path):
    images = [encoded(one) for one in PIXELS]
    write_table(tmp_path, images[:3], WORDS[:3], "a.parquet")
    write_table(tmp_path, images[3:], LABELS[3:], "b.parquet")
    spec = resolve_data(DataSpec(train="*.parquet", validation=1), tmp_path)
    assert "all files of a part tell their classes in one way" in refused(Splits, spec, (8, 8), 3)
