"""The Pareto front, kept incrementally: adding a point costs one pass over the front, not over all trials."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Front(Generic[T]):
    """Non-dominated points with what they stand for; of equal points the first stays.

    Args:
        maximise: per objective, whether more is better.
    """

    def __init__(self, maximise: Iterable[bool]) -> None:
        self._signs = tuple(-1.0 if more else 1.0 for more in maximise)
        self._points: list[tuple[float, ...]] = []
        self.items: list[T] = []

    def add(self, point: Sequence[float], item: T) -> bool:
        """Add ``point``; returns whether it is on the front now."""
        new = tuple(sign * value for sign, value in zip(self._signs, point, strict=True))
        if any(all(a <= b for a, b in zip(old, new, strict=True)) for old in self._points):
            return False
        keep = [not all(a <= b for a, b in zip(new, old, strict=True)) for old in self._points]
        self._points = [old for old, kept in zip(self._points, keep, strict=True) if kept]
        self.items = [old for old, kept in zip(self.items, keep, strict=True) if kept]
        self._points.append(new)
        self.items.append(item)
        return True
