"""A relay in this process, and real headless browsers that open its page."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sousvit.errors import UserError
from sousvit.objectives.devices.browser import relay as relaying
from sousvit.objectives.devices.browser.assets import Assets, open_assets
from sousvit.objectives.devices.browser.relay import Relay
from sousvit.objectives.devices.remote import checks
from sousvit.objectives.devices.remote.client import RemoteDevice
from sousvit.objectives.targets.target import Target
from sousvit.objectives.timing import TimingPlan
from sousvit.spaces.export.artifact import Artifact
from tests.search.report.browser import Browser, find_chromium

PLAN = TimingPlan(min_seconds=0.1, max_seconds=0.3, min_groups=9, round_seconds=0.002, warmup=1)


@pytest.fixture(autouse=True)
def on_a_shared_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests keep the core busy; how steady a session must be is tested with the agent, and heat by its rule."""
    monkeypatch.setattr(checks, "MAX_SELF_RATIO", 100.0)
    monkeypatch.setattr(checks, "MIN_FILLED", 0.05)
    monkeypatch.setattr(relaying, "MOST", 100.0)


@pytest.fixture(scope="session")
def assets() -> Assets:
    try:
        return open_assets()
    except UserError as error:
        pytest.skip(f"the runtimes cannot be fetched here: {error}")


@pytest.fixture
def serve_relay(assets: Assets, tmp_path: Path) -> Iterator[Callable[..., Relay]]:
    """Starts relays; on the ``port`` of one that was closed, it is one that was started anew."""
    relays: list[Relay] = []

    def serve(token: str | None = None, port: int = 0, host: str = "127.0.0.1", **more: Any) -> Relay:
        folder = tmp_path / f"store{len(relays)}"
        relays.append(Relay(host, port, token, folder, 10**7, assets=assets, **more))
        threading.Thread(target=relays[-1].serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return relays[-1]

    yield serve
    for relay in relays:
        close(relay)


def close(relay: Relay) -> None:
    relay.shutdown()
    relay.server_close()


@pytest.fixture
def relay(serve_relay: Callable[..., Relay]) -> Relay:
    return serve_relay()


@pytest.fixture(scope="session")
def start_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Browser]]:
    """Starts browsers, each with a profile of its own."""
    if find_chromium() is None:
        pytest.skip("no Chromium here: install one, or set SOUSVIT_CHROMIUM")
    browsers: list[Browser] = []

    def start(*options: str) -> Browser:
        browsers.append(Browser(tmp_path_factory.mktemp("profile"), *options))
        return browsers[-1]

    yield start
    for browser in browsers:
        browser.close()


@pytest.fixture(scope="session")
def browser(start_browser: Callable[..., Browser]) -> Browser:
    """One for all tests that leave it alive."""
    return start_browser()


@pytest.fixture
def page(browser: Browser, relay: Relay) -> Iterator[Browser]:
    """The relay's page, ready."""
    yield show(browser, relay)
    browser.open("about:blank", 390)


def show(browser: Browser, relay: Relay, width: int = 390) -> Browser:
    browser.open(relay.page_address("127.0.0.1"), width)
    wait_for(lambda: headline(browser) == "Ready")
    return browser


def complaints(browser: Browser) -> list[str]:
    """What the console holds against the page; that there is no graphics processor, the browser says by itself."""
    return [line for line in browser.complaints if line != "No available adapters."]


def headline(browser: Browser) -> str:
    return browser.value("document.querySelector('#headline')?.textContent")


@pytest.fixture
def pair(subject: Any) -> dict[str, Artifact]:
    return {"half": subject.artifact, "base": subject.base.artifact}


def device_of(relay: Relay, **changes: Any) -> RemoteDevice:
    values = {"device": "phone", "agent": f"http://127.0.0.1:{relay.server_port}", "patience": 20, "timeout": 25}
    return RemoteDevice(Target.model_validate({**values, "runtime": "onnxruntime-web", **changes}))


def wait_for(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
    return found
