"""The runtimes that a teacher's views may be read in: images a second, agreement with the base, seconds of a view.

    python benchmarks/teacher/run.py --data DIR --model VIT.safetensors

Every candidate that is installed is built and held against the base on one core and on all, as a search does before
its first view; then a view of the training images is read in the one that was chosen, and in ONNX Runtime, which was
used for all before. Beside the given base, a ViT-S at 224 px with random weights on random images, for its speed (its
classes are near ties, so its top-1 says little). Writes ``result.md`` and ``raw.csv``. It imports the part from inside,
because that is what it measures.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from sousvit.cache import TensorCache
from sousvit.data import DataSpec, ImageSet, Splits
from sousvit.data.memory import memory_set
from sousvit.machine import available_cores
from sousvit.models.load import LoadedModel, ModelSpec, create, load
from sousvit.search.judging import teacher_runtime
from sousvit.search.judging.teacher_runtime import PLAIN, TeacherRuntime
from sousvit.spaces.context import Context
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.export.export import make_artifact
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.training.teacher import Teacher

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.provenance import provenance, write_result

HERE = Path(__file__).parent
Row = dict[str, Any]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train.parquet")
    parser.add_argument("--model", type=Path, required=True, help="safetensors that sousvit train wrote")
    parser.add_argument("--images", type=int, default=36_000, help="of a view")
    parser.add_argument("--cores", type=int, nargs="+", default=sorted({1, available_cores()}))
    given = parser.parse_args()
    rows: list[Row] = []
    for cores in given.cores:
        for measure, arguments in ((small, (given.data, given.model, given.images)), (large, ())):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), pin, (cores,)) as process:
                rows += process.submit(measure, *arguments).result()
    table = pd.DataFrame(rows)
    table.to_csv(HERE / "raw.csv", index=False)
    command = f"python benchmarks/teacher/run.py --data DIR --model {given.model.name} --images {given.images}"
    about = "What was chosen is bold; a view is one pass over the training images, augmentation included."
    text = "\n".join(["# What the base teaches in", "", *provenance(command), about, "", *written(rows)]) + "\n"
    write_result(HERE / "result.md", text)
    print(text)


def pin(cores: int) -> None:
    """Keep this process to so many cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    torch.set_num_threads(cores)


def small(data: Path, model: Path, count: int) -> list[Row]:
    """The given base, with one view in the runtime that is chosen and one in the plain one."""
    base = load(ModelSpec(checkpoint=str(model.resolve())).resolved(Path()))
    spec = DataSpec(train=str(data.resolve() / "train.parquet"), validation={"last": 5000}, format="parquet")
    splits = Splits(spec, base.size, base.channels, preprocess=base.preprocess)
    train = splits.train.head(count)
    rows = tried(model.stem, base, train, splits.calibration(), view=True)
    teacher_runtime.WORTH_TRYING = float("inf")
    plain = tried(model.stem, base, train, splits.calibration(), view=True)
    return [{**row, "view_seconds": plain[0]["view_seconds"]} if row["runtime"] == PLAIN else row for row in rows]


def large() -> list[Row]:
    """A ViT-S with random weights."""
    torch.manual_seed(0)
    spec = ModelSpec(name="vit_small_patch16_224")
    base = LoadedModel(create(spec).eval(), spec, (224, 224), 3, (0.5,) * 3, (0.5,) * 3, 1000, "random")
    pixels = torch.randint(0, 256, (256, 3, 224, 224), dtype=torch.uint8)
    images = memory_set("random", pixels, torch.zeros(256, dtype=torch.int64), "random")
    teacher_runtime.WORTH_TRYING = 0.0
    teacher_runtime.int8_pays = lambda *_: True
    return tried("ViT-S, 224 px, random", base, images, images, view=False)


def tried(name: str, base: LoadedModel, train: ImageSet, calibration: ImageSet, view: bool) -> list[Row]:
    """What a search does before its first view, and that view."""
    context = Context(base.normalise, calibration, train)
    with tempfile.TemporaryDirectory() as folder:
        cache, built = TensorCache(Path(folder) / "cache"), {}

        def make(recipe: Recipe) -> Artifact:
            begun, place = time.monotonic(), Path(folder) / recipe.hash
            shape, step = (1, base.channels, *base.size), recipe.deploy_step
            found = make_artifact(base.module, shape, base.mean, base.std, recipe.runtime, step, context, place)
            built[recipe.hash] = time.monotonic() - begun
            return found

        runtime = TeacherRuntime(base, cache, lambda *_: None)
        runtime.begin(context, make)
        begun = time.monotonic()
        choice = runtime.choice
        row = {"base": name, "cores": available_cores(), "choosing_seconds": time.monotonic() - begun}
        teacher = Teacher(base, train, forward=runtime)
        if view:
            teacher("crop_flip", 0, 0)
        recipes = teacher_runtime.candidates()
        rows = []
        for candidate, found in choice.tried.items():
            recipe, chosen = recipes[candidate], candidate == choice.name
            rows.append(
                {
                    **row,
                    "runtime": candidate,
                    "build_seconds": 0.0 if recipe is None else built[recipe.hash],
                    "images_per_second": found.images_per_second,
                    "divergence": found.divergence,
                    "same_top1": found.same_top1,
                    "agrees": found.agrees,
                    "chosen": chosen,
                    "view_seconds": teacher.seconds if chosen and view else float("nan"),
                }
            )
        runtime.close()
    return rows


def written(rows: list[Row]) -> list[str]:
    """The table of the result."""
    lines = [
        "| base | cores | runtime | images/s | times plain | divergence, nats | same top-1 | built in | a view |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        first = next(r for r in rows if (r["base"], r["cores"]) == (row["base"], row["cores"]))
        ratio = row["images_per_second"] / first["images_per_second"]
        name = f"**{row['runtime']}**" if row["chosen"] else row["runtime"]
        name += "" if row["agrees"] else " (does not agree)"
        seconds = "" if row["view_seconds"] != row["view_seconds"] else f"{row['view_seconds']:.1f} s"
        lines.append(
            f"| {row['base']} | {row['cores']} | {name} | {row['images_per_second']:,.0f} | {ratio:.2f} "
            f"| {row['divergence']:.1g} | {row['same_top1']:.1%} | {row['build_seconds']:.1f} s | {seconds} |"
        )
    return lines


if __name__ == "__main__":
    main()
