"""Bytes of strangers on an agent's port, sent over real sockets: every one is answered soon, and few of them matter."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sousvit.errors import UserError
from sousvit.objectives.devices.remote import client, head, store
from sousvit.objectives.devices.remote.agent import Agent
from sousvit.objectives.devices.remote.client import RemoteDevice
from sousvit.objectives.devices.remote.connections import MAX_STRANGERS, Strangers
from sousvit.objectives.devices.remote.names import Names
from sousvit.objectives.devices.remote.store import FullError, Store
from sousvit.objectives.targets.target import Target
from tests.campaign.agent_requests import AMBIGUOUS, FIRST_LINES
from tests.objectives.agents import ESCAPE, FACTS, SOON, Line, ask, request, status

TOKEN = "a token of some length"


@pytest.fixture
def lines() -> Iterator[Callable[[Agent], Line]]:
    """Opens connections, and closes them in the end."""
    with contextlib.ExitStack() as stack:

        def open_line(agent: Agent) -> Line:
            line = Line(agent)
            stack.enter_context(line.socket)
            return line

        yield open_line


# ------------------------------------------------------------------------------------------------ who may ask it


@pytest.mark.parametrize("host", ["127.0.0.1:PORT", "localhost:PORT", "LOCALHOST:PORT"])
def test_an_agent_is_asked_by_its_own_address(host: str, agent: Agent) -> None:
    assert ask(agent, request(agent, FACTS, host=host.replace("PORT", str(agent.server_port))))[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:PORT",
        "evil.example",
        "localhost",
        "127.0.0.1:1",
        "127.0.0.1.evil.example:PORT",
        "evil.example:80@127.0.0.1:PORT",
        "127.0.0.1:PORT, evil.example",
        "192.168.1.4:PORT",
    ],
)
def test_a_name_that_was_pointed_at_an_agent_is_not_its_own(host: str, agent: Agent) -> None:
    found, error = ask(agent, request(agent, FACTS, host=host.replace("PORT", str(agent.server_port))))
    assert found == 421 and "--host-name" in error


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize(
    "header",
    [
        "Origin: http://evil.example",
        "Origin: null",
        "Origin: http://localhost:3000",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ],
)
def test_a_page_of_another_origin_is_refused(header: str, token: str | None, serve_agent: Any) -> None:
    agent = serve_agent(token)
    known = [] if token is None else [f"Authorization: Bearer {token}"]
    for first in (FACTS, "POST /v1/lacking HTTP/1.1", "OPTIONS /v1/measure HTTP/1.1"):
        typed = ["Content-Type: application/json", "Content-Length: 0", "Access-Control-Request-Method: POST"]
        line = Line(agent).say(request(agent, first, header, *known, *typed))
        with line.socket:
            answer = line.answer()
        assert status(answer) == 403 and b"access-control" not in answer.lower()
    own = f"Origin: http://127.0.0.1:{agent.server_port}"
    assert ask(agent, request(agent, FACTS, own, "Sec-Fetch-Site: same-origin", *known))[0] == 200


def test_another_name_is_given_on_the_command(start_agent: Any) -> None:
    started = start_agent("--host-name", "Board.example", "--host-name", "proxy")
    for host, wanted in (("board.example:9", 200), ("proxy", 200), ("other.example", 421)):
        assert ask(started, request(started, FACTS, host=host))[0] == wanted


def test_another_name_has_no_port(serve_agent: Any) -> None:
    with pytest.raises(UserError, match=r"without a port.*--host-name"):
        serve_agent(host_names=["board.example:80"])


def test_an_agent_on_every_address_is_asked_by_numbers_and_by_the_names_of_its_machine(monkeypatch: Any) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Pi")
    everywhere, one = Names("0.0.0.0", "0.0.0.0", 8765), Names("board", "192.168.1.4", 8765)

    def knows(names: Names, host: str) -> bool:
        try:
            names.require({"host": host})
        except head.RefusedError:
            return False
        return True

    for host in ("192.168.1.4:8765", "10.0.0.1:8765", "[fd00::1]:8765", "pi:8765", "pi.local:8765", "localhost:8765"):
        assert knows(everywhere, host), host
    for host in ("evil.example:8765", "10.0.0.1:80", "10.0.0.1"):
        assert not knows(everywhere, host), host
    assert knows(one, "192.168.1.4:8765") and knows(one, "board:8765") and knows(one, "pi.local:8765")
    assert not knows(one, "10.0.0.1:8765") and not knows(one, "localhost:8765")


def test_who_asks_by_an_unknown_name_is_told_what_to_do(agent: Agent, monkeypatch: Any) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more, **named: real("127.0.0.1", *more, **named))
    target = Target.model_validate({"device": "board", "agent": f"http://board.example:{agent.server_port}"})
    with pytest.raises(UserError, match=r"start it with --host-name board\.example"):
        RemoteDevice(target).facts()


# ------------------------------------------------------------------------------------------ heads of two meanings

PUT = f"PUT /v1/files/{hashlib.sha256(b'abc').hexdigest()} HTTP/1.1"


@pytest.mark.parametrize("headers", AMBIGUOUS)
def test_a_head_of_two_meanings_is_refused(headers: list[str], agent: Agent, lines: Any, capsys: Any) -> None:
    answer = lines(agent).say(request(agent, PUT, *headers) + b"abc").answer()
    assert status(answer) == 400 and answer.count(b"HTTP/1.") == 1 and b"application/json" in answer
    assert not holds(agent, b"abc")
    assert ask(agent, request(agent, FACTS))[0] == 200, "it lives on"
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("first", "wanted"), FIRST_LINES.items())
def test_a_first_line_is_a_method_a_path_and_a_version(first: str, wanted: int, agent: Agent) -> None:
    with contextlib.suppress(ConnectionError):  # told before all of a long line was taken
        assert ask(agent, request(agent, first))[0] == wanted


@pytest.mark.parametrize("name", ["..%2fescaped", "../escaped", "/escaped", "....//escaped", "0" * 63 + "%00"])
def test_a_file_name_in_a_path_leads_nowhere(name: str, agent: Agent, tmp_path: Any) -> None:
    found, error = ask(agent, request(agent, f"PUT /v1/files/{name} HTTP/1.1", "Content-Length: 3") + b"abc")
    assert found == 400 and "SHA-256" in error
    assert not list(tmp_path.rglob("*escaped*"))


@pytest.mark.parametrize("headers", [[f"X{index}: a" for index in range(100)], ["X: " + "a" * 9000]])
def test_a_head_is_of_bounded_size(headers: list[str], agent: Agent) -> None:
    assert ask(agent, request(agent, FACTS, *headers))[0] == 431


def test_what_is_no_http_is_told_before_it_ends(agent: Agent, lines: Any) -> None:
    assert status(lines(agent).say(b"\x16\x03\x01\x02\x00\x01").answer()) == 400  # how TLS begins
    assert status(lines(agent).say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").answer()) == 400


def test_a_request_has_the_content_that_it_needs(agent: Agent) -> None:
    assert ask(agent, request(agent, FACTS, "Content-Length: 3") + b"abc")[0] == 400
    assert ask(agent, request(agent, FACTS, host=""))[0] == 400
    assert ask(agent, b"GET /v1/facts HTTP/1.1\r\n\r\n")[0] == 400


def test_a_connection_carries_one_request(agent: Agent, lines: Any) -> None:
    twice = 2 * request(agent, FACTS, "Connection: keep-alive")
    answer = lines(agent).say(twice).answer()
    assert status(answer) == 200 and answer.count(b"HTTP/1.") == 1 and b"connection: close" in answer.lower()


def test_a_request_may_come_in_pieces(agent: Agent, lines: Any) -> None:
    whole = request(agent, PUT, "Content-Length: 3") + b"abc"
    pieces = [whole[at : at + 7] for at in range(0, len(whole), 7)]
    line = lines(agent)
    line.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert status(line.say(*pieces).answer()) == 200


# ------------------------------------------------------------------------------------------ slow and many at once


def test_silent_connections_make_room(agent: Agent, lines: Any) -> None:
    many = [lines(agent) for _ in range(3 * MAX_STRANGERS)]
    begun = time.monotonic()
    assert ask(agent, request(agent, FACTS))[0] == 200
    assert time.monotonic() - begun < SOON
    while sum(line.is_open() for line in many) > MAX_STRANGERS:  # a connection is told of its end a little later
        assert time.monotonic() - begun < SOON
    assert many[-1].is_open()
    threads = MAX_STRANGERS + 1
    while threads > MAX_STRANGERS and time.monotonic() - begun < SOON:  # those of ended connections are about to end
        threads = sum("process_request_thread" in thread.name for thread in threading.enumerate())
    assert threads <= MAX_STRANGERS


def test_a_slow_head_is_not_waited_for(agent: Agent, lines: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(head, "HEAD_SECONDS", 0.5)
    line, begun = lines(agent), time.monotonic()
    for byte in request(agent, FACTS, "X: " + "a" * 200):
        line.say(bytes([byte]))
        if select.select([line.socket], [], [], 0.05)[0]:
            break
    assert time.monotonic() - begun < SOON and status(line.answer()) == 408


def upload(agent: Agent, content: bytes, *headers: str, length: int | None = None) -> bytes:
    """The head of an upload of ``content``, which is to follow."""
    name, size = hashlib.sha256(content).hexdigest(), len(content) if length is None else length
    return request(agent, f"PUT /v1/files/{name} HTTP/1.1", f"Content-Length: {size}", *headers)


def holds(agent: Agent, content: bytes) -> bool:
    return not agent.store.lacking([hashlib.sha256(content).hexdigest()])


def test_a_slow_upload_delays_nobody(agent: Agent, lines: Any) -> None:
    slow, fast = b"s" * 1000, b"f" * 1000
    line = lines(agent).say(upload(agent, slow), slow[:500])
    time.sleep(0.2)  # it is being read
    assert ask(agent, upload(agent, fast) + fast)[0] == 200 and holds(agent, fast)
    assert status(line.say(slow[500:]).answer()) == 200 and holds(agent, slow)


def test_what_is_only_announced_takes_no_room(agent: Agent, lines: Any) -> None:
    held = b"h" * 400_000
    assert ask(agent, upload(agent, held) + held)[0] == 200
    line = lines(agent).say(upload(agent, b"x" * 900_000))
    other = lines(agent).say(upload(agent, b"y" * 900_000), b"y" * 500_000)
    time.sleep(0.2)
    assert holds(agent, held)
    for one in (line, other):
        one.socket.shutdown(socket.SHUT_WR)
        assert status(one.answer()) == 400
    assert ask(agent, upload(agent, b"y", length=900_000) + b"z" * 900_000)[0] == 400
    assert holds(agent, held), "bytes that are not what was announced take no room either"
    whole = b"w" * 900_000
    assert ask(agent, upload(agent, whole) + whole)[0] == 200
    assert holds(agent, whole) and not holds(agent, held)


def test_uploads_at_once_have_a_bound_together(agent: Agent, lines: Any) -> None:
    first, second = b"1" * 700_000, b"2" * 700_000
    line = lines(agent).say(upload(agent, first), first[:-1])
    time.sleep(0.3)
    found, error = ask(agent, upload(agent, second) + second)
    assert found == 503 and "at the same time" in error
    assert status(line.say(first[-1:]).answer()) == 200
    assert ask(agent, upload(agent, second) + second)[0] == 200


def test_many_small_files_are_bounded_too(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(store, "MAX_FILES", 3)
    small = Store(tmp_path, 1000)
    for value in range(10):
        content = bytes([value])
        small.add(hashlib.sha256(content).hexdigest(), io.BytesIO(content), 1)
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(FullError):
        small.add("0" * 64, io.BytesIO(b""), 1001)


def test_whose_request_is_carried_out_is_not_ended_for_another(agent: Agent, lines: Any) -> None:
    agent.strangers = Strangers(2)
    contents = [bytes([value]) * 1000 for value in (1, 2)]
    busy = [lines(agent).say(upload(agent, content), content[:10]) for content in contents]
    time.sleep(0.3)
    begun = time.monotonic()
    assert status(lines(agent).answer()) == 503 and time.monotonic() - begun < SOON
    for line, content in zip(busy, contents, strict=True):
        assert status(line.say(content[10:]).answer()) == 200
    assert ask(agent, request(agent, FACTS))[0] == 200


def test_who_has_shown_the_token_is_not_counted(serve_agent: Any, lines: Any) -> None:
    agent, known = serve_agent(TOKEN), f"Authorization: Bearer {TOKEN}"
    agent.strangers = Strangers(2)
    contents = [bytes([value]) * 1000 for value in range(4)]
    uploads = [lines(agent).say(upload(agent, content, known), content[:10]) for content in contents]
    time.sleep(0.3)
    silent = [lines(agent) for _ in range(5)]
    assert ask(agent, request(agent, FACTS, known))[0] == 200
    assert sum(line.is_open() for line in silent) <= 2
    assert [status(line.say(content[10:]).answer()) for line, content in zip(uploads, contents, strict=True)] == [
        200
    ] * 4


def test_a_wrong_token_is_told_before_the_content_is_read(serve_agent: Any, lines: Any) -> None:
    agent = serve_agent(TOKEN)
    line = lines(agent).say(upload(agent, b"x", length=900_000))
    begun = time.monotonic()
    assert status(line.answer()) == 401 and time.monotonic() - begun < SOON


# --------------------------------------------------------------------------------------------- words of strangers


def test_nothing_that_a_terminal_obeys_reaches_the_log(agent: Agent, capsys: Any) -> None:
    for first in (f"GET /{ESCAPE} HTTP/1.1", f"{ESCAPE} / HTTP/1.1", f"GET / {ESCAPE}", "GET /\x9b31m HTTP/1.1"):
        assert ask(agent, request(agent, first))[0] == 400
    assert ask(agent, request(agent, FACTS, f"Cookie: {ESCAPE}"))[0] == 400
    assert ask(agent, request(agent, "GET /%1b[31m HTTP/1.1"))[0] == 404
    body = json.dumps({"hashes": [ESCAPE], ESCAPE: 1}).encode()
    typed = "Content-Type: application/json", f"Content-Length: {len(body)}"
    assert ask(agent, request(agent, "POST /v1/lacking HTTP/1.1", *typed) + body)[0] == 400
    log = capsys.readouterr().err
    assert log.count("\n") == 7 and log.replace("\n", "").isprintable(), repr(log)


def answering(*parts: bytes, pause: float = 0.0) -> int:
    """A server that answers everybody with ``parts``, whatever is asked; its port."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            connection, _ = server.accept()
            with contextlib.suppress(OSError), connection:
                connection.recv(1 << 16)
                for part in parts:
                    connection.sendall(part)
                    time.sleep(pause)

    threading.Thread(target=serve, daemon=True).start()
    return int(server.getsockname()[1])


def device_at(port: int) -> RemoteDevice:
    return RemoteDevice(Target.model_validate({"device": "b", "agent": f"http://127.0.0.1:{port}", "patience": 0}))


@pytest.mark.parametrize("content", [{"error": ESCAPE}, {"cpu": ESCAPE}, [ESCAPE], ESCAPE])
@pytest.mark.parametrize(
    "first", ["HTTP/1.1 422 no", "HTTP/1.1 400 no", "HTTP/1.1 401 no", f"{ESCAPE} 200", "HTTP/1.1 200 ok"]
)
def test_the_words_of_a_device_do_not_command_our_terminal(first: str, content: Any, agent: Agent) -> None:
    body = json.dumps(content).encode()
    port = answering(f"{first}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    with pytest.raises((UserError, RuntimeError)) as caught:
        device_at(port).facts()
    assert str(caught.value).isprintable(), repr(str(caught.value))


def test_the_facts_of_a_device_are_plain_words(agent: Agent) -> None:
    facts = {**agent.facts(), "cpu": ESCAPE, "flags": [ESCAPE], "versions": {ESCAPE: ESCAPE}}
    body = json.dumps(facts).encode()
    port = answering(f"HTTP/1.1 200 ok\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    found = device_at(port).facts()
    shown = [found["cpu"], *found["flags"], *found["versions"], *found["versions"].values()]
    assert all("owned" in text and text.isprintable() for text in shown)


def test_a_device_that_trickles_is_lost(monkeypatch: Any) -> None:
    monkeypatch.setattr(client, "SHORT", 0.5)
    port = answering(b"HTTP/1.1 200 ok\r\n", *[b"X: a\r\n"] * 50, pause=0.1)
    begun = time.monotonic()
    with pytest.raises(UserError, match="must answer"):
        device_at(port).facts()
    assert time.monotonic() - begun < SOON
