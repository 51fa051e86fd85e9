"""Requests of strangers to an agent: bounded, checked, refused in one line."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sousvit.objectives.devices.protocol import Request, RequestError
from sousvit.objectives.devices.remote.agent import MAX_JSON, Agent
from sousvit.objectives.devices.remote.files import file_hashes
from sousvit.objectives.devices.remote.store import FullError, Store
from sousvit.objectives.timing import TimingPlan


def ask(agent: Agent, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", agent.server_port, timeout=10)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, content.get("error", "")


JSON = {"Content_Type": "application/json"}


@pytest.fixture
def asked(subject: Any, agent: Agent) -> dict[str, Any]:
    for path in subject.artifact.shipped_files:
        name = file_hashes(subject.artifact)[path.name]
        assert ask(agent, "PUT", f"/v1/files/{name}", path.read_bytes())[0] == 200
    plan = TimingPlan(min_seconds=0.05, max_seconds=0.1, min_groups=3)
    one = Request("time", {"base": subject.artifact}, "base", plan=plan, with_baseline=True)
    return one.to_dict(lambda artifact: {"files": file_hashes(artifact)})


def test_wrong_requests_are_told_in_one_line(agent: Agent) -> None:
    cases = [
        (("GET", "/"), 404, "no such path"),
        (("GET", "/v1/files/../../etc/passwd"), 404, "no such path"),
        (("PUT", "/v1/files/x", b"abc"), 400, "SHA-256"),
        (("PUT", "/v1/files/" + "0" * 64, b"abc"), 400, "not the file that was announced"),
        (("POST", "/v1/lacking", b"{}"), 400, "application/json"),
    ]
    for request, status, words in cases:
        found, error = ask(agent, *request)
        assert found == status and words in error, request
    for body, words in ((b"", "JSON"), (b"[1]", "object"), (b"{}", "hashes"), (b"[" * 10**5, "JSON"),
                        (b'{"hashes": [[1]]}', "SHA-256"), (b'{"hashes": [{}, 1]}', "SHA-256")):  # fmt: skip
        found, error = ask(agent, "POST", "/v1/lacking", body, **JSON)
        assert found == 400 and words in error, body[:10]
    assert ask(agent, "POST", "/v1/measure", b" " * (MAX_JSON + 1), **JSON)[0] == 413
    assert ask(agent, "PUT", "/v1/files/" + "0" * 64, b"", Content_Length="999999999999")[0] == 413
    assert ask(agent, "GET", "/v1/facts")[0] == 200, "it lives on"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda o: o.update(ask="run"), "ask is"),
        (lambda o: o.update(threads=0), "threads"),
        (lambda o: o.update(threads=True), "threads"),
        (lambda o: o.update(batch=10**9), "batch"),
        (lambda o: o.update(timeout=1e9), "times"),
        (lambda o: o["plan"].update(min_seconds=float("nan")), "times"),
        (lambda o: o["plan"].update(min_seconds="1"), "times"),
        (lambda o: o.update(baseline="other"), "baseline"),
        (lambda o: o.update(shell="rm"), "malformed"),
        (lambda o: o.update(artifacts={}), "1 to"),
        (lambda o: o.update(artifacts=None), "malformed"),
        (lambda o: o.update(artifacts="x"), "malformed"),
        (lambda o: o["artifacts"].update(base="x"), "malformed"),
        (lambda o: o["artifacts"]["base"].update(options="x"), "malformed"),
        (lambda o: o["artifacts"]["base"].update(files="x"), "malformed"),
        (lambda o: o.update(timeout=10**400), "times"),
        (lambda o: o.pop("plan"), "malformed"),
        (lambda o: o["artifacts"]["base"].update(runtime="torch"), "litert, onnxruntime, openvino, not torch"),
        (lambda o: o["artifacts"]["base"].update(file="../model.onnx"), "file name"),
        (lambda o: o["artifacts"]["base"].update(files={"../../x": "0" * 64}), "not here"),
        (lambda o: o["artifacts"]["base"].update(files={"x": "../../etc/passwd"}), "SHA-256"),
        (lambda o: o["artifacts"]["base"].update(input_shape=[1, 3, 10**6, 10**6]), "bounded size"),
        (lambda o: o["artifacts"]["base"].update(options={"a": {"b": 1}}), "options"),
        (
            lambda o: o["artifacts"]["base"].update(options={"session.optimized_model_filepath": "/x"}),
            "options of onnx",
        ),
        (lambda o: o["artifacts"]["base"].update(options={"session.set_denormal_as_zero": True}), "is 0 or 1"),
        (lambda o: o["artifacts"]["base"].update(files={"model.onnx": "0" * 64}), "not here"),
    ],
)
def test_wrong_orders_are_told_in_one_line(change: Any, words: str, agent: Agent, asked: dict[str, Any]) -> None:
    change(asked)
    status, error = ask(agent, "POST", "/v1/measure", json.dumps(asked).encode(), **JSON)
    assert status == 400 and words in error, error


def test_nobody_is_measured_for_who_hung_up(agent: Agent, asked: dict[str, Any]) -> None:
    asked["plan"].update(min_seconds=30.0, max_seconds=60.0)
    body = json.dumps(asked).encode()
    head = f"POST /v1/measure HTTP/1.1\r\nHost: 127.0.0.1:{agent.server_port}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", agent.server_port)) as line:
        line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(agent.measuring.locked)
        line.sendall(b"GET / HTTP/1.1\r\n\r\n")  # bytes that nobody reads do not hide it
    until(lambda: not agent.measuring.locked())


def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_file_cannot_leave_its_folder(tmp_path: Path) -> None:
    store, content = Store(tmp_path / "store", 1000), b"abc"
    name = _add(store, content)
    for wrong in ("../x", "/x", "a/b", "", ".", ".."):
        with pytest.raises(RequestError, match="file name"), store.laid_out({wrong: name}):
            pass
    with store.laid_out({"model.onnx": name}) as folder:
        assert (folder / "model.onnx").read_bytes() == content
    assert not folder.exists()


def test_the_store_is_bounded_and_forgets_the_longest_unused(tmp_path: Path) -> None:
    store = Store(tmp_path, 1000)
    first, second = (_add(store, bytes([value]) * 400) for value in range(2))
    assert store.lacking([first]) == []
    third = _add(store, b"c" * 400)
    assert store.lacking([first, second, third]) == [second]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1000
    with pytest.raises(FullError):
        _add(store, b"d" * 1001)


def test_half_a_file_is_no_file(tmp_path: Path) -> None:
    import io

    store = Store(tmp_path, 1000)
    with pytest.raises(RequestError, match="missing"):
        store.add("0" * 64, io.BytesIO(b"abc"), 10)
    assert not list(tmp_path.iterdir())


def _add(store: Store, content: bytes) -> str:
    import hashlib
    import io

    name = hashlib.sha256(content).hexdigest()
    store.add(name, io.BytesIO(content), len(content))
    return name
