"""A few small searches from end to end, and whether their answers hold the limit on images that nobody used.

    python benchmarks/limits_hold/real.py --data FASHION_MNIST --checkpoint BASE.safetensors --seeds 0 1 2

The base is the one that :mod:`pool` trains (``--checkpoint`` keeps it). Every search has 3,000 validation images of its
own; its answer's artifact then classifies all images that neither the base nor the search was given. Adds to
``real.csv``. The artifact is opened from inside.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pool import TECHNIQUES, UNSEEN
from torch.utils.data import TensorDataset

import sousvit
from sousvit.data.formats.idx import read_idx
from sousvit.objectives.runtimes.pool import open_pool
from sousvit.spaces.export.artifact import Artifact

VALIDATION, BATCH = 3000, 100
OUT = Path(__file__).with_name("real.csv")


def main() -> None:
    """Search, judge, add rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the four IDX files")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--limit", type=float, default=0.01)
    parser.add_argument("--trials", type=int, default=12)
    given = parser.parse_args()
    images, labels = read(given.data, "train")
    first = len(labels) - UNSEEN  # the base was trained on a part of what lies before
    for seed in given.seeds:
        rows = first + np.random.default_rng(seed).permutation(UNSEEN)
        row = {
            "seed": seed,
            "limit": given.limit,
            "trials": given.trials,
            **searched(given, seed, images, labels, rows),
        }
        known = pd.read_csv(OUT) if OUT.is_file() else pd.DataFrame()
        pd.concat([known, pd.DataFrame([row])]).round(5).to_csv(OUT, index=False)
        print(row)


def searched(given: argparse.Namespace, seed: int, images: Any, labels: Any, rows: Any) -> dict[str, Any]:
    """One search, and its answer on the ``rows`` that it was not given."""
    with tempfile.TemporaryDirectory() as folder:
        result = sousvit.compress(
            given.checkpoint,
            train=dataset(images[:1000], labels[:1000]),
            validation=dataset(images[rows[:VALIDATION]], labels[rows[:VALIDATION]]),
            test=dataset(*(part[:5000] for part in read(given.data, "t10k"))),
            limits={"accuracy_drop": given.limit},
            optimize=["macs"],
            space=list(TECHNIQUES),
            trials=given.trials,
            seed=seed,
            run=Path(folder) / "run",
            executor="inline",
            measure_time=0.05,
            leave_one_out=False,
        )
        fresh = rows[VALIDATION:]
        right = [
            correct(Artifact.open(path), images[fresh], labels[fresh])
            for path in (result.folder / "artifacts" / "base", result.artifact)
        ]
        found = result.answer.confirmation
        drop = right[0].mean() - right[1].mean()
        return {
            "status": result.status,
            "confirmed": found is not None and found.holds,
            "tried": 0 if found is None else found.tried,
            "test_drop": result["accuracy_drop"].value,
            "fresh_drop": drop,
            "fresh_holds": drop <= given.limit,
            "macs_ratio": result["macs"].value / result.answer.rows[0].values["macs"].value,
            "recipe": str(result.recipe),
        }


def read(folder: Path, part: str) -> tuple[Any, Any]:
    """Images ``[N, 28, 28]`` and labels ``[N]``."""
    return tuple(read_idx(folder / f"{part}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))  # type: ignore[return-value]


def dataset(images: Any, labels: Any) -> TensorDataset:
    """As ``sousvit.compress`` takes it."""
    return TensorDataset(torch.from_numpy(images.copy())[:, None], torch.from_numpy(labels.astype(np.int64)))


def correct(artifact: Artifact, images: Any, labels: Any) -> Any:
    """``[N]`` whether each image is classified rightly."""
    inputs = ((images[:, None] / np.float32(255) - artifact.mean[0]) / artifact.std[0]).astype(np.float32)
    with open_pool(artifact, 1) as session:
        logits = np.concatenate(list(session.run_all(np.split(inputs, range(BATCH, len(inputs), BATCH)))))
    return logits.argmax(1) == labels


if __name__ == "__main__":
    main()
