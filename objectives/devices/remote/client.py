"""A device reached through its agent (:mod:`.agent`), and what is done when it is lost, slow, restarting or lying.

- *Lost or restarting*: a request that finds nobody is repeated with growing pauses, for the target's ``patience``.
  Files that a restarted agent no longer has are sent again.
- *Slow*: a measurement has the target's ``timeout``; the agent ends it, and so do we.
- *Lying or disturbed*: an answer must echo the request's nonce and the hashes of the files, come from the machine that
  the first answer came from, and hold plausible timings (:mod:`.checks`). Otherwise it is asked for again.
- *Quarantine*: after a few measurements in a row that failed so, the device is not asked again and the search stops
  with one line; the same command resumes it.

A model that the device's runtime does not take is the model's failure, not the device's.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from sousvit.errors import SharedInputError, TrialError, UserError, printable
from sousvit.objectives.devices.protocol import Request, RequestError
from sousvit.objectives.devices.remote.agreement import Agreement
from sousvit.objectives.devices.remote.checks import Sanity
from sousvit.objectives.devices.remote.files import MIN_RATE, file_hashes
from sousvit.objectives.devices.standin import RequestingDevice, decode
from sousvit.objectives.latency import TAILS
from sousvit.objectives.runtimes.runtime import RUNTIMES, get_runtime

if TYPE_CHECKING:
    import numpy as np

    from sousvit.objectives.targets.target import Target
    from sousvit.spaces.export.artifact import Artifact

T = TypeVar("T")

#: Seconds to wait for a connection and for short answers.
CONNECT, SHORT = 5.0, 30.0
#: Seconds of the first pause and of the longest; each is twice the one before.
PAUSE, LONGEST_PAUSE = 0.5, 15.0
#: Seconds beyond a request's timeout for starting the process and sending figures.
GRACE = 20.0
#: An answer that cannot be right is asked for so many times.
TRIES = 3
#: Failed measurements in a row after which a device is out.
QUARANTINE_AFTER = 3
#: What runs a base's file in a browser whose target names another runtime.
IN_BROWSERS = {"onnxruntime": "onnxruntime-web"}
#: Bytes of an answer.
MAX_ANSWER = 1 << 28


class LostError(RuntimeError):
    """The device did not answer, or was busy."""


class RemoteDevice(RequestingDevice):
    """Measures through a target's agent."""

    name: ClassVar[str] = "agent"
    reads: ClassVar[frozenset[str]] = frozenset({"cores", "memory", "agent", "token_file", "token_env"})

    @classmethod
    def misfit(cls, target: Target) -> tuple[str, object, str] | None:
        refused = [name for name in target.runtimes if not get_runtime(name).opens_untrusted]
        if not refused and target.is_browser and target.cores is not None:
            return "a browser is not pinned to cores", f"cores {target.cores}", "remove it"
        if not refused:
            return None
        open_there = ", ".join(runtime.name for runtime in RUNTIMES if runtime.opens_untrusted and not runtime.files_of)
        return "an agent opens no files that could hold code", ", ".join(refused), f"name one of {open_there}"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        assert target.agent is not None
        self._address = _address(target.agent)
        self._token = target.token()
        self._sanity = Sanity()
        self._agreement = Agreement(target.timeout) if target.is_browser else None
        self._failures, self._last_failure = 0, ""

    def facts(self) -> dict[str, Any]:
        try:
            facts = self._patiently(lambda: self._request("GET", "/v1/facts"))
            self._sanity.check_facts(facts)
        except (LostError, RequestError) as error:
            raise SharedInputError(
                f"target {self.target.label}: its agent must answer",
                error,
                f"start sousvit device serve there, see {self.target.agent}",
            ) from error
        return facts

    def unfit(self, facts: Mapping[str, Any], objectives: Sequence[str]) -> tuple[str, object, str] | None:
        browser = facts.get("browser")
        if not self.target.is_browser:
            return None
        if not isinstance(browser, Mapping):
            action = "start sousvit device serve --web there"
            return "a browser's agent serves a page", f"{self.target.agent} without one", action
        if self.target.threads > 1 and not browser.get("isolated"):
            given = f"threads {self.target.threads} on a page by plain HTTP"
            action = "write threads: 1, or open the page by https or by localhost (adb reverse)"
            return "more than one thread needs an isolated page", given, action
        tails = [name for name in objectives if name.startswith(TAILS)]
        if tails and not facts.get("tails"):
            action = "ask for latency, or open the page by https or by localhost (adb reverse)"
            return "percentiles need a clock for single inferences", f"{', '.join(tails)} on a coarse clock", action
        return None

    def show(self, images: np.ndarray) -> None:
        if self._agreement is not None:
            self._agreement.show(images)

    def close(self) -> None:
        if self._agreement is not None:
            self._agreement.close()

    def carry_out(self, request: Request) -> Any:
        self._require_trusted()
        for tried in range(1, TRIES + 1):
            try:
                found = self._patiently(lambda: self._once(request))
            except LostError as error:
                raise self._failed(str(error)) from error
            except RequestError as error:
                if tried == TRIES:
                    raise self._failed(f"its answers cannot be trusted: {error}") from error
            else:
                self._failures = 0
                return found
        raise AssertionError("unreachable")

    def _once(self, request: Request) -> Any:
        """Send what the device lacks, and measure."""
        files = {name: file_hashes(artifact) for name, artifact in request.artifacts.items()}
        paths = {
            content: artifact.folder / file
            for name, artifact in request.artifacts.items()
            for file, content in files[name].items()
        }
        made_for, agreement = request.artifacts, self._agreement if request.ask == "time" else None
        if agreement is not None:
            images, path = agreement.file(made_for[request.baseline].input_shape)
            request, paths[images] = replace(request, images=images), path
        request = replace(request, artifacts={name: self._placed(artifact) for name, artifact in made_for.items()})
        self._send_files(paths)
        nonce = uuid.uuid4().hex
        plain = {**request.to_dict(lambda artifact: {"files": file_hashes(artifact)}), "nonce": nonce}
        begun = time.monotonic()
        answer = self._request("POST", "/v1/measure", plain, request.timeout + GRACE)
        elapsed = time.monotonic() - begun
        if answer.get("nonce") != nonce or answer.get("files") != files:
            raise RequestError("the answer is not to what was sent")
        self._sanity.check_facts(answer.get("facts"))
        found = decode(request, answer)
        if request.ask == "time":
            base = json.dumps(files[request.baseline], sort_keys=True)
            self._sanity.check_timings(found, request, elapsed, f"{base} {request.threads} {request.batch}")
        if agreement is not None:
            agreement.check(made_for, answer.get("predictions"))
        return found

    def _placed(self, artifact: Artifact) -> Artifact:
        """The artifact as the device runs it: a browser has runtimes of its own, and ONNX Runtime's for the base."""
        if not self.target.is_browser:
            return artifact
        there = {**IN_BROWSERS, **self.target.artifacts}
        return replace(artifact, runtime=there.get(artifact.runtime, artifact.runtime))

    def _send_files(self, paths: Mapping[str, Path]) -> None:
        answer = self._request("POST", "/v1/lacking", {"hashes": list(paths)})
        for content in answer.get("lacking") or []:
            if content not in paths:
                raise RequestError("the device asks for a file that was not named")
            self._request("PUT", f"/v1/files/{content}", paths[content], SHORT + self.target.timeout)

    def keep(self, artifact: Artifact) -> None:
        """Nothing to do: files are sent once and stay as long as there is room."""

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask until somebody answers or the target's patience is over."""
        begun, pause = time.monotonic(), PAUSE
        while True:
            try:
                return ask()
            except LostError:
                if time.monotonic() - begun + pause > self.target.patience:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _failed(self, reason: str) -> TrialError:
        self._failures += 1
        self._last_failure = reason
        self._require_trusted()
        return TrialError(f"target {self.target.label}: {reason}")

    def _require_trusted(self) -> None:
        if self._failures >= QUARANTINE_AFTER:
            raise SharedInputError(
                f"target {self.target.label} must measure: {self._failures} measurements in a row failed",
                self._last_failure,
                "mend the device (sousvit device check tells) and run the same command again to resume",
            )

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | Path | None = None, wait: float | None = None
    ) -> Any:
        """One request and its JSON answer.

        Raises:
            LostError: nobody answered in time, or the device is busy.
            RequestError: the answer is not JSON.
            TrialError: the artifact failed there.
            UserError: the token is wrong, or the file too large.
        """
        try:
            status, content = self._exchange(method, path, body, wait or SHORT)
        except (OSError, http.client.HTTPException) as error:
            reason = printable(str(error)) or type(error).__name__
            raise LostError(f"no answer from {self.target.agent} ({reason})") from error
        return self._told(status, content)

    def _exchange(self, method: str, path: str, body: Any, wait: float) -> tuple[int, bytes]:
        secure, host, port = self._address
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(host, port, timeout=CONNECT)
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        size = body.stat().st_size if isinstance(body, Path) else 0
        try:
            connection.connect()
            connection.sock.settimeout(wait)
            with _ended_after(wait + size / MIN_RATE, connection.sock):
                if isinstance(body, Path):
                    headers["Content-Length"] = str(size)
                    with body.open("rb") as stream:
                        connection.request(method, path, stream, headers)
                elif body is None:
                    connection.request(method, path, headers=headers)
                else:
                    headers["Content-Type"] = "application/json"
                    connection.request(method, path, json.dumps(body).encode(), headers)
                answer = connection.getresponse()
                return answer.status, _read(answer)
        finally:
            connection.close()

    def _told(self, status: int, content: bytes) -> Any:
        try:
            found = _plain(json.loads(content))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise RequestError(f"no agent answers at {self.target.agent} (status {status}, no JSON)")
        reason = " ".join(str(found.get("error", ""))[:300].split())
        label = f"target {self.target.label}"
        if status == 401:
            raise SharedInputError(
                f"{label}: the agent's token must be given", reason, "correct token_file or token_env"
            )
        if status in (403, 421):
            raise SharedInputError(
                f"{label}: its agent must know the address by which it is asked",
                reason,
                f"start it with --host-name {self._address[1]}, or correct the target's agent",
            )
        if status == 413:
            raise UserError(
                f"{label}: the device must have room for the file", reason, "start its agent with more --max-gb"
            )
        if status == 422:
            raise TrialError(f"{label}: {reason}")
        if status in (408, 503):
            raise LostError(f"{self.target.agent} is busy or far ({reason})")
        if status != 200:
            raise RequestError(f"the agent answered {status}: {reason}")
        return found


def _plain(value: Any) -> Any:
    """A device's answer with all its words printable: facts and reasons are shown on our terminal."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {printable(name): _plain(one) for name, one in value.items()}
    return value


@contextlib.contextmanager
def _ended_after(seconds: float, connection: socket.socket) -> Iterator[None]:
    """End a connection whose other side trickles: a time limit of single reads notices nothing of that."""

    def end() -> None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)  # of TLS too, without its farewell

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _read(answer: http.client.HTTPResponse) -> bytes:
    """The body.

    Raises:
        TimeoutError: it is larger than any answer.
    """
    parts, size = [], 0
    while part := answer.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER:
            raise TimeoutError("the answer does not end")
    return b"".join(parts)


def _address(agent: str) -> tuple[bool, str, int]:
    """(https, host, port) of an agent's URL.

    Raises:
        UserError: it is none.
    """
    try:
        parts = urlsplit(agent)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        parts, port = urlsplit(""), 0
    plain = not (parts.path.strip("/") or parts.query or parts.username)
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
        raise UserError("an agent is http://HOST:PORT", repr(agent), "correct the target's agent")
    return parts.scheme == "https", parts.hostname, port
