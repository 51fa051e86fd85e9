"""The browsers' runtimes, as their makers publish them in npm's registry: pinned, verified, and kept in a cache.

They are no part of sousvit (12 MB and more). A package comes from ``--assets DIR``, which holds what ``npm pack``
writes; or from the cache; or through ``npm`` where that is installed; or from the registry that
``NPM_CONFIG_REGISTRY`` names. Whichever way it came, its SHA-512 is the one that stands here.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from sousvit.errors import UserError
from sousvit.files import disk_errors_as_user_errors, write_atomic

#: Names the registry where npm is not installed.
REGISTRY = "NPM_CONFIG_REGISTRY"
#: Bytes of a package, and of one of its files.
MAX_PACKAGE, MAX_FILE = 1 << 27, 1 << 26
#: Seconds that a download may be silent, and that npm may take.
SILENCE, NPM_SECONDS = 60.0, 300.0
_KINDS = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}


@dataclass(frozen=True)
class Package:
    """A package of npm's registry.

    Attributes:
        name, version: as it is published.
        sha512: of its file, base64.
        files: the ones that are needed, as the package has them.
        runtimes: which runtimes are in it.
        imports: what its modules import by a package's name, and where a page finds that: a worker has no import map.
    """

    name: str
    version: str
    sha512: str
    files: tuple[str, ...]
    runtimes: tuple[str, ...] = ()
    imports: tuple[tuple[str, str], ...] = ()

    @property
    def file_name(self) -> str:
        """As ``npm pack`` calls it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def place(self) -> str:
        """Folder of its files, in the cache and in the page's addresses."""
        return self.file_name.removesuffix(".tgz")


PACKAGES = (
    Package(
        "onnxruntime-web",
        "1.30.0",
        "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        (
            *(f"dist/ort-wasm-simd-threaded{kind}" for kind in (".mjs", ".wasm", ".asyncify.mjs", ".asyncify.wasm")),
            "dist/ort.wasm.min.mjs",
            "dist/ort.webgpu.min.mjs",
        ),
        ("onnxruntime-web", "onnxruntime-webgpu"),
    ),
    Package(
        "@litertjs/core",
        "2.5.3",
        "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
        (
            "dist/index.js",
            *(
                f"wasm/litert_wasm{kind}_internal{end}"
                for kind in ("", "_compat", "_threaded")
                for end in (".js", ".wasm")
            ),
        ),
        ("litert-web",),
        (('"@litertjs/wasm-utils"', '"/assets/litertjs-wasm-utils-2.5.3/index.js"'),),
    ),
    Package(
        "@litertjs/wasm-utils",
        "2.5.3",
        "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
        ("dist/index.js",),
    ),
)


class Assets:
    """Files of packages that lie in folders of this machine.

    Args:
        folders: by package.
    """

    def __init__(self, folders: dict[Package, Path]) -> None:
        self._folders = folders

    def runtimes(self) -> dict[str, str]:
        """Runtimes and their versions."""
        return {name: package.version for package in self._folders for name in package.runtimes}

    def places(self) -> dict[str, str]:
        """The address of each runtime's files, for a page."""
        return {name: f"/assets/{package.place}/" for package in self._folders for name in package.runtimes}

    def read(self, path: str) -> tuple[bytes, str] | None:
        """The bytes and the media type of ``PLACE/FILE``; None if it is none of the packages' files."""
        place, _, name = path.partition("/")
        for package, folder in self._folders.items():
            if package.place == place and name in {Path(file).name for file in package.files}:
                return _read(folder / name, package.imports), _KINDS[Path(name).suffix]
        return None


@functools.lru_cache(maxsize=16)
def _read(path: Path, imports: tuple[tuple[str, str], ...]) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".wasm":
        for name, place in imports:
            content = content.replace(name.encode(), place.encode())
    return content


def open_assets(given: Path | None = None, packages: tuple[Package, ...] = PACKAGES) -> Assets:
    """The packages' files, from ``given``, the cache or the registry.

    Raises:
        UserError: a package cannot be had, or is another one.
    """
    return Assets({package: _folder(package, given) for package in packages})


def cache_folder() -> Path:
    """Where packages are kept: ``sousvit/web`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sousvit" / "web"


def _folder(package: Package, given: Path | None) -> Path:
    folder = cache_folder() / package.place
    if not all((folder / Path(file).name).is_file() for file in package.files):
        content = _fetched(package) if given is None else _given(package, given)
        _require_right(package, content)
        _unpack(package, content, folder)
    return folder


def _given(package: Package, given: Path) -> bytes:
    path = given / package.file_name
    if not path.is_file() or path.stat().st_size > MAX_PACKAGE:
        action = f"write it there: npm pack {package.name}@{package.version}"
        raise UserError("--assets holds the packages of the browsers' runtimes", f"no {path}", action)
    return path.read_bytes()


def _require_right(package: Package, content: bytes) -> None:
    found = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != package.sha512:
        rule = f"{package.file_name} is the package that was published"
        raise UserError(rule, f"sha512 {found[:20]}...", f"fetch it again: npm pack {package.name}@{package.version}")


def _unpack(package: Package, content: bytes, folder: Path) -> None:
    """Write the files that are needed; the folder is whole when the last one is there."""
    with (
        disk_errors_as_user_errors(folder),
        tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        for file in package.files:
            member = next((one for one in archive if one.name == f"package/{file}"), None)
            stream = archive.extractfile(member) if member is not None and member.isreg() else None
            if member is None or stream is None or member.size > MAX_FILE:
                raise UserError(f"{package.file_name} has its files", f"no {file}", "fetch it again")
            write_atomic(folder / Path(file).name, stream.read())


def _fetched(package: Package) -> bytes:
    npm = shutil.which("npm")
    try:
        return _by_npm(npm, package) if npm else _downloaded(package)
    except (OSError, urllib.error.URLError, subprocess.SubprocessError, ValueError) as error:
        packed = f"npm pack {package.name}@{package.version}"
        action = f"install npm, or bring it from a machine with network, {packed}, and add --assets DIR"
        rule = f"{package.name} {package.version} must be fetched once"
        raise UserError(rule, f"{type(error).__name__}: {error}"[:200], action) from error


def _by_npm(npm: str, package: Package) -> bytes:
    """Through npm, with the registry, proxy and certificates that it is set up with."""
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"{package.name}@{package.version}", "--ignore-scripts", "--silent"]
        subprocess.run(
            [*command, "--pack-destination", folder], cwd=folder, check=True, capture_output=True, timeout=NPM_SECONDS
        )
        return (Path(folder) / package.file_name).read_bytes()


def _downloaded(package: Package) -> bytes:
    registry = os.environ.get(REGISTRY, "").rstrip("/")
    if not registry.startswith(("https://", "http://")):
        raise ValueError(f"npm is not installed, and {REGISTRY} is no address: {registry or 'not set'}")
    file = f"{package.name.rpartition('/')[2]}-{package.version}.tgz"
    with urllib.request.urlopen(f"{registry}/{package.name}/-/{file}", timeout=SILENCE) as answer:
        content: bytes = answer.read(MAX_PACKAGE + 1)
    if len(content) > MAX_PACKAGE:
        raise ValueError(f"it has more than {MAX_PACKAGE} bytes")
    return content
