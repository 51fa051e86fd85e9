"""A whole real search with a browser as its second target: killed, resumed, and answered."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sousvit.errors import UserError
from sousvit.objectives.devices.browser import relay as relaying
from sousvit.objectives.devices.browser.assets import Assets, open_assets
from sousvit.objectives.devices.browser.relay import Relay
from tests.search.report.browser import Browser, find_chromium

SPACE = {"techniques": {"prune_depth": {"drop": [0, 1, 2]}, "int8_dynamic": {"weights": ["uint8"]}}}
SEARCH = {"trials": 5, "seed": 0, "leave_one_out": False, "measure_time": 0.1}
TOKEN = "a token of some length"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, str]]:
    """The port and the page's address of a relay; other tests on its core are no heat."""
    if find_chromium() is None:
        pytest.skip("no Chromium here: install one, or set SOUSVIT_CHROMIUM")
    monkeypatch.setattr(relaying, "MOST", 100.0)
    (tmp_path / "phone.token").write_text(TOKEN)
    with Relay("127.0.0.1", 0, TOKEN, tmp_path / "store", 10**8, assets=fetched()) as relay:
        threading.Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield relay.server_port, relay.page_address("127.0.0.1")
        relay.shutdown()


def fetched() -> Assets:
    try:
        return open_assets()
    except UserError as error:
        pytest.skip(f"the runtimes cannot be fetched here: {error}")


def trials(home: Path) -> list[dict[str, Any]]:
    path = home / "runs/one/events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [event["trial"] for event in events if event["event"] == "trial"]


def test_a_search_times_in_a_browser_is_killed_and_goes_on(
    served: tuple[int, str], tiny_project: Any, tmp_path: Path, run_sousvit: Callable[..., Any]
) -> None:
    port, address = served
    phone = {"device": "phone", "agent": f"http://127.0.0.1:{port}", "runtime": "onnxruntime-web", "patience": 30}
    (tmp_path / "phone.yaml").write_text(yaml.safe_dump({**phone, "token_file": "phone.token"}))
    budget = tiny_project.write_budget(
        tmp_path / "budget.yaml",
        targets=["local-1-thread", "phone.yaml"],
        limits={"accuracy_drop": 0.5, "latency_ratio@phone": 0.97},
        optimize=["latency@phone", "size"],
        space=SPACE,
        search=SEARCH,
    )
    doomed = Browser(tmp_path / "doomed")
    doomed.open(address, 390)
    command = [sys.executable, "-m", "sousvit", "search", "--executor", "inline", str(budget), "--run", "one"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as search:
        end = time.monotonic() + 120
        while not trials(tmp_path):
            assert time.monotonic() < end and search.poll() is None
            time.sleep(0.05)
        search.send_signal(signal.SIGKILL)
    before = [trial["recipe"] for trial in trials(tmp_path)]
    doomed.close()  # the phone was put away, too, and is opened again
    browser = Browser(tmp_path / "again")
    browser.open(address, 390)
    try:
        done = run_sousvit("resume", "one", "--json", cwd=tmp_path)
    finally:
        browser.close()
    assert done.returncode in (0, 3), done.stderr
    measured = [trial for trial in trials(tmp_path) if trial["status"] == "complete"]
    assert measured and [trial["recipe"] for trial in trials(tmp_path)][: len(before)] == before
    for trial in measured:
        values = trial["values"]
        assert values["latency_ratio@phone"][0] > 0 and values["latency"] != values["latency@phone"]
    answer = json.loads(done.stdout)
    assert answer["rows"][0]["values"]["latency@phone"][0] > 0
    events = [json.loads(line) for line in (tmp_path / "runs/one/events.jsonl").read_text().splitlines()]
    device = next(event["base"] for event in events if event["event"] == "base")["machine"]["devices"]["phone"]
    assert device["browser"]["name"] == "Chromium" and "onnxruntime-web" in device["runtimes"]


def test_the_command_shows_the_pages_address_logs_no_token_and_leaves_nothing(tmp_path: Path) -> None:
    fetched()
    (tmp_path / "phone.token").write_text(TOKEN)
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "sousvit", "device", "serve", "--web", "--port", "0"]
    command += ["--token-file", "phone.token"]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        address = re.search(r"http://localhost:(\d+)/#(\w+)$", process.stdout.readline().strip())
        assert address is not None and int(address[1]) == port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as page:
            assert page.status == 200 and b"This browser measures" in page.read()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/facts", timeout=10)
        process.terminate()
        _, log = process.communicate(timeout=30)
    assert '"GET /v1/facts" 401' in log and TOKEN not in log and address[2] not in log
    assert not list((tmp_path / "tmp").glob("sousvit-*")), "nothing is left behind"


def test_runtimes_for_browsers_go_with_a_page(tmp_path: Path, run_sousvit: Callable[..., Any]) -> None:
    refused = run_sousvit("device", "serve", "--assets", tmp_path, "--port", "0", cwd=tmp_path)
    assert refused.returncode == 2 and "add --web" in refused.stderr and refused.stderr.count("\n") == 1
