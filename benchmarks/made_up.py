"""A made-up search for measuring the engine itself: a budget, and figures that follow from shapes with some noise."""

from __future__ import annotations

import random
from dataclasses import asdict

import timm

from sousvit.search.budget import Budget
from sousvit.search.record import BaseRecord, Value
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.shape import VitShape
from sousvit.spaces.space import Space, make_space, read_space


def budget(trials: int, **search: object) -> Budget:
    """Several limits, three objectives."""
    return Budget.model_validate(
        {
            "model": {"name": "vit_tiny_patch16_224"},
            "data": {"format": "idx", "train": "train-images"},
            "limits": {"accuracy_drop": 0.05, "latency_ratio": 0.9},
            "optimize": ["latency", "size", "accuracy"],
            "search": {"trials": trials, **search},
        }
    )


def figures(recipe: Recipe, shape: VitShape) -> dict[str, Value]:
    """Figures that follow from the shape, with some noise."""
    small = recipe.reshape(shape)
    cost = small.macs() / shape.macs()
    noise = random.Random(recipe.hash).uniform(-0.01, 0.01)
    accuracy = 0.9 - 0.2 * (1 - cost) ** 2 + noise
    values = {
        "accuracy": accuracy, "accuracy_drop": 0.9 - accuracy, "latency": 10 * cost, "latency_ratio": cost,
        "size": small.params() * recipe.bytes_per_weight / 1e6,
        "macs": small.macs() / 1e6, "params": small.params() / 1e6,
    }  # fmt: skip
    return {name: Value(value) for name, value in values.items()}


def world() -> tuple[VitShape, BaseRecord, Space]:
    """A DeiT-Ti's shape, its made-up base figures, and the whole space."""
    shape = VitShape.of(timm.create_model("deit_tiny_patch16_224"))
    space, _ = make_space(read_space("all"), shape, ("onnxruntime", "openvino"))
    return shape, BaseRecord(figures(Recipe(), shape), asdict(shape), {}), space
