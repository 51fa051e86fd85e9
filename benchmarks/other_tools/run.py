"""What the tools made, measured by sousvit: latency beside the base, size, top-1 on the test split.

    python benchmarks/other_tools/run.py --data DIR --model VIT.safetensors --to TABLE.json OUT [OUT ...]

Each ``OUT`` is a folder that a driver left, or an artifact folder of sousvit (``runs/NAME/artifacts/recipe``). Each
artifact and the base (ONNX float32 in ONNX Runtime) take turns on one thread at batch 1; ``ratio`` is latency over
the base's. Top-1 is judged in the artifact's own runtime, image by image, as it is timed; ``drop`` is paired with the
base's. Intervals are 95%. The base's own row is the base timed beside itself: the machine's noise.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sousvit

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.workbench import ARTIFACT, FACTS, open_workshop

BASE, TARGET = "base", "local-1-thread"


@dataclass(frozen=True)
class Entry:
    """A row of the table: what is measured (None where a tool made nothing), and what its driver said."""

    artifact: sousvit.Artifact | None
    facts: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Entry:
        if (folder / "artifact.json").exists():
            return cls(sousvit.Artifact.open(folder), {"tool": str(folder)})
        facts = json.loads((folder / FACTS).read_text())
        return cls(sousvit.Artifact.open(folder / ARTIFACT) if facts["artifact"] else None, facts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--limit-test", type=int, help="so many test images only: for a trial run")
    parser.add_argument("folders", type=Path, nargs="+", metavar="OUT")
    given = parser.parse_args()
    entries = {str(folder): Entry.read(folder) for folder in given.folders}
    workshop = open_workshop(given.model, given.data)
    with tempfile.TemporaryDirectory() as folder:
        base = workshop.export(Path(folder) / BASE)
        entries = {BASE: Entry(base, {"tool": BASE}), **entries}
        whole = judge(workshop, base, given.limit_test)
        rows = [row(entry, base, whole, workshop, given.limit_test) for entry in entries.values()]
    hidden = {str(given.data): "DIR", str(given.model): "VIT.safetensors"}
    result = {
        "command": "python " + " ".join(hidden.get(word, word) for word in sys.argv),
        "date": time.strftime("%Y-%m-%d"),
        "machine": sousvit.machine_facts(),
        "target": TARGET,
        "test_images": len(whole.labels),
        "rows": rows,
    }
    given.to.write_text(json.dumps(result, indent=1))
    print(table(rows))
    return 0


def judge(workshop: sousvit.Workshop, artifact: sousvit.Artifact, limit: int | None) -> Any:
    """Image by image: some tools quantize each batch by its own range."""
    return workshop.evaluate(replace(artifact, batch_dependent=True), "test", limit=limit)


def row(
    entry: Entry, base: sousvit.Artifact, whole: Any, workshop: sousvit.Workshop, limit: int | None
) -> dict[str, Any]:
    """Figures with the ends of their intervals, and the driver's facts; ``whole`` is what the base predicts."""
    figures: dict[str, Any] = {}
    if entry.artifact is not None:
        judged = judge(workshop, entry.artifact, limit)
        measured = sousvit.measure(entry.artifact, baseline=base, target=TARGET)
        figures = {
            "runtime": entry.artifact.runtime,
            "ratio": interval(measured["ratio"]),
            "p50_ms": interval(measured["latency_p50_ms"]),
            "noisy": measured.noisy,
            "size_mb": measured["size_mb"].value,
            "top1": judged.merit(),
            "drop": judged.merit_drop(whole),
        }
    return {"tool": entry.facts["tool"], **figures, "facts": entry.facts}


def interval(figure: sousvit.Measurement) -> list[float | None]:
    """The value, and the ends of its interval."""
    return [figure.value, figure.low, figure.high]


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


def spread(figure: Sequence[float], scale: float, digits: int) -> str:
    value, low, high = (f"{scale * part:.{digits}f}" for part in figure)
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    sys.exit(main())
