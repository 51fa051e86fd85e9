"""The command: see :mod:`tests.campaign`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from tests.campaign.apart import outcomes
from tests.campaign.kinds import KINDS, SILENCE, WHOLE
from tests.campaign.outcome import Outcome, table

#: Seconds between two lines on how far it is.
STEP = 30.0


def main() -> int:
    """Attack, and print the table; exit code 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description="Attack sousvit, and count.")
    parser.add_argument("--kind", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--count", type=int, help="attacks of each kind, instead of the whole campaign's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first attack, to make a finding again")
    parser.add_argument("--out", type=Path, help="Markdown file for the table, written after every kind")
    given = parser.parse_args()
    found: list[Outcome] = []
    begun, revision = time.monotonic(), _revision()
    try:
        for kind in given.kind:
            numbers = range(given.first, given.first + (given.count or WHOLE[kind]))
            _attack(kind, numbers, given.seed, found)
            _write(given.out, found, f"revision {revision}, seed {given.seed}", begun)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    print(_write(given.out, found, f"revision {revision}, seed {given.seed}", begun))
    return int(any(outcome.finding for outcome in found))


def _attack(kind: str, numbers: range, seed: int, found: list[Outcome]) -> None:
    begun = told = time.monotonic()
    for count, outcome in enumerate(outcomes(kind, KINDS[kind], numbers, seed, SILENCE[kind]), 1):
        found.append(outcome)
        if outcome.finding:
            print(f"{outcome.kind}: {outcome.finding}", file=sys.stderr, flush=True)
        now = time.monotonic()
        if now - told > STEP or count == len(numbers):
            print(f"{kind}: {count} of {len(numbers)} attacks, {now - begun:.0f} s", file=sys.stderr, flush=True)
            told = now


def _revision() -> str:
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def _write(out: Path | None, found: list[Outcome], what: str, begun: float) -> str:
    """The table so far, which also goes into the file."""
    head = f"{time.strftime('%Y-%m-%d')}, {what}, {(time.monotonic() - begun) / 60:.0f} minutes."
    text = "\n".join([head, "", *table(found)])
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
    return text


if __name__ == "__main__":
    sys.exit(main())
