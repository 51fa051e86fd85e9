"""Policies on made-up tables of 16,384 configurations that nothing was tuned on: drawn anew from a seed.

Every table is a random function of the kind that networks show: each choice adds capacity with diminishing returns, a
few pairs of choices help or hinder each other, words have an effect of their own, and what is measured has noise; how
much of each is drawn, too. MACs follow from the choices. Four kinds, each from several seeds:

- ``exact``: accuracy against MACs, which are known beforehand (`exact`);
- ``blind``: the same, but nothing tells the engine that MACs are known;
- ``three``: accuracy, latency (MACs with a cost per layer, and noise) and size, nothing known beforehand;
- ``holes``: a third of the rows at random, with words and with parameters that only some configurations have.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from provenance import RESULTS, provenance

from sousvit.search.replay.compare import Comparison, compare

LEVELS, PLACES = 4, 7
KINDS = ("exact", "blind", "three", "holes")


def table(kind: str, seed: int, noisy: bool = True) -> tuple[pd.DataFrame, dict[str, object]]:
    """Rows and their description; the same rows without what is random in their figures where not ``noisy``."""
    chance = np.random.default_rng([seed, KINDS.index(kind)])
    grid = np.array(list(product(range(LEVELS), repeat=PLACES)))
    level = grid / (LEVELS - 1)
    capacity = level ** chance.uniform(0.3, 1.0, PLACES) @ chance.dirichlet(np.ones(PLACES))
    pairs = [chance.choice(PLACES, 2, replace=False) for _ in range(chance.integers(3, 12))]
    strength = chance.uniform(0.02, 0.1)
    together = sum(chance.normal(0, strength) * level[:, a] * level[:, b] for a, b in pairs)
    words = chance.normal(0, 0.03, LEVELS)[grid[:, -1]]
    noise = chance.normal(0, chance.uniform(0.001, 0.015), len(grid))
    accuracy = 0.95 - 0.35 * np.exp(-3 * capacity) + together + words + noise * noisy
    share = 0.15 + 0.85 * level[:, :-1] * chance.uniform(0.2, 1.0, PLACES - 1)
    macs = 1000 * share.mean(1) * share[:, :3].prod(1) ** 0.5
    frame = pd.DataFrame(2 ** (grid + 2), columns=[f"p{place}" for place in range(PLACES)])
    frame["kind"] = [("gelu", "relu", "silu", "tanh")[word] for word in grid[:, -1]]
    frame = frame.drop(columns=f"p{PLACES - 1}").assign(accuracy=accuracy, macs=macs)
    depth = 1 + grid[:, 0]
    frame["latency"] = (2 + 0.01 * macs + 0.4 * depth) * chance.lognormal(0, 0.02, len(grid)) ** noisy
    frame["size"] = 1 + 10 * share[:, 3:].mean(1)
    objectives = {"accuracy": "maximize", "macs": "minimize"}
    if kind == "three":
        objectives = {"accuracy": "maximize", "latency": "minimize", "size": "minimize"}
    if kind == "holes":
        frame["p5"] = frame["p5"].astype(object).where(frame["kind"].isin(["gelu", "silu"]), None)
        frame = frame.drop_duplicates([c for c in frame if c.startswith("p") or c == "kind"])
        frame = frame.sample(len(frame) // 3, random_state=seed)
    parameters = [column for column in frame if str(column).startswith("p") or column == "kind"]
    exact = ["macs"] if kind in ("exact", "holes") else []
    spec = {"file": "table.parquet", "parameters": parameters, "objectives": objectives, "exact": exact}
    return frame, spec


def replayed(kind: str, given: argparse.Namespace) -> tuple[dict[int, Comparison], dict[int, Comparison]]:
    """Every policy on every table of a kind, by the table's seed; and random choice with more evaluations, if asked."""
    found, longer = {}, {}
    for seed in range(given.tables):
        with tempfile.TemporaryDirectory() as folder:
            frame, spec = table(kind, given.first + seed)
            frame.to_parquet(Path(folder) / "table.parquet")
            (Path(folder) / "table.yaml").write_text(yaml.safe_dump(spec))
            path = Path(folder) / "table.yaml"
            found[seed] = compare(path, given.policy, given.evaluations, given.seeds, given.workers)
            if given.random_times > 1:
                many = given.evaluations * given.random_times
                longer[seed] = compare(path, ["random"], many, given.seeds, given.workers)
        print(f"{kind} {seed}: " + ", ".join(
            f"{policy} {found[seed].shares(policy, given.evaluations)[0]:.3f}" for policy in given.policy
        ), flush=True)  # fmt: skip
    return found, longer


def line(kind: str, policy: str, found: dict[int, Comparison], marks: list[int], more: str = "") -> str:
    """One row of the result: the mean share over tables and seeds, with the table where it is least."""
    cells = []
    for mark in marks:
        means = [comparison.shares(policy, mark)[0] for comparison in found.values()]
        cells.append(f"{np.mean(means):.3f} ({min(means):.3f})")
    return f"| {kind} | {policy}{more} | {' | '.join(cells)} |"


def main() -> None:
    """Write ``results/unseen_tables.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--policy", nargs="+", default=["sousvit", "tpe", "nsga2", "random"])
    parser.add_argument("--tables", type=int, default=10, help="of each kind")
    parser.add_argument("--first", type=int, default=0, help="seed of the first table")
    parser.add_argument("--seeds", type=int, default=3, help="of every policy on every table")
    parser.add_argument("--evaluations", type=int, default=164)
    parser.add_argument(
        "--random-times",
        type=int,
        default=20,
        help="random choice also gets so many times as many evaluations; 1: it does not",
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "unseen_tables.md")
    given = parser.parse_args()
    marks = [mark for mark in (40, 80, 164, 328) if mark <= given.evaluations]
    lines = [f"| kind | policy | {' | '.join(map(str, marks))} |", "|---|---|" + "---:|" * len(marks)]
    for kind in given.kind:
        found, longer = replayed(kind, given)
        lines += [line(kind, policy, found, marks) for policy in given.policy]
        times = given.random_times
        if longer:
            lines.append(line(kind, "random", longer, [mark * times for mark in marks], f", {times} times as many"))
    about = (
        f"Share of the table's hypervolume after so many evaluations: mean over {given.tables} tables "
        f"(seeds from {given.first}) and {given.seeds} seeds of each policy; in brackets the table where it is least."
    )
    command = " ".join(["python benchmarks/unseen_tables.py", *sys.argv[1:]])
    text = "\n".join([*provenance(command), about, "", *lines]) + "\n"
    given.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
