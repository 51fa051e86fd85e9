"""The share of an unseen table's hypervolume that choice can reach, by one who knows its figures without their noise.

    python benchmarks/noiseless_choice/run.py

The tables of :mod:`common.made_up_tables` have noise that nobody can foresee, and a table's hypervolume counts its
lucky rows. Here rows are chosen by figures without noise, each the one that adds most, and valued by the noisy ones.
Writes ``result.md``. It imports the hypervolume of replays from inside, so that shares are the same.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import qmc

from sousvit.search.ranking import BEYOND
from sousvit.search.replay.curves import Hypervolume

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.made_up_tables import KINDS, table
from common.provenance import provenance, write_result

Array = npt.NDArray[np.float64]

MARKS = (40, 80, 164)
#: The integral over all objectives but the first is estimated at so many points.
POINTS = 1024


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=["exact", "three", "holes"])
    parser.add_argument("--tables", type=int, default=6, help="of each kind")
    given = parser.parse_args()
    lines = [f"| kind | table | {' | '.join(map(str, MARKS))} |", "|---|---|" + "---:|" * len(MARKS)]
    for kind in given.kind:
        shares = [reached(kind, seed) for seed in range(given.tables)]
        told = [("mean", np.mean(shares, axis=0)), *enumerate(shares)]
        lines += [f"| {kind} | {name} | {' | '.join(f'{share:.3f}' for share in found)} |" for name, found in told]
    kinds = " ".join(given.kind)
    command = f"python benchmarks/noiseless_choice/run.py --kind {kinds} --tables {given.tables}"
    about = "Share of the hypervolume after so many rows, chosen by figures without noise and valued by the noisy ones."
    text = "\n".join([*provenance(command), about, "", *lines]) + "\n"
    write_result(Path(__file__).with_name("result.md"), text)
    print(text)


def reached(kind: str, seed: int) -> list[float]:
    """Shares after each of the marks."""
    noisy, spec = table(kind, seed)
    clean, _ = table(kind, seed, noisy=False)
    objectives = dict(spec["objectives"])
    order = chosen(figures(clean, objectives), max(MARKS))
    points = noisy[list(objectives)].to_numpy(float)
    volume = Hypervolume(points, list(objectives.values()))
    return [volume.share(points[order[:mark]]) for mark in MARKS]


def figures(frame: pd.DataFrame, objectives: dict[str, str]) -> Array:
    """``[n, m]`` between 0 and 1, less is better."""
    signs = [-1.0 if direction == "maximize" else 1.0 for direction in objectives.values()]
    found = frame[list(objectives)].to_numpy(float) * signs
    scaled: Array = (found - found.min(0)) / np.ptp(found, axis=0)
    return scaled


def chosen(points: Array, count: int) -> list[int]:
    """The rows of ``points [n, m]`` that together span the largest volume, chosen greedily."""
    first, others = points[:, 0], points[:, 1:]
    corners = (1 + BEYOND) * qmc.Sobol(others.shape[1], seed=0).random(POINTS)
    reaches = (others[:, None] <= corners[None]).all(2)  # [n, corners]
    level, order = np.full(POINTS, 1 + BEYOND), []
    for _ in range(count):
        gains = (reaches * np.maximum(0.0, level[None] - first[:, None])).sum(1)
        gains[order] = -1.0
        order.append(int(gains.argmax()))
        level = np.where(reaches[order[-1]], np.minimum(level, first[order[-1]]), level)
    return order


if __name__ == "__main__":
    main()
