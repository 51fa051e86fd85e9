"""Latency of every recipe of the pool, so that confirming can be priced in time: writes ``costs.csv``.

    python benchmarks/limits_hold/costs.py

The structures of ``pool.npz`` are built with random weights, which take as long as trained ones, exported, and timed
beside the base in alternating groups, one thread, batch 1. It takes what builds and exports them from inside.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

import sousvit
from sousvit.models.load import ModelSpec, create, loaded
from sousvit.spaces.builder import skeleton
from sousvit.spaces.context import Context
from sousvit.spaces.export.export import make_artifact
from sousvit.spaces.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parent))
from pool import MODEL


def main() -> None:
    """Export, time and write."""
    here = Path(__file__).parent
    with np.load(here / "pool.npz") as stored:
        recipes = [Recipe.from_dict(costs["recipe"]) for costs in json.loads(str(stored["facts"]))["figures"][1:]]
    spec = ModelSpec.model_validate(MODEL)
    base = loaded(create(spec), spec)
    plain = Recipe((), "onnxruntime")
    rows = []
    with tempfile.TemporaryDirectory() as folder:

        def artifact(recipe: Recipe, name: str) -> sousvit.Artifact:
            context, place = Context(base.normalise), Path(folder) / name
            shape = (1, base.channels, *base.size)
            model = skeleton(base, recipe)
            return make_artifact(model, shape, base.mean, base.std, recipe.runtime, None, context, place)

        baseline = artifact(plain, "base")
        for number, recipe in enumerate(recipes):
            found = sousvit.measure(artifact(recipe, str(number)), baseline=baseline)
            ratio = found["ratio"]
            rows.append({"recipe": recipe.hash, "ratio": ratio.value, "low": ratio.low, "high": ratio.high})
            print(f"{number} {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] {recipe}", flush=True)
    with (here / "costs.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {key: value if isinstance(value, str) else round(value, 4) for key, value in row.items()} for row in rows
        )


if __name__ == "__main__":
    main()
