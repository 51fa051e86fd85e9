"""Real compressed models, image by image: what :mod:`run` draws its searches from.

    python benchmarks/limits_hold/pool.py --data DIR --model VIT.safetensors --minutes 8 --out cifar10.npz
    python benchmarks/limits_hold/pool.py --data FOLDER_OF_FASHION_MNIST --minutes 6 --out fashion-mnist.npz

Recipes of the training-free space (a few techniques each, mildly set, so that most lose little) are built, exported and
measured by the same code that judges a trial: latency and size beside the base, and whether each of 10,000 images that
the base was neither trained nor chosen on is classified correctly.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from sousvit.errors import TrialError, UserError
from sousvit.objectives.objective import Stage
from sousvit.objectives.subject import measure
from sousvit.search.budget import make_budget, open_space
from sousvit.search.judging.subjects import Subjects
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.shape import ModelShape
from sousvit.spaces.space import Space

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.provenance import provenance

EXAMPLE = Path(__file__).parents[2] / "examples" / "fashion-mnist"
#: What a pool is made of. Low-rank layers and merged tokens are slower than what they replace in small models.
TECHNIQUES = ("prune_depth", "prune_embed", "prune_head_dim", "prune_heads", "prune_mlp", "int8_dynamic", "weight_only")
#: Technique settings are drawn up to this share of each one's own scale.
MOST = 0.45


def main() -> None:
    """Build, judge and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="train.parquet and test.parquet, or Fashion-MNIST")
    parser.add_argument("--model", type=Path, help="the base of CIFAR-10")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="cifar10.npz")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = pooled(asked(given), Path(folder), given)
    recipes, correct, base, figures = found
    command = f"python benchmarks/limits_hold/pool.py --minutes {given.minutes:g} --seed {given.seed} --out {given.out}"
    facts = {"figures": figures, "recipes": recipes, "provenance": provenance(command)[0]}
    path = Path(__file__).with_name(given.out)
    np.savez_compressed(
        path, base=np.packbits(base), correct=np.packbits(correct, axis=1), count=len(base), facts=json.dumps(facts)
    )
    drops = base.mean() - correct.mean(1)
    print(f"{path.name}: {len(correct)} recipes, drops {np.quantile(drops, [0, 0.25, 0.5, 0.75, 1]).round(4)}")


def asked(given: argparse.Namespace) -> dict[str, Any]:
    """The budget as plain values; ``validation`` are images that the base never met."""
    data: dict[str, Any]
    if given.model is None:
        name = "t10k-images-idx3-ubyte.gz"
        train = str((EXAMPLE / "data" / "train-images-idx3-ubyte.gz").resolve())
        data = {"format": "idx", "train": train, "validation": str((given.data / name).resolve())}
        model = {"checkpoint": str((EXAMPLE / "base.safetensors").resolve())}
    else:
        files = {part: str((given.data / f"{part}.parquet").resolve()) for part in ("train", "test")}
        data = {"format": "parquet", **files, "validation": {"last": 5000}, "limit_train": 2000}
        model = {"checkpoint": str(given.model.resolve())}
    if "test" not in data:
        data["test"] = str((EXAMPLE / "data" / "test-images-idx3-ubyte.gz").resolve())
    return {
        "model": model,
        "data": {**data, "calibration": 128},
        "limits": {"accuracy_drop": 0.02},
        "optimize": ["latency", "size"],
        "space": {"techniques": dict.fromkeys(TECHNIQUES)},
        "search": {"measure_time": 0.3, "cache_gb": 0.5},
    }


def pooled(values: dict[str, Any], folder: Path, given: argparse.Namespace) -> tuple[list[str], Any, Any, Any]:
    """Recipes, ``[recipes, images]`` whether each is right, ``[images]`` of the base, and the figures of each."""
    budget = make_budget(values, Path())
    subjects = Subjects({"budget": budget.model_dump(mode="json"), "folder": folder}, lambda *_: None)
    subjects.start(None)
    space, _ = open_space(budget, subjects.shape)
    images = [subjects.final_images()] if given.model is not None else []
    parts = [subjects.base.images, *images]

    def right(subject: Any) -> Any:
        found = []
        for part in parts:
            subject.images = part
            found.append(subject.evaluation.correct)
            del subject.evaluation  # kept by the subject, of the earlier images
        return np.concatenate(found)

    base = right(subjects.base)
    chance, end = random.Random(given.seed), time.monotonic() + 60 * given.minutes
    rows: list[Any] = []
    recipes: list[str] = []
    figures: list[dict[str, list[float | None]]] = []
    while time.monotonic() < end:
        recipe = drawn(space, subjects.shape, chance)
        if recipe is None or recipe.hash in recipes:
            continue
        try:
            subject = subjects.trained(recipe, 1.0, folder / "artifacts" / recipe.hash, {})
            found = measure(subject, subjects.at(Stage.ARTIFACT))
            rows.append(right(subject))
        except TrialError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        finally:
            shutil.rmtree(folder / "artifacts" / recipe.hash, ignore_errors=True)
        recipes.append(recipe.hash)
        names = ("latency_ratio", "size_ratio", "size")
        figures.append({name: [found[name].value, found[name].low, found[name].high] for name in names})
        drop = base.mean() - rows[-1].mean()
        print(f"{len(rows)} drop {drop:.4f} ratio {found['latency_ratio'].value:.3f} {recipe}", file=sys.stderr)
    subjects.close()
    return recipes, np.array(rows), base, figures


def drawn(space: Space, shape: ModelShape, chance: random.Random) -> Recipe | None:
    """One to three techniques at mild settings, and a deployment."""
    options = [chance.choice(group) for group in space.groups]
    steps: list[Step] = []
    for option in chance.sample(options, chance.choice((1, 2, 2, 3))):
        step = option.at_level(chance.uniform(0, MOST), shape)
        steps += [] if step is None else [step]
    runtime, deploy = chance.choice(list(space.deploys.values()))
    last = [] if deploy is None else [deploy.default_step()]
    try:
        recipe = Recipe((*steps, *last), runtime).canonical(shape)
        recipe.reshape(shape)
    except UserError:
        return None
    return recipe


if __name__ == "__main__":
    main()
