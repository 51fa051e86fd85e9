"""``sousvit watch``: a run's report, served on this machine while the search runs.

The server reads the run and never writes. It answers under loopback names only, so that no web page of another origin
reaches it through a name that it points here (DNS rebinding), and knows two paths.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sousvit.errors import UserError, one_line
from sousvit.search.archive import EVENTS
from sousvit.search.report.page.gather import gather
from sousvit.search.report.page.render import render, waiting
from sousvit.search.stored.answer_file import ANSWER
from sousvit.search.stored.details_file import DETAILS
from sousvit.search.stored.opened import BUDGET, NothingFinishedError, open_run

HOST = "127.0.0.1"
#: Seconds that a connection may say nothing.
PATIENCE = 30
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class ReportServer(ThreadingHTTPServer):
    """The server of one run's report.

    Args:
        folder: of the run.
        port: on this machine; 0 takes a free one.

    Raises:
        UserError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self._page: tuple[str, str] | None = None
        self._lock = threading.Lock()
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:  # an overflow: no machine has such a port
            rule, said = "a report is served on a port that is free", getattr(error, "strerror", None) or error
            raise UserError(rule, f"{port}: {said}", "give another with --port, or 0") from error

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def version(self) -> str:
        """A text that changes when there is something new to show."""
        stamps = []
        for name in (BUDGET, EVENTS, ANSWER, DETAILS):
            try:
                state = os.stat(self.folder / name)  # noqa: PTH116 - one call gives both
                stamps.append(f"{state.st_size}.{state.st_mtime_ns}")
            except OSError:
                stamps.append("-")
        return " ".join(stamps)

    def page(self) -> str:
        """The report as it is now, made anew only where something changed."""
        with self._lock:
            version = self.version()
            if self._page is None or self._page[0] != version:
                self._page = version, self._made(version)
            return self._page[1]

    def _made(self, version: str) -> str:
        try:
            return render(gather(self.folder), version)
        except NothingFinishedError:
            return waiting(self.folder.name, version)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong with an answer; nothing did where nobody reads it any more."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD of ``/`` and ``/version``."""

    server: ReportServer
    server_version, sys_version = "sousvit", ""
    timeout = PATIENCE

    def do_GET(self) -> None:
        port = self.server.server_address[1]
        if self.headers.get("Host") not in {f"{name}:{port}" for name in (HOST, "localhost")}:
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", "this server has another name\n")
            return
        known: dict[str, tuple[str, Callable[[], str]]] = {
            "/": ("text/html", self.server.page),
            "/version": ("text/plain", self.server.version),
        }
        if self.path not in known:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", "there is only /\n")
            return
        kind, make = known[self.path]
        try:
            text = make()
        except Exception as error:  # a run that is written to may be read at a bad moment; the page asks again
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"{one_line(error)}\n")
            return
        self._answer(HTTPStatus.OK, kind, text)

    do_HEAD = do_GET

    def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": f"{kind}; charset=utf-8", "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal shows the address alone."""


def serve(folder: Path, port: int, allow_plugins: bool, told: Callable[[str], None]) -> None:
    """Serve a run's report until Ctrl-C.

    Args:
        allow_plugins: load the plug-ins that the run names, even if the user never named them.
        told: gets the address.

    Raises:
        UserError: no run there, it names code that the user did not, or the port is taken.
    """
    if not (folder / BUDGET).is_file():
        raise UserError("a run must exist", folder, "begin it with sousvit search, or see sousvit list runs")
    with contextlib.suppress(NothingFinishedError):
        open_run(folder, allow_plugins)
    with ReportServer(folder, port) as server:
        told(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
