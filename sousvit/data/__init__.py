"""Images and their labels: formats on disk, the three splits, classes, augmentation. What torch needs loads late."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sousvit.specs import DataSpec

if TYPE_CHECKING:
    from sousvit.data.source import ImageSet, Source
    from sousvit.data.splits import Splits, look_at_test, require_test

__all__ = ["DataSpec", "ImageSet", "Source", "Splits", "look_at_test", "require_test"]

_PLACES = {"ImageSet": "source", "Source": "source", "Splits": "splits", "look_at_test": "splits",
           "require_test": "splits"}  # fmt: skip


def __getattr__(name: str) -> Any:
    """A name of this room, imported now."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(importlib.import_module(f"sousvit.data.{_PLACES[name]}"), name)
    return found
