"""How fast training is, beside a plain loop with the same optimiser, and how long CIFAR-10's accuracies take.

    python benchmarks/training/run.py
    python benchmarks/training/run.py --data DIR --reach

Writes ``result.md``, or ``result_reach.md``. It takes the training loop from inside.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import nn

from sousvit.data import DataSpec, ImageSet, Splits
from sousvit.data.memory import memory_set
from sousvit.spaces.techniques.recovery.distill import RANDOM_DECAY, RANDOM_RATE
from sousvit.spaces.techniques.students.convolutional import Network
from sousvit.spaces.training.loop import fit, predict
from sousvit.spaces.training.optimizer import make_optimizers
from sousvit.spaces.training.plan import TrainingPlan

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.provenance import provenance, write_result

HERE = Path(__file__).parent
IMAGES, ROUNDS, BATCH, CLASSES = 4096, 5, 128, 10
MEAN, STD = torch.tensor([125.3, 123.0, 113.9]).view(1, 3, 1, 1), torch.tensor([63.0, 62.1, 66.7]).view(1, 3, 1, 1)
#: Width, depth and epochs of the networks whose accuracy is followed.
REACH = ((24, 1, 12), (48, 1, 16), (64, 1, 24), (64, 2, 30))


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 ``[B, 3, H, W]`` to what the networks read."""
    return (images.float() - MEAN) / STD


@dataclass(frozen=True)
class Contest:
    """One network that both loops train.

    Attributes:
        name: in the table.
        make: builds it.
        optimizer: of both loops.
        is_convolutional: whether the plain loop computes on channels-last images.
    """

    name: str
    make: Callable[[], nn.Module]
    optimizer: str
    is_convolutional: bool


def _vit() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=4, embed_dim=192, depth=6, num_heads=3, num_classes=CLASSES
    )


CONTESTS = (
    Contest("residual 24x1", lambda: Network("residual", 24, 1, (32, 32), 3, CLASSES).build(), "muon", True),
    Contest("residual 64x1", lambda: Network("residual", 64, 1, (32, 32), 3, CLASSES).build(), "muon", True),
    Contest("inverted 32x1", lambda: Network("inverted", 32, 1, (32, 32), 3, CLASSES).build(), "muon", True),
    Contest("ViT 192x6, 65 tokens", _vit, "adamw", False),
)


def plain_loop(contest: Contest, images: torch.Tensor, labels: torch.Tensor, soft: torch.Tensor) -> None:
    """One epoch as one would write it down: crop and flip, soft and true labels, bf16 autocast."""
    model = contest.make().train()
    layout = torch.channels_last if contest.is_convolutional else torch.contiguous_format
    model.to(memory_format=layout)
    optimizers = make_optimizers(model, contest.optimizer, 0.02 if contest.is_convolutional else 1e-3, 0.05)  # type: ignore[arg-type]
    order = torch.randperm(len(images))
    for start in range(0, len(images) - BATCH + 1, BATCH):
        rows = order[start : start + BATCH]
        padded = F.pad(images[rows].float(), [2] * 4, mode="reflect")
        top, left = torch.randint(0, 5, (2,)).tolist()
        batch = padded[:, :, top : top + 32, left : left + 32]
        batch = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, batch.flip(3), batch)
        batch = ((batch - MEAN) / STD).contiguous(memory_format=layout)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(batch)
        output = output.float()
        taught = F.kl_div(F.log_softmax(output / 2, 1), F.log_softmax(soft[rows] / 2, 1), log_target=True,
                          reduction="batchmean")  # fmt: skip
        loss = 2 * taught + 0.5 * F.cross_entropy(output, labels[rows])
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()


def our_loop(contest: Contest, data: ImageSet, soft: torch.Tensor) -> None:
    """One epoch of the training that recipes get."""
    rate = RANDOM_RATE * 1e-3 if contest.is_convolutional else 1e-3
    plan = TrainingPlan(
        1,
        rate,
        contest.optimizer,
        BATCH,
        soft_weight=0.5,
        augmentation="crop_flip",
        num_views=4,  # type: ignore[arg-type]
    )
    fit(contest.make(), data, normalise, plan, lambda view: soft)


def speed(contest: Contest) -> tuple[list[float], list[float]]:
    """Images a second of our loop and of the plain one, in turns."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (IMAGES,), generator=generator)
    soft = torch.randn(IMAGES, CLASSES, generator=generator)
    data = memory_set("noise", images, labels, "noise")
    found: tuple[list[float], list[float]] = ([], [])
    for round_ in range(ROUNDS + 1):
        for place, run in enumerate(
            (lambda: our_loop(contest, data, soft), lambda: plain_loop(contest, images, labels, soft))
        ):
            begun = time.perf_counter()
            run()
            if round_:  # the first one warms up
                found[place].append(IMAGES / (time.perf_counter() - begun))
    return found


def reach(data: Path) -> list[str]:
    """Accuracies on the test file, and the time that they take, from true labels alone."""
    spec = DataSpec(format="parquet", train=str(data / "train.parquet"), test=str(data / "test.parquet"))
    splits = Splits(spec, (32, 32), 3)
    test = splits.open_test()
    rows = []
    for width, depth, epochs in REACH:
        torch.manual_seed(0)
        network = Network("residual", width, depth, (32, 32), 3, CLASSES)
        model = network.build()
        plan = TrainingPlan(epochs, 1e-3 * RANDOM_RATE, "muon", BATCH, RANDOM_DECAY, label_smoothing=0.1)
        begun = time.perf_counter()
        fit(model, splits.train, normalise, plan)
        seconds = time.perf_counter() - begun
        right = predict(model, test, normalise).argmax(1) == test.labels
        macs = network.shape().macs()
        flops = 6 * macs * epochs * len(splits.train) / 1e15
        rows.append(
            f"| residual {width}x{depth} | {macs / 1e6:.1f} | {epochs} | {seconds / 60:.1f} | {flops:.3f} | "
            f"{100 * float(right.float().mean()):.2f}% |"
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure and write result.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--reach", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    lines = [*provenance(f"python benchmarks/training/run.py --threads {given.threads}"), ""]
    if given.reach:
        lines += [
            "| network | MMACs | epochs | minutes | PFLOPs | top-1 |",
            "|---|---|---|---|---|---|",
            *reach(given.data),
        ]
        write_result(HERE / "result_reach.md", "\n".join(lines))
        return
    lines += ["| network | images/s | plain loop | ratio |", "|---|---|---|---|"]
    for contest in CONTESTS:
        ours, plain = speed(contest)
        ratios = np.sort(np.array(ours) / np.array(plain))
        lines.append(
            f"| {contest.name} | {np.median(ours):,.0f} | {np.median(plain):,.0f} | "
            f"{np.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}] |"
        )
        print(lines[-1], flush=True)
    write_result(HERE / "result.md", "\n".join(lines))


if __name__ == "__main__":
    main()
