"""A server that strangers cannot fill: so many of their connections at once, and the one that waits longest goes first.

A stranger is who has not yet shown a token. Connections that say nothing, or say it slowly, make room for new ones, so
that whoever has something to ask is answered at once however many of them there are.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import sys
import threading
from typing import Any

from sousvit.errors import one_line

#: Connections of strangers at once.
MAX_STRANGERS = 60
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\nContent-Length: 33\r\n\r\n"
    b'{"error": "too many connections"}'
)


class Strangers:
    """Connections that have shown no token: those that wait to be let in, and those whose request is carried out.

    Args:
        most: of both together.
    """

    def __init__(self, most: int = MAX_STRANGERS) -> None:
        self._most, self._lock = most, threading.Lock()
        self._waiting: dict[socket.socket, None] = {}  # in order of arrival
        self._busy: set[socket.socket] = set()

    def take(self, connection: socket.socket) -> bool:
        """Whether there is room for ``connection``; the one that waits longest is ended for it."""
        with self._lock:
            if len(self._waiting) + len(self._busy) >= self._most:
                if not self._waiting:
                    return False
                oldest = next(iter(self._waiting))
                del self._waiting[oldest]
                with contextlib.suppress(OSError):  # it may just have gone by itself
                    oldest.shutdown(socket.SHUT_RDWR)
            self._waiting[connection] = None
            return True

    def let_in(self, connection: socket.socket, is_known: bool) -> None:
        """The request of ``connection`` is carried out now; that of a known one no longer counts.

        Raises:
            ConnectionError: it has just been ended for another one.
        """
        with self._lock:
            if connection not in self._waiting:
                raise ConnectionError
            del self._waiting[connection]
            if not is_known:
                self._busy.add(connection)

    def forget(self, connection: socket.socket) -> None:
        """The connection is over."""
        with self._lock:
            self._waiting.pop(connection, None)
            self._busy.discard(connection)


class BoundedServer(socketserver.ThreadingTCPServer):
    """A thread for each connection, and a bounded number of strangers' connections."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[socketserver.BaseRequestHandler]) -> None:
        self.strangers = Strangers()
        super().__init__(address, handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room; who finds none is told so at once, and the server waits for nobody."""
        if self.strangers.take(request):
            return True
        with contextlib.suppress(OSError):
            request.setblocking(False)
            request.sendall(_FULL)
        return False

    def close_request(self, request: Any) -> None:
        # Before it is closed: its number may belong to another connection a moment later.
        self.strangers.forget(request)
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One line: a stranger's connection is worth no traceback."""
        error = sys.exc_info()[1]
        print(f"{client_address[0]} {'' if error is None else one_line(error)}", file=sys.stderr)
