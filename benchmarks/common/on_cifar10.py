"""The arguments and the budget that the benchmarks on CIFAR-10 share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

#: The space that searches on CIFAR-10 share.
TECHNIQUES = {
    "patch_size": {},
    "prune_depth": {},
    "prune_heads": {"importance": ["activation"]},
    "prune_mlp": {"importance": ["activation"]},
    "tome": {},
    "evit": {},
    "distill": {"epochs": [3], "learning_rate": [2e-3], "optimizer": ["muon"], "soft_weight": [0.7], "num_views": [2]},
    "int8_dynamic": {},
    "ptq_int8": {},
    "weight_only": {},
    "bf16": {},
}


def budget(given: argparse.Namespace, techniques: dict[str, Any]) -> dict[str, Any]:
    """The budget over ``techniques`` as plain values; the last 5,000 training rows are validation."""
    data, model = given.data, given.model
    files = {"train": str((data / "train.parquet").resolve()), "test": str((data / "test.parquet").resolve())}
    return {
        "model": {"checkpoint": str(model.resolve())},
        "data": {"format": "parquet", **files, "validation": {"last": 5000}, "limit_train": given.limit_train},
        "targets": [{"device": "local", "runtime": ["onnxruntime", "openvino"], "threads": 1, "batch": 1}],
        "limits": {"accuracy_drop": 0.01},
        "optimize": ["latency", "size"],
        "space": {"techniques": techniques},
    }


def write_budget(values: dict[str, Any], run: str) -> Path:
    """The budget's file, in ``runs/``."""
    path = Path("runs") / f"{run}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def arguments(description: str | None, run: str) -> argparse.ArgumentParser:
    """What every benchmark on CIFAR-10 takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--limit-train", type=int, default=None)
    parser.add_argument("--run", default=run)
    return parser
