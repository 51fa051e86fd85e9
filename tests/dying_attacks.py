"""Attacks that go wrong themselves, for the tests of what is made of that; light, for they are started often."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

from tests.campaign.outcome import Outcome


def dying(numbers: range, seed: int) -> Iterator[Outcome]:
    """The third ends the process, the fifth never ends, the sixth finds something."""
    for number in numbers:
        if number == 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == 4:
            print("a word of somebody else's", flush=True)
            time.sleep(600)
        yield Outcome("one", "a fault" if number == 5 else "")


def failing(numbers: range, seed: int) -> Iterator[Outcome]:
    """None begins."""
    raise ValueError("it never begins")
