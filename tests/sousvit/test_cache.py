"""Entries of the tensor cache: read back whole, bounded, rebuilt when damaged."""

from __future__ import annotations

import errno
import os
import time

import pytest
import torch

from sousvit.cache import TensorCache
from sousvit.errors import SharedInputError
from sousvit.store import Store

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "half": torch.ones(3, dtype=torch.float16),
    "count": torch.tensor(7),
    "yes": torch.tensor([True, False]),
    "none": torch.empty(0, 4),
}


def equal(one, two) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_an_entry_comes_back_with_its_notes(tmp_path):
    cache = TensorCache(tmp_path / "new")
    assert cache.read("x") is None
    cache.write("models/x", TENSORS, {"widths": [1, 2]})
    tensors, notes = TensorCache(tmp_path / "new").read("models/x")
    assert equal(tensors, TENSORS) and notes == {"widths": [1, 2]}
    cache.forget("models/x")
    assert cache.read("models/x") is None


def test_a_transposed_tensor_is_kept_by_its_values(tmp_path):
    cache = TensorCache(tmp_path)
    cache.write("x", {"t": torch.arange(6.0).reshape(2, 3).T})
    assert torch.equal(cache.read("x")[0]["t"], torch.arange(6.0).reshape(2, 3).T)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "notes"])
def test_a_damaged_entry_is_a_miss_and_makes_room_for_another(damage, tmp_path):
    cache = TensorCache(tmp_path)
    cache.write("x", TENSORS, {"n": 1})
    [file] = tmp_path.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[-30] ^= 1  # safetensors itself would not notice
    elif damage == "notes":
        data = data.replace(b'\\"n\\": 1', b'\\"n\\": 2')
    else:
        data = {"cut": data[:-9], "empty": b"", "text": b"not tensors at all"}[damage]
    assert bytes(data) != file.read_bytes()
    file.write_bytes(data)
    assert cache.read("x") is None and not file.exists()
    cache.write("x", TENSORS)
    assert equal(cache.read("x")[0], TENSORS)


def test_the_least_recently_used_goes_first_and_the_newest_stays(tmp_path):
    size = 40_000
    cache = TensorCache(tmp_path, max_bytes=3.5 * size)
    for number in range(3):
        cache.write(f"part/{number}", {"x": torch.full((size // 4,), float(number))})
        os.utime(tmp_path / "part" / f"{number}.safetensors", (number, number))
    assert cache.read("part/0") is not None  # used again, so 1 is now the oldest
    cache.write("other", {"x": torch.zeros(size // 4)})
    assert [cache.read(key) is not None for key in ("part/0", "part/1", "part/2", "other")] == [True, False, True, True]
    cache.write("huge", {"x": torch.zeros(2 * size)})
    assert cache.read("huge") is not None and cache.read("other") is None


def test_a_small_entry_stays_whatever_its_age(tmp_path):
    cache = TensorCache(tmp_path, max_bytes=1000)
    cache.write("decision", {}, {"chosen": "this"})
    os.utime(tmp_path / "decision.safetensors", (0, 0))
    cache.write("large", {"x": torch.zeros(10_000)})
    assert cache.read("decision") == ({}, {"chosen": "this"})


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    import fcntl

    def unsupported(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    held = []
    with TensorCache(tmp_path).claim("models/x", lambda: None), TensorCache(tmp_path).claim("models/x", lambda: None):
        held.append("both")
    assert held == ["both"]


def test_a_claim_is_waited_for_and_can_be_given_up(tmp_path):
    cache, waited = TensorCache(tmp_path), []

    def tired() -> None:
        waited.append(1)
        if len(waited) == 2:
            raise TimeoutError

    with cache.claim("models/x", tired):
        with cache.claim("models/y", tired):
            pass
        with pytest.raises(TimeoutError), TensorCache(tmp_path).claim("models/x", tired):
            raise AssertionError("claimed twice")
    with TensorCache(tmp_path).claim("models/x", tired):
        assert len(waited) == 2


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    cache = TensorCache(tmp_path)
    for name, age in ((".old.safetensors.abc", 7200), (".new.safetensors.abc", 0)):
        (tmp_path / name).write_bytes(b"half")
        then = time.time() - age
        os.utime(tmp_path / name, (then, then))
    cache.write("x", TENSORS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new.safetensors.abc", "x.safetensors"]


def test_a_shared_storage_that_does_not_answer_is_a_miss(tmp_path):
    store = Store(str(tmp_path / "shared"))
    (tmp_path / "shared/cache/x.safetensors").mkdir(parents=True)  # reading a folder is an OSError
    assert TensorCache(tmp_path / "own", shared=store).read("x") is None


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_disk_that_does_not_answer_costs_no_entry(tmp_path, monkeypatch, number):
    cache = TensorCache(tmp_path)
    cache.write("a", {"x": torch.ones(3)})

    def fails(*arguments, **options):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("sousvit.cache.safe_open", fails)
        with pytest.raises(SharedInputError, match="run the same command again"):
            cache.read("a")
    assert cache.read("a") is not None
