"""Pooling, and the models that can do with fewer tokens under it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sousvit.spaces.shape import VitShape


def unsupported_pooling(shape: VitShape) -> str | None:
    """Why tokens cannot be reduced under this pooling (one phrase), or None."""
    if shape.pool == "":
        return "a model that returns all tokens"
    if shape.pool in ("avgmax", "class_and_mean"):
        return f"{shape.pool} pooling"
    return "fewer than four patches" if shape.num_patches < 4 else None
