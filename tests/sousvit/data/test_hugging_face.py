"""Data sets of the library ``datasets`` in memory, and what ``sousvit.compress`` makes of data of every kind."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
from data_forms import LABELS, NAMES, PIXELS, WORDS, encoded, hugging_face, pictures, refused, write, write_table
from PIL import Image

from sousvit.data import Splits
from sousvit.data.dataset import write_dataset
from sousvit.data.formats.parquet import ParquetSource
from sousvit.data.hugging_face import write_hugging_face
from sousvit.inputs import data_input


def test_a_data_set_is_written_as_it_is_encoded_with_its_names(tmp_path):
    path = write_hugging_face(hugging_face(), tmp_path, "train")
    source = ParquetSource(path)
    assert source.class_names == NAMES and source.labels.tolist() == LABELS
    assert [source.content(row) for row in range(6)] == [encoded(one) for one in PIXELS]
    before = path.stat().st_mtime_ns
    assert write_hugging_face(hugging_face(), tmp_path, "train").stat().st_mtime_ns == before, "written once"
    other = write_hugging_face(hugging_face(datasets.ClassLabel(names=["x", "y", "z"])), tmp_path, "train")
    assert other != path, "other names are another file"


@pytest.mark.parametrize("label", [datasets.Value("int64"), datasets.ClassLabel(names=NAMES)])
def test_labels_may_be_numbers_words_or_classes(label, tmp_path):
    source = ParquetSource(write_hugging_face(hugging_face(label), tmp_path, "train"))
    assert source.labels.tolist() == LABELS
    words = hugging_face().remove_columns("label").add_column("label", WORDS)
    assert ParquetSource(write_hugging_face(words, tmp_path, "words")).class_names == NAMES


def test_chosen_rows_transforms_and_files(tmp_path, monkeypatch):
    monkeypatch.setattr("sousvit.data.hugging_face.GROUP", 2)
    chosen = hugging_face().select([5, 0, 2])
    chosen.set_transform(lambda batch: {"image": [torch.zeros(3)] * 3, "label": batch["label"]})
    source = ParquetSource(write_hugging_face(chosen, tmp_path, "train"))
    assert source.labels.tolist() == [2, 0, 2] and np.array_equal(np.asarray(source.read(0)), PIXELS[5])
    names = [str(tmp_path / name) for name in pictures(tmp_path)]
    files = datasets.Dataset.from_dict({"image": names, "label": LABELS}).cast_column("image", datasets.Image())
    assert np.array_equal(np.asarray(ParquetSource(write_hugging_face(files, tmp_path, "f")).read(3)), PIXELS[3])


def test_wrong_data_sets_are_told_in_one_line(tmp_path):
    text = datasets.Dataset.from_dict({"text": ["a"], "label": [0]})
    assert "received text (Value), label (Value) in the train data set" in refused(
        write_hugging_face, text, tmp_path, "train"
    )
    streamed = hugging_face().to_iterable_dataset()
    assert "load it without streaming" in refused(write_hugging_face, streamed, tmp_path, "train")
    assert "load it without streaming" in refused(data_input, streamed, None, None, tmp_path)
    unlabelled = hugging_face(datasets.Value("int64")).remove_columns("label").add_column("label", [-1] * 6)
    assert "whole numbers from 0" in refused(write_hugging_face, unlabelled, tmp_path, "test")
    assert "received none in the train data set" in refused(
        write_hugging_face, hugging_face().select([]), tmp_path, "train"
    )


def test_a_dictionary_of_data_sets_holds_all_parts(tmp_path):
    parts = hugging_face().train_test_split(test_size=2, seed=0)
    spec = data_input(parts, 1, None, tmp_path)
    splits = Splits(spec, (8, 8), 3)
    assert (len(splits.train), len(splits.validation), len(splits.open_test())) == (3, 1, 2)
    assert splits.train.class_names == NAMES
    both = datasets.DatasetDict({"train": parts["train"], "valid": parts["test"]})
    assert data_input(both, None, None, tmp_path).validation.endswith(".parquet")
    assert "holds one called train; received all" in refused(
        data_input, datasets.DatasetDict({"all": hugging_face()}), None, None, tmp_path
    )
    assert "names all parts of the data" in refused(data_input, parts, None, parts["test"], tmp_path)


def test_a_torch_data_set_brings_its_class_names(tmp_path):
    class Animals(list):
        """As torchvision's: ``classes`` beside the items."""

        classes = NAMES

    items = Animals((Image.fromarray(one), label) for one, label in zip(PIXELS, LABELS, strict=True))
    for given in (items, torch.utils.data.Subset(items, range(6))):
        assert ParquetSource(write_dataset(given, tmp_path, "train")).class_names == NAMES
    bare = write_dataset(list(items), tmp_path / "old", "train")
    assert ParquetSource(bare).class_names == []
    assert write_dataset(items, tmp_path / "old", "train") == bare, "a run that began without names goes on"


def test_paths_lists_and_data_sets_go_together(tmp_path):
    root = write(tmp_path / "folders", "ant/a.png", "bee/b.png", "cat/c.png", seed=40)
    table = write_table(tmp_path, [encoded(one) for one in PIXELS])
    spec = data_input(table, 2, str(root), tmp_path / "inputs")
    assert spec.format is None and Splits(spec, (8, 8), 3).look_at_test().labels.tolist() == [0, 1, 2]
    spec = data_input([root, table], 2, None, tmp_path / "inputs")
    assert len(Splits(spec, (8, 8), 3).train) == 7
    spec = data_input(hugging_face(), 2, root, tmp_path / "inputs")
    assert Splits(spec, (8, 8), 3).look_at_test().labels.tolist() == [0, 1, 2]
    assert data_input(str(tmp_path / "*.parquet"), 2, None, tmp_path).format == "parquet"


def test_one_root_from_python(tmp_path):
    for number, part in enumerate(("train", "val", "test")):
        write(tmp_path / "pets" / part, "cat/1.png", "dog/1.png", seed=10 * number)
    spec = data_input(tmp_path / "pets", None, None, tmp_path)
    assert spec.test == str(tmp_path / "pets" / "test") and spec.validation == str(tmp_path / "pets" / "val")
