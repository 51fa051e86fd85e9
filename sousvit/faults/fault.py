"""Faults of the machine: a full disk, a lost mount, too few threads. What they make fail is never a trial's result.

This is the one place that decides what counts as one. Libraries often hide it: they wrap the system's error in one of
their own, say it in words only, or leave a short file behind. So a fault is looked for in the whole chain of an error,
in its text, and, where files were being written, by asking the folders for room.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sousvit.errors import SharedInputError, UserError, one_line

#: Bytes that a folder must take before a failure in it can be anything else's than the disk's.
ROOM = 32 << 20

_SPACE = "free some space and run the same command again to resume"
_MOUNT = "mend or mount it again and run the same command again to resume"
_FOLDER = "choose another folder or change its permissions"
_FILES = "raise ulimit -n and run the same command again to resume"
_LIBRARIES = (
    "the system must give libraries their memory",
    "raise ulimit -v or end other programs, and run the same command again to resume",
)
_THREADS = "raise ulimit -u or end other programs, and run the same command again to resume"

#: What the system says of itself, whoever asked: rule and action by error number.
FAULTS = {
    errno.ENOSPC: ("the disk must have free space", _SPACE),
    errno.EDQUOT: ("the disk quota must leave free space", _SPACE),
    errno.EFBIG: ("files must be allowed to grow", "raise ulimit -f and run the same command again to resume"),
    errno.EROFS: ("the file system must be writable", "choose another folder"),
    errno.EIO: ("the disk must read and write", _MOUNT),
    errno.ESTALE: ("the file system must stay mounted", _MOUNT),
    errno.ENODEV: ("the file system must stay mounted", _MOUNT),
    errno.ENXIO: ("the file system must stay mounted", _MOUNT),
    errno.ENOTCONN: ("the file system must stay mounted", _MOUNT),
    errno.EMFILE: ("the system must allow more open files", _FILES),
    errno.ENFILE: ("the system must allow more open files", _FILES),
    errno.EAGAIN: ("the system must allow more threads and processes", _THREADS),
}
#: What is said of a path: a fault only where the path is one that we write.
PATHS = {
    errno.ENOENT: ("the folder must stay where it is", _MOUNT),
    errno.EACCES: ("the folder must be writable", _FOLDER),
    errno.EPERM: ("the folder must be writable", _FOLDER),
    errno.ENOTDIR: ("the path must be a folder", "choose another path"),
    errno.EEXIST: ("the path must be a folder", "choose another path"),
    errno.EISDIR: ("the path must be a file", "choose another path"),
    errno.ENAMETOOLONG: ("the path must not be too long", "choose a shorter path"),
}
#: How an error says a fault that carries no number: the C library's words, and Python's of threads.
_WORDS = {
    **{f"[Errno {number}]": number for number in FAULTS},
    **{os.strerror(number): number for number in FAULTS if number not in (errno.ENODEV, errno.ENXIO)},
    "can't start new thread": errno.EAGAIN,
    "failed to map segment from shared object": errno.ENOMEM,
}
#: How memory that the system refuses is told, in lower case. For a trial it is a result: a smaller one may fit.
_MEMORY = ("allocate memory", "bad_alloc", "unable to allocate")


def path_fault(error: OSError, path: Path) -> SharedInputError | None:
    """``error`` in writing to ``path``, in one line; None for one that says nothing of the disk or the path."""
    rule, action = {**FAULTS, **PATHS}.get(error.errno or 0, ("", ""))
    return SharedInputError(rule, f"{path} ({error.strerror})", action) if rule else None


def told_fault(error: BaseException, *folders: Path) -> SharedInputError | None:
    """The fault that ``error``, or what led to it, tells of; None where it tells of none.

    Args:
        error: of any kind.
        folders: that were written to, for an error that names no file.
    """
    for each in _chain(error):
        if isinstance(each, SharedInputError):
            return SharedInputError(each.rule, each.received, each.action)
        number = _number(each)
        if number is not None:
            rule, action = _LIBRARIES if number == errno.ENOMEM else FAULTS[number]
            return SharedInputError(rule, _received(each, folders), action)
    return None


def memory_fault(error: BaseException) -> UserError | None:
    """Memory that the system refused to this process; None where ``error`` is of another kind."""
    for each in _chain(error):
        refused = isinstance(each, MemoryError) or getattr(each, "errno", None) == errno.ENOMEM
        if refused or any(words in str(each).lower() for words in _MEMORY):
            action = "raise ulimit -v, end other programs, or take a smaller model or batch"
            return UserError("the system must give the memory that is needed", one_line(each), action)
    return None


def folder_fault(folder: Path, room: int = ROOM) -> SharedInputError | None:
    """Why ``folder`` takes no file of ``room`` bytes; None where it does."""
    try:
        free = shutil.disk_usage(folder).free
        if free < room:
            raise OSError(errno.ENOSPC, f"{free / 1e6:.0f} MB are free, a trial may need {room / 1e6:.0f} MB")
        with tempfile.TemporaryFile(dir=folder) as stream:
            # Quotas and limits of a file's size show only to who asks for the room; nobody else is to run short of it.
            if hasattr(os, "posix_fallocate") and free > 2 * room:
                os.posix_fallocate(stream.fileno(), 0, room)
    except OSError as error:
        return path_fault(error, folder)
    return None


def fault_behind(error: BaseException, *folders: Path, room: int = ROOM) -> SharedInputError | None:
    """The fault that made something fail which writes to ``folders`` and to the temporary one; None without one."""
    told = told_fault(error, *folders)
    if told is not None or isinstance(error, UserError):  # the latter says what is wrong
        return told
    return next(filter(None, (folder_fault(folder, room) for folder in folders)), None) or _temporary(room)


@contextmanager
def chain_told() -> Iterator[None]:
    """Where what is raised inside tells of a fault, a :class:`SharedInputError` of it; one line already stays."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        fault = told_fault(error)
        if fault is None:
            raise
        raise fault from error


@contextmanager
def faults_told(*folders: Path, room: int = ROOM) -> Iterator[None]:
    """Where a fault is behind what fails inside, a :class:`SharedInputError` of it instead.

    Args:
        folders: that files are written to; these and the temporary one are asked for room after a failure.
        room: bytes that the files may take.
    """
    try:
        yield
    except SharedInputError:
        raise
    except Exception as error:
        fault = fault_behind(error, *folders, room=room)
        if fault is None:
            raise
        raise fault from error


def _temporary(room: int) -> SharedInputError | None:
    try:
        return folder_fault(Path(tempfile.gettempdir()), room)
    except FileNotFoundError as error:  # no folder takes a file of a few bytes
        return SharedInputError("a temporary folder must be writable", error.strerror, "free some space or set TMPDIR")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what it was raised from or while, the latest first."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [before for before in (each.__context__, each.__cause__) if before is not None]


def _number(error: BaseException) -> int | None:
    """The number of the fault that one error is or speaks of."""
    if isinstance(error, OSError) and error.errno in FAULTS:
        return error.errno
    text = str(error)
    return next((number for words, number in _WORDS.items() if words in text), None)


def _received(error: BaseException, folders: tuple[Path, ...]) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} ({error.strerror})"
    where = " or ".join(map(str, folders))
    return f"{one_line(error)}, in {where} or the temporary folder" if where else one_line(error)
