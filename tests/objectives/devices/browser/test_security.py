"""Who may speak to a relay, and what its page keeps to itself: every rule, over real sockets and in a real browser."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from sousvit.errors import UserError
from sousvit.objectives.devices.browser.relay import Relay
from sousvit.objectives.devices.remote.agent import Agent
from tests.objectives.agents import ESCAPE, ask, request
from tests.objectives.devices.browser.conftest import headline, show, wait_for

CLIENTS = "a token of some length"
FACTS: dict[str, Any] = {
    "name": "Firefox",
    "version": "150.0",
    "system": "Android 16",
    "tick": 1e-3,
    "cores": 8,
    "memory_gb": 4,
    "secure": False,
    "isolated": False,
    "gpu": "",
}
CALLS = ("hello", "next", "beat", "answer")


def call(relay: Relay, name: str, token: str | None = None, *headers: str, **content: Any) -> tuple[int, str]:
    """The status and the error of a page's call."""
    body = json.dumps({"tab": "t1", "load": "l1", **content}).encode()
    shown = relay.page_token if token is None else token
    given = ("Content-Type: application/json", f"Authorization: Bearer {shown}", f"Content-Length: {len(body)}")
    return ask(relay, request(relay, f"POST /v1/page/{name} HTTP/1.1", *given, *headers) + body)


@pytest.mark.parametrize("name", CALLS)
def test_a_pages_calls_take_the_pages_token_alone(name, serve_relay) -> None:
    relay = serve_relay(token=CLIENTS)
    for token in ("", CLIENTS, relay.page_token[:-1], f"{relay.page_token}0"):
        assert call(relay, name, token)[0] == 401
    without = request(relay, f"POST /v1/page/{name} HTTP/1.1", "Content-Length: 2", "Content-Type: application/json")
    assert ask(relay, without + b"{}")[0] == 401


@pytest.mark.parametrize("first", ["GET /v1/facts", "POST /v1/measure", "POST /v1/lacking", "PUT /v1/files/00"])
def test_the_pages_token_opens_nothing_else(first, serve_relay) -> None:
    relay = serve_relay(token=CLIENTS)
    given = request(relay, f"{first} HTTP/1.1", f"Authorization: Bearer {relay.page_token}", "Content-Length: 0")
    assert ask(relay, given) == (401, "the token is missing or wrong")


def test_a_page_reads_only_the_files_of_its_request(relay) -> None:
    given = request(relay, f"GET /v1/page/files/{'0' * 64} HTTP/1.1", f"Authorization: Bearer {relay.page_token}")
    assert ask(relay, given)[0] == 404
    assert ask(relay, request(relay, f"GET /v1/page/files/{'0' * 64} HTTP/1.1"))[0] == 401


@pytest.mark.parametrize("path", ["/assets/../../x", "/assets/onnxruntime-web-1.30.0/../x.js", "/page.html", "/..%2f"])
def test_only_what_the_page_needs_is_served(path, relay) -> None:
    assert ask(relay, request(relay, f"GET {path} HTTP/1.1", "Content-Length: 0"))[0] == 404


def test_the_token_follows_from_the_clients_without_telling_it(serve_relay) -> None:
    one, other, free = serve_relay(token=CLIENTS), serve_relay(token=CLIENTS), serve_relay()
    assert one.page_token == other.page_token != CLIENTS and CLIENTS not in one.page_token
    assert free.page_token != serve_relay().page_token and len(free.page_token) >= 32


def test_the_token_stands_in_the_fragment_alone(serve_relay) -> None:
    relay = serve_relay(token=CLIENTS)
    address = relay.page_address("127.0.0.1")
    assert address == f"http://localhost:{relay.server_port}/#{relay.page_token}"
    assert relay.page_address("192.0.2.7").startswith("http://192.0.2.7:")
    assert re.fullmatch(r"http://[\w.-]+:\d+/#\w+", relay.page_address("0.0.0.0"))


@pytest.mark.parametrize("headers", [["Origin: http://evil.example"], ["Sec-Fetch-Site: cross-site"], ["Origin: null"]])
def test_no_other_page_speaks_for_it(headers, relay) -> None:
    assert call(relay, "hello", None, *headers, facts=FACTS)[0] == 403


def test_it_answers_under_its_own_name_only(relay) -> None:
    for path in ("/", "/page.js", "/assets/onnxruntime-web-1.30.0/ort.wasm.min.mjs"):
        assert ask(relay, request(relay, f"GET {path} HTTP/1.1", host="evil.example"))[0] == 421


def test_it_listens_on_loopback_unless_there_is_a_token(assets, tmp_path) -> None:
    with pytest.raises(UserError, match="an agent that others can reach needs a token"):
        Relay("0.0.0.0", 0, None, tmp_path, 1000, assets=assets)


def test_the_first_page_has_the_device(relay, monkeypatch) -> None:
    assert call(relay, "hello", facts=FACTS)[0] == 200
    assert call(relay, "hello", tab="t2", load="l2", facts=FACTS) == (409, "another page measures here; close it first")
    for name in ("next", "beat", "answer"):
        assert call(relay, name, tab="t2", load="l2")[0] == 409
    assert call(relay, "beat")[0] == 200
    assert call(relay, "hello", load="l3", facts=FACTS)[0] == 200, "its own tab may load again"
    assert call(relay, "beat")[0] == 409, "and what was loaded before is out"
    monkeypatch.setattr("sousvit.objectives.devices.browser.desk.LOST", -1.0)
    assert call(relay, "hello", tab="t2", load="l2", facts=FACTS)[0] == 200, "a lost page's place is free"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "name is a text of 1 to 120 characters"),
        ({"version": "x" * 200}, "version is a text"),
        ({"system": 5}, "system is a text"),
        ({"tick": 0}, "tick is a number"),
        ({"tick": "1"}, "tick is a number"),
        ({"tick": True}, "tick is a number"),
        ({"cores": 0}, "cores are a number"),
        ({"cores": 1.5}, "cores are a number"),
        ({"memory_gb": -1}, "memory_gb is a number"),
        ({"memory_gb": None}, "memory_gb is a number"),
        ({"isolated": "yes"}, "secure and isolated are true or false"),
    ],
)
def test_facts_that_cannot_be_are_refused(change, words, relay) -> None:
    status, error = call(relay, "hello", facts={**FACTS, **change})
    assert status == 400 and words in error


@pytest.mark.parametrize("facts", [None, [], "x", {}])
def test_facts_that_are_none_are_refused(facts, relay) -> None:
    assert call(relay, "hello", facts=facts)[0] == 400
    assert call(relay, "hello", tab="", facts=FACTS)[0] == 400
    assert call(relay, "hello", load=7, facts=FACTS)[0] == 400


def test_a_browsers_words_move_no_terminal(relay) -> None:
    assert call(relay, "hello", facts={**FACTS, "name": f"Fire{ESCAPE}fox"})[0] == 200
    assert "\x1b" not in relay.facts()["cpu"] and "\\x1b" in relay.facts()["cpu"]


def test_every_answer_forbids_what_the_page_does_not_need(page, relay) -> None:
    told = page.value(
        "fetch('/worker.js').then(a => Object.fromEntries(a.headers))",
    )
    policy = told["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "frame-ancestors 'none'" in policy
    assert "unsafe-inline" not in policy and "'unsafe-eval'" not in policy
    assert told["x-content-type-options"] == "nosniff" and told["referrer-policy"] == "no-referrer"
    assert told["cache-control"] == "no-store" and told["cross-origin-opener-policy"] == "same-origin"
    page.value(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.owned = 1';"
        " document.body.append(s); })()"
    )
    assert page.value("window.owned") is None, "what is written into the page does not run"


def test_the_page_wipes_its_token_and_the_log_never_has_it(browser, serve_relay, capfd) -> None:
    relay = serve_relay(token=CLIENTS)
    show(browser, relay)
    assert browser.value("location.hash + location.search") == ""
    history = browser._call("Page.getNavigationHistory")["entries"]
    assert all(relay.page_token not in entry["url"] for entry in history)
    assert relay.page_token not in browser.value("document.documentElement.outerHTML")
    browser._call("Page.reload")
    wait_for(lambda: headline(browser) == "Ready")  # the tab still knows it
    call(relay, "beat", "wrong")
    log = capfd.readouterr().err
    assert "POST /v1/page/beat" in log and "GET /page.js" in log, "refusals and loads are logged"
    assert relay.page_token not in log and CLIENTS not in log
    browser.open("about:blank", 390)


def test_an_address_without_its_token_says_so(browser, relay) -> None:
    browser.open(f"http://localhost:{relay.server_port}/", 390)
    wait_for(lambda: headline(browser) == "This address has no key")
    browser.value("location.hash = 'wrong'")  # typed over the old one
    wait_for(lambda: headline(browser) == "This address is old")
    assert browser.value("location.hash") == ""
    browser.open("about:blank", 390)


def test_an_ordinary_agent_serves_no_page(agent: Agent) -> None:
    assert ask(agent, request(agent, "GET / HTTP/1.1", "Content-Length: 0"))[0] == 404
