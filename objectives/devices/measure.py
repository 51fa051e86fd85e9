"""The measuring process: ``python -m sousvit.objectives.devices.measure PARENT_PID``, JSON on stdin, an answer out.

What comes in is ``{"request": ..., "plugins": [...]}``: a :class:`.Request`, and the plug-ins of the runtimes that its
artifacts need. The latter come from the parent, never from a network.

It pins itself to its cores before it loads a runtime, so that every thread inherits them. Imports nothing but numpy
and the runtimes of its artifacts.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sousvit.errors import TrialError, one_line
from sousvit.machine import end_with_parent
from sousvit.objectives.devices.protocol import Request, encode_groups
from sousvit.objectives.energy import ABSENT, energy_mj, find_meter
from sousvit.objectives.memory_probe import probe
from sousvit.objectives.runtimes.runtime import RUNTIMES, Session, open_session
from sousvit.objectives.timing import measure_groups


def carry_out(request: Request) -> dict[str, Any]:
    """Measure what was asked, in this process.

    Raises:
        TrialError: an artifact failed, or the device cannot tell.
    """
    one = request.artifacts[request.baseline]
    if request.ask == "probe":
        return asdict(probe(one, request.threads, request.batch))
    if request.ask == "energy":
        meter = find_meter()
        if meter is None:
            raise TrialError(ABSENT)
        batch = np.random.default_rng(0).standard_normal(request.shape, dtype=np.float32)
        with open_session(one, request.threads, request.batch) as session:
            return {"energy_mj": energy_mj(session, batch, request.plan.min_seconds, meter)}
    with _sessions(request) as sessions:
        asked = request.baseline, request.shape, request.plan
        groups = measure_groups(sessions, *asked, with_baseline=request.with_baseline)
    return {"groups": encode_groups(groups)}


@contextlib.contextmanager
def _sessions(request: Request) -> Iterator[dict[str, Session]]:
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(open_session(artifact, request.threads, request.batch))
            for name, artifact in request.artifacts.items()
        }


def pin(cores: int | None) -> list[int]:
    """Pin this process to the last ``cores`` of the cores it may use (the first serve interrupts); returns them.

    Raises:
        TrialError: there are not so many, or the system cannot pin.
    """
    if not hasattr(os, "sched_setaffinity"):
        if cores is not None:
            raise TrialError("this system cannot pin a process to cores (Linux can)")
        return []
    usable = sorted(os.sched_getaffinity(0))
    if cores is not None:
        if cores > len(usable):
            raise TrialError(f"{cores} cores are wanted, {len(usable)} usable")
        os.sched_setaffinity(0, usable[-cores:])
    return sorted(os.sched_getaffinity(0))


def main() -> int:
    """Command line; a failure is one line on stderr."""
    end_with_parent(int(sys.argv[1]))
    # What libraries print must not mix with the answer.
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        given = json.load(sys.stdin)
        request = Request.from_dict(given["request"], lambda plain: Path(plain["folder"]))
        affinity = pin(request.cores)
        for reference in given["plugins"]:
            RUNTIMES.load(reference)
        answer = {"affinity": affinity, **carry_out(request)}
    except Exception as error:  # the parent shows the line
        print(str(error) if isinstance(error, TrialError) else one_line(error), file=sys.stderr)
        return 1
    with answer_to:
        json.dump(answer, answer_to)
    return 0


if __name__ == "__main__":
    sys.exit(main())
