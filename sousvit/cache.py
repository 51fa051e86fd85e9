"""A disk cache of named tensors: keyed by content, bounded (the least recently used go first), and checksummed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from sousvit.faults import told_fault
from sousvit.files import NO_LOCKS, disk_errors_as_user_errors, write_atomic

if TYPE_CHECKING:
    import torch

    from sousvit.store import Store

#: Seconds between two tries to claim a key that another process holds.
CLAIM_PERIOD = 0.2
#: Age in seconds from which a half-written file counts as left behind by a killed process.
ABANDONED = 3600.0
#: Bytes up to which an entry stays whatever its age: a decision that others follow makes no room.
SMALL = 4096
_CHECKSUM, _NOTES = "checksum", "notes"


class TensorCache:
    """Named tensors with notes, one safetensors file an entry, with a checksum of its own.

    Several processes may share a folder: files appear whole, and one that disappears is a miss.

    Args:
        folder: of the entries; created with the first one.
        max_bytes: of all entries; the least recently used go first; the newest, and those of a few kB, stay.
        shared: storage that other machines use too: read where the folder has no entry, and given every new one.
    """

    def __init__(self, folder: Path, max_bytes: float = float("inf"), shared: Store | None = None) -> None:
        self._folder, self._max_bytes, self._shared = folder, max_bytes, shared

    def has(self, key: str) -> bool:
        """Whether there is an entry of this name here, whole or not."""
        return self._path(key).exists()

    def read(self, key: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Tensors and notes of ``key``; None where it is missing, or was damaged (then it is removed).

        Raises:
            SharedInputError: the disk does not answer.
        """
        path = self._path(key)
        if self._shared is not None and not path.exists():
            self._copy_shared(key)
        try:
            with safe_open(path, framework="pt") as stored:
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
                metadata = stored.metadata() or {}
            notes = json.loads(metadata.get(_NOTES, "{}"))
            if metadata.get(_CHECKSUM) != checksum(tensors, notes):
                raise ValueError("checksum")
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError) as error:
            fault = told_fault(error)
            if fault is not None:  # of the disk: the entry may be whole
                raise fault from error
            self.forget(key)
            return None
        with contextlib.suppress(OSError):  # another user's file can be read, but its time not set
            os.utime(path)  # used just now
        return tensors, notes

    def write(self, key: str, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any] | None = None) -> None:
        """Keep ``tensors`` and ``notes`` (plain JSON values) under ``key``.

        Raises:
            SharedInputError: the disk is full or the folder not writable.
        """
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        kept = dict(notes or {})
        metadata = {_CHECKSUM: checksum(whole, kept), _NOTES: json.dumps(kept)}
        path = self._path(key)
        content = save(whole, metadata=metadata)
        write_atomic(path, content)
        self._make_room(path)
        if self._shared is not None:
            self._shared.put(_shared_name(key), content)

    def _copy_shared(self, key: str) -> None:
        assert self._shared is not None
        content = self._shared.get(_shared_name(key))
        if content is not None:
            write_atomic(self._path(key), content)
            self._make_room(self._path(key))

    def forget(self, key: str) -> None:
        """Remove an entry, such as one that does not fit its model; a folder that forbids it is left as it is."""
        _remove(self._path(key))

    @contextmanager
    def claim(self, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold ``key`` for this process, so that no other makes the same entry; a claim ends with its process.

        Args:
            waiting: called again and again while another process has it; may raise to give up.
        """
        try:
            import fcntl
        except ImportError:  # Windows has no fcntl; there two processes may do the same work
            yield
            return
        path = self._path(key).with_suffix(".lock")
        with disk_errors_as_user_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("ab")
        with stream:
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if error.errno in NO_LOCKS:  # there two processes may do the same work, too
                        break
                    if not isinstance(error, BlockingIOError):
                        raise
                waiting()
                time.sleep(CLAIM_PERIOD)
            yield

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"

    def _make_room(self, newest: Path) -> None:
        entries = []
        for path in self._folder.rglob("*.safetensors"):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue  # another process removed it
            entries.append((found.st_mtime_ns, found.st_size, path))
        for path in self._folder.rglob(".*.safetensors.*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()
        left = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if left <= self._max_bytes:
                break
            if path != newest and size > SMALL and _remove(path):
                left -= size


def _shared_name(key: str) -> str:
    return f"cache/{key}.safetensors"


def _remove(path: Path) -> bool:
    """Remove a file; return whether it is gone."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        return True
    return False


def checksum(tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]) -> str:
    """Hex digest of named tensors and notes."""
    import torch

    digest = hashlib.blake2b(json.dumps(notes, sort_keys=True).encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
