"""An elastic base as a forecast of which recipe will be accurate: untrained cuts and low rungs against full training.

    python benchmarks/elastic/run.py [--recipes 16] [--epochs 3] [--elastic-epochs 4] [--limit-train N]

Random cuts (depth, heads, MLP) of the budget's base are judged on its validation images in six ways. Cuts of the plain
base: repaired from calibration images but untrained; after the low rung's training; after full training. Cuts of the
elastic base: untrained; after a short training; after full training. Writes ``result.md`` (rank correlations with full
training, seconds) and ``raw.csv`` (every recipe).
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import kendalltau, spearmanr

import sousvit
from sousvit import Recipe, Step

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.provenance import provenance, write_result

HERE = Path(__file__).parent
RECOVERY = {"learning_rate": 2e-3, "optimizer": "muon", "soft_weight": 0.7, "num_views": 2}
CUTS = {"prune_depth": "drop", "prune_heads": "keep", "prune_mlp": "keep"}
#: Ways of judging that are compared as forecasts, and what they forecast.
FORECASTS, TRUTHS = ("untrained", "low rung", "elastic untrained"), ("full", "elastic full")
RESAMPLES = 1000


def random_cuts(shape: Any, count: int, elastic: Step, seed: int) -> list[tuple[Step, ...]]:
    """Different cuts of at least two kinds, within what the elastic base learns."""
    config, values = elastic.config, {}
    for name, parameter in CUTS.items():
        values[name] = list(Step.make(name).handler.choices(shape)[parameter])
    least = shape.depth - round(config.depth * shape.depth)
    values["prune_depth"] = [drop for drop in values["prune_depth"] if drop <= least]
    values["prune_heads"] = [keep for keep in values["prune_heads"] if keep >= config.heads - 1e-3]
    values["prune_mlp"] = [keep for keep in values["prune_mlp"] if keep >= config.mlp]
    found = [
        Recipe(tuple(Step.make(name, **{CUTS[name]: value}) for name, value in zip(CUTS, chosen, strict=True)))
        for chosen in itertools.product(*values.values())
    ]
    cuts = [recipe.canonical(shape).steps for recipe in found]
    return random.Random(seed).sample([steps for steps in cuts if len(steps) > 1], count)


def ways(given: argparse.Namespace, elastic: Step, tail: Step) -> dict[str, Callable[[tuple[Step, ...]], tuple]]:
    """Per way of judging the recipe and its fidelity."""
    return {
        "untrained": lambda cut: (Recipe(cut), 1.0),
        "low rung": lambda cut: (Recipe((*cut, tail)), given.low),
        "elastic untrained": lambda cut: (Recipe((elastic, *cut)), 1.0),
        "elastic short": lambda cut: (Recipe((elastic, *cut, tail)), given.polish),
        "elastic full": lambda cut: (Recipe((elastic, *cut, tail)), 1.0),
        "full": lambda cut: (Recipe((*cut, tail)), 1.0),
    }


def judged(given: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, float]]:
    """A row a recipe (``top1`` and ``seconds`` by way), and what was paid once."""
    budget = sousvit.Budget.read(given.budget)
    data = budget.data.model_copy(update={"limit_train": given.limit_train})
    elastic = Step.make("elastic", epochs=given.elastic_epochs, **RECOVERY, networks=given.networks, whole=given.whole)
    tail = Step.make("distill", epochs=given.epochs, **RECOVERY)
    workshop = sousvit.Workshop(budget.model, train=data, seed=given.seed)
    begun = time.monotonic()
    workshop.model(Recipe((tail,)))  # asks the base about every view of the training images, once for all ways
    teacher, begun = time.monotonic() - begun, time.monotonic()
    whole = workshop.model(Recipe((elastic,)))
    once = {
        "prepare": time.monotonic() - begun,
        "base trained on": teacher,
        "base": top1(workshop, workshop.base),
        "whole": top1(workshop, whole),
        "images": len(workshop.images("train")[1]),
        "validation": len(workshop.images("validation")[1]),
    }
    print(once, flush=True)
    rows = []
    for cut in random_cuts(workshop.shape, given.recipes, elastic, given.seed):
        rows.append({"recipe": str(Recipe(cut)), **dict(measured(cut, ways(given, elastic, tail), workshop))})
        print(rows[-1], flush=True)
    return pd.DataFrame(rows), once


def top1(workshop: sousvit.Workshop, model: torch.nn.Module) -> float:
    """On the validation images, in PyTorch."""
    return workshop.evaluate(model).merit()[0]


def measured(
    cut: tuple[Step, ...], ways: dict[str, Callable[[tuple[Step, ...]], tuple]], workshop: sousvit.Workshop
) -> Iterator[tuple[str, float]]:
    """Top-1 and seconds of one cut in every way; the time of a beginning that was read back counts as well."""
    for name, recipe_of in ways.items():
        recipe, fidelity = recipe_of(cut)
        begun = time.monotonic()
        model = workshop.model(recipe, fidelity)
        yield f"{name} seconds", time.monotonic() - begun
        yield name, top1(workshop, model)


def correlation(frame: pd.DataFrame, forecast: str, truth: str, seed: int = 0) -> dict[str, tuple[float, ...]]:
    """Spearman and Kendall with the ends of a 95% interval over resampled recipes."""
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(frame), len(frame)) for _ in range(RESAMPLES)]
    found = {}
    for name, statistic in (("Spearman", spearmanr), ("Kendall", kendalltau)):
        values = frame[forecast].to_numpy(), frame[truth].to_numpy()
        resampled = [statistic(values[0][d], values[1][d]).statistic for d in draws if len(set(values[1][d])) > 2]
        found[name] = statistic(*values).statistic, *np.nanquantile(resampled, (0.025, 0.975))
    return found


def table(frame: pd.DataFrame, once: dict[str, float], command: str) -> str:
    """The result as Markdown."""
    lines = [
        *provenance(command),
        f"{len(frame)} random cuts; {once['images']} training and {once['validation']} validation images; the base has "
        f"{100 * once['base']:.2f}%, the elastic base as a whole {100 * once['whole']:.2f}%. "
        f"Once for all: elastic base {once['prepare']:.0f} s; the base itself trained on, with its own answers as a "
        f"teacher, {once['base trained on']:.0f} s.",
        "",
        "| way of judging | mean top-1 % | seconds a recipe |",
        "|---|---:|---:|",
    ]
    names = [name for name in frame if f"{name} seconds" in frame]
    lines += [f"| {n} | {100 * frame[n].mean():.2f} | {frame[f'{n} seconds'].mean():.1f} |" for n in names]
    lines += ["", "| forecast | of | Spearman | Kendall |", "|---|---|---:|---:|"]
    for truth, forecast in itertools.product(TRUTHS, FORECASTS):
        cells = [f"{a:.2f} [{b:.2f}, {c:.2f}]" for a, b, c in correlation(frame, forecast, truth).values()]
        lines.append(f"| {forecast} | {truth} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=Path, default=Path("examples/fashion-mnist/budget.yaml"))
    parser.add_argument("--recipes", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3, help="of full training")
    parser.add_argument("--low", type=float, default=0.25, help="share of them at the low rung")
    parser.add_argument("--polish", type=float, default=1 / 3, help="share of them in the short training")
    parser.add_argument("--elastic-epochs", type=int, default=4)
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--limit-train", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of result.md and raw.csv")
    given = parser.parse_args()
    try:
        frame, once = judged(given)
    except sousvit.UserError as error:
        print(error, file=sys.stderr)
        return 2
    command = f"python {' '.join(sys.argv)}"
    given.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(given.out / "raw.csv", index=False)
    write_result(given.out / "result.md", table(frame, once, command))
    print(table(frame, once, command))
    return 0


if __name__ == "__main__":
    sys.exit(main())
