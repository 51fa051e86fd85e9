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
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

import sousvit

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
RECOVERY = sousvit.Step.make("distill", epochs=1, learning_rate=1e-3, soft_weight=0.7, num_views=1)
Values = tuple[float, ...]


@cache
def workshop() -> sousvit.Workshop:
    """What a process loads once; the base's answers to training images are asked for before anything is timed."""
    torch.set_num_threads(1)
    budget = sousvit.Budget.read(BUDGET)
    data = budget.data.model_copy(update={"limit_train": IMAGES})
    found = sousvit.Workshop(budget.model, train=data, cache=STORE, threads=1)
    found.model(sousvit.Recipe([RECOVERY]), FIDELITIES[1])
    return found


def recipe_of(values: Values) -> sousvit.Recipe:
    """The recipe of one configuration."""
    given = dict(zip(PARAMETERS, values, strict=True))
    make = sousvit.Step.make
    return sousvit.Recipe(
        (
            make("prune_depth", drop=given["depth_drop"]),
            make("prune_head_dim", keep=given["head_dim_keep"]),
            make("prune_heads", keep=given["heads_keep"]),
            make("prune_mlp", keep=given["mlp_keep"]),
            make("tome", keep=given["tokens_keep"]),
            RECOVERY,
        )
    )


def judge(values: Values) -> list[list[float]]:
    """The configuration's rows, one a fidelity; none where the values do not fit together."""
    shape = workshop().shape
    try:
        recipe = recipe_of(values).canonical(shape)
        small = recipe.reshape(shape)
    except sousvit.UserError:
        return []
    return [[*values, *_measured(recipe, small, fidelity)] for fidelity in FIDELITIES]


def _measured(recipe: sousvit.Recipe, small: Any, fidelity: float) -> list[float]:
    begun = time.process_time()
    accuracy, _, _ = workshop().evaluate(workshop().model(recipe, fidelity)).merit()
    seconds = time.process_time() - begun
    return [fidelity, round(accuracy, 5), round(small.macs() / 1e6, 4), small.params(), round(seconds, 2)]


def main() -> None:
    """Record what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=TABLE, help="the table; what it has already is not recorded again")
    parser.add_argument("--most", type=int, help="record so many configurations at most")
    given = parser.parse_args()
    known: set[tuple[str, ...]] = set()
    if given.out.is_file():
        with given.out.open() as stream:
            known = {tuple(row[: len(PARAMETERS)]) for row in list(csv.reader(stream))[1:]}
    wanted = [values for values in itertools.product(*PARAMETERS.values()) if tuple(map(str, values)) not in known]
    wanted, spawn = wanted[: given.most], get_context("spawn")
    with given.out.open("a", newline="") as stream, ProcessPoolExecutor(given.workers, mp_context=spawn) as pool:
        writer = csv.writer(stream, lineterminator="\n")
        if not known:
            writer.writerow([*PARAMETERS, *MEASURED])
        for rows in track(pool.map(judge, wanted), total=len(wanted), description="recording"):
            writer.writerows(rows)
            stream.flush()


if __name__ == "__main__":
    main()
