"""The head of an HTTP request, read within bounds of size and time, and refused unless it has only one meaning.

The agent answers one request a connection, so that what servers and proxies are known to read differently (a length
given twice, chunks, folded lines, bare line feeds) is refused and not guessed at.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from sousvit.objectives.devices.protocol import RequestError

#: Bytes of a head, of its path, and how many headers it has.
MAX_HEAD, MAX_PATH, MAX_HEADERS = 8192, 512, 64
#: Seconds in which a head must have come.
HEAD_SECONDS = 10.0
#: Seconds that a connection may be silent.
SILENCE = 30.0
#: Headers that decide something: given twice, they are refused.
READ = frozenset(
    {
        "authorization",
        "content-length",
        "content-type",
        "host",
        "origin",
        "sec-fetch-site",
        "transfer-encoding",
    }
)
_END = b"\r\n\r\n"
#: What a head does not hold: all but plain characters and whole line ends. The last byte may be half a line end.
_FORBIDDEN = re.compile(rb"[^\t\r\n -~]|(?<!\r)\n|\r(?!\n|\Z)")
_REQUEST_LINE = re.compile(r"([A-Z]{1,16}) (\S+) HTTP/1\.[01]")
_PATH = re.compile(r"/[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*")
_HEADER = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}):[ \t]*(.*?)[ \t]*")
_LENGTH = re.compile(r"[0-9]{1,18}")


class RefusedError(RequestError):
    """A request that is answered with the HTTP status ``status`` and one line."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Head:
    """What is asked, and the headers that are read, by lower-case name."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def length(self) -> int:
        """Bytes that follow.

        Raises:
            RefusedError: not said, or not in plain digits.
        """
        text = self.headers.get("content-length", "")
        if not _LENGTH.fullmatch(text):
            raise RefusedError(400, "a request says how long it is, in plain digits")
        return int(text)


class Inbound:
    """What arrives on a connection, within a time.

    Args:
        connection: to read from; nobody else does.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._ahead = connection, b""
        self.allow(SILENCE)

    def allow(self, seconds: float) -> None:
        """Give everything that is read from now on so many seconds together."""
        self._deadline = time.monotonic() + seconds

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, none at the end.

        Raises:
            RefusedError: nothing came in time.
        """
        if self._ahead:
            found, self._ahead = self._ahead[:size], self._ahead[size:]
            return found
        return self._receive(size)

    def read_all(self, size: int) -> bytes:
        """``size`` bytes, or all there are; raises as :meth:`read`."""
        found = bytearray()
        while len(found) < size and (part := self.read(size - len(found))):
            found += part
        return bytes(found)

    def read_head(self) -> Head:
        """The head that a connection begins with.

        Raises:
            RefusedError: it is too long, too slow, or not of one meaning.
            ConnectionError: nothing came at all.
        """
        self.allow(HEAD_SECONDS)
        found = b""
        while (end := found.find(_END)) < 0:
            if len(found) > MAX_HEAD:
                raise RefusedError(431, f"the head of a request has at most {MAX_HEAD} bytes")
            _require_plain(found)
            part = self._receive(4096)
            if not part:
                raise RefusedError(400, "the request ends early") if found else ConnectionError
            found += part
        self._ahead = found[end + len(_END) :]
        return parse_head(found[:end])

    def _receive(self, size: int) -> bytes:
        left = self._deadline - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(min(left, SILENCE))
            return self._connection.recv(size)
        except TimeoutError as error:
            raise RefusedError(408, "the request did not come in time") from error


def parse_head(content: bytes) -> Head:
    """The head in ``content``, without the empty line that ends it.

    Raises:
        RefusedError: it is too long, or not of one meaning.
    """
    if len(content) > MAX_HEAD:
        raise RefusedError(431, f"the head of a request has at most {MAX_HEAD} bytes")
    _require_plain(content)
    first, *lines = content.decode("ascii").split("\r\n")
    asked = _REQUEST_LINE.fullmatch(first)
    if asked is None:
        raise RefusedError(400, "a request begins with a method, a path and HTTP/1.1")
    method, path = asked.groups()
    if len(path) > MAX_PATH:
        raise RefusedError(414, f"a path has at most {MAX_PATH} characters")
    if not _PATH.fullmatch(path):
        raise RefusedError(400, "a path begins with a slash and has the characters of a URL")
    return Head(method, path, _headers(lines))


def _require_plain(content: bytes) -> None:
    if _FORBIDDEN.search(content):
        raise RefusedError(400, "the head of a request is plain text with whole line ends")


def _headers(lines: list[str]) -> dict[str, str]:
    if len(lines) > MAX_HEADERS:
        raise RefusedError(431, f"a request has at most {MAX_HEADERS} headers")
    headers: dict[str, str] = {}
    for line in lines:
        parts = _HEADER.fullmatch(line)
        if parts is None:
            raise RefusedError(400, "a header is a name, a colon and a value, in one line")
        name = parts[1].lower()
        if name in headers:
            raise RefusedError(400, f"{name} stands once in a request")
        if name in READ:
            headers[name] = parts[2]
    if "transfer-encoding" in headers:
        raise RefusedError(400, "a request says how long it is, and comes in one piece")
    return headers
