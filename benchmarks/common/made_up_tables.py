"""Tables of 16,384 made-up configurations, drawn anew from a seed, to compare search policies on.

Every table is a random function of the kind that networks show: each choice adds capacity with diminishing returns, a
few pairs of choices help or hinder each other, words have an effect of their own, and what is measured has noise; how
much of each is drawn, too. MACs follow from the choices. Four kinds, each from several seeds:

- ``exact``: accuracy against MACs, which are known beforehand (`exact`);
- ``blind``: the same, but nothing tells the engine that MACs are known;
- ``three``: accuracy, latency (MACs with a cost per layer, and noise) and size, nothing known beforehand;
- ``holes``: a third of the rows at random, with words and with parameters that only some configurations have.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd

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
