"""What tests on real processes share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """A Ray that a test starts for itself sets variables such as RAY_AUTH_MODE, which shut out the next driver."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
