"""The front as a PNG, drawn with Pillow: no browser, and no library that a search does not have."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageFont

from sousvit.search.report.page.content import Axis, Content, Point

#: Pixels; drawn so many times as large and shrunk, which smooths edges.
WIDTH, HEIGHT, SCALE = 960, 600, 3
LEFT, RIGHT, TOP, BOTTOM = 80, 24, 64, 64
INK, SOFT, LINE, GOOD, FAIR, BAD, ACCENT = "#1c2430", "#5b6675", "#d9dfe6", "#14713f", "#946000", "#b3261e", "#1d5fbf"
STATES = {"fits": GOOD, "breaks a limit": FAIR, "partly trained": SOFT}


def picture(content: Content) -> bytes:
    """A PNG of the figure of merit against latency; trained points, limits, base, answer and best single technique."""
    axes = {axis.name: axis for axis in content.axes}
    across = axes.get("latency_ratio") or content.axes[0]
    up = content.axes[0] if content.axes[0] is not across else content.axes[-1]
    points = [one for one in content.points if one.role != "trial" or one.state in STATES]
    points = [one for one in points if across.name in one.values and up.name in one.values]
    canvas = _Canvas([_at(one, across) for one in points], [_at(one, up) for one in points])
    canvas.text((LEFT, 24), f"sousvit {content.name}: {content.status}"[:90], INK, 20)
    canvas.grid(across.label, up.label)
    for bound in across.bounds:
        canvas.limit(bound, None)
    for bound in up.bounds:
        canvas.limit(None, bound)
    for one in sorted(points, key=lambda one: ("trial", "best single", "base", "answer").index(one.role)):
        canvas.point(one, _at(one, across), _at(one, up))
    return canvas.png()


def _at(point: Point, axis: Axis) -> float:
    value = point.values[axis.name][0]
    assert value is not None
    return axis.factor * value


class _Canvas:
    """A plot of some values; coordinates of methods are the values', those of texts are pixels."""

    def __init__(self, xs: list[float], ys: list[float]) -> None:
        self._image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
        self._draw = ImageDraw.Draw(self._image)
        self._xs, self._ys = _range(xs), _range(ys)
        self._x = _scale(self._xs, LEFT, WIDTH - RIGHT)
        self._y = _scale(self._ys, HEIGHT - BOTTOM, TOP)

    def text(self, at: tuple[float, float], text: str, colour: str = SOFT, size: int = 14, anchor: str = "lm") -> None:
        """Text with its anchor at a place in pixels."""
        place = at[0] * SCALE, at[1] * SCALE
        self._draw.text(place, text, colour, ImageFont.load_default(size * SCALE), anchor)

    def _line(self, x0: float, y0: float, x1: float, y1: float, colour: str, width: float = 1) -> None:
        self._draw.line([one * SCALE for one in (x0, y0, x1, y1)], colour, round(width * SCALE))

    def grid(self, across: str, up: str) -> None:
        """Grid lines, their numbers, and the axes' names."""
        for at in _ticks(*self._xs):
            self._line(self._x(at), TOP, self._x(at), HEIGHT - BOTTOM, LINE)
            self.text((self._x(at), HEIGHT - BOTTOM + 14), f"{at:.4g}", anchor="mm")
        for at in _ticks(*self._ys):
            self._line(LEFT, self._y(at), WIDTH - RIGHT, self._y(at), LINE)
            self.text((LEFT - 8, self._y(at)), f"{at:.4g}", anchor="rm")
        self.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 18), across, INK, anchor="mm")
        self.text((LEFT, TOP - 14), up, INK)

    def limit(self, x: float | None, y: float | None) -> None:
        """A line at a bound, where it lies on the plot."""
        if x is not None and self._xs[0] <= x <= self._xs[1]:
            self._line(self._x(x), TOP, self._x(x), HEIGHT - BOTTOM, BAD, 1.5)
            self.text((self._x(x) - 5, TOP + 10), "limit", BAD, anchor="rm")
        if y is not None and self._ys[0] <= y <= self._ys[1]:
            self._line(LEFT, self._y(y), WIDTH - RIGHT, self._y(y), BAD, 1.5)
            self.text((WIDTH - RIGHT - 5, self._y(y) - 9), "limit", BAD, anchor="rm")

    def point(self, one: Point, x: float, y: float) -> None:
        """A point; all but the trials have their name beside them."""
        left, up = self._x(x), self._y(y)
        colour = {"base": INK, "answer": ACCENT}.get(one.role) or STATES.get(one.state, SOFT)
        size = {"trial": 4.5, "answer": 9.0}.get(one.role, 7.0)
        box = [(left - size) * SCALE, (up - size) * SCALE, (left + size) * SCALE, (up + size) * SCALE]
        hollow = one.state == "partly trained" and one.role == "trial"
        shape = self._draw.rectangle if one.role == "base" else self._draw.ellipse
        shape(box, "white" if hollow else colour, colour if hollow else "white", SCALE)
        if one.role != "trial":
            right = left > WIDTH / 2
            self.text((left + (-14 if right else 14), up - 10), one.role, INK, 15, "rm" if right else "lm")

    def png(self) -> bytes:
        """The file."""
        out = io.BytesIO()
        self._image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(out, "PNG", optimize=True)
        return out.getvalue()


def _range(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.06 * (high - low) if high > low else abs(low) * 0.1 or 1.0
    return (0.0 if 0 <= low < room else low - room), high + room


def _scale(values: tuple[float, float], first: float, last: float) -> Callable[[float], float]:
    low, high = values
    return lambda value: first + (value - low) / (high - low) * (last - first)


def _ticks(low: float, high: float, most: int = 8) -> list[float]:
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step)
    return [round(number * step, 10) for number in range(first, math.floor(high / step) + 1)]
