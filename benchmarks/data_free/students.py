"""A student that learns from the base alone, on synthesised scenes, beside one that learns on as many real images.

    python benchmarks/data_free/students.py --data DIR
    python benchmarks/data_free/students.py --data DIR --model VIT.safetensors

``DIR`` and ``VIT`` are those of ``run.py``. Nothing but the base's predictions teaches, on either kind of images, so
only the images differ. Artifacts are judged in ONNX Runtime on the test images. Writes ``result_students_DATASET.md``.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import sousvit
from sousvit import Recipe, Step

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from common.provenance import provenance, write_result
from run import EXAMPLE, HERE, data_spec, percent, points, without_images


def main() -> int:
    """Train, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=EXAMPLE)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--depth", type=int, default=2)
    given = parser.parse_args()
    name, data = data_spec(given.data.resolve(), given.images)
    real, none = (sousvit.Workshop(given.model, train=train, seed=0) for train in (data, without_images(data)))
    student = Step.make("student", model="residual", width=given.width, depth=given.depth)
    learn = Step.make("distill", epochs=given.epochs, soft_weight=1.0, num_views=8)
    scenes = Step.make("synthesize", method="scenes", images=given.images)
    asked = {
        "base": (real, Recipe((), "onnxruntime")),
        f"student, {given.images:,} real images": (real, Recipe((student, learn), "onnxruntime")),
        f"student, {given.images:,} scenes": (none, Recipe((scenes, student, learn), "onnxruntime")),
    }
    found, lines = {}, ["| recipe | top-1 % | drop, points | seconds |", "|---|---:|---:|---:|"]
    for told, (workshop, recipe) in asked.items():
        begun = time.monotonic()
        found[told] = workshop.evaluate(recipe, "test")
        drop = points(found[told].merit_drop(found["base"]))
        lines.append(f"| {told} | {percent(found[told])} | {drop} | {time.monotonic() - begun:.0f} |")
        print(lines[-1], flush=True)
    macs = Recipe((student, learn)).reshape(real.shape).macs() / real.shape.macs()
    model = "" if given.model == EXAMPLE else " --model VIT.safetensors"
    told = f"The student, residual {given.width}x{given.depth}, has {macs:.1%} of the base's multiply-accumulates."
    head = provenance(f"python benchmarks/data_free/students.py --data DIR{model}")
    write_result(HERE / f"result_students_{name}.md", "\n".join([*head, told, "", *lines]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
