"""Images that two parts share, or that are there several times: found by content, in every format."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_forms import FORMS, PIXELS, encoded, refused, write_table
from hypothesis import given, settings
from hypothesis import strategies as st

from sousvit.cache import TensorCache
from sousvit.data import DataSpec, Splits
from sousvit.data import overlap as overlap_module
from sousvit.data.formats.folder import FolderSource
from sousvit.data.formats.idx import write_idx
from sousvit.data.layout import resolve_data
from sousvit.data.overlap import content_ids, keep_copies_together


def others(count, seed=5):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)


@pytest.mark.parametrize("part", ["test", "validation"])
@pytest.mark.parametrize("form", FORMS)
def test_the_same_images_in_two_parts_are_an_error_in_every_form(form, part, tmp_path):
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
    one, two = (FORMS[form](tmp_path / place) for place in ("one", "two"))
    spec = resolve_data(DataSpec(**{"validation": 1, "train": str(one), part: str(two)}), tmp_path)
    message = refused(lambda: Splits(spec, (8, 8), 3).look_at_test())
    assert "the parts of the data share no image; received 6 of the 6 images of" in message
    assert "take them out of one part" in message


def test_idx_images_are_compared_by_their_pixels(tmp_path):
    images = others(8)[..., 0]
    for part, chosen in (("train", images), ("test", images[3:5])):
        write_idx(tmp_path / f"{part}-images.idx.gz", chosen)
        write_idx(tmp_path / f"{part}-labels.idx.gz", np.zeros(len(chosen), np.uint8))
    spec = DataSpec(
        train=str(tmp_path / "train-images.idx.gz"), test=str(tmp_path / "test-images.idx.gz"), validation=2
    )
    assert "2 of the 2 images" in refused(Splits(spec, (8, 8), 1).look_at_test)


def test_an_image_under_another_name_is_found_and_named(tmp_path):
    train, test = FORMS["folder"](tmp_path), tmp_path / "test" / "cat"
    test.mkdir(parents=True)
    (test / "new.png").write_bytes(encoded(others(1)[0]))
    shutil.copy(train / "bee" / "1.png", test / "renamed.jpg")
    spec = DataSpec(train=str(train), test=str(test.parent), validation=1)
    message = refused(Splits(spec, (8, 8), 3).look_at_test)
    assert "1 of the 2 images of" in message and "cat/renamed.jpg is bee/1.png" in message


def test_a_test_file_inside_of_the_training_folder_is_an_error(tmp_path):
    write_table(tmp_path, [encoded(one) for one in PIXELS], name="rows.parquet")
    test = write_table(tmp_path, [encoded(one) for one in others(3)], ["ant"] * 3, "test.parquet")
    spec = DataSpec(format="parquet", train=str(tmp_path), test=str(test), validation=2)
    assert f"3 of the 3 images of {test} also in {tmp_path}" in refused(
        lambda: Splits(resolve_data(spec, tmp_path), (8, 8), 3).look_at_test()
    )
    glob = resolve_data(spec.model_copy(update={"train": "rows*.parquet"}), tmp_path)
    assert len(Splits(glob, (8, 8), 3).look_at_test()) == 3


def test_a_few_shared_images_of_a_large_part_are_a_word(tmp_path):
    images = [bytes([number % 256, number // 256]) for number in range(1500)]
    train = write_table(tmp_path, images, [0] * 1500, "train.parquet")
    fresh = [b"test" + image for image in images]
    for shared, is_error in ((3, False), (4, True)):
        test = write_table(tmp_path, [*images[:shared], *fresh[shared:]], [0] * 1500, "test.parquet")
        splits = Splits(DataSpec(train=str(train), test=str(test), validation=10), (8, 8), 3)
        if is_error:
            assert "4 of the 1500" in refused(splits.look_at_test)
        else:
            splits.look_at_test()
            assert [note for note in splits.notes if note.startswith("3 of the 1500")], splits.notes


def test_copies_are_counted_and_so_are_those_with_two_labels(tmp_path):
    images = [encoded(one) for one in [*PIXELS, PIXELS[0], PIXELS[0], PIXELS[1]]]
    path = write_table(tmp_path, images, [0, 1, 2, 0, 1, 2, 0, 2, 1])
    notes = Splits(DataSpec(train=str(path), validation=1), (8, 8), 3).notes
    assert f"3 of the 9 images of {path} are copies of others in it" in notes
    assert any("3 images of" in note and "with different labels, row 0 among them" in note for note in notes)


@pytest.mark.parametrize("seed", range(5))
def test_copies_are_on_one_side_of_a_random_split(seed, tmp_path):
    images = [encoded(one) for one in np.concatenate([PIXELS, PIXELS, PIXELS, others(12)])]
    path = write_table(tmp_path, images, [0, 1] * 15)
    splits = Splits(DataSpec(train=str(path), validation=9, split_seed=seed), (8, 8), 3)
    sides = [{images[row] for row in part.indices} for part in (splits.train, splits.validation)]
    assert not sides[0] & sides[1] and len(splits.validation) == 9 and len(splits.train) == 21


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=60), st.integers(0, 3), st.data())
def test_no_content_is_on_both_sides_wherever_that_is_possible(contents, seed, data):
    ids = np.array(contents)
    count = data.draw(st.integers(1, len(ids) - 1))
    order = np.random.default_rng(seed).permutation(len(ids))
    held_out, notes = keep_copies_together(count, order, ids)
    rest = np.setdiff1d(order, held_out)
    assert len(set(held_out.tolist())) == len(held_out) <= count and len(rest)
    torn = bool(set(ids[held_out]) & set(ids[rest]))
    assert not torn or "too few others are there to judge on" in notes[0]
    if not set(ids[order[:count]]) & set(ids[order[count:]]):
        assert (held_out == order[:count]).all() and not notes, "a split that was right stays as it was"


def test_the_last_rows_have_no_copies_before_them(tmp_path):
    images = [encoded(one) for one in [*PIXELS, PIXELS[2]]]
    path = write_table(tmp_path, images, [0] * 7)
    message = refused(Splits, DataSpec(train=str(path), validation={"last": 2}), (8, 8), 3)
    assert "1 of the last 2 images" in message and "write validation: as a share or count" in message


def test_files_with_one_size_and_one_end_are_told_apart(tmp_path):
    (tmp_path / "a").mkdir()
    tail = b"x" * (overlap_module.TAIL + 10)
    for name, head in (("1", b"one"), ("2", b"two"), ("3", b"one"), ("4", b"four")):
        (tmp_path / "a" / f"{name}.png").write_bytes(head + tail)
    [ids] = content_ids([FolderSource(tmp_path)])
    assert ids[0] == ids[2] and len(set(ids.tolist())) == 3


def test_what_was_read_of_many_images_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(overlap_module, "WORTH_KEEPING", 3)
    source, cache = FolderSource(FORMS["folder"](tmp_path / "data")), TensorCache(tmp_path / "cache")
    [first] = content_ids([source], cache)
    source = FolderSource(tmp_path / "data" / "in")
    monkeypatch.setattr(overlap_module, "_ending", lambda *_: pytest.fail("read again"))
    assert np.array_equal(content_ids([source], cache)[0], first)


@pytest.mark.slow
def test_fifty_thousand_images_are_compared_in_some_seconds(tmp_path):
    noise = np.random.default_rng(0).bytes(50_000 * 2000)
    for number in range(50_000):
        if number % 500 == 0:
            (tmp_path / str(number)).mkdir()
        data = noise[number * 2000 : number * 2000 + 1500 + number % 500]
        (tmp_path / str(number // 500 * 500) / f"{number}.png").write_bytes(data)
    source = FolderSource(tmp_path)
    begun = time.perf_counter()
    [ids] = content_ids([source])
    taken = time.perf_counter() - begun
    print(f"{taken:.1f} s")
    assert len(set(ids.tolist())) == 50_000 and taken < 30, "about 3 s on a free machine"


def test_a_table_in_memory_is_compared_fast(tmp_path):
    images = [number.to_bytes(4, "little") * 200 for number in range(20_000)]
    pq.write_table(pa.table({"image": images, "label": [0] * 20_000}), tmp_path / "a.parquet")
    begun = time.perf_counter()
    splits = Splits(DataSpec(train=str(tmp_path / "a.parquet")), (8, 8), 3)
    assert len(splits.validation) == 2000 and time.perf_counter() - begun < 10
