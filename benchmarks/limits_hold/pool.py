"""Real compressed models, image by image: what :mod:`run` draws its searches from.

    python benchmarks/limits_hold/pool.py --data FASHION_MNIST --out pool.npz

A small Vision Transformer (16 tokens, so that many of its kind can be judged on many images) is trained on the first
20,000 images of Fashion-MNIST. Recipes of one to three pruning techniques, set so that most lose little, are built by
the code that builds them in a search (taken from inside), repair included, and classify images that neither the base
nor a repair met.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sousvit.errors import TrialError, UserError
from sousvit.models.load import ModelSpec, load
from sousvit.search.judging.build import Workshop
from sousvit.spaces.module_shape import macs_of, shape_of
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.shape import ModelShape
from sousvit.spaces.space import Space, make_space
from sousvit.spaces.training.base import TrainSpec, train_base
from sousvit.spaces.training.loop import predict

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.provenance import provenance

TECHNIQUES = ("prune_depth", "prune_embed", "prune_head_dim", "prune_heads", "prune_mlp")
#: Images that are neither trained nor chosen on.
UNSEEN = 16_000
MODEL = {
    "name": "vit_tiny_patch16_224",
    "args": {"img_size": 28, "patch_size": 7, "in_chans": 1, "embed_dim": 64, "depth": 5, "num_heads": 4,
             "num_classes": 10, "class_token": False, "global_pool": "avg"},
    "mean": [0.286],
    "std": [0.353],
}  # fmt: skip


def main() -> None:
    """Train, build, judge and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the four IDX files")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--recipes", type=int, default=100)
    parser.add_argument("--images", type=int, default=16_000, help="of the unseen ones")
    parser.add_argument("--checkpoint", type=Path, help="kept, and taken where it is there")
    parser.add_argument("--out", default="pool.npz")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base, correct, figures = pooled(given, given.checkpoint or Path(folder) / "base.safetensors")
    command = f"python benchmarks/limits_hold/pool.py --data DIR --recipes {given.recipes} --images {given.images}"
    facts = {"figures": figures, "provenance": provenance(command)[0], "top1": float(base.mean())}
    packed = np.packbits(correct, axis=1)
    path = Path(__file__).with_name(given.out)
    np.savez_compressed(path, base=np.packbits(base), correct=packed, count=len(base), facts=json.dumps(facts))
    drops = base.mean() - correct.mean(1)
    print(f"{path.name}: base {base.mean():.4f}, drops {np.quantile(drops, [0, 0.25, 0.5, 0.75, 1]).round(4)}")


def pooled(given: argparse.Namespace, checkpoint: Path) -> tuple[Any, Any, list[dict[str, Any]]]:
    """``[images]`` whether the base is right, ``[recipes, images]`` of the others, and what each costs."""
    files = {"train": given.data / "train-images-idx3-ubyte.gz", "test": given.data / "t10k-images-idx3-ubyte.gz"}
    data = {"format": "idx", "validation": {"last": UNSEEN}, "limit_train": 20_000, "calibration": 256}
    data |= {part: str(path.resolve()) for part, path in files.items()}
    training = {"epochs": given.epochs, "augmentation": "flip"}
    spec = TrainSpec.model_validate({"model": MODEL, "data": data, "training": training})
    if not checkpoint.exists():
        train_base(spec, checkpoint)
    base = load(ModelSpec(checkpoint=str(checkpoint)).resolved(Path()))
    workshop = Workshop(base, spec.data)
    shape = shape_of(base.module, "base", base.size, base.channels, base.num_classes)
    space, _ = make_space({"techniques": dict.fromkeys(TECHNIQUES)}, shape, ["onnxruntime"])
    images = workshop.splits.validation.head(given.images)

    def right(model: torch.nn.Module) -> Any:
        return (predict(model, images, base.normalise).argmax(1) == images.labels).numpy()

    chance = random.Random(0)
    found: dict[str, tuple[Any, dict[str, Any]]] = {}
    while len(found) < given.recipes:
        recipe = drawn(space, shape, chance)
        if recipe is None or recipe.hash in found:
            continue
        try:
            model = workshop.model(recipe)
        except TrialError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        costs = {"macs": macs_of(model, (base.channels, *base.size)) / 1e6, "params": shape_params(model)}
        found[recipe.hash] = right(model), {"recipe": recipe.to_dict(), **costs}
        print(f"{len(found)} {found[recipe.hash][0].mean():.4f} {costs} {recipe}", file=sys.stderr)
    costs = {"macs": macs_of(base.module, (base.channels, *base.size)) / 1e6, "params": shape_params(base.module)}
    rows = list(found.values())
    return right(base.module), np.array([row for row, _ in rows]), [{"recipe": None, **costs}, *(c for _, c in rows)]


def shape_params(model: torch.nn.Module) -> float:
    """Parameters in millions."""
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def drawn(space: Space, shape: ModelShape, chance: random.Random) -> Recipe | None:
    """One to three techniques; the more there are, the milder."""
    options = [chance.choice(group) for group in space.groups]
    steps: list[Step] = []
    count = chance.choice((1, 1, 2, 2, 3))
    for option in chance.sample(options, count):
        step = chance.choice(option.settings(shape)) if count == 1 else option.at_level(chance.uniform(0, 0.5), shape)
        steps += [] if step is None else [step]
    try:
        recipe = Recipe(tuple(steps), "onnxruntime").canonical(shape)
        recipe.reshape(shape)
    except UserError:
        return None
    return recipe if recipe.steps else None


if __name__ == "__main__":
    main()
