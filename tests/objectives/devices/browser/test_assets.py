"""The runtimes' packages: the ones that were published, wherever they come from."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sousvit.errors import UserError
from sousvit.objectives.devices.browser import assets
from sousvit.objectives.devices.browser.assets import PACKAGES, Package, open_assets

FILES = {"package/dist/run.mjs": b"export {}", "package/dist/run.wasm": b"\0asm", "package/other.js": b"not needed"}


def packed(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


CONTENT = packed(FILES)
PACKAGE = Package(
    "@made/up-web",
    "1.2.3",
    base64.b64encode(hashlib.sha512(CONTENT).digest()).decode(),
    ("dist/run.mjs", "dist/run.wasm"),
    ("made-up",),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of its own, and no npm."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(assets.shutil, "which", lambda name: None)
    return tmp_path / "cache" / "sousvit" / "web"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A registry of this machine, as a folder."""
    folder = tmp_path / "registry"
    place = folder / "@made" / "up-web" / "-"
    place.mkdir(parents=True)
    (place / "up-web-1.2.3.tgz").write_bytes(CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}/")
        yield place / "up-web-1.2.3.tgz"
        server.shutdown()


def test_a_package_is_fetched_once(registry: Path, cache: Path) -> None:
    found = open_assets(packages=(PACKAGE,))
    assert found.read("made-up-web-1.2.3/run.mjs") == (b"export {}", "text/javascript")
    assert found.read("made-up-web-1.2.3/run.wasm") == (b"\0asm", "application/wasm")
    assert found.read("made-up-web-1.2.3/other.js") is None and found.read("x/run.mjs") is None
    assert found.runtimes() == {"made-up": "1.2.3"} and found.places() == {"made-up": "/assets/made-up-web-1.2.3/"}
    assert {path.name for path in (cache / "made-up-web-1.2.3").iterdir()} == {"run.mjs", "run.wasm"}
    registry.unlink()
    assert open_assets(packages=(PACKAGE,)).read("made-up-web-1.2.3/run.wasm") is not None


def test_another_package_of_that_name_is_refused(registry: Path, cache: Path) -> None:
    registry.write_bytes(packed({**FILES, "package/dist/run.mjs": b"export let other"}))
    with pytest.raises(UserError, match=r"made-up-web-1\.2\.3\.tgz is the package that was published; received sha512"):
        open_assets(packages=(PACKAGE,))
    assert not cache.exists(), "nothing of it was unpacked"


def test_without_a_network_a_folder_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"must be fetched once; .*npm pack @made/up-web@1\.2\.3, and add --assets DIR"):
        open_assets(packages=(PACKAGE,))
    with pytest.raises(UserError, match=r"--assets holds the packages of .*; received no .*npm pack"):
        open_assets(tmp_path, packages=(PACKAGE,))
    (tmp_path / PACKAGE.file_name).write_bytes(CONTENT)
    assert open_assets(tmp_path, packages=(PACKAGE,)).read("made-up-web-1.2.3/run.mjs") is not None


@pytest.mark.parametrize("registry", ["file:///etc", ""])
def test_a_registry_is_an_address(registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", registry)
    with pytest.raises(UserError, match=r"NPM_CONFIG_REGISTRY is no address.*install npm"):
        open_assets(packages=(PACKAGE,))


def test_a_link_in_a_package_is_not_followed(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        member = tarfile.TarInfo("package/dist/run.mjs")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    digest = base64.b64encode(hashlib.sha512(out.getvalue()).digest()).decode()
    (tmp_path / PACKAGE.file_name).write_bytes(out.getvalue())
    with pytest.raises(UserError, match="has its files"):
        open_assets(tmp_path, packages=(replace(PACKAGE, sha512=digest),))


def test_ours_are_pinned() -> None:
    for package in PACKAGES:
        assert len(base64.b64decode(package.sha512)) == 64 and package.version[0].isdigit()
