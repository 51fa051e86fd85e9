"""What the tools made, measured by sousvit: latency beside the base in one session, size, top-1 on the test split.

    python benchmarks/other_tools/run.py --data DIR --model VIT.safetensors --to TABLE.json OUT [OUT ...]

Each ``OUT`` is a folder that a driver left, or an artifact folder of sousvit (``runs/NAME/artifacts/recipe``). All
artifacts and the base (ONNX float32 in ONNX Runtime) take turns on one thread at batch 1; ``ratio`` is latency over
the base's. Top-1 is judged in the artifact's own runtime, image by image, as it is timed; ``drop`` is paired with the
base's. Intervals are 95%. The base's own row is the base timed beside itself: the machine's noise.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sousvit.data import ImageSet
from sousvit.files import write_atomic
from sousvit.machine import available_cores
from sousvit.models.load import LoadedModel
from sousvit.objectives.devices.open import open_device
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.objectives.targets.profiles import load_target
from sousvit.objectives.tasks.classification import TopOneEvaluation, evaluate, interval, paired_difference
from sousvit.objectives.timing import CAREFUL, Timing
from sousvit.spaces.export.artifact import DESCRIPTION, Artifact

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.workbench import ARTIFACT, FACTS, export, open_subject

BASE, TARGET = "base", "local-1-thread"


@dataclass(frozen=True)
class Entry:
    """A row of the table: what is measured (None where a tool made nothing), and what its driver said."""

    artifact: Artifact | None
    facts: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Entry:
        if (folder / DESCRIPTION).exists():
            return cls(Artifact.open(folder), {"tool": str(folder)})
        facts = json.loads((folder / FACTS).read_text())
        return cls(Artifact.open(folder / ARTIFACT) if facts["artifact"] else None, facts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--limit-test", type=int, help="so many test images only: for a trial run")
    parser.add_argument("folders", type=Path, nargs="+", metavar="OUT")
    given = parser.parse_args()
    entries = {str(folder): Entry.read(folder) for folder in given.folders}
    base, splits = open_subject(given.model, given.data)
    with tempfile.TemporaryDirectory() as folder:
        entries = {BASE: Entry(export(base, base.module, Path(folder) / BASE), {"tool": BASE}), **entries}
        artifacts = {name: entry.artifact for name, entry in entries.items() if entry.artifact is not None}
        device = open_device(load_target(TARGET))
        timings = device.time(artifacts, BASE, CAREFUL, with_baseline=True)
        test = splits.open_test()
        test = test if given.limit_test is None else test.spread(given.limit_test)
        judged = {name: judge(artifact, test, base) for name, artifact in artifacts.items()}
        rows = [row(entry, timings.get(name), judged.get(name), judged[BASE]) for name, entry in entries.items()]
    hidden = {str(given.data): "DIR", str(given.model): "VIT.safetensors"}
    result = {
        "command": "python " + " ".join(hidden.get(word, word) for word in sys.argv),
        "date": time.strftime("%Y-%m-%d"),
        "machine": device.facts(),
        "target": TARGET,
        "test_images": len(test),
        "rows": rows,
    }
    write_atomic(given.to, json.dumps(result, indent=1))
    print(table(rows))
    return 0


def judge(artifact: Artifact, test: ImageSet, base: LoadedModel) -> TopOneEvaluation:
    with open_session(artifact, available_cores(), batch=1) as session:
        return evaluate(session, test, base.normalise, batch=1)


def row(entry: Entry, timing: Timing | None, judged: TopOneEvaluation | None, base: TopOneEvaluation) -> dict[str, Any]:
    """Figures with the ends of their intervals, and the driver's facts."""
    figures: dict[str, Any] = {}
    if entry.artifact is not None and timing is not None and judged is not None:
        figures = {
            "runtime": entry.artifact.runtime,
            "ratio": [timing.ratio, timing.ratio_low, timing.ratio_high],
            "p50_ms": [timing.p50_ms, timing.p50_low_ms, timing.p50_high_ms],
            "noisy": timing.noisy,
            "size_mb": entry.artifact.size_bytes / 1e6,
            "top1": [judged.top1, *interval(judged)],
            "drop": paired_difference(base, judged),
        }
    return {"tool": entry.facts["tool"], **figures, "facts": entry.facts}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| tool | latency / base | MB | top-1 % | drop, points | seconds | |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for one in rows:
        facts = one["facts"]
        cells = [one["tool"]]
        if "ratio" in one:
            cells += [spread(one["ratio"], 1, 3), f"{one['size_mb']:.2f}", spread(one["top1"], 100, 2)]
            cells += [spread(one["drop"], 100, 2)]
        else:
            cells += ["none", "", "", ""]
        notes = [*facts.get("notes", []), *(["noisy"] if one.get("noisy") else [])]
        lines.append("| " + " | ".join([*cells, str(facts.get("seconds", "")), "; ".join(notes)]) + " |")
    return "\n".join(lines)


def spread(figure: list[float], scale: float, digits: int) -> str:
    value, low, high = (f"{scale * part:.{digits}f}" for part in figure)
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    sys.exit(main())
