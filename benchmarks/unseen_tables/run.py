"""Policies on made-up tables of 16,384 configurations that nothing was tuned on: drawn anew from a seed.

    python benchmarks/unseen_tables/run.py --kind three exact holes --tables 6 --random-times 1 --name three_exact_holes

The tables are those of :mod:`common.made_up_tables`. Writes ``result_NAME.md``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import sousvit

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.made_up_tables import KINDS, table
from common.provenance import provenance, write_result

HERE = Path(__file__).parent


def replayed(kind: str, given: argparse.Namespace) -> tuple[dict[int, Any], dict[int, Any]]:
    """Every policy on every table of a kind, by the table's seed; and random choice with more evaluations, if asked."""
    found, longer = {}, {}
    often = {"seeds": given.seeds, "workers": given.workers}
    for seed in range(given.tables):
        with tempfile.TemporaryDirectory() as folder:
            frame, spec = table(kind, given.first + seed)
            frame.to_parquet(Path(folder) / "table.parquet")
            (Path(folder) / "table.yaml").write_text(yaml.safe_dump(spec))
            path = Path(folder) / "table.yaml"
            found[seed] = sousvit.replay(path, given.policy, evaluations=given.evaluations, **often)
            if given.random_times > 1:
                many = given.evaluations * given.random_times
                longer[seed] = sousvit.replay(path, ["random"], evaluations=many, **often)
        print(f"{kind} {seed}: " + ", ".join(
            f"{policy} {found[seed].shares(policy, given.evaluations)[0]:.3f}" for policy in given.policy
        ), flush=True)  # fmt: skip
    return found, longer


def line(kind: str, policy: str, found: dict[int, Any], marks: list[int], more: str = "") -> str:
    """One row of the result: the mean share over tables and seeds, with the table where it is least."""
    cells = []
    for mark in marks:
        means = [comparison.shares(policy, mark)[0] for comparison in found.values()]
        cells.append(f"{np.mean(means):.3f} ({min(means):.3f})")
    return f"| {kind} | {policy}{more} | {' | '.join(cells)} |"


def main() -> None:
    """Replay every policy on every table, then write."""
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
    parser.add_argument("--name", required=True, help="of the result")
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
    command = " ".join(["python benchmarks/unseen_tables/run.py", *sys.argv[1:]])
    text = "\n".join([*provenance(command), about, "", *lines]) + "\n"
    write_result(HERE / f"result_{given.name}.md", text)
    print(text)


if __name__ == "__main__":
    main()
