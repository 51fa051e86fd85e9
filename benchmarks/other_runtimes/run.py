"""One model in every runtime, and in ExecuTorch, to which sousvit does not export: one thread, batch 1, one session.

    python benchmarks/other_runtimes/run.py
    python benchmarks/other_runtimes/run.py --model VIT.safetensors --name cifar10

Needs ``executorch`` beside ``sousvit[openvino,litert]`` (an environment of its own: it pins what others do not).
Writes ``result_NAME.md``. It imports sessions and timing from inside, because ExecuTorch's are timed among ours.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import sousvit
from sousvit.objectives.runtimes.runtime import Session, open_session
from sousvit.objectives.timing import TimingPlan, measure_many

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.provenance import provenance, write_result

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "fashion-mnist" / "base.safetensors"
BASELINE = "ONNX Runtime fp32"
#: Nothing is calibrated or judged here, so a few synthesised images do.
NO_DATA = {"format": "none", "validation": 16, "synthesis": {"images": 16}}


@dataclass
class Opened:
    """A model in a runtime, and its size on disk."""

    session: Session
    megabytes: float


class Function(Session):
    """A session around a function."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self._function = function

    def run(self, batch: np.ndarray) -> np.ndarray:
        return self._function(batch)


def ours(workshop: sousvit.Workshop, folder: Path, stack: ExitStack) -> dict[str, Opened]:
    """The runtimes that sousvit exports to."""
    steps = {
        BASELINE: ("onnxruntime",),
        "ONNX Runtime int8, dynamic": ("onnxruntime", sousvit.Step.make("int8_dynamic")),
        "OpenVINO fp32": ("openvino",),
        "LiteRT fp32": ("litert",),
        "LiteRT int8, dynamic": ("litert", sousvit.Step.make("litert_dynamic")),
        "LiteRT int4, dynamic": ("litert", sousvit.Step.make("litert_dynamic", bits=4)),
    }
    found = {}
    for name, (runtime, *deploy) in steps.items():
        artifact = workshop.export(folder / name, sousvit.Recipe(deploy, runtime))
        session = stack.enter_context(open_session(artifact, 1, 1))
        found[name] = Opened(session, artifact.size_bytes / 1e6)
    return found


def executorch(model: nn.Module, example: torch.Tensor, folder: Path) -> Iterator[tuple[str, Opened]]:
    """ExecuTorch with XNNPACK: fp32, and int8 by its own quantizer (weights per channel)."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
        XnnpackDynamicallyQuantizedPartitioner,
        XnnpackPartitioner,
    )
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    def opened(module: nn.Module, partitioners: list[Any], path: Path) -> Opened:
        program = to_edge_transform_and_lower(torch.export.export(module, (example,)), partitioner=partitioners)
        path.write_bytes(program.to_executorch().buffer)
        method = Runtime.get().load_program(path).load_method("forward")
        return Opened(Function(lambda batch: method.execute([torch.from_numpy(batch)])[0].numpy()), _megabytes(path))

    yield "ExecuTorch fp32", opened(model, [XnnpackPartitioner()], folder / "fp32.pte")
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True))
    prepared = prepare_pt2e(torch.export.export(model, (example,)).module(), quantizer)
    prepared(example)
    both = [XnnpackDynamicallyQuantizedPartitioner(), XnnpackPartitioner()]
    yield "ExecuTorch int8, dynamic", opened(convert_pt2e(prepared), both, folder / "int8.pte")


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6


def table(found: dict[str, Opened], shape: tuple[int, int, int, int], command: str, seconds: float) -> str:
    """The result as Markdown."""
    sessions = {name: one.session for name, one in found.items()}
    timings = measure_many(sessions, BASELINE, shape, TimingPlan.of(seconds), with_baseline=True)
    image = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    exact = sessions[BASELINE].run(image)
    lines = [
        *provenance(command),
        "| runtime | p50 ms | faster | MB | largest difference of a logit |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, one in found.items():
        timing = timings[name]
        faster = f"{timing.speedup:.2f} [{1 / timing.ratio_high:.2f}, {1 / timing.ratio_low:.2f}]"
        apart = float(np.abs(one.session.run(image) - exact).max())
        noisy = " (noisy)" if timing.noisy else ""
        lines.append(f"| {name} | {timing.p50_ms:.3f} | {faster}{noisy} | {one.megabytes:.2f} | {apart:.4f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Export, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=EXAMPLE)
    parser.add_argument("--name", default="fashion_mnist")
    parser.add_argument("--measure-time", type=float, default=8.0, help="seconds a runtime")
    parser.add_argument("--ours-only", action="store_true", help="without ExecuTorch")
    given = parser.parse_args()
    torch.set_num_threads(1)
    workshop = sousvit.Workshop(given.model, train=NO_DATA)
    shape = tuple(workshop.images("validation", 1)[0].shape)
    command = "python benchmarks/other_runtimes/run.py"
    command += "" if given.model == EXAMPLE else f" --model VIT.safetensors --name {given.name}"
    command += " --ours-only" if given.ours_only else ""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        found = ours(workshop, Path(folder), stack)
        if not given.ours_only:
            found |= dict(executorch(workshop.base.eval(), torch.zeros(shape), Path(folder)))
        text = table(found, shape, command, given.measure_time)
    write_result(HERE / f"result_{given.name}.md", text)
    print(text)


if __name__ == "__main__":
    main()
