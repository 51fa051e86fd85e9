"""A kind's attacks in a process of its own: where that dies or hangs, that is a finding, and the others go on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict

from tests.campaign.kinds import KINDS, SILENCE
from tests.campaign.outcome import Outcome
from tests.watched import EndedError, lines_of

#: A kind that dies so often is left.
MOST_DEATHS = 5
#: Begins a line with an outcome; what else the process prints is nobody's.
MARK = "outcome: "


def outcomes(kind: str, numbers: range, seed: int) -> Iterator[Outcome]:
    """What came of the attacks of a kind; a finding says the seed and the number that make it again."""
    number = numbers.start
    for _ in range(MOST_DEATHS):
        command = [sys.executable, "-m", "tests.campaign.apart", kind, *map(str, (number, numbers.stop, seed))]
        try:
            for line in lines_of(command, SILENCE[kind]):
                if line.startswith(MARK):
                    yield _with_number(Outcome(**json.loads(line.removeprefix(MARK))), number, seed)
                    number += 1
            return
        except EndedError as error:
            yield _with_number(Outcome(f"{kind}: the attack itself", str(error)), number, seed)
            number += 1
        if number >= numbers.stop:
            return


def _with_number(outcome: Outcome, number: int, seed: int) -> Outcome:
    return Outcome(outcome.kind, f"{outcome.finding} (seed {seed}, number {number})") if outcome.finding else outcome


def main() -> None:
    """Tell the outcomes of a kind on what was the standard output; all else that is printed goes elsewhere."""
    kind, start, stop, seed = sys.argv[1], *map(int, sys.argv[2:])
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for outcome in KINDS[kind](range(start, stop), seed):
        print(MARK + json.dumps(asdict(outcome)), file=out, flush=True)


if __name__ == "__main__":
    main()
