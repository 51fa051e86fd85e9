"""``sousvit replay``: search policies side by side on a recorded table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sousvit.files import write_atomic
from sousvit.search.replay.compare import compare, markdown, plot
from sousvit.search.report.terminal import console, spinner


def replay_table(
    table: Path,
    policies: Sequence[str],
    evaluations: int,
    seconds: float | None,
    seeds: int,
    workers: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare and print; write ``replay.json``, ``replay.md`` and ``replay.html`` where wanted."""
    with spinner("replaying", quiet=as_json) as progress:
        comparison = compare(table, policies, evaluations, seeds, workers, progress, seconds)
    text, raw = markdown(comparison), json.dumps(comparison.to_dict())
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / "replay.json", raw)
        write_atomic(out / "replay.md", text)
        write_atomic(out / "replay.html", plot(comparison).to_html(full_html=True, include_plotlyjs=True))
    print(raw) if as_json else console().print(text, highlight=False)
