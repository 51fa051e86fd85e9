"""Faults of the machine, met for real where no privileges are needed: limits of a file, a folder that is gone."""

from __future__ import annotations

import errno
import os
import pickle
import resource
from pathlib import Path

import pytest

from sousvit.errors import SharedInputError, TrialError, UserError
from sousvit.faults import FAULTS, ROOM, faults_told, folder_fault, memory_fault, told_fault


def system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/somewhere/model.onnx")


def wrapped(error: Exception) -> Exception:
    """As a tool and then a technique raise it."""
    try:
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("the tool failed") from cause
    except RuntimeError as cause:
        failure = TrialError("int8_dynamic failed")
        failure.__cause__ = cause
        return failure


@pytest.mark.parametrize("number", FAULTS, ids=lambda number: errno.errorcode[number])
def test_a_fault_is_found_behind_any_error_and_told_with_its_file(number):
    for error in (system_error(number), wrapped(system_error(number))):
        found = told_fault(error)
        assert isinstance(found, SharedInputError) and found.action
        assert "/somewhere/model.onnx" in str(found) and os.strerror(number) in str(found)


@pytest.mark.parametrize(
    "text",
    [
        "[ErrorCode:SystemError] cannot write /tmp/x: No space left on device",
        "Exception from src/core: ostream failed: Disk quota exceeded",
        "OSError: [Errno 28] No space left on device: 'model.bin'",
        "[Errno 27] File too large",
        "failed reading: Input/output error",
        "open: Stale file handle",
        "Too many open files",
        "can't start new thread",
        "libopenvino.so: failed to map segment from shared object",
    ],
)
def test_a_fault_that_a_library_says_in_words_only_is_one(text):
    assert isinstance(told_fault(wrapped(RuntimeError(text))), SharedInputError)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no such operator"),
        MemoryError(),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a-technique's-own.json"),
        PermissionError(errno.EACCES, "Permission denied", "/root/x"),
        RuntimeError("the file is too large for one protobuf"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
    ],
)
def test_what_a_recipe_may_be_to_blame_for_is_no_fault(error, tmp_path):
    assert told_fault(wrapped(error)) is None
    with pytest.raises(type(error)), faults_told(tmp_path):
        raise error


def test_errors_that_lead_to_each_other_end():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert told_fault(first) is None


def test_a_fault_survives_the_way_to_another_process():
    found = told_fault(system_error(errno.ENOSPC))
    assert str(pickle.loads(pickle.dumps(found))) == str(found)


def test_a_line_for_the_user_is_passed_on_as_it_is(tmp_path):
    given = SharedInputError("every image must be readable", "7.png", "repair it")
    with pytest.raises(SharedInputError) as caught, faults_told(tmp_path / "gone"):
        raise given
    assert caught.value is given
    with pytest.raises(UserError, match=r"^group_size"), faults_told(tmp_path / "gone"):
        raise UserError("group_size")


def test_a_folder_with_room_has_no_fault(tmp_path):
    assert folder_fault(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_disk_with_less_than_a_trial_needs_is_a_fault(tmp_path):
    found = folder_fault(tmp_path, room=1 << 60)
    assert "must have free space" in str(found) and "MB are free" in str(found)


def test_a_failure_in_a_folder_that_is_gone_is_the_mounts(tmp_path):
    with pytest.raises(SharedInputError, match=r"stay where it is.*mount it again"), faults_told(tmp_path / "gone"):
        raise RuntimeError("model.xml cannot be opened")


def test_a_failure_where_files_may_not_grow_is_the_limits(tmp_path, file_limit):
    with file_limit(ROOM - 1):
        assert "ulimit -f" in str(folder_fault(tmp_path))
        with pytest.raises(SharedInputError, match="allowed to grow"), faults_told(tmp_path):
            raise TrialError("the tool wrote half a file")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != ROOM - 1


def test_a_temporary_folder_that_takes_nothing_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(SharedInputError, match="gone"), faults_told():
        raise RuntimeError("the tool failed")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_real_full_disk_below_a_library_is_found(tmp_path):
    with pytest.raises(SharedInputError, match=r"free space.*/dev/full.*free some space"), faults_told(tmp_path):
        try:
            with Path("/dev/full").open("wb", buffering=0) as stream:
                stream.write(b"x")
        except OSError as error:
            error.filename = "/dev/full"
            raise TrialError("weight_only failed") from error


def test_memory_that_is_refused_is_one_line_for_a_command():
    for error in (
        MemoryError(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ):
        assert "ulimit -v" in str(memory_fault(wrapped(error)))
    assert memory_fault(ValueError("x")) is None
