"""The command: see :mod:`tests.campaign`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from tests.campaign.kinds import KINDS, WHOLE
from tests.campaign.outcome import Outcome, table


def main() -> int:
    """Attack, and print the table; exit code 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--count", type=int, help="attacks of each kind, instead of the whole campaign's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    given = parser.parse_args()
    found: list[Outcome] = []
    begun = time.monotonic()
    for kind in given.kind:
        for outcome in KINDS[kind](given.count or WHOLE[kind], given.seed):
            found.append(outcome)
            if outcome.finding:
                print(f"{outcome.kind}: {outcome.finding}", file=sys.stderr, flush=True)
            if len(found) % 50 == 0:
                print(f"{kind}: {len(found)} attacks, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    head = f"{time.strftime('%Y-%m-%d')}, revision {revision.stdout.strip()}, seed {given.seed}, "
    text = "\n".join([f"{head}{(time.monotonic() - begun) / 60:.0f} minutes.", "", *table(found)])
    print(text)
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text + "\n")
    return int(any(outcome.finding for outcome in found))


if __name__ == "__main__":
    sys.exit(main())
