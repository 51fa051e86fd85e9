"""``python -m sousvit``, and the ``sousvit`` command: the command line, with what the system refuses in one line.

Whatever is imported may fail where memory, open files or threads are limited, so nothing of weight is imported here.
"""

from __future__ import annotations

import sys

from sousvit.errors import BAD_INPUT, INTERRUPTED
from sousvit.faults import memory_fault, told_fault


def main() -> None:
    """Run the command line."""
    try:
        from sousvit.cli.main import main as run

        run()
    except KeyboardInterrupt:  # before a command has begun to handle it: importing takes a second
        sys.exit(INTERRUPTED)
    except Exception as error:
        fault = told_fault(error) or memory_fault(error)
        if fault is None:
            raise
        print(f"sousvit: {fault}", file=sys.stderr)
        sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
