"""One Ray node of one core against two: the same small search of the embedded example, until its space is exhausted.

    python benchmarks/two_nodes/run.py

Writes ``result.md``: wall time from the base's figures to the last trial, and the trials' own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import sousvit

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.provenance import provenance, write_result

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "fashion-mnist"
#: Every recipe of it is judged, so that both searches do the same work.
SPACE = {
    "prune_mlp": {"keep": [0.5, 0.75], "importance": ["activation"], "allocation": ["uniform"]},
    "prune_depth": {"drop": [0, 2]},
    "distill": {"epochs": [1], "learning_rate": [0.001], "soft_weight": [0.7], "num_views": [1]},
    "int8_dynamic": {},
}


def budget(address: str) -> dict[str, Any]:
    """The embedded example without limits that could end a trial early."""
    files = EXAMPLE / "data"
    data = {
        "format": "idx",
        "train": str(files / "train-images-idx3-ubyte.gz"),
        "validation": str(files / "validation-images-idx3-ubyte.gz"),
        "test": str(files / "test-images-idx3-ubyte.gz"),
    }
    return {
        "model": {"checkpoint": str(EXAMPLE / "base.safetensors")},
        "data": data,
        "targets": ["local-1-thread"],
        "limits": {"accuracy_drop": 0.99},
        "optimize": ["accuracy", "latency"],
        "space": {"techniques": SPACE},
        "search": {"trials": 200, "explore_fidelity": 1.0, "leave_one_out": False},
        "ray": {"address": address, "cpus": 1},
    }


def measure(nodes: int) -> dict[str, float]:
    """One search on so many nodes of one core."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1)
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            sousvit.Search(budget(cluster.address), run=run, executor="ray").optimize()
            events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
            ends = [event["at"] for event in events if event["event"] in ("base", "trial")]
            trials = sousvit.open_run(run).trials
        seconds = _between(ends[0], ends[-1])
        return {"nodes": nodes, "trials": len(trials), "seconds": seconds, "work": trials["seconds"].sum()}
    finally:
        ray.shutdown()
        cluster.shutdown()


def _between(first: str, last: str) -> float:
    begun, ended = (datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z") for text in (first, last))
    return (ended - begun).total_seconds()


def main() -> None:
    """Measure and write."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows = [measure(nodes) for nodes in (1, 2)]
    lines = [
        *provenance("python benchmarks/two_nodes/run.py"),
        "Nodes of one core each, on one machine.",
        "",
        "| nodes | trials | seconds in all | seconds of trials | speed-up |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['nodes']} | {row['trials']} | {row['seconds']:.0f} | {row['work']:.0f} "
        f"| {rows[0]['seconds'] / row['seconds']:.2f} |"
        for row in rows
    ]
    write_result(HERE / "result.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
