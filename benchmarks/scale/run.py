"""What a search of training-free hybrids costs at 224 px: seconds a trial by part, the answer, memory of all processes.

    python benchmarks/scale/run.py --model deit_small_patch16_224 --trials 30

The model has random weights and a classifier fitted to 1,000 images of ten made-up textures, which are written as JPEG:
its accuracy means nothing, its costs are a real model's. Writes ``result_MODEL.md``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import sousvit

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.provenance import provenance, write_result

HERE = Path(__file__).parent
CLASSES, IMAGES, SIDE, PIXELS = 10, 1000, 224, 256
SPACE = {
    "prune_depth": {"drop": [1, 2, 3]},
    "prune_embed": {"keep": [0.75, 0.875]},
    "prune_heads": {"keep": [0.5, 0.6667, 0.8333], "importance": ["activation"]},
    "prune_mlp": {"keep": [0.5, 0.625, 0.75], "importance": ["activation"]},
    "int8_dynamic": {},
    "static_int8": {},
    "ptq_int8": {},
}


def write_images(folder: Path) -> None:
    """A tenth of the images for each class: gratings of an own direction, width and colour under noise."""
    chance = np.random.default_rng(0)
    rows, columns = np.mgrid[0:PIXELS, 0:PIXELS] / PIXELS
    for number in range(IMAGES):
        kind = number % CLASSES
        angle, waves = math.pi * kind / CLASSES, 4 + 3 * (kind % 4)
        wave = np.sin(2 * math.pi * waves * (rows * math.sin(angle) + columns * math.cos(angle)) + chance.uniform(0, 6))
        tint = 0.5 + 0.5 * np.cos(2 * math.pi * (kind / CLASSES + np.arange(3) / 3))
        pixels = 128 + 70 * wave[..., None] * tint + chance.normal(0, 25, (PIXELS, PIXELS, 3))
        part = {0: "validation", 1: "test"}.get(number // CLASSES % 5, "train")
        place = folder / part / f"texture{kind}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{number}.jpg", quality=90)


def write_model(name: str, folder: Path) -> Path:
    """The model, its classifier fitted by least squares to features of the training images."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES).eval()
    config = timm.data.resolve_data_config({}, model=model)
    transform = timm.data.create_transform(**config)
    files = sorted((folder / "train").rglob("*.jpg"))[::3]
    labels = torch.tensor([int(file.parent.name.removeprefix("texture")) for file in files])
    found = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(files), 32):
            batch = torch.stack([transform(Image.open(file)) for file in files[start : start + 32]])
            found.append(model.forward_head(model.forward_features(batch), pre_logits=True).float())
    features = torch.cat(found)
    centred = features - features.mean(0)
    target = torch.eye(CLASSES)[labels] - 1 / CLASSES
    gram = centred.T @ centred
    slope = torch.linalg.solve(gram + 1e-3 * gram.diagonal().mean() * torch.eye(len(gram)), centred.T @ target)
    with torch.no_grad():
        model.head.weight.copy_(10 * slope.T)
        model.head.bias.copy_(-10 * (features.mean(0) @ slope))
    path = folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    path.with_suffix(".json").write_text(json.dumps({"name": name, "args": {"num_classes": CLASSES}}))
    return path


class Memory(threading.Thread):
    """Watches what this process and its children take together (their private pages)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self._ended = 0, threading.Event()

    def run(self) -> None:
        """Look twice a second."""
        while not self._ended.wait(0.5):
            total, own = 0, psutil.Process()
            for process in [own, *own.children(recursive=True)]:
                try:
                    total += process.memory_full_info().uss
                except psutil.Error:
                    continue
            self.most = max(self.most, total)

    def end(self) -> float:
        """The most that was seen, in GB."""
        self._ended.set()
        self.join()
        return self.most / 1e9


def main() -> None:
    """Search, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="deit_small_patch16_224")
    parser.add_argument("--trials", type=int, default=30)
    given = parser.parse_args()
    command = f"python benchmarks/scale/run.py --model {given.model} --trials {given.trials}"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_images(folder)
        checkpoint = write_model(given.model, folder)
        memory, begun = Memory(), time.monotonic()
        memory.start()
        result = sousvit.compress(
            str(checkpoint),
            train=folder / "train",
            validation=folder / "validation",
            test=folder / "test",
            techniques=SPACE,
            limits={"accuracy_drop": 0.2, "latency_ratio": 0.7},
            optimize=["latency", "size"],
            trials=given.trials,
            run=folder / "run",
        )
        whole, most = time.monotonic() - begun, memory.end()
        run = sousvit.open_run(folder / "run")
        lines = [*provenance(command, run.machine), "", *table(result, run, whole, most)]
    print("\n".join(lines))
    write_result(HERE / f"result_{given.model}.md", "\n".join(lines))


def table(result: sousvit.Result, run: sousvit.Run, whole: float, most: float) -> list[str]:
    """Seconds of trials by their parts, and of the whole."""
    trials = [trial for trial in run.archive if trial.status == "complete"]
    hybrids = [trial for trial in trials if len(trial.parsed.model_steps) > 1]
    parts = sorted({part for trial in hybrids for part in trial.seconds})
    lines = [
        "| trials | number | " + " | ".join(parts) + " | together | longest |",
        "|---|---:|" + "---:|" * (len(parts) + 2),
    ]
    for name, some in (("hybrids", hybrids), ("all", trials)):
        sums = [sum(trial.seconds.values()) for trial in some]
        cells = [f"{median(trial.seconds.get(part, 0.0) for trial in some):.1f}" for part in parts]
        lines.append(f"| {name} | {len(some)} | {' | '.join(cells)} | {median(sums):.1f} | {max(sums):.1f} |")
    answer = result.answer.cost["answer_seconds"]
    lines += [
        "",
        f"Seconds, medians. The whole took {whole / 60:.1f} minutes for {len(run.archive)} trials, of which the answer "
        f"took {answer / 60:.1f}; at most {most:.1f} GB of memory in all processes.",
    ]
    return lines


if __name__ == "__main__":
    main()
