"""How accurate models are that were cut and repaired from calibration images alone, and what the repair takes.

    python benchmarks/scale/repaired.py --model VIT.safetensors --data DIR

Without arguments: the embedded Fashion-MNIST base. Prints one line a recipe, as JSON with ``--json``, so that two
revisions can be compared on the same images.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import sousvit

EXAMPLE = Path(__file__).parents[2] / "examples" / "fashion-mnist"
RECIPES = {
    "int8, static": [{"technique": "static_int8"}],
    "a third of the heads gone": [{"technique": "prune_heads", "keep": 0.6667}],
    "half of the MLP gone": [{"technique": "prune_mlp", "keep": 0.5}],
    "a quarter of the MLP gone, by Taylor": [{"technique": "prune_mlp", "keep": 0.75, "importance": "taylor"}],
    "a quarter of the MLP gone, by gates": [{"technique": "prune_mlp", "keep": 0.75, "importance": "gates"}],
    "an eighth of the width gone": [{"technique": "prune_embed", "keep": 0.875}],
    "one block gone": [{"technique": "prune_depth", "drop": 1}],
    "low rank": [{"technique": "low_rank", "keep": 0.6}],
    "half of the weights zero": [{"technique": "sparsify", "sparsity": 0.5}],
    "heads, MLP, int8": [
        {"technique": "prune_heads", "keep": 0.8333},
        {"technique": "prune_mlp", "keep": 0.75},
        {"technique": "static_int8"},
    ],
}


def main() -> None:
    """Judge each recipe on the test images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=EXAMPLE / "base.safetensors")
    parser.add_argument("--data", type=Path, help="folder with train.parquet and test.parquet")
    parser.add_argument("--limit", type=int, help="so many test images, by default all")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.data is None:
        part = {name: f"{EXAMPLE}/data/{name}-images-idx3-ubyte.gz" for name in ("train", "validation", "test")}
        data = {"format": "idx", **part}
    else:
        part = {name: str((given.data / f"{name}.parquet").resolve()) for name in ("train", "test")}
        data = {"format": "parquet", **part, "validation": {"last": 5000}}
    workshop = sousvit.Workshop(given.model, train=data, threads=1)
    found = {}
    for name, steps in [("the base", []), *RECIPES.items()]:
        try:
            recipe = sousvit.Recipe.from_dict({"steps": steps, "runtime": "onnxruntime"})
            begun = time.process_time()
            model = workshop.model(recipe)
            seconds = time.process_time() - begun
        except (sousvit.UserError, sousvit.TrialError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        judged = workshop.evaluate(recipe if recipe.deploy_step else model, "test", limit=given.limit)
        found[name] = {"top1": round(100 * judged.merit()[0], 2), "seconds": round(seconds, 2)}
        print(json.dumps({name: found[name]}), file=sys.stderr)
    if given.json:
        print(json.dumps(found))
        return
    for name, row in found.items():
        print(f"{name:40s} {row['top1']:6.2f}% {row['seconds']:7.2f} s")


if __name__ == "__main__":
    main()
