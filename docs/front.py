"""The picture in the README: one search's results as points, with its limit, the base, the front and the answer.

    python docs/front.py

Reads ``benchmarks/side_by_side/raw_one_point.csv`` (every trial of the search whose answer the README compares with
other tools) and writes ``docs/front.svg``. Figures are those of the validation images that the search judged on.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
TRIALS = HERE.parent / "benchmarks" / "side_by_side" / "raw_one_point.csv"
LIMIT = 1.0  # points of top-1
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 430, 70, 34, 20, 56
HIGHEST, LOWEST = 4.0, -0.5  # points shown
INK, FAINT, OURS, BAD = "#24292f", "#9aa4af", "#0969da", "#cf222e"


def x(share: float) -> float:
    """Where a latency lies, as a share of the base's."""
    return LEFT + (WIDTH - LEFT - RIGHT) * share / 1.05


def y(points: float) -> float:
    """Where a loss of top-1 lies."""
    return TOP + (HEIGHT - TOP - BOTTOM) * (points - LOWEST) / (HIGHEST - LOWEST)


def text(left: float, top: float, words: str, anchor: str = "start", colour: str = INK, more: str = "") -> str:
    """A line of text."""
    return f'<text x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}" fill="{colour}" {more}>{words}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {more}/>'


def dot(share: float, points: float, radius: float, more: str) -> str:
    """A result."""
    return f'<circle cx="{x(share):.1f}" cy="{y(points):.1f}" r="{radius}" {more}/>'


def picture() -> str:
    """The whole drawing as SVG."""
    trials = pd.read_csv(TRIALS).query("status == 'complete'")
    trials["lost"] = 100 * trials["accuracy_drop"]
    final = trials[trials.fidelity == 1].sort_values("latency_ratio")
    held = final[final.lost <= LIMIT]
    front = held[held.lost < held.lost.cummin().shift(fill_value=float("inf"))]
    answer, right, floor = front.iloc[0], WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [
        f'<rect x="{LEFT}" y="{y(LIMIT):.1f}" width="{right - LEFT}" height="{floor - y(LIMIT):.1f}" fill="#fff1f0"/>'
    ]
    for share in (0, 0.2, 0.4, 0.6, 0.8, 1.0):
        parts += [line(x(share), TOP, x(share), floor, "#eaeef2"), text(x(share), floor + 18, f"{share:g}", "middle")]
    for points in range(5):
        parts += [line(LEFT, y(points), right, y(points), "#eaeef2"), text(LEFT - 8, y(points) + 4, f"{points}", "end")]
    parts.append(line(LEFT, y(LIMIT), right, y(LIMIT), BAD, 'stroke-width="1.5" stroke-dasharray="6 4"'))
    parts.append(text(right - 6, y(LIMIT) + 17, "limit: at most 1 point of top-1 lost", "end", BAD))
    for _, one in trials[(trials.fidelity < 1) & (trials.lost <= HIGHEST)].iterrows():
        parts.append(dot(one.latency_ratio, one.lost, 4, f'fill="white" stroke="{FAINT}" stroke-width="1.5"'))
    path = " ".join(f"{x(one.latency_ratio):.1f},{y(one.lost):.1f}" for _, one in front.iterrows())
    parts.append(f'<polyline points="{path}" fill="none" stroke="{OURS}" stroke-width="1.5" opacity="0.6"/>')
    parts += [dot(one.latency_ratio, one.lost, 5, f'fill="{OURS}"') for _, one in final.iterrows()]
    parts += [dot(1, 0, 7, f'fill="{INK}"'), text(x(1) - 12, y(0) + 5, "base", "end", INK, 'font-weight="bold"')]
    at = x(answer.latency_ratio), y(answer.lost)
    parts.append(dot(answer.latency_ratio, answer.lost, 10, f'fill="none" stroke="{OURS}" stroke-width="3"'))
    parts.append(line(at[0] + 8, at[1] - 8, at[0] + 40, y(-0.2), OURS))
    won = f"answer: {1 / answer.latency_ratio:.1f}x faster, {1 / answer.size_ratio:.1f}x smaller"
    parts.append(text(at[0] + 44, y(-0.2) + 2, won, "start", OURS, 'font-weight="bold"'))
    outside = int((trials.lost > HIGHEST).sum())
    parts.append(text((LEFT + right) / 2, HEIGHT - 14, "latency, as a share of the base's (less is better)", "middle"))
    turn = f'transform="rotate(-90 18 {(TOP + floor) / 2:.0f})"'
    parts.append(text(18, (TOP + floor) / 2, "points of top-1 lost (less is better)", "middle", INK, turn))
    legend = f"filled: final results; hollow: not or partly trained, judged on fewer images; {outside} more lie below"
    parts.append(text(LEFT, 20, legend, "start", "#57606a"))
    body = "\n".join(parts)
    style = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {style}>\n<rect width="100%" height="100%" fill="white"/>'
    return f"{head}\n{body}\n</svg>\n"


if __name__ == "__main__":
    (HERE / "front.svg").write_text(picture())
