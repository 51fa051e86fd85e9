"""Storage that several machines share, by name: a folder that all of them see, or an object store (S3, GCS...)."""

from __future__ import annotations

import posixpath
import uuid
from pathlib import Path

from pyarrow import fs

from sousvit.errors import UserError
from sousvit.files import write_atomic


class Store:
    """Blobs and folders under one address. Readers see whole entries only; names follow from content, so none changes.

    Args:
        address: a folder, or a URI that pyarrow opens (``s3://bucket/prefix``, ``gs://...``, ``file:///...``).

    Raises:
        UserError: the address cannot be opened.
    """

    def __init__(self, address: str) -> None:
        try:
            plain = address if "://" in address else str(Path(address).resolve())
            self._files, self._root = fs.FileSystem.from_uri(plain)
            self._files.create_dir(self._root, recursive=True)
        except (OSError, ValueError) as error:
            raise UserError("the shared storage must be a folder or a URI that opens", address, str(error)) from error

    def put(self, name: str, content: bytes) -> None:
        """Store ``content`` under ``name``, whole or not at all."""
        path = self._path(name)
        self._files.create_dir(posixpath.dirname(path), recursive=True)
        temporary = f"{path}.{uuid.uuid4().hex}"
        with self._files.open_output_stream(temporary) as stream:
            stream.write(content)
        self._files.move(temporary, path)

    def get(self, name: str) -> bytes | None:
        """The content of ``name``; None where there is none or the storage does not answer (callers make it again)."""
        try:
            with self._files.open_input_stream(self._path(name)) as stream:
                found: bytes = stream.read()
                return found
        except OSError:
            return None

    def put_folder(self, name: str, folder: Path) -> None:
        """Store every file of ``folder``; a file that is there already stays (names follow from content)."""
        for path in sorted(folder.rglob("*")):
            entry = f"{name}/{path.relative_to(folder).as_posix()}"
            if path.is_file() and self._files.get_file_info(self._path(entry)).type == fs.FileType.NotFound:
                self.put(entry, path.read_bytes())

    def get_folder(self, name: str, folder: Path) -> bool:
        """Copy the files of ``name`` into ``folder``; return whether there were any."""
        root = self._path(name)
        found = self._files.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
        for info in found:
            if info.type == fs.FileType.File:
                with self._files.open_input_stream(info.path) as stream:
                    write_atomic(folder / posixpath.relpath(info.path, root), stream.read())
        return any(info.type == fs.FileType.File for info in found)

    def remove_folder(self, name: str) -> None:
        """Remove ``name`` with all its files, where it exists."""
        path = self._path(name)
        if self._files.get_file_info(path).type == fs.FileType.Directory:
            self._files.delete_dir(path)

    def _path(self, name: str) -> str:
        return posixpath.join(self._root, name)
