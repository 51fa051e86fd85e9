"""A browser's figures held against themselves: how far the ratio of one pair of models moves from session to session.

The embedded base, and the same in dynamic int8 and as a LiteRT file, each timed in several sessions in a page and as
often in the native runtime of this machine. A session is one ``sousvit measure``: 4 s, and up to 20 s where it is
noisy. Start ``sousvit device serve --web``, open its page on the device, and name the device's target, whose runtimes
are ``[onnxruntime-web, litert-web]``. Writes ``raw.json`` and ``result.md``.

    python benchmarks/browser/run.py --target phone.yaml --sessions 5
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import sousvit

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.provenance import provenance, write_result

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "fashion-mnist"
DATA = {part: str(EXAMPLE / "data" / f"{part}-images-idx3-ubyte.gz") for part in ("train", "validation", "test")}
#: Name -> the recipe's steps, and the runtime whose file it is.
MODELS: dict[str, tuple[list[Any], str]] = {
    "fp32": ([], "onnxruntime"),
    "int8_dynamic": ([{"technique": "int8_dynamic"}], "onnxruntime"),
    "LiteRT fp32": ([], "litert"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, required=True, help="YAML file of the browser's target")
    parser.add_argument("--sessions", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifacts = {name: build(name, Path(folder) / name.replace(" ", "-")) for name in MODELS}
        rows = [
            {"model": name, "where": where, "session": session, **figures(artifacts[name], artifacts["fp32"], target)}
            for session in range(given.sessions)
            for name in list(MODELS)[1:]
            for where, target in {"browser": given.target, "native": native(name)}.items()
        ]
    command = "python " + " ".join(sys.argv)
    (HERE / "raw.json").write_text(json.dumps({"command": command, "rows": rows}, indent=1))
    write_result(HERE / "result.md", report(rows, command))


def build(name: str, out: Path) -> Path:
    steps, runtime = MODELS[name]
    model = EXAMPLE / "base.safetensors"
    return sousvit.build({"runtime": runtime, "steps": steps}, str(model), out=out, **DATA).artifact.folder


def native(name: str) -> sousvit.Target:
    return sousvit.Target(device="local", runtimes=tuple(dict.fromkeys(("onnxruntime", MODELS[name][1]))))


def figures(artifact: Path, base: Path, target: Any) -> dict[str, Any]:
    found = sousvit.measure(artifact, baseline=base, target=target)
    ratio = found.figures["ratio"]
    told = {"ratio": ratio.value, "low": ratio.low, "high": ratio.high, "noisy": found.noisy, "machine": found.machine}
    told["base_ms"] = found.figures["baseline_p50_ms"].value
    print(told, file=sys.stderr)
    return told


def report(rows: list[dict[str, Any]], command: str) -> str:
    lines = ["# Browser", *provenance(command)]
    lines += [f"In the browser: {next(row['machine'] for row in rows if row['where'] == 'browser')}.", ""]
    lines += [
        "| model beside fp32 | where | ratio of each session | largest distance from their median | base, ms | noisy |"
    ]
    lines += ["|---|---|---|---:|---:|---:|"]
    for name in list(MODELS)[1:]:
        for where in ("browser", "native"):
            own = [row for row in rows if row["model"] == name and row["where"] == where]
            ratios = [row["ratio"] for row in own]
            middle = median(ratios)
            apart = max(abs(ratio / middle - 1) for ratio in ratios)
            base, noisy = median(row["base_ms"] for row in own), sum(row["noisy"] for row in own)
            shown = ", ".join(f"{ratio:.3f}" for ratio in ratios)
            lines += [f"| {name} | {where} | {shown} | {apart:.1%} | {base:.3g} | {noisy} of {len(own)} |"]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
