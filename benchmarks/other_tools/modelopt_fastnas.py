"""NVIDIA ModelOpt on a CPU: FastNAS pruning to a share of the FLOPs, then distillation for the rest of the time.

    python benchmarks/other_tools/modelopt_fastnas.py --data DIR --model VIT.safetensors --minutes 15 --out OUT

FastNAS scores sub-networks on validation images, so that part takes as long as it takes; what it leaves is trained
with ModelOpt's own knowledge distillation (base as teacher) until the minutes are over, then exported to ONNX.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.workbench import ARTIFACT, Answer, Workbench, arguments, drive

SCORED, BATCH = 1000, 128
LEARNING_RATE, WEIGHT_DECAY, WARMUP, DISTILLED, TEMPERATURE = 1e-3, 0.05, 0.05, 0.7, 2.0
#: Seconds kept for the last judgement and the export.
ENDING = 20.0


def work(given: argparse.Namespace) -> Answer:
    bench = Workbench.open(given)
    asked = {"mode": "fastnas", "flops": given.flops, "scored_images": SCORED}
    model = copy.deepcopy(bench.workshop.base)
    try:
        model, found = prune(model, given.flops, bench)
    except Exception as error:  # what it says about a ViT is the result
        return Answer(asked, {"error": f"{type(error).__name__}: {error}"}, ["FastNAS did not take the model"])
    answered = {"search_seconds": round(time.time() - given.started, 1), **found}
    answered["top1_pruned"] = bench.top1(model)
    model, epochs = distill(model, bench, given.deadline - ENDING)
    answered |= {"epochs": round(epochs, 2), "top1": bench.top1(model)}
    answered["top1_base"] = bench.top1(bench.workshop.base)
    bench.workshop.export(given.out / ARTIFACT, model=model)
    return Answer(asked, answered)


def prune(model: nn.Module, flops: str, bench: Workbench) -> tuple[nn.Module, dict[str, Any]]:
    """The sub-network that FastNAS finds, and what its search says of it."""
    import modelopt.torch.prune as mtp

    images, labels = bench.validation()
    images, labels = images[:SCORED], labels[:SCORED]
    pruned, state = mtp.prune(
        model,
        mode="fastnas",
        constraints={"flops": flops},
        dummy_input=torch.zeros(bench.exported.input_shape),
        config={
            "score_func": lambda candidate: 100 * top1(candidate, images, labels),
            "data_loader": [bench.workshop.images("train", BATCH)[0]],
            "verbose": True,
        },
    )
    widths = [block.mlp.fc1.out_features for block in pruned.blocks]
    return pruned, {"mlp_widths": widths, **state["best"]["constraints"]}


@torch.inference_mode()
def top1(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    model.eval()
    found = torch.cat([model(some).argmax(1) for some in images.split(250)])
    return (found == labels).float().mean().item()


def distill(model: nn.Module, bench: Workbench, deadline: float) -> tuple[nn.Module, float]:
    """Train with ModelOpt's distillation until ``deadline``; the model, and how often it saw the training images."""
    import modelopt.torch.distill as mtd

    config = {
        "teacher_model": copy.deepcopy(bench.workshop.base),
        "criterion": mtd.LogitsDistillationLoss(TEMPERATURE, "batchmean"),
        "loss_balancer": mtd.StaticLossBalancer(DISTILLED),
    }
    learner = mtd.convert(model, mode=[("kd_loss", config)])

    def loss_of(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = learner.compute_kd_loss(student_loss=F.cross_entropy(learner(images), labels))
        return loss

    epochs = train(learner, loss_of, bench, deadline)
    return mtd.export(learner), epochs


def train(
    learner: nn.Module, loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], bench: Workbench, deadline: float
) -> float:
    """AdamW, the learning rate by the clock: a short warm-up, then a cosine that ends with the time."""
    images, labels = bench.workshop.images("train")
    weights = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, weight_decay=WEIGHT_DECAY)
    started, seen, epoch = time.time(), 0, 0
    learner.train()
    while True:
        chance = torch.Generator().manual_seed(epoch)
        for positions in torch.randperm(len(images), generator=chance).split(BATCH):
            progress = (time.time() - started) / max(deadline - started, 1e-9)
            if progress >= 1:
                return seen / len(images)
            rate = LEARNING_RATE * min(progress / WARMUP, 0.5 * (1 + math.cos(math.pi * progress)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = loss_of(cropped_and_flipped(images[positions], chance), labels[positions])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(positions)
        epoch += 1


def cropped_and_flipped(images: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """Each image shifted by up to an eighth of its side, what is missing mirrored, and half of them flipped."""
    size, most = images.shape[-1], images.shape[-1] // 8
    padded = F.pad(images, [most] * 4, mode="reflect")
    shifts = torch.randint(2 * most + 1, (len(images), 2), generator=chance).tolist()
    found = [image[:, y : y + size, x : x + size] for image, (y, x) in zip(padded, shifts, strict=True)]
    flips = torch.rand(len(images), generator=chance) < 0.5
    return torch.stack([one.flip(-1) if flip else one for one, flip in zip(found, flips, strict=True)])


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--flops", default="60%", help="upper bound, or a percentage of the base's")
    given = parser.parse_args()
    sys.exit(drive("ModelOpt FastNAS", work, given, ("nvidia-modelopt", "torch"), grace=1.2))
