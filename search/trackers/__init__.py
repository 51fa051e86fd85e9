"""Trackers of experiments that a budget may name: ``search: {trackers: [tensorboard]}``. The contract: tracker.py."""

from __future__ import annotations

#: Name in budgets -> its class, imported at first look-up.
BUILTIN = {
    "mlflow": "sousvit.search.trackers.mlflow_:MlflowTracker",
    "tensorboard": "sousvit.search.trackers.tensorboard_:TensorBoardTracker",
    "wandb": "sousvit.search.trackers.wandb_:WandbTracker",
}
