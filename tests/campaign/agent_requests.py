"""Requests of strangers to a live agent: damaged, ambiguous and random ones.

After each the agent answers honest requests, nothing lies outside its folder, and its log is plain lines.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import psutil

from sousvit.objectives.devices.protocol import Request
from sousvit.objectives.devices.remote.files import file_hashes
from sousvit.objectives.timing import TimingPlan
from tests.campaign.outcome import Outcome, chance_of
from tests.campaign.run_files import with_other_value
from tests.hostile import mutated
from tests.objectives.agents import ESCAPE, FACTS, SOON, AgentProcess, Line, ask, request, status
from tests.objectives.hostile_artifacts import onnx_artifact

#: Headers of an upload of three bytes that have two meanings, or none.
AMBIGUOUS = [
    [],
    ["Content-Length: 3", "Content-Length: 3"],
    ["Content-Length: 3", "Content-Length: 30"],
    ["Content-Length: 3, 3"],
    ["Content-Length: -3"],
    ["Content-Length: +3"],
    ["Content-Length: 0x3"],
    ["Content-Length: \xb3"],
    ["Content-Length:"],
    ["Content-Length: " + "9" * 5000],
    ["Transfer-Encoding: chunked"],
    ["Transfer-Encoding: chunked", "Content-Length: 3"],
    ["Content-Length: 3", "Transfer-Encoding: identity"],
    ["Content-Length: 3", "Host: evil.example"],
    ["Content-Length : 3"],
    ["Content-Length: 3", " folded"],
    ["Content-Length: 3", "X: a\x00b"],
    ["Content-Length: 3", f"X: {ESCAPE}"],
    ["Content-Length: 3\nX: bare line feed"],
    ["Content-Length: 3\rX: bare return"],
    ["Content-Length: 3", "no colon"],
    ["Content-Length: 3", "X\xe9: a"],
]
#: First lines that are none, or ask for nothing that there is, and how they are answered.
FIRST_LINES = {
    "GET /v1/facts": 400,
    "GET  /v1/facts HTTP/1.1": 400,
    "GET /v1/facts HTTP/2.0": 400,
    "GET /v1/facts HTTP/1.1 more": 400,
    "GET http://evil.example/v1/facts HTTP/1.1": 400,
    "GET v1/facts HTTP/1.1": 400,
    "get /v1/facts HTTP/1.1": 400,
    f"GET /{ESCAPE} HTTP/1.1": 400,
    'GET /v1/"200 HTTP/1.1': 400,
    "GET /" + "a" * 600 + " HTTP/1.1": 414,
    "GET /" + "a" * 70_000 + " HTTP/1.1": 431,
    "GET /v1/../v1/facts HTTP/1.1": 404,
    "GET /v1/files/..%2f..%2fetc%2fpasswd HTTP/1.1": 404,
    "TRACE /v1/facts HTTP/1.1": 404,
}

#: What heads are put together from at random.
WORDS = (
    "GET", "PUT", "POST", "HEAD", "get", "CONNECT", " ", "  ", "\t", "/", "/v1/facts", "/v1/lacking", "/v1/measure",
    "/v1/files/", "0" * 64, "../../escaped", "/etc/passwd", "%2e%2e%2f", "*", "?a=b", "#", "http://evil.example/",
    "HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "\r\n", "\n", "\r", "\r\n\r\n", ":", "Host", "Content-Length",
    "Content-Type", "Authorization", "Bearer ", "Origin", "null", "chunked", "Transfer-Encoding",
    "Connection: keep-alive", "Expect: 100-continue", "Upgrade: h2c", "application/json", "0", "3",
    "99999999999999999999", "-1", "\0", ESCAPE, "é", "ÿ", "{", "[[[[", '"', "a" * 300, "a" * 9000,
)  # fmt: skip
#: Every so many attacks the agent is asked to measure too.
MEASURED = 25
#: Of an agent's process.
MOST_MEMORY_MB = 1000
#: Seconds that an attack waits for its answer.
PATIENCE = 2.0


class Attacked:
    """A live agent in a folder of its own, and honest requests to it."""

    def __init__(self, work: Path) -> None:
        self.folder = folder = work / "agent"
        folder.mkdir()
        environment = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder), "XDG_STATE_HOME": str(folder)}
        self.agent = AgentProcess(folder, "--max-gb", "0.01", environment=environment).start()
        self.artifact = onnx_artifact(work / "artifact")
        plan = TimingPlan(min_seconds=0.02, max_seconds=0.05, min_groups=3)
        one = Request("time", {"base": self.artifact}, "base", plan=plan, with_baseline=True, timeout=20.0)
        self.order = one.to_dict(lambda artifact: {"files": file_hashes(artifact)})
        self._read = 0

    def post(self, path: str, content: Any) -> bytes:
        body = json.dumps(content).encode()
        typed = "Content-Type: application/json", f"Content-Length: {len(body)}"
        return request(self.agent, f"POST {path} HTTP/1.1", *typed) + body

    def upload(self, content: bytes) -> bytes:
        name = hashlib.sha256(content).hexdigest()
        return request(self.agent, f"PUT /v1/files/{name} HTTP/1.1", f"Content-Length: {len(content)}") + content

    def honest(self) -> dict[str, bytes]:
        """One request of each kind."""
        return {
            "facts": request(self.agent, FACTS),
            "lacking": self.post("/v1/lacking", {"hashes": ["0" * 64]}),
            "upload": self.upload(b"abc"),
            "measure": self.post("/v1/measure", self.order),
        }

    def fault(self, chance: Random, with_measurement: bool) -> str:
        """What is wrong with the agent; "" where nothing is."""
        try:
            asked = [request(self.agent, FACTS), self.upload(chance.randbytes(100))]
            if with_measurement:
                asked += [self.upload(path.read_bytes()) for path in self.artifact.shipped_files]
                asked.append(self.honest()["measure"])
            for one in asked:
                deadline = time.monotonic() + 20 * SOON
                found, error = ask(self.agent, one, 20 * SOON)
                while found == 503 and time.monotonic() < deadline:  # whose client has gone is measured a moment longer
                    time.sleep(0.1)
                    found, error = ask(self.agent, one, 20 * SOON)
                if found != 200:
                    return f"an honest request is answered with {found} {error}: {one[:60]!r}"
        except (OSError, AssertionError, ValueError) as error:
            return f"an honest request is not answered: {type(error).__name__}: {error}"
        return self._fault_of_folder() or self._fault_of_log() or self._fault_of_memory()

    def _fault_of_folder(self) -> str:
        known = ("sousvit-device-", self.agent.log.name)
        others = [path.name for path in self.folder.iterdir() if not path.name.startswith(known)]
        return f"there is {', '.join(others)} beside its folder" if others else ""

    def _fault_of_log(self) -> str:
        log = self.agent.log.read_bytes()
        told, self._read = log[self._read :].decode(errors="replace"), len(log)
        if "Traceback" in told:
            return f"a traceback: {told.strip().splitlines()[-1]}"
        return "" if told.replace("\n", "").isprintable() else f"its log commands a terminal: {told[:200]!r}"

    def _fault_of_memory(self) -> str:
        used = psutil.Process(self.agent.process.pid).memory_info().rss / 1e6
        return f"it takes {used:.0f} MB" if used > MOST_MEMORY_MB else ""


def attacks(numbers: range, seed: int) -> Iterator[Outcome]:
    """Requests of each way in turns."""
    with tempfile.TemporaryDirectory() as work, contextlib.ExitStack() as silent:
        attacked = Attacked(Path(work))
        try:
            for number in numbers:
                chance = chance_of(seed, number)
                way = list(WAYS)[number % len(WAYS)]
                content = WAYS[way](attacked, chance)
                is_measured = number % MEASURED == 0
                fault = _sent(attacked, content, chance, silent)
                if is_measured:
                    silent.close()  # who waits for a measurement may keep the device busy
                fault = fault or attacked.fault(chance, is_measured)
                yield Outcome(f"agent, {way}", f"{fault}: after {content[:2000]!r}" if fault else "")
        finally:
            attacked.agent.kill()


def _sent(attacked: Attacked, content: bytes, chance: Random, silent: contextlib.ExitStack) -> str:
    """What is wrong with how the bytes are answered: "" for any answer but one that says that the agent failed."""
    line = Line(attacked.agent)
    answer = b""
    with contextlib.suppress(OSError):
        line.socket.settimeout(PATIENCE)
        parts = chance.choice((1, 1, 2, 5))
        size = -(-len(content) // parts) or 1
        line.say(*(content[at : at + size] for at in range(0, len(content), size)))
        if chance.random() < 0.2:  # it says no more, and stays
            silent.enter_context(line.socket)
            return ""
        if chance.random() < 0.7:
            line.socket.shutdown(1)
        while part := line.socket.recv(1 << 16):
            answer += part
    line.socket.close()
    if answer and not answer.startswith(b"HTTP/1.1 "):
        return f"no answer of HTTP: {answer[:100]!r}"
    return f"it failed: {answer[-300:]!r}" if answer and status(answer) == 500 else ""


def _damaged(attacked: Attacked, chance: Random) -> bytes:
    content = chance.choice(list(attacked.honest().values()))
    for _ in range(chance.randint(1, 3)):
        content = mutated(content, chance)[1]
    return content


def _ambiguous(attacked: Attacked, chance: Random) -> bytes:
    """An upload or another request with headers that have two meanings."""
    first = f"PUT /v1/files/{hashlib.sha256(b'abc').hexdigest()} HTTP/1.1"
    chosen = chance.choice((first, FACTS, "POST /v1/lacking HTTP/1.1", "POST /v1/measure HTTP/1.1"))
    return request(attacked.agent, chosen, *chance.choice(AMBIGUOUS), *chance.choice(AMBIGUOUS)) + b"abc"


def _first_line(attacked: Attacked, chance: Random) -> bytes:
    body = chance.choice((b"", b"abc", b"{}"))
    return request(attacked.agent, chance.choice(list(FIRST_LINES)), f"Content-Length: {len(body)}") + body


def _other_values(attacked: Attacked, chance: Random) -> bytes:
    """A whole request to measure, or to say what is lacking, with other values."""
    if chance.random() < 0.2:
        return attacked.post("/v1/lacking", with_other_value({"hashes": ["0" * 64, "1" * 64]}, chance))
    order = json.loads(json.dumps(attacked.order))
    for _ in range(chance.randint(1, 2)):
        order = with_other_value(order, chance)
    return attacked.post("/v1/measure", order)


def _hostile_order(attacked: Attacked, chance: Random) -> bytes:
    """A whole request to measure whose names, options and files lead elsewhere."""
    order = json.loads(json.dumps(attacked.order))
    one = order["artifacts"]["base"]
    elsewhere = chance.choice(("../../escaped", str(attacked.folder / "escaped"), "/etc/passwd", "..", "a\0b", ESCAPE))
    change: Callable[[], None] = chance.choice((
        lambda: one.update(file=elsewhere),
        lambda: one.update(files={elsewhere: next(iter(one["files"].values()))}),
        lambda: one.update(files={"model.onnx": elsewhere}),
        lambda: one.update(options={"session.optimized_model_filepath": elsewhere}),
        lambda: one.update(options={elsewhere: elsewhere}),
        lambda: one.update(folder=elsewhere),
        lambda: one.update(runtime=chance.choice(("torch", "openvino", elsewhere))),
        lambda: one.update(input_shape=[1, 3, 10**chance.randint(1, 9), 16]),
        lambda: order.update(plugins=[elsewhere]),
        lambda: order.update(artifacts={elsewhere: one}, baseline=elsewhere),
    ))  # fmt: skip
    change()
    return attacked.post("/v1/measure", order)


def _words(attacked: Attacked, chance: Random) -> bytes:
    text = "".join(chance.choice(WORDS) for _ in range(chance.randint(1, 40)))
    whole = request(attacked.agent, FACTS)[: chance.choice((0, 0, 20, 60))] + text.encode("latin-1")
    return whole + chance.choice((b"", b"\r\n\r\n"))


def _random_bytes(attacked: Attacked, chance: Random) -> bytes:
    return chance.randbytes(chance.choice((1, 10, 100, 10_000)))


def _hostile_file(attacked: Attacked, chance: Random) -> bytes:
    """An upload whose length or name is not what it says, or of any size."""
    content = chance.randbytes(chance.choice((0, 1, 1000, 2_000_000)))
    whole = attacked.upload(content)
    return chance.choice((whole, whole[:-1], whole + b"more", whole.replace(b"/files/", b"/files/../../escaped"),
                          mutated(whole[:200], chance)[1] + whole[200:]))  # fmt: skip


WAYS: dict[str, Callable[[Attacked, Random], bytes]] = {
    "damaged request": _damaged,
    "head of two meanings": _ambiguous,
    "wrong first line": _first_line,
    "other values": _other_values,
    "paths and options": _hostile_order,
    "random words": _words,
    "random bytes": _random_bytes,
    "hostile upload": _hostile_file,
}
