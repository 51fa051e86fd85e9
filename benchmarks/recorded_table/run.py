"""A table of real compressed models at several fidelities, recorded to judge search policies on.

    python benchmarks/recorded_table/run.py --workers 2

Every combination of block, head, head-width and MLP pruning (repaired in closed form) and token merging is built from
the embedded base, and judged by PyTorch on its 2,000 validation images: untrained, after a quarter of its recovery, and
after all of it (distillation, one epoch of 3,000 images). Writes ``fashion-mnist.csv`` (see the
``.yaml`` beside it); a second run goes on where the first one ended. ``seconds`` are CPU time of one thread, as a
search would pay them: a repaired model is built once.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.progress import track

from sousvit.cache import TensorCache
from sousvit.data import ImageSet
from sousvit.errors import UserError
from sousvit.models.load import LoadedModel, load
from sousvit.search.budget import Budget
from sousvit.spaces.builder import ModelBuilder
from sousvit.spaces.context import Context
from sousvit.spaces.images import open_splits
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.shape import VitShape
from sousvit.spaces.training.loop import predict
from sousvit.spaces.training.teacher import Teacher

HERE = Path(__file__).parent
BUDGET = HERE.parents[1] / "examples" / "fashion-mnist" / "budget.yaml"
TABLE = HERE / "fashion-mnist.csv"
STORE = HERE.parents[1] / "build" / "record-table"
PARAMETERS = {
    "depth_drop": (0, 1, 2, 3),
    "head_dim_keep": (1.0, 0.5),
    "heads_keep": (1.0, 0.6667, 0.3333),
    "mlp_keep": (1.0, 0.75, 0.5, 0.25),
    "tokens_keep": (1.0, 0.75, 0.55),
}
FIDELITIES = (0.0, 0.25, 1.0)
MEASURED = ("fidelity", "accuracy", "macs", "params", "seconds")
IMAGES = 3000
RECOVERY = Step.make("distill", epochs=1, learning_rate=1e-3, soft_weight=0.7, num_views=1)
Values = tuple[float, ...]


@dataclass(frozen=True)
class World:
    """What a process loads once."""

    base: LoadedModel
    validation: ImageSet
    builder: ModelBuilder
    shape: VitShape


@cache
def world() -> World:
    """The world of this process; the teacher's answers are asked for before anything is timed."""
    torch.set_num_threads(1)
    budget = Budget.read(BUDGET)
    base = load(budget.model)
    splits = open_splits(budget.data.model_copy(update={"limit_train": IMAGES}), base)
    store = TensorCache(STORE)
    teacher = Teacher(base, splits.train, store)
    builder = ModelBuilder(base, Context(base.normalise, splits.calibration(), splits.train, teacher), store)
    builder.build(Recipe((RECOVERY,)), FIDELITIES[1])
    return World(base, splits.validation, builder, vit_shape(base.module))


def recipe_of(values: Values) -> Recipe:
    """The recipe of one configuration."""
    given = dict(zip(PARAMETERS, values, strict=True))
    return Recipe(
        (
            Step.make("prune_depth", drop=given["depth_drop"]),
            Step.make("prune_head_dim", keep=given["head_dim_keep"]),
            Step.make("prune_heads", keep=given["heads_keep"]),
            Step.make("prune_mlp", keep=given["mlp_keep"]),
            Step.make("tome", keep=given["tokens_keep"]),
            RECOVERY,
        )
    )


def judge(values: Values) -> list[list[float]]:
    """The configuration's rows, one a fidelity; none where the values do not fit together."""
    own = world()
    try:
        recipe = recipe_of(values).canonical(own.shape)
        small = recipe.reshape(own.shape)
    except UserError:
        return []
    return [[*values, *_measured(own, recipe, small, fidelity)] for fidelity in FIDELITIES]


def _measured(own: World, recipe: Recipe, small: VitShape, fidelity: float) -> list[float]:
    begun = time.process_time()
    model = own.builder.build(recipe, fidelity)
    logits = predict(model, own.validation, own.base.normalise, precision="fp32")
    accuracy = float((logits.argmax(1) == own.validation.labels).float().mean())
    seconds = time.process_time() - begun
    return [fidelity, round(accuracy, 5), round(small.macs() / 1e6, 4), small.params(), round(seconds, 2)]


def main() -> None:
    """Record what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1)
    workers = parser.parse_args().workers
    known: set[tuple[str, ...]] = set()
    if TABLE.is_file():
        with TABLE.open() as stream:
            known = {tuple(row[: len(PARAMETERS)]) for row in list(csv.reader(stream))[1:]}
    wanted = [values for values in itertools.product(*PARAMETERS.values()) if tuple(map(str, values)) not in known]
    with TABLE.open("a", newline="") as stream, ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        writer = csv.writer(stream, lineterminator="\n")
        if not known:
            writer.writerow([*PARAMETERS, *MEASURED])
        for rows in track(pool.map(judge, wanted), total=len(wanted), description="recording"):
            writer.writerows(rows)
            stream.flush()


if __name__ == "__main__":
    main()
