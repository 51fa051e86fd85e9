"""The agent of a browser: what it is asked to measure, it hands to the page that is open there.

``sousvit device serve --web``. To its clients it is an agent like any other (:mod:`..remote.agent`). Beside that it
serves the page and its runtimes to whoever asks, and to who has the page's token these calls, all of them JSON:

===============================  ========================================================================
``POST /v1/page/hello``          ``tab``, ``load`` and the browser's facts: claims the device, or 409
``POST /v1/page/next``           waits for a request: ``{"request": ...}``, or null after a while
``GET /v1/page/files/SHA256``    a file of the request
``POST /v1/page/beat``           every 2 s, and whether it is hidden -> the number of the request still wanted
``POST /v1/page/answer``         what came of a request: figures, ``void`` or ``failed``
===============================  ========================================================================

The page's token opens nothing else, and the clients' token none of these.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import io
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from sousvit.errors import TrialError
from sousvit.objectives.devices.browser.answers import Said, read_answer, read_facts, read_said
from sousvit.objectives.devices.browser.assets import Assets
from sousvit.objectives.devices.browser.desk import Desk, VoidError
from sousvit.objectives.devices.browser.heat import MOST, Heat
from sousvit.objectives.devices.process import UnwantedError
from sousvit.objectives.devices.protocol import Request, RequestError, decode_groups
from sousvit.objectives.devices.remote.agent import MAX_JSON, Agent, Content, File, Handler
from sousvit.objectives.devices.remote.files import file_hashes
from sousvit.objectives.devices.remote.head import RefusedError
from sousvit.objectives.devices.remote.names import is_loopback
from sousvit.objectives.devices.remote.store import BusyError
from sousvit.objectives.runtimes.artifact_check import check_files
from sousvit.objectives.runtimes.runtime import get_runtime

#: Times that a disturbed session is measured, and seconds of rest for a hot device before each further try.
TRIES, RESTS = 3, (10.0, 30.0)
#: Bytes of a page's answer: raw latencies and predictions.
MAX_ANSWER = 1 << 26
_PAGE = Path(__file__).parent / "page"
#: What is served to everybody: the path, the file, its media type.
_OPEN = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/measure.js": ("measure.js", "text/javascript; charset=utf-8"),
    "/worker.js": ("worker.js", "text/javascript; charset=utf-8"),
}
_ASSETS, _CALLS = "/assets/", "/v1/page/"


class Relay(Agent):
    """Serves one page; the arguments are an agent's.

    Args:
        assets: the runtimes that a page loads.
        page_token: that the page must show; by default it follows from ``token``, so that a page finds its relay again
            when that was started anew.
    """

    def __init__(
        self,
        host: str,
        port: int,
        token: str | None,
        folder: Path,
        max_bytes: int,
        host_names: Iterable[str] = (),
        *,
        assets: Assets,
        page_token: str | None = None,
    ) -> None:
        super().__init__(host, port, token, folder, max_bytes, host_names)
        self.assets, self.desk = assets, Desk()
        self.page_token = page_token or _page_token(token)
        self.files: dict[str, Path] = {}
        self._heat = Heat()

    def handler(self) -> type[Handler]:
        return PageHandler

    def page_address(self, host: str) -> str:
        """Where a page finds the relay that listens on ``host``; the token is in the fragment, which no request has."""
        name = "localhost" if is_loopback(host) else _own_address() if host in ("0.0.0.0", "::") else host
        return f"http://{name}:{self.server_port}/#{self.page_token}"

    def greeting(self, host: str) -> list[str]:
        address = self.page_address(host)
        lines = [f"listening on http://{host}:{self.server_port}"]
        lines += [f"open this page on the device, and leave it in front: {address}"]
        try:
            import segno
        except ImportError:
            return [*lines, 'pip install "sousvit[web]" adds a code here that a camera reads']
        drawn = io.StringIO()
        segno.make(address, micro=False).terminal(drawn, compact=True)
        return [*lines, drawn.getvalue().rstrip("\n")]

    def facts(self) -> dict[str, Any]:
        return {**self.desk.facts(), **self.bounds()}

    def carry_out(self, request: Request, is_wanted: Callable[[], bool]) -> dict[str, Any]:
        """The figures of an undisturbed session of a device that is not hot."""
        deadline = time.monotonic() + request.timeout
        self._require_fit(request)
        content = self._errand(request)
        try:
            for rest in (0.0, *RESTS):
                _rest(min(rest, deadline - time.monotonic()), is_wanted)
                answer = self._undisturbed(request, content, deadline, is_wanted)
                hot = 1.0 if request.ask != "time" else self._heat.factor(request, decode_groups(answer["groups"]))
                if hot <= MOST:
                    return {"affinity": [], **answer}
        finally:
            self.files = {}
        raise BusyError(f"the device is hot: the base takes {hot:.2f} times as long as at first; let it cool")

    def _undisturbed(
        self, request: Request, content: dict[str, Any], deadline: float, is_wanted: Callable[[], bool]
    ) -> dict[str, Any]:
        for _ in range(TRIES):
            try:
                found: dict[str, Any] = self.desk.ask(
                    content, functools.partial(read_answer, request), deadline, is_wanted
                )
                return found
            except VoidError as error:
                reason = error
        raise BusyError(f"the page was disturbed {TRIES} times: {reason}")

    def _require_fit(self, request: Request) -> None:
        """A request that this browser can carry out.

        Raises:
            RequestError, TrialError, UserError: it cannot.
        """
        browser = self.desk.facts()["browser"]
        if request.cores is not None:
            raise RequestError("a browser is not pinned to cores")
        if request.ask == "energy":
            raise TrialError("a browser tells no energy")
        if request.threads > 1 and not browser["isolated"]:
            raise TrialError(
                f"threads {request.threads} need an isolated page: open it by https, or by localhost (adb reverse)"
            )
        for artifact in request.artifacts.values():
            check_files(artifact, get_runtime(artifact.runtime).suffixes)

    def _errand(self, request: Request) -> dict[str, Any]:
        """A request as it travels to the page."""
        artifacts, files = dict[str, dict[str, Any]](), dict[str, Path]()
        for name, artifact in request.artifacts.items():
            content = file_hashes(artifact)[artifact.file]
            files[content] = artifact.path
            artifacts[name] = {"runtime": artifact.runtime, "file": content, "shape": [*artifact.input_shape]}
            artifacts[name]["options"] = artifact.options
        if request.images is not None:
            files[request.images] = self.store.path(request.images)
        self.files = files
        plan = vars(request.plan)
        asked = {
            key: getattr(request, key) for key in ("ask", "baseline", "threads", "batch", "with_baseline", "images")
        }
        return {**asked, "plan": plan, "artifacts": artifacts, "assets": self.assets.places()}


class PageHandler(Handler):
    """One request of a client or of the page."""

    server: Relay
    #: Only what the relay itself serves runs, and nobody may frame it. Isolated, a page has threads and a fine clock.
    HEADERS: ClassVar[Mapping[str, str]] = {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
            "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }

    def _token(self) -> str | None:
        path = self._head.path
        if path in _OPEN or path.startswith(_ASSETS):
            return None
        return self.server.page_token if path.startswith(_CALLS) else super()._token()

    def _route(self) -> Callable[[], Content]:
        method, path = self._head.method, self._head.path
        if method == "GET" and path in _OPEN:
            return self._open
        if method == "GET" and path.startswith(_ASSETS):
            return self._asset
        if not path.startswith(_CALLS):
            return super()._route()
        if method == "GET" and path.startswith(f"{_CALLS}files/"):
            return self._page_file
        calls = {"hello": self._hello, "next": self._next, "beat": self._beat, "answer": self._page_answer}
        name = path.removeprefix(_CALLS)
        if method != "POST" or name not in calls:
            raise RefusedError(404, "no such path")
        return lambda: calls[name](read_said(self._json(MAX_ANSWER if name == "answer" else MAX_JSON)))

    def _log(self, status: int) -> None:
        if status >= 400 or not self._asked.startswith(f"POST {_CALLS}"):  # a page says something every 2 s
            super()._log(status)

    def _open(self) -> Content:
        name, kind = _OPEN[self._head.path]
        return File((_PAGE / name).read_bytes(), kind)

    def _asset(self) -> Content:
        found = self.server.assets.read(self._head.path.removeprefix(_ASSETS))
        if found is None:
            raise RefusedError(404, "no such path")
        body, kind = found
        return File(body, kind, "public, max-age=31536000, immutable")

    def _page_file(self) -> Content:
        path = self.server.files.get(self._head.path.rpartition("/")[2])
        if path is None:
            raise RefusedError(404, "no file of the present request")
        return File(path.read_bytes(), "application/octet-stream")

    def _hello(self, said: Said) -> Content:
        facts = read_facts(said.content.get("facts"), self.server.assets.runtimes())
        self.server.desk.hello(said.tab, said.load, facts)
        return {"facts": facts}

    def _next(self, said: Said) -> Content:
        return {"request": self.server.desk.next(said.load)}

    def _beat(self, said: Said) -> Content:
        return {"number": self.server.desk.beat(said.load, said.content.get("hidden") is True)}

    def _page_answer(self, said: Said) -> Content:
        number, void, failed = (str(said.content.get(key, ""))[:300] for key in ("number", "void", "failed"))
        self.server.desk.answer(said.load, number, said.content.get("figures"), void, failed)
        return {}


def serve_page(
    host: str, port: int, token_file: Path | None, max_gb: float, host_names: Iterable[str], folder: Path | None
) -> None:
    """Serve a page and its clients until Ctrl-C.

    Args:
        host, port, token_file, max_gb, host_names: see :func:`..remote.agent.serve`.
        folder: with the packages of the runtimes, where they are not to be fetched.

    Raises:
        UserError: as there, or a package cannot be had.
    """
    from sousvit.objectives.devices.browser.assets import open_assets
    from sousvit.objectives.devices.remote.agent import serve

    serve(host, port, token_file, max_gb, host_names, functools.partial(Relay, assets=open_assets(folder)))


def _page_token(token: str | None) -> str:
    """A token that follows from the clients' without telling it; a new one where they have none."""
    if token is None:
        return secrets.token_urlsafe(24)
    return hmac.new(token.encode(), b"the page's calls", hashlib.sha256).hexdigest()[:40]


def _own_address() -> str:
    """The machine's address in its network; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of documentation (RFC 5737): only the route is looked up
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def _rest(seconds: float, is_wanted: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if not is_wanted():
            raise UnwantedError
        time.sleep(min(0.2, left))
