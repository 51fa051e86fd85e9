"""How fast one training on all cores is, and several trainings side by side on their share of them.

    python benchmarks/workers/run.py

Each training runs in a process of its own, pinned as a search's workers are. Writes ``result.md``. It takes the
training loop from inside.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import timm
import torch
from torch import nn

from sousvit.data.memory import memory_set
from sousvit.machine import available_cores, lease_cores
from sousvit.spaces.techniques.students.convolutional import Network
from sousvit.spaces.training.loop import fit
from sousvit.spaces.training.plan import TrainingPlan

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.provenance import provenance, write_result

HERE = Path(__file__).parent
IMAGES, BATCH, CLASSES = 4096, 128, 10


def vit() -> nn.Module:
    """The shared CIFAR-10 ViT's shape."""
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=4, depth=6, num_classes=CLASSES, class_token=False,
        global_pool="avg",
    )  # fmt: skip


def residual(width: int, depth: int) -> nn.Module:
    """A student of convolutions."""
    return Network("residual", width, depth, (32, 32), 3, CLASSES).build()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual 8x2": lambda: residual(8, 2),
    "residual 16x2": lambda: residual(16, 2),
    "residual 64x2": lambda: residual(64, 2),
    "ViT 192x6, 64 tokens": vit,
}


def train(name: str, cores: int, started: Barrier, told: multiprocessing.Queue) -> None:
    """Tell the seconds of an epoch, after one that warms up."""
    lease_cores(cores)
    torch.set_num_threads(cores)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    images = memory_set("random", pixels, torch.arange(IMAGES) % CLASSES, "random")
    plan = TrainingPlan(epochs=1, batch_size=BATCH, augmentation="crop_flip")
    model = NETWORKS[name]()
    fit(model, images.head(8 * BATCH), lambda batch: batch.float() / 128 - 1, plan)
    started.wait()
    begun = time.perf_counter()
    fit(model, images, lambda batch: batch.float() / 128 - 1, plan)
    told.put(time.perf_counter() - begun)


def speed(name: str, count: int, cores: int) -> float:
    """Images a second of ``count`` trainings together."""
    context = multiprocessing.get_context("spawn")
    started, told = context.Barrier(count), context.Queue()
    processes = [context.Process(target=train, args=(name, cores // count, started, told)) for _ in range(count)]
    for process in processes:
        process.start()
    seconds = [told.get() for _ in processes]
    for process in processes:
        process.join()
    return sum(IMAGES / one for one in seconds)


def main() -> None:
    """Measure, and write the result."""
    cores = available_cores()
    counts = [2**power for power in range(cores.bit_length())]
    lines = ["# Trainings side by side", "", *provenance("python benchmarks/workers/run.py")]
    lines += ["Training images a second of all workers together, by their number; each has its share of the cores.", ""]
    lines += [f"| network | {' | '.join(f'{count}' for count in counts)} | most over one |"]
    lines += ["|---|" + "---:|" * (len(counts) + 1)]
    for name in NETWORKS:
        found = [speed(name, count, cores) for count in counts]
        lines.append(f"| {name} | {' | '.join(f'{one:,.0f}' for one in found)} | {max(found) / found[0]:.2f} |")
        print(lines[-1], flush=True)
    write_result(HERE / "result.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
