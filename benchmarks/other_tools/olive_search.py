"""Olive's own joint search: graph optimisation and int8 or fp16, accuracy as a goal, then latency.

    python benchmarks/other_tools/olive_search.py --data DIR --model VIT.safetensors --minutes 15 --out OUT

Everything is Olive's: passes, their search ranges, sampler, evaluator, and which candidate is best. It is told what a
user who wants this would write: at most one point below the input model, then the lowest latency of one thread at
batch 1, images judged one by one as they will be served. Olive looks at the clock between candidates, so it may
overrun by one of them.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.workbench import ARTIFACT, MAX_DROP, Answer, Workbench, arguments, drive

#: Calibration images; histograms of all activations must fit into memory.
CALIBRATION = 128
CLASSES = 10
SEARCHED = "SEARCHABLE_VALUES"
LATENCY, ACCURACY = "latency", "accuracy"


def work(given: argparse.Namespace) -> Answer:
    os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
    bench = Workbench.open(given)
    store(given.out / "validation.npz", *bench.validation())
    store(given.out / "calibration.npz", *bench.workshop.images("train", CALIBRATION))
    register_arrays()
    mend_footprints()
    from olive.workflows import run

    config = workflow(given, bench)
    output = run(copy.deepcopy(config))  # Olive completes it in place
    best = output.get_best_candidate()
    tried = [node for node in output.footprint.nodes.values() if node.metrics and node.parent_model_id]
    asked = {"goal": f"max-degradation {MAX_DROP}", "sampler": given.sampler, "passes": config["passes"]}
    answered: dict[str, Any] = {"candidates_judged": len(tried), "base": output.get_input_model_metrics()}
    if best is None:
        return Answer(asked, answered, ["no candidate within the goal"])
    keep(Path(best.model_path), given.out / ARTIFACT)
    bench.describe(given.out / ARTIFACT, "onnxruntime", "model.onnx")
    history = output.trace_back_run_history(best.model_id)
    answered |= {"metrics": best.metrics_value, "passes": [one for one in history.values() if one]}
    return Answer(asked, answered)


def workflow(given: argparse.Namespace, bench: Workbench) -> dict[str, Any]:
    """Olive's configuration."""
    return {
        "input_model": {"type": "ONNXModel", "model_path": str(bench.exported.path.resolve())},
        "systems": {
            "here": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "data_configs": [arrays(given.out / "validation.npz"), arrays(given.out / "calibration.npz")],
        "evaluators": {"judge": {"metrics": [latency(), accuracy(CLASSES)]}},
        "passes": passes(),
        "search_strategy": {
            "execution_order": "joint",
            "sampler": given.sampler,
            "max_time": max(1, round(given.deadline - time.time())),
        },
        "evaluator": "judge",
        "host": "here",
        "target": "here",
        "cache_dir": str((given.out / "cache").resolve()),
        "clean_cache": True,
        "output_dir": str((given.out / "olive").resolve()),
        "log_severity_level": 1,
    }


def passes() -> dict[str, list[dict[str, Any]]]:
    """Every candidate is one of the first kind, then one of the second; Olive's own ranges where it has some."""
    weights = {"precision": SEARCHED, "per_channel": SEARCHED, "reduce_range": SEARCHED}
    static = {"calibrate_method": SEARCHED, "quant_format": SEARCHED, "activation_type": SEARCHED}
    return {
        "graph": [
            {"type": "OnnxPeepholeOptimizer"},
            {"type": "OrtTransformersOptimization", "model_type": "vit", "opt_level": 0},
        ],
        "numbers": [
            {"type": "OnnxDynamicQuantization", **weights},
            {"type": "OnnxFloatToFloat16", "keep_io_types": True},
            {"type": "OnnxStaticQuantization", "data_config": "calibration", **weights, **static},
        ],
    }


def latency() -> dict[str, Any]:
    steady = {"warmup_num": 20, "repeat_test_num": 200}
    return {
        "name": LATENCY,
        "type": "latency",
        "sub_types": [{"name": "p50", "priority": 1, "metric_config": steady}],
        "data_config": "validation",
        "user_config": threads(1),
    }


def accuracy(classes: int) -> dict[str, Any]:
    goal = {"type": "max-degradation", "value": MAX_DROP}
    kind = {"task": "multiclass", "num_classes": classes}
    return {
        "name": ACCURACY,
        "type": "accuracy",
        "sub_types": [{"name": "accuracy_score", "priority": 2, "goal": goal, "metric_config": kind}],
        "data_config": "validation",
        "user_config": threads(os.cpu_count() or 1),
    }


def threads(count: int) -> dict[str, Any]:
    """Of ONNX Runtime's sessions."""
    return {"inference_settings": {"onnx": {"session_options": {"intra_op_num_threads": count}}}}


def arrays(path: Path) -> dict[str, Any]:
    """A data set of images one by one, as :func:`register_arrays` reads it."""
    return {
        "name": path.stem,
        "load_dataset_config": {"type": "stored_arrays", "params": {"path": str(path.resolve())}},
        "post_process_data_config": {"type": "predicted_class"},
        "dataloader_config": {"params": {"batch_size": 1}},
    }


def register_arrays() -> None:
    """Make ``stored_arrays`` and ``predicted_class`` known to Olive."""
    from olive.data.registry import Registry
    from torch.utils.data import Dataset

    class StoredArrays(Dataset):
        def __init__(self, path: str) -> None:
            with np.load(path) as stored:
                self.images, self.labels = stored["images"], stored["labels"]

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], int]:
            return {"input": self.images[index]}, int(self.labels[index])

    @Registry.register_dataset()
    def stored_arrays(path: str) -> StoredArrays:
        return StoredArrays(path)

    @Registry.register_post_process()
    def predicted_class(logits: Any) -> Any:
        return logits.argmax(dim=-1)


def mend_footprints() -> None:
    """Let candidates share a first pass: in Olive 0.13.0 the second one fails (mended on Olive's main branch).

    ``FootprintNode`` renamed its field ``model_config``, which is pydantic's, and kept the old name as an alias, but
    ``update`` sets fields by the old name.
    """
    from olive.engine.footprint import FootprintNode

    update = FootprintNode.update

    def mended(node: Any, **changes: Any) -> None:
        if "model_config" in changes:
            changes["model_config_data"] = changes.pop("model_config")
        update(node, **changes)

    FootprintNode.update = mended


def store(path: Path, images: torch.Tensor, labels: torch.Tensor) -> None:
    np.savez(path, images=images.numpy(), labels=labels.numpy())


def keep(graph: Path, folder: Path) -> None:
    """Copy Olive's model, weights included, into one file."""
    import onnx

    folder.mkdir()
    onnx.save(onnx.load(graph), folder / "model.onnx")


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--sampler", default="sequential", choices=("sequential", "random", "tpe"))
    given = parser.parse_args()
    sys.exit(drive("Olive", work, given, ("olive-ai", "onnxruntime", "optuna"), grace=1.5))
