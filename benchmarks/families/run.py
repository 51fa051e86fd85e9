"""Every family of image classifiers with every way to deploy it: what works, and the line that the others give.

    python benchmarks/families/run.py [--family NAME ...] [--way NAME ...]

Each model is tiny and has random weights: what is tried is whether it exports, quantizes, opens in the runtime and
computes what PyTorch computes. Writes ``raw.csv``, and with all families ``result.md``.
"""

from __future__ import annotations

import argparse
import copy
import csv
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from sousvit.data import ImageSet
from sousvit.data.memory import memory_set
from sousvit.errors import TrialError, UserError
from sousvit.machine import int8_saturates
from sousvit.objectives.runtimes.parity import check_parity
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.spaces.builder import apply_steps
from sousvit.spaces.conformance import FlatTeacher, exported
from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import shape_of
from sousvit.spaces.recipe import Recipe, Step

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from families import CLASSES, FAMILIES, Family

WEIGHTS = "int7" if int8_saturates() else "int8"
#: Ways to deploy by the names of the columns: a technique (None is the model as it is) with parameters, and a runtime.
WAYS: dict[str, tuple[Step | None, str]] = {
    "onnxruntime": (None, "onnxruntime"),
    "onnxruntime fp16": (Step.make("fp16"), "onnxruntime"),
    "onnxruntime int8_dynamic": (Step.make("int8_dynamic", weights=WEIGHTS), "onnxruntime"),
    "onnxruntime weight_only": (Step.make("weight_only"), "onnxruntime"),
    "onnxruntime static_int8": (Step.make("static_int8", weights=WEIGHTS), "onnxruntime"),
    "onnxruntime qat": (Step.make("qat", weights=WEIGHTS, epochs=2, num_views=1), "onnxruntime"),
    "openvino": (None, "openvino"),
    "openvino bf16": (Step.make("bf16"), "openvino"),
    "openvino weight_only": (Step.make("weight_only"), "openvino"),
    "openvino static_int8": (Step.make("static_int8", weights=WEIGHTS), "openvino"),
    "openvino ptq_int8": (Step.make("ptq_int8", samples=16), "openvino"),
    "torch": (None, "torch"),
    "litert": (None, "litert"),
    "litert litert_dynamic": (Step.make("litert_dynamic"), "litert"),
}
IMAGES = 24


@dataclass(frozen=True)
class Outcome:
    """What became of one family deployed in one way.

    Attributes:
        error: relative error of the logits; NaN where there is none.
        line: why there is none, or what is left out.
        left_out: whether the technique says beforehand that it does not fit.
        seconds: that it took.
    """

    error: float
    line: str = ""
    left_out: bool = False
    seconds: float = 0.0

    @property
    def works(self) -> bool:
        return not self.line


def context_for(size: int) -> Context:
    """Images of noise to calibrate and train on, and a teacher without an opinion."""
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (IMAGES, 3, size, size), dtype=np.uint8))
    images: ImageSet = memory_set("noise", pixels, torch.arange(IMAGES) % CLASSES, "noise")
    train = images.head(16)
    teacher = FlatTeacher(len(train), CLASSES)
    return Context(to_float, calibration=images, train=train, teacher=teacher, fidelity=0.25)


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 ``[B, C, H, W]`` to [-2, 2)."""
    return images.float() / 64 - 2


def attempt(family: Family, way: str, folder: Path) -> Outcome:
    """Export, open and compare with PyTorch on eight images."""
    step, runtime = WAYS[way]
    recipe, begun = Recipe(() if step is None else (step,), runtime), time.monotonic()
    model, context = family.model(), context_for(family.size)
    try:
        if step is not None:
            shape = shape_of(model, family.name, (family.size, family.size), 3, CLASSES)
            reason = step.handler.misfit(shape)
            if reason is not None:
                return Outcome(np.nan, reason, left_out=True)
        if recipe.model_steps:
            model = apply_steps(model, recipe, replace(context, decisions={}))
        artifact = exported(model, recipe, context, folder / "artifact")
        assert context.calibration is not None
        images = to_float(context.calibration.head(8).images()).numpy()
        simulated = model
        if recipe.deploy_step is not None:
            handler = recipe.deploy_step.handler
            simulated = handler.prepare(copy.deepcopy(model), recipe.deploy_step.config, context)  # type: ignore[attr-defined]
        with open_session(artifact, 1) as session:
            found = check_parity(session, simulated, images, quantized=recipe.is_quantized)
    except (TrialError, UserError) as error:
        return Outcome(np.nan, str(error), seconds=time.monotonic() - begun)
    except Exception as error:
        return Outcome(np.nan, f"BUG {type(error).__name__}: {' '.join(str(error).split())[:300]}", seconds=time.monotonic() - begun)
    return Outcome(found.relative, seconds=time.monotonic() - begun)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--family", nargs="*", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--way", nargs="*", default=list(WAYS), choices=WAYS)
    parser.add_argument("--out", type=Path, default=HERE / "raw.csv")
    given = parser.parse_args()
    with given.out.open("w", newline="") as file, tempfile.TemporaryDirectory() as folder:
        rows = csv.writer(file)
        rows.writerow(["family", "model", "way", "error", "left_out", "line", "seconds"])
        for name in given.family:
            for way in given.way:
                found = attempt(FAMILIES[name], way, Path(folder))
                rows.writerow([name, FAMILIES[name].name, way, f"{found.error:.2g}", found.left_out, found.line, f"{found.seconds:.1f}"])
                file.flush()
                print(name, "|", way, "|", f"{found.error:.2g}", found.line, f"{found.seconds:.1f}s", file=sys.stderr)


if __name__ == "__main__":
    main()
