from __future__ import annotations

import gzip
import io
import shutil
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sousvit.checked import validated
from sousvit.data import DataSpec, ImageSet, Splits
from sousvit.data import source as source_module
from sousvit.data.formats.folder import FolderSource
from sousvit.data.formats.idx import IdxSource, read_idx, write_idx
from sousvit.data.formats.parquet import ParquetSource
from sousvit.data.formats.torchvision_sets import TorchvisionSource
from sousvit.data.source import decode_image, require_labels
from sousvit.errors import UnknownNameError, UserError
from sousvit.models.preprocess import Preprocess


def refused(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message and " at 0x" not in message
    return message


def encoded(array, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


def colours(count, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def write_parquet(path, images, labels, struct_column=False, names=("image", "label")):
    values = [{"bytes": data, "path": None} for data in images] if struct_column else images
    pq.write_table(pa.table({names[0]: values, names[1]: labels}), path)
    return path


def write_pair(folder, count=20, name="train-images.idx.gz", seed=0, labels=None, images=None):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 8, 8)).astype(np.uint8) if images is None else images
    labels = (np.arange(count) % 4).astype(np.uint8) if labels is None else labels
    write_idx(folder / name, images)
    write_idx(folder / name.replace("images", "labels"), labels)
    return folder / name


def idx_spec(folder, **changes):
    return DataSpec(**{"format": "idx", "train": str(write_pair(folder)), "validation": 5, **changes})


# parquet


@pytest.mark.parametrize("struct_column", [False, True], ids=["plain bytes", "struct with bytes and path"])
def test_parquet_gives_the_pixels_and_labels_back(tmp_path, struct_column):
    pixels = colours(5)
    path = write_parquet(tmp_path / "a.parquet", [encoded(array) for array in pixels], [0, 1, 2, 0, 1], struct_column)
    source = ParquetSource(path)
    assert source.labels.tolist() == [0, 1, 2, 0, 1]
    images = ImageSet(source, np.arange(5), (8, 8)).images()
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), pixels)


def test_a_folder_of_parquet_files_is_read_in_name_order(tmp_path):
    for name, label in (("b.parquet", 1), ("a.parquet", 0)):
        write_parquet(tmp_path / name, [encoded(colours(1)[0])] * 2, [label] * 2)
    assert ParquetSource(tmp_path).labels.tolist() == [0, 0, 1, 1]


def test_wrong_parquet_is_told_in_one_line(tmp_path):
    good = encoded(colours(1)[0])
    assert "columns image and label" in refused(
        ParquetSource, write_parquet(tmp_path / "a", [good], [0], names=("img", "kind"))
    )
    assert "encoded image bytes" in refused(ParquetSource, write_parquet(tmp_path / "b", ["text"], [0]))
    table = pa.table({"image": [{"path": "x.png"}], "label": [0]})
    pq.write_table(table, tmp_path / "c")
    assert "'x.png' in" in refused(ParquetSource, tmp_path / "c")
    assert "encoded image bytes" in refused(ParquetSource, write_parquet(tmp_path / "h", [1.5], [0]))
    (tmp_path / "d").write_bytes(b"PAR1 no parquet")
    assert "must be readable" in refused(ParquetSource, tmp_path / "d")
    assert "must exist" in refused(ParquetSource, tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "must exist" in refused(ParquetSource, tmp_path / "empty")
    assert "smallest -1" in refused(ParquetSource, write_parquet(tmp_path / "e", [good], [-1]))
    assert "none in row 1" in refused(ParquetSource, write_parquet(tmp_path / "f", [good, good], [0, None]))
    assert "must hold images" in refused(
        ParquetSource, write_parquet(tmp_path / "g", pa.array([], pa.binary()), pa.array([], pa.int64()))
    )


@pytest.mark.parametrize("struct_column", [False, True])
def test_a_corrupt_row_is_named(tmp_path, struct_column):
    whole = encoded(colours(1, size=64)[0], "JPEG")
    rows = [whole, whole[: len(whole) // 2], b"junk", None]
    source = ParquetSource(write_parquet(tmp_path / "a.parquet", rows, [0, 0, 0, 0], struct_column))
    source.read(0)
    for row in (1, 2, 3):
        assert f"a.parquet row {row}" in refused(source.read, row)
    assert "row 1" in refused(ImageSet(source, np.arange(4), (64, 64)).images)


# IDX


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "train-images-idx3-ubyte", "images"])
def test_idx_gzip_and_plain(tmp_path, name):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 4)).astype(np.uint8)
    path = tmp_path / name
    write_idx(path, pixels)
    labels = path.with_name(name.replace("images", "labels").replace("idx3", "idx1"))
    write_idx(labels, np.arange(6, dtype=np.uint8))
    if not name.endswith("gz"):
        for file in (path, labels):
            file.write_bytes(gzip.decompress(file.read_bytes()))
    source = IdxSource(path)
    images = ImageSet(source, np.arange(6), (5, 4), 1).images()
    np.testing.assert_array_equal(images[:, 0].numpy(), pixels)


def test_idx_colour(tmp_path):
    pixels = colours(3)
    source = IdxSource(write_pair(tmp_path, images=pixels, labels=np.zeros(3)))
    np.testing.assert_array_equal(ImageSet(source, np.arange(3), (8, 8)).images().permute(0, 2, 3, 1).numpy(), pixels)


def test_writing_idx_twice_gives_the_same_bytes(tmp_path):
    for name in "ab":
        write_idx(tmp_path / name, np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("keep", [0, 1, 3, 10, 200])
@pytest.mark.parametrize("zipped", [True, False])
def test_an_idx_file_cut_short_is_refused(tmp_path, keep, zipped):
    path = write_pair(tmp_path)
    data = path.read_bytes() if zipped else gzip.decompress(path.read_bytes())
    path.write_bytes(data[:keep])
    assert "must be whole" in refused(read_idx, path)


def test_wrong_idx_is_told_in_one_line(tmp_path):
    path = write_pair(tmp_path)
    path.write_bytes(b"PK\x03\x04 other bytes")
    assert "no header of unsigned bytes" in refused(IdxSource, path)
    path.write_bytes(struct.pack(">HBB", 0, 0x08, 3) + struct.pack(">3I", 2**31, 2**31, 2**31))
    assert "must be whole" in refused(IdxSource, path)
    assert "20 and 19" in refused(IdxSource, write_pair(tmp_path, labels=np.zeros(19)))
    assert "[N, H, W]" in refused(IdxSource, write_pair(tmp_path, images=np.zeros((20, 64))))
    assert "IDX labels are [N]" in refused(IdxSource, write_pair(tmp_path, labels=np.zeros((20, 1))))
    assert "name the file whose name says images" in refused(IdxSource, tmp_path / "train-labels.idx.gz")
    (tmp_path / "train-labels.idx.gz").unlink()
    assert "no file" in refused(IdxSource, path)


# folders


def write_folder(root, classes, count=3):
    for position, name in enumerate(classes):
        (root / name / "deeper").mkdir(parents=True)
        for index in range(count):
            Image.fromarray(colours(1, seed=position * 10 + index)[0]).save(root / name / "deeper" / f"{index}.png")
    return root


def test_folders_are_classes_in_name_order(tmp_path):
    write_folder(tmp_path, ["dog", "cat"])
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    source = FolderSource(tmp_path)
    assert source.class_names == ["cat", "dog"]
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(np.array(source.read(3)), colours(1, seed=0)[0])


def test_wrong_folders_are_told_in_one_line(tmp_path):
    assert "must hold images" in refused(FolderSource, tmp_path)
    write_folder(tmp_path, ["cat"])
    (tmp_path / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    source = FolderSource(tmp_path)
    assert "broken.jpg" in refused(source.read, 0)
    (tmp_path / "cat" / "broken.jpg").unlink()
    assert "broken.jpg: No such file" in refused(source.read, 0)
    assert "must be a folder" in refused(FolderSource, tmp_path / "cat" / "deeper" / "0.png")


def test_the_fingerprint_follows_the_content_and_not_the_copy(tmp_path):
    write_folder(tmp_path / "here", ["cat"])
    before = FolderSource(tmp_path / "here").fingerprint
    there = shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copyfile)
    assert FolderSource(there).fingerprint == before, "a copy on another machine, with other times"
    file = there / "cat" / "deeper" / "0.png"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert FolderSource(there).fingerprint != before


def test_parts_with_other_class_folders_are_refused(tmp_path):
    train, other = write_folder(tmp_path / "train", ["cat", "dog"]), write_folder(tmp_path / "val", ["dog", "emu"])
    spec = DataSpec(format="folder", train=str(train), validation=str(other))
    assert "same classes; received emu in" in refused(Splits, spec, (8, 8), 3)
    splits = Splits(spec.model_copy(update={"validation": 2, "test": str(other)}), (8, 8), 3)
    assert "same classes; received emu in" in refused(splits.open_test)
    assert splits.test_reads == 0


def test_nested_folders_share_images(tmp_path):
    write_folder(tmp_path / "all" / "test", ["cat", "dog"])
    write_folder(tmp_path / "all" / "more", ["cat"])
    spec = DataSpec(
        format="folder", train=str(tmp_path / "all"), test=str(tmp_path / "all" / "test"), labels=False, validation=2
    )
    assert "share no image; received 6 of the 6 images" in refused(Splits(spec, (8, 8), 3).look_at_test)


def test_the_test_split_is_none_of_the_other_parts(tmp_path):
    spec = idx_spec(tmp_path)
    splits = Splits(spec.model_copy(update={"test": spec.train}), (8, 8), 1)
    assert "data of its own" in refused(splits.open_test) and splits.test_reads == 0


# torchvision


@pytest.fixture
def mnist_root(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("t10k", 12)):
        for name, array in (
            (f"{part}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)),
            (f"{part}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8)),
        ):
            write_idx(raw / name, array)
            (raw / name).write_bytes(gzip.decompress((raw / name).read_bytes()))
    return tmp_path


def test_a_torchvision_set_is_read_from_local_files(mnist_root):
    splits = Splits(DataSpec(format="torchvision", name="MNIST", root=str(mnist_root), validation=10), (28, 28), 1)
    assert (len(splits.train), len(splits.validation), splits.num_classes) == (20, 10, 10)
    test = splits.open_test()
    np.testing.assert_array_equal(
        test.images()[:, 0].numpy(), read_idx(mnist_root / "MNIST" / "raw" / "t10k-images-idx3-ubyte")
    )
    assert test.labels.tolist() == [*range(10), 0, 1]


def test_the_torchvision_fingerprint_depends_on_the_content(mnist_root):
    before = TorchvisionSource("MNIST", mnist_root, True).fingerprint
    path = mnist_root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    assert before != TorchvisionSource("MNIST", mnist_root, True).fingerprint
    assert before != TorchvisionSource("MNIST", mnist_root, False).fingerprint


def test_wrong_torchvision_data_is_told_in_one_line(tmp_path):
    assert "must lie in its folder" in refused(TorchvisionSource, "CIFAR10", tmp_path / "absent", True)
    assert "must lie in its folder" in refused(TorchvisionSource, "MNIST", tmp_path, True)
    assert "needs a train and a test part; received FakeData" in refused(TorchvisionSource, "FakeData", tmp_path, True)
    with pytest.raises(UnknownNameError, match="did you mean 'CIFAR10'"):
        TorchvisionSource("CIFAR-10", tmp_path, True)
    assert "needs name and root" in refused(Splits, DataSpec(format="torchvision", name="MNIST"), (28, 28), 1)


# splits


def rows(image_set):
    return set(image_set.indices.tolist())


@settings(deadline=None)  # a busy machine
@given(count=st.integers(1, 19), seed=st.integers(0, 3))
def test_train_and_validation_share_nothing_and_miss_nothing(tmp_path_factory, count, seed):
    folder = tmp_path_factory.mktemp("splits")
    splits = Splits(idx_spec(folder, validation=count, split_seed=seed), (8, 8), 1)
    assert len(splits.validation) == count
    assert not rows(splits.train) & rows(splits.validation)
    assert rows(splits.train) | rows(splits.validation) == set(range(20))
    again = Splits(idx_spec(folder, validation=count, split_seed=seed), (8, 8), 1)
    assert rows(again.validation) == rows(splits.validation)
    assert again.fingerprint == splits.fingerprint


def test_another_seed_draws_other_rows(tmp_path):
    drawn = [rows(Splits(idx_spec(tmp_path, split_seed=seed), (8, 8), 1).validation) for seed in range(4)]
    assert len(set(map(frozenset, drawn))) > 1


def test_last_rows_fraction_and_own_path(tmp_path):
    last = Splits(idx_spec(tmp_path, validation={"last": 3}), (8, 8), 1)
    assert last.validation.indices.tolist() == [17, 18, 19] and last.train.indices.tolist() == list(range(17))
    assert len(Splits(idx_spec(tmp_path, validation=0.25), (8, 8), 1).validation) == 5
    assert len(Splits(idx_spec(tmp_path, validation=0.001), (8, 8), 1).validation) == 1
    own = str(write_pair(tmp_path, 7, "val-images.idx.gz", seed=9))
    splits = Splits(idx_spec(tmp_path, validation=own), (8, 8), 1)
    assert (len(splits.train), len(splits.validation)) == (20, 7)


def test_validation_cannot_be_the_training_or_the_test_file(tmp_path):
    test = str(write_pair(tmp_path, 7, "test-images.idx.gz"))
    train = str(tmp_path / "train-images.idx.gz")
    assert "data of its own" in refused(Splits, idx_spec(tmp_path, test=test, validation=test), (8, 8), 1)
    assert "data of its own" in refused(Splits, idx_spec(tmp_path, test=test, validation=train), (8, 8), 1)


@pytest.mark.parametrize("validation", [20, 21, {"last": 20}])
def test_validation_must_leave_images(tmp_path, validation):
    assert "must leave images to train on" in refused(Splits, idx_spec(tmp_path, validation=validation), (8, 8), 1)


@pytest.mark.parametrize("validation", [0, -1, 1.0, 1.5, 0.0, {"last": 0}, {"first": 3}, [3]])
def test_senseless_validation_is_refused(validation):
    assert "data: validation" in refused(validated, DataSpec, {"format": "idx", "validation": validation}, "data")


def test_limit_train_takes_fewer_images_and_the_same_validation(tmp_path):
    full, few = (Splits(idx_spec(tmp_path, limit_train=limit), (8, 8), 1) for limit in (None, 6))
    assert len(few.train) == 6 and rows(few.train) < rows(full.train)
    assert rows(few.validation) == rows(full.validation)
    assert len(Splits(idx_spec(tmp_path, limit_train=500), (8, 8), 1).train) == 15


def test_calibration_is_drawn_from_training_images(tmp_path):
    splits = Splits(idx_spec(tmp_path, calibration=4), (8, 8), 1)
    assert len(splits.calibration()) == 4 and rows(splits.calibration()) < rows(splits.train)


def test_the_test_split_is_opened_when_asked_and_counted(tmp_path):
    test = write_pair(tmp_path, 7, "test-images.idx.gz", seed=9)
    saved = test.read_bytes()
    test.write_bytes(b"unreadable")
    splits = Splits(idx_spec(tmp_path, test=str(test)), (8, 8), 1)
    assert splits.test_reads == 0
    assert "must be whole" in refused(splits.open_test)
    test.write_bytes(saved)
    assert len(splits.open_test()) == 7
    assert len(splits.open_test()) == 7
    assert splits.test_reads == 2


def test_missing_paths_are_told_in_one_line(tmp_path):
    assert "add data.train" in refused(Splits, DataSpec(format="idx"), (8, 8), 1)
    assert "must exist" in refused(Splits, DataSpec(format="folder", train=str(tmp_path / "x")), (8, 8), 1)
    assert "add data.test" in refused(Splits(idx_spec(tmp_path), (8, 8), 1).open_test)


@pytest.mark.parametrize(
    "values",
    [
        {"format": "idx", "name": "MNIST"},
        {"format": "parquet", "images": "."},
        {"format": "idx", "columns": {"label": "y"}},
        {"format": "torchvision", "train": "x"},
        {"format": "torchvision", "validation": "path"},
    ],
)
def test_keys_that_the_format_would_ignore_are_refused(values):
    assert "must suit format" in refused(validated, DataSpec, values, "data")


def test_paths_are_resolved_against_the_files_folder(tmp_path):
    spec = DataSpec(format="idx", train="a", test="/b", validation="c").resolved(tmp_path)
    assert (spec.train, spec.test, spec.validation) == (str(tmp_path / "a"), "/b", str(tmp_path / "c"))
    assert DataSpec(format="idx", train="a", validation=3).resolved(tmp_path).validation == 3


# image sets


@pytest.fixture
def image_set(tmp_path):
    return ImageSet(IdxSource(write_pair(tmp_path)), np.arange(20), (8, 8), 1)


def test_sets_too_large_for_memory_give_the_same_pixels(image_set, monkeypatch):
    positions = torch.tensor([3, 0, 19])
    cached = image_set.images()[positions]
    monkeypatch.setattr(source_module, "CACHE_BYTES", 0)
    streamed = ImageSet(image_set.source, image_set.indices, (8, 8), 1)
    assert torch.equal(streamed.images(positions), cached)
    assert streamed._cache is None
    assert torch.equal(streamed.subset([3, 0, 19]).images(), cached)


def test_subsets_keep_labels_pixels_and_order(image_set):
    subset = image_set.subset([5, 2])
    assert subset.labels.tolist() == [1, 2]
    assert torch.equal(subset.images(), image_set.images()[[5, 2]])
    assert torch.equal(image_set.subset([5, 2]).images(), subset.images()), "from the cache"
    assert len(image_set.head(3)) == 3 and image_set.head(100) is image_set
    spread = image_set.spread(6, seed=1)
    assert len(rows(spread)) == 6 and rows(spread) == rows(image_set.spread(6, seed=1))


def test_fingerprints_tell_selections_and_sizes_apart(image_set):
    source, indices = image_set.source, image_set.indices
    others = [image_set.head(19), ImageSet(source, indices, (9, 8), 1), ImageSet(source, indices, (8, 8), 3)]
    fingerprints = {image_set.fingerprint, *(other.fingerprint for other in others)}
    assert len(fingerprints) == 4
    assert ImageSet(source, indices, (8, 8), 1).fingerprint == image_set.fingerprint


@pytest.mark.parametrize(("size", "channels"), [((8, 8), 3), ((16, 8), 1), ((5, 7), 3), ((80, 80), 1)])
def test_images_are_fitted_to_the_model(image_set, size, channels):
    fitted = ImageSet(image_set.source, image_set.indices, size, channels).images()
    assert fitted.shape == (20, channels, *size) and fitted.dtype == torch.uint8


def test_the_centre_is_kept_and_nothing_stretched():
    array = np.zeros((10, 30), np.uint8)
    array[:, 10:20] = 255
    assert np.array(Preprocess().fit(Image.fromarray(array), (10, 10), 1)).min() == 255


def test_any_mode_becomes_grey_or_rgb():
    for mode in ("1", "L", "P", "RGBA", "CMYK", "LA"):
        image = Image.new(mode, (4, 4))
        assert Preprocess().fit(image, (4, 4), 3).mode == "RGB" and Preprocess().fit(image, (4, 4), 1).mode == "L"


@given(st.binary(max_size=64))
def test_no_bytes_crash_the_decoder(data):
    assert "here" in refused(decode_image, data, "here")


def test_a_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert "here" in refused(decode_image, encoded(colours(1)[0]), "here")


@pytest.mark.parametrize("labels", [[], [-1, 0], [0.5], ["a"], [True], [None]])
def test_labels_must_be_whole_numbers_from_zero(labels):
    assert "here" in refused(require_labels, labels, "here")
