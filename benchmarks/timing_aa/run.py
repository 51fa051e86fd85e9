"""The timing harness held against itself: a model beside its own copy, whose true ratio is 1.

Two questions. How often does the 95% interval of a run cover 1.0? (Wanted: in 93 to 97% of 200 runs on an idle
machine.) And when every core is loaded, does the harness say so? (Wanted: every such run is ``noisy``.) Two sessions
of the same file are opened, so that memory placement differs as it does between two models. Writes ``raw.json``. It
imports the harness from inside, because that is what it measures.

    python benchmarks/timing_aa/run.py --runs 200 --loaded-runs 20
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from sousvit.machine import available_cores
from sousvit.models.load import load
from sousvit.objectives.devices.machine import machine_facts
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.objectives.timing import Timing, TimingPlan, compare
from sousvit.spaces.context import Context
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.export.export import make_artifact
from sousvit.specs import ModelSpec

HERE = Path(__file__).parent
BASE = HERE.parents[1] / "examples" / "fashion-mnist" / "base.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--loaded-runs", type=int, default=10, help="runs with every core busy")
    parser.add_argument("--measure-time", type=float, default=TimingPlan.min_seconds, help="seconds a run")
    parser.add_argument("--runtime", default="onnxruntime", help="any that is registered")
    parser.add_argument("--model", type=Path, default=BASE, help="safetensors that sousvit train wrote")
    parser.add_argument("--out", type=Path, default=HERE / "raw.json")
    given = parser.parse_args()
    plan = TimingPlan.of(given.measure_time)
    with tempfile.TemporaryDirectory() as folder:
        artifact = export(given.model, given.runtime, Path(folder) / "base")
        idle = [once(artifact, plan, number) for number in range(given.runs)]
        with busy_cores():
            loaded = [once(artifact, plan, number) for number in range(given.loaded_runs)]
    result = {
        "command": "python " + " ".join(sys.argv),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine_facts(),
        "summary": {"idle": summary(idle), "loaded": summary(loaded)},
        "idle": [asdict(timing) for timing in idle],
        "loaded": [asdict(timing) for timing in loaded],
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result))
    print(json.dumps(result["summary"], indent=1))


def export(model: Path, runtime: str, folder: Path) -> Artifact:
    base = load(ModelSpec(checkpoint=str(model.resolve())).resolved(Path()))
    shape = (1, base.channels, *base.size)
    return make_artifact(base.module, shape, base.mean, base.std, runtime, None, Context(base.normalise), folder)


def once(artifact: Artifact, plan: TimingPlan, number: int) -> Timing:
    """The session that was opened first is the candidate and the baseline by turns: it tends to be the slower one."""
    with open_session(artifact, 1, 1) as first, open_session(artifact, 1, 1) as second:
        one, other = (first, second) if number % 2 == 0 else (second, first)
        timing = compare(one, other, (1, *artifact.input_shape[1:]), plan)
    flag = " noisy" if timing.noisy else ""
    print(f"#{number} {timing.ratio:.4f} [{timing.ratio_low:.4f}, {timing.ratio_high:.4f}]{flag}", file=sys.stderr)
    return timing


@contextmanager
def busy_cores() -> Iterator[None]:
    """Every core this process may use, busy with something else: twice, so that none is ours half of the time."""
    command = [sys.executable, "-c", "while True: sum(range(10**5))"]
    busy = [subprocess.Popen(command) for _ in range(2 * available_cores())]
    try:
        time.sleep(0.5)
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def summary(timings: list[Timing]) -> dict[str, Any]:
    """Shares of runs; coverage is of those that the harness itself trusts."""
    quiet = [timing for timing in timings if not timing.noisy]
    covering = sum(timing.ratio_low <= 1 <= timing.ratio_high for timing in quiet)
    return {
        "runs": len(timings),
        "noisy": len(timings) - len(quiet),
        "trusted runs whose 95% interval covers 1.0": covering,
        "share": covering / len(quiet) if quiet else None,
        "median half width of the interval": median((t.ratio_high - t.ratio_low) / 2 for t in quiet) if quiet else None,
        "median ratio, candidate opened first and second": [median(t.ratio for t in timings[k::2]) for k in (0, 1)],
        "largest trusted |ratio - 1|": max((abs(timing.ratio - 1) for timing in quiet), default=None),
    }


if __name__ == "__main__":
    main()
