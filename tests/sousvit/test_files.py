from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sousvit.errors import UserError
from sousvit.files import (
    canonical_json,
    content_hash,
    disk_errors_as_user_errors,
    file_hash,
    files_hash,
    write_atomic,
)

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


def test_text_and_bytes_are_written_into_new_folders(tmp_path):
    write_atomic(tmp_path / "a" / "b" / "text", "grüße")
    write_atomic(tmp_path / "bytes", b"\x00\xff")
    assert (tmp_path / "a" / "b" / "text").read_text(encoding="utf-8") == "grüße"
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"


def test_the_old_file_stays_when_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"disk must have free space; received .*file .*No space left.*free some space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"], "no temporary file is left behind"


def test_the_old_file_stays_when_the_program_is_stopped(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, "old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_path_below_a_file_or_onto_a_folder_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="must be a folder"):
        write_atomic(tmp_path / "file" / "below", "x")
    with pytest.raises(UserError, match="must be a folder"):
        write_atomic(tmp_path / "file" / "below" / "deeper", "x")
    with pytest.raises(UserError, match="must be a file"):
        write_atomic(tmp_path / "folder", "x")
    with pytest.raises(UserError, match="too long"):
        write_atomic(tmp_path / ("x" * 300), "x")


@pytest.mark.parametrize(
    "number",
    [errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EFBIG, errno.ENOENT],
)
def test_other_disk_refusals_are_user_errors(tmp_path, number):
    with pytest.raises(UserError), disk_errors_as_user_errors(tmp_path):
        raise OSError(number, "no")


def test_an_unknown_disk_error_is_not_dressed_up(tmp_path):
    with pytest.raises(OSError, match="interrupted"), disk_errors_as_user_errors(tmp_path):
        raise OSError(errno.EINTR, "interrupted")


@given(PLAIN)
def test_canonical_json_is_json_of_the_same_value(value):
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), st.integers()))
def test_key_order_does_not_matter(value):
    turned = dict(reversed(list(value.items())))
    assert canonical_json(turned) == canonical_json(value)
    assert content_hash(turned) == content_hash(value)


@given(st.lists(st.binary() | st.text(), max_size=4), st.lists(st.binary() | st.text(), max_size=4))
def test_different_parts_have_different_hashes(first, second):
    assert (content_hash(*first) == content_hash(*second)) == (first == second)


def test_parts_do_not_run_together():
    assert content_hash(b"a\0b") != content_hash(b"a", b"b")
    assert content_hash("a") != content_hash(b'"a"')


def test_numpy_values_hash_as_numbers_and_sets_in_any_order():
    assert canonical_json({"a": np.int64(3), "b": np.float32(0.5), "c": np.arange(2)}) == '{"a":3,"b":0.5,"c":[0,1]}'
    assert canonical_json({"b", "a", "c"}) == '["a","b","c"]'


def test_hashes_are_the_same_in_every_process():
    code = "from sousvit.files import content_hash; print(content_hash({'x': {'a', 'b', 'c'}, 'y': 1.5}, b'z'))"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert hashes == {f"{content_hash({'x': {'a', 'b', 'c'}, 'y': 1.5}, b'z')}\n".encode()}


def test_file_hash_depends_on_the_bytes_only(tmp_path):
    for name, content in (("a", b"1" * 3_000_000), ("b", b"1" * 3_000_000), ("c", b"1" * 2_999_999 + b"2")):
        (tmp_path / name).write_bytes(content)
    assert file_hash(tmp_path / "a") == file_hash(tmp_path / "b") != file_hash(tmp_path / "c")


def test_of_many_bytes_only_some_files_are_hashed_whole(tmp_path):
    files = {name: tmp_path / name for name in "abcd"}
    for file in files.values():
        file.write_bytes(b"12345678")
    whole, part = files_hash(files), files_hash(files, most=16)
    files["b"].write_bytes(b"12345679")
    assert files_hash(files) != whole
    assert files_hash(files, most=16) == part, "every second one is read"
    files["b"].write_bytes(b"123456789")
    assert files_hash(files, most=16) != part, "another size is always seen"


def test_a_file_that_is_gone_is_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"every file must be readable.*gone\.jpg"):
        files_hash({"gone.jpg": tmp_path / "gone.jpg"})
