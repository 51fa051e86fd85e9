"""NVIDIA ModelOpt's ONNX post-training quantization: int8 weights and activations, calibrated on the CPU.

    python benchmarks/other_tools/modelopt_int8.py --data DIR --model VIT.safetensors --minutes 15 --out OUT

No search: both calibration methods are tried, and the more accurate one on validation is the answer. Where its drop is
larger than what was asked for, the notes say so: ModelOpt has no goal for accuracy. Its graphs are made for TensorRT;
they run in ONNX Runtime too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import sousvit

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.workbench import ARTIFACT, FACTS, MAX_DROP, Answer, Workbench, arguments, drive

CALIBRATION = 256
METHODS = ("max", "entropy")


def work(given: argparse.Namespace) -> Answer:
    bench = Workbench.open(given)
    start = bench.exported if given.of is None else sousvit.Artifact.open(given.of / ARTIFACT)
    calibration = bench.calibration(CALIBRATION)
    base = bench.top1(bench.exported)
    made = {}
    for method in METHODS:
        folder = given.out / method
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        quantize(start.path, calibration, method, folder / "model.onnx")
        made[method] = bench.top1(bench.describe(folder, "onnxruntime", "model.onnx"))
    best = max(made, key=lambda method: made[method])
    (given.out / best).rename(given.out / ARTIFACT)
    notes = [] if base - made[best] <= MAX_DROP else [f"drop of {100 * (base - made[best]):.1f} points on validation"]
    if given.of is not None:
        earlier = json.loads((given.of / FACTS).read_text())
        notes.append(f"on top of {earlier['tool']} ({earlier['seconds']} s)")
    asked = {"quantize_mode": "int8", "calibration_method": METHODS, "calibration": CALIBRATION}
    return Answer(asked, {"validation_top1_base": base, "validation_top1": made, "method": best}, notes)


def quantize(graph: Path, calibration: object, method: str, to: Path) -> None:
    """ModelOpt works beside the graph that it is given, so it gets a copy."""
    from modelopt.onnx.quantization import quantize as modelopt_quantize

    copy = to.with_name("base.onnx")
    shutil.copy(graph, copy)
    modelopt_quantize(
        str(copy),
        quantize_mode="int8",
        calibration_data=calibration,
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        dq_only=True,  # weights stored in int8; else they stay float32 and the file is no smaller
        output_path=str(to),
    )
    for extra in set(to.parent.iterdir()) - {to}:
        extra.unlink()


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--of", type=Path, help="what modelopt_fastnas.py left, to be quantized instead of the base")
    given = parser.parse_args()
    sys.exit(drive("ModelOpt ONNX int8", work, given, ("nvidia-modelopt", "onnxruntime")))
