"""The process's own output streams."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator

#: The stream is the whole process's: of two threads the second would put back what the first one put there.
_CHANGING = threading.RLock()


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Drop what is written to standard error meanwhile, by compiled code too; what is raised stays."""
    with _CHANGING:
        sys.stderr.flush()
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            with contextlib.redirect_stderr(io.StringIO()):
                yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)
