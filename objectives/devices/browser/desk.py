"""The desk between an agent's clients and a page: one page at a time, and at most one request that it works on.

A page claims the device with ``hello``; it shows with every ``beat`` that it lives, and whether it is looked at. Which
page speaks is known by a number that it makes up when it loads (``load``), and its tab by one that outlives a reload
(``tab``): a tab that loads again takes its own place, another has to wait until no beat has come for a while.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sousvit.errors import TrialError
from sousvit.objectives.devices.process import UnwantedError
from sousvit.objectives.devices.remote.head import RefusedError
from sousvit.objectives.devices.remote.store import BusyError

#: Seconds without a beat after which a page is lost; it sends one every 2 s.
LOST = 12.0
#: Seconds that a page's ``next`` waits for a request.
POLL = 20.0
#: Seconds between looks at a request that a page works on.
LOOK = 0.2


class VoidError(RuntimeError):
    """The page could not measure undisturbed."""


@dataclass
class _Page:
    tab: str
    load: str
    facts: dict[str, Any]
    seen: float
    hidden: bool = False


@dataclass
class _Errand:
    """What a page works on, and what came of it."""

    content: dict[str, Any]
    read: Callable[[Any], Any]
    number: str = field(default_factory=lambda: uuid.uuid4().hex)
    answer: Any = None
    void: str = ""
    failed: str = ""
    done: bool = False


class Desk:
    """Thread-safe.

    Args:
        clock: seconds, of a time that only goes forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._page: _Page | None = None
        self._errand: _Errand | None = None

    def hello(self, tab: str, load: str, facts: dict[str, Any]) -> None:
        """A page that has loaded claims the device.

        Raises:
            RefusedError: another page has it.
        """
        with self._changed:
            page = self._page
            if page is not None and page.tab != tab and self._is_here(page):
                raise RefusedError(409, "another page measures here; close it first")
            self._page = _Page(tab, load, facts, self._clock())
            self._drop("the page was loaded again")
            self._changed.notify_all()

    def facts(self) -> dict[str, Any]:
        """What the page's browser is.

        Raises:
            BusyError: no page is there.
        """
        with self._changed:
            return dict(self._required().facts)

    def beat(self, load: str, hidden: bool) -> str:
        """A sign of life; the number of the request that is still wanted, or nothing.

        Raises:
            RefusedError: the page is not the one that has the device.
        """
        with self._changed:
            self._known(load).hidden = hidden
            return "" if self._errand is None or self._errand.done else self._errand.number

    def next(self, load: str, seconds: float = POLL) -> dict[str, Any] | None:
        """The request to work on, as soon as there is one; None if there is none for a while.

        Raises:
            RefusedError: the page is not the one that has the device.
        """
        end = self._clock() + seconds
        with self._changed:
            self._known(load)
            while True:
                self._claimed(load)  # while it waits, nothing is heard of it
                errand = self._errand
                # Again, if it was handed out before: that may not have reached the page, which asks when it is idle.
                if errand is not None and not errand.done:
                    return {"number": errand.number, **errand.content}
                left = end - self._clock()
                if left <= 0:
                    return None
                self._changed.wait(min(left, 1.0))

    def answer(self, load: str, number: str, content: Any, void: str = "", failed: str = "") -> None:
        """What came of a request; one that nobody waits for any more is dropped.

        Raises:
            RefusedError: the page is not the one that has the device.
            RequestError: the answer is malformed; who asked is told so too.
        """
        with self._changed:
            self._known(load)
            errand = self._errand
            if errand is None or errand.number != number or errand.done:
                return
            errand.void, errand.failed, errand.done = void, failed, True
            try:
                if not (void or failed):
                    errand.answer = errand.read(content)
            except Exception as error:
                errand.answer = error
                raise
            finally:
                self._changed.notify_all()

    def ask(
        self, content: dict[str, Any], read: Callable[[Any], Any], deadline: float, is_wanted: Callable[[], bool]
    ) -> Any:
        """Have the page carry something out, and wait for it.

        Args:
            content: what travels.
            read: makes the answer of what the page says, or raises.
            deadline: by the desk's clock.
            is_wanted: whether somebody still waits.

        Raises:
            BusyError: no page is there, it is not looked at, or it went away.
            VoidError: it was disturbed.
            TrialError: it failed, or took too long.
            RequestError: its answer is malformed.
            UnwantedError: nobody waits any more.
        """
        with self._changed:
            self._require_looked_at()
            errand = self._errand = _Errand(content, read)
            self._changed.notify_all()
            try:
                while not errand.done:
                    self._changed.wait(LOOK)
                    self._watch(errand, deadline, is_wanted)
            finally:
                errand.done = True
                self._errand = None
        if errand.void:
            raise VoidError(errand.void)
        if errand.failed:
            raise TrialError(errand.failed)
        if isinstance(errand.answer, Exception):
            raise errand.answer
        return errand.answer

    def _watch(self, errand: _Errand, deadline: float, is_wanted: Callable[[], bool]) -> None:
        if errand.done:
            return
        self._require_looked_at()
        if self._clock() > deadline:
            raise TrialError("the page took longer than the target's timeout")
        if not is_wanted():
            raise UnwantedError

    def _require_looked_at(self) -> None:
        if self._required().hidden:
            raise BusyError("the page is not looked at; bring it to the front, and unlock the device")

    def _required(self) -> _Page:
        page = self._page
        if page is None:
            raise BusyError("no page is open; open the address that sousvit device serve --web shows on the device")
        if not self._is_here(page):
            raise BusyError("the page is gone: nothing was heard of it for 12 s; open it again")
        return page

    def _known(self, load: str) -> _Page:
        """The page that speaks, and lives."""
        page = self._claimed(load)
        page.seen = self._clock()
        return page

    def _claimed(self, load: str) -> _Page:
        page = self._page
        if page is None:
            raise RefusedError(410, "say hello first")
        if page.load != load:
            raise RefusedError(409, "another page measures here; close it first")
        return page

    def _is_here(self, page: _Page) -> bool:
        return self._clock() - page.seen <= LOST

    def _drop(self, reason: str) -> None:
        if self._errand is not None and not self._errand.done:
            self._errand.done, self._errand.answer = True, BusyError(reason)
