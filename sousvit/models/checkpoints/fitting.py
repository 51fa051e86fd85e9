"""The arguments of timm that give a model the tensors of a checkpoint, where the checkpoint leaves a choice."""

from __future__ import annotations

from typing import Any

from sousvit.models.checkpoints.weights import Stored


def fitting_args(name: str, possible: list[dict[str, Any]], stored: Stored) -> dict[str, Any]:
    """The first arguments of which timm makes a model with these tensors; or the first ones."""
    import timm
    import torch

    if len(possible) == 1 or not timm.is_model(name):
        return possible[0]
    for args in possible:
        try:
            with torch.device("meta"):
                made = timm.create_model(name, **args)
        except Exception:  # timm checks little: wrong arguments end in errors of any kind
            continue
        if {key: tuple(tensor.shape) for key, tensor in made.state_dict().items()} == stored.shapes:
            return args
    return possible[0]
