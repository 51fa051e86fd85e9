"""``sousvit watch``: the page of a running search, on loopback."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from sousvit.errors import UserError
from sousvit.search.report.live import ReportServer, serve
from tests.search.report.browser import Browser, find_chromium


@contextmanager
def served(folder):
    with ReportServer(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def ask(server, path="/", method="GET", host=None, **headers):
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{server.server_address[1]}", **headers})
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read().decode()


@pytest.fixture
def begun(shown_run, tmp_path):
    """A run that has judged the base and nothing else."""
    folder = tmp_path / "begun"
    folder.mkdir()
    shutil.copy(shown_run / "budget.yaml", folder)
    lines = (shown_run / "events.jsonl").read_bytes().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if re.match(rb'{"event":\s?"trial"', line))
    (folder / "events.jsonl").write_bytes(b"".join(lines[:first]))
    return folder, lines[first:]


def test_it_serves_the_page_and_nothing_else(shown_run):
    with served(shown_run) as server:
        status, headers, page = ask(server)
        assert status == 200 and "three hundred" in page and headers["Content-Type"] == "text/html; charset=utf-8"
        assert headers["X-Frame-Options"] == "DENY" and headers["Cache-Control"] == "no-store"
        assert "connect-src &#39;self&#39;" in page and "live: this page follows" in page
        for path in (
            "/answer.json",
            "/../answer.json",
            "/%2e%2e/answer.json",
            "/?x",
            "/budget.yaml",
            "/favicon.ico",
        ):
            assert ask(server, path)[0] == 404, path
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert ask(server, method=method)[0] == 501, method
        assert ask(server, method="HEAD")[2] == ""


def test_it_answers_under_its_own_name_only(shown_run):
    with served(shown_run) as server:
        port = server.server_address[1]
        assert ask(server, host=f"localhost:{port}")[0] == 200
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", f"[::1]:{port}"):
            status, _, body = ask(server, host=host)
            assert status == 421 and "three hundred" not in body, host
        assert server.server_address[0] == "127.0.0.1"


def test_the_page_is_made_anew_only_where_the_run_has_news(begun):
    folder, lines = begun
    with served(folder) as server:
        version = ask(server, "/version")[2]
        assert "No trial has finished yet" in ask(server)[2]
        assert ask(server, "/version")[2] == version
        with (folder / "events.jsonl").open("ab") as stream:
            stream.writelines(lines[:40])
        assert ask(server, "/version")[2] != version
        page = ask(server)[2]
        data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
        assert data["live"] and data["content"]["status"] == "running" and len(data["content"]["points"]) > 10
        assert server.page() is server.page()


def test_a_damaged_run_is_told_and_the_server_lives(begun):
    folder, _ = begun
    with served(folder) as server:
        (folder / "budget.yaml").write_text("optimize: {")
        status, _, body = ask(server)
        assert status == 503 and "budget.yaml" in body and ask(server, "/version")[0] == 200


def test_a_port_that_is_taken_and_a_run_that_is_not_there_are_told(shown_run, tmp_path):
    with served(shown_run) as server, pytest.raises(UserError, match="free"):
        ReportServer(shown_run, server.server_address[1])
    with pytest.raises(UserError, match="0-65535"):
        ReportServer(shown_run, 70000)
    with pytest.raises(UserError, match="a run must exist"):
        serve(tmp_path / "none", 0, False, print)


def test_the_command_prints_its_address_and_ends_by_ctrl_c(shown_run):
    command = [sys.executable, "-m", "sousvit", "watch", shown_run.name, "--runs", str(shown_run.parent), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    try:
        address = process.stdout.readline()
        port = int(re.match(r"http://127\.0\.0\.1:(\d+)/", address)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.status == 200 and response.read()
        connection.close()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode in (0, 130) and errors == ""
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium here: install one, or set SOUSVIT_CHROMIUM")
def test_the_page_follows_the_search_by_itself_and_keeps_what_was_chosen(begun, tmp_path):
    folder, lines = begun
    browser = Browser(tmp_path / "profile")
    try:
        with served(folder) as server:
            browser.open(server.address, 800)
            assert "No trial has finished yet" in browser.value("document.body.textContent")
            with (folder / "events.jsonl").open("ab") as stream:
                stream.writelines(lines[:60])
            count = "document.querySelectorAll('#front .dot').length"
            wait_until(lambda: browser.value(count) > 1)
            browser.value("document.getElementById('y').value = 'size'")
            browser.value("document.getElementById('y').dispatchEvent(new Event('change'))")
            browser.click("#front .dot.answer")
            chosen, before = browser.value("document.querySelector('#trial .recipe').textContent"), browser.value(count)
            with (folder / "events.jsonl").open("ab") as stream:
                stream.writelines(lines[60:])
            wait_until(lambda: browser.value(count) > before)
            assert browser.value("document.getElementById('y').value") == "size"
            assert browser.value("document.querySelector('#trial .recipe').textContent") == chosen
            assert browser.complaints == []
        wait_until(lambda: "has ended" in browser.value("document.getElementById('live').textContent"))
    finally:
        browser.close()


def wait_until(holds, seconds=30.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.2)
