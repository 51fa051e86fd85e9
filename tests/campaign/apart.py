"""A kind's attacks in a process of its own: where that dies or hangs, that is a finding, and the others go on."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict

from tests.campaign.outcome import Outcome
from tests.watched import EndedError, lines_of

#: (numbers, seed) to what came of the attacks of these numbers: an attack depends on its number and the seed alone.
Attacks = Callable[[range, int], Iterator[Outcome]]
#: A kind that dies so often is left.
MOST_DEATHS = 5
#: Begins a line with an outcome; what else the process prints is nobody's.
MARK = "outcome: "


def outcomes(kind: str, attacks: Attacks, numbers: range, seed: int, silence: float) -> Iterator[Outcome]:
    """What came of attacks; a finding says the kind, the seed and the number that make it again.

    Args:
        kind: its name.
        attacks: a function of a module.
        numbers: of the attacks.
        seed: of all.
        silence: seconds after which they hang that told nothing.
    """
    number = numbers.start
    for _ in range(MOST_DEATHS):
        where = [attacks.__module__, attacks.__name__, *map(str, (number, numbers.stop, seed))]
        try:
            for line in lines_of([sys.executable, "-m", "tests.campaign.apart", *where], silence):
                if line.startswith(MARK):
                    yield _numbered(Outcome(**json.loads(line.removeprefix(MARK))), kind, number, seed)
                    number += 1
            return
        except EndedError as error:
            yield _numbered(Outcome(f"{kind}: the attack itself", str(error)), kind, number, seed)
            number += 1
        if number >= numbers.stop:
            return


def _numbered(outcome: Outcome, kind: str, number: int, seed: int) -> Outcome:
    again = f"--kind {kind} --seed {seed} --first {number} --count 1"
    return Outcome(outcome.kind, f"{outcome.finding} ({again})") if outcome.finding else outcome


def main() -> None:
    """Tell the outcomes of attacks on what was the standard output; all else that is printed goes elsewhere."""
    module, name, start, stop, seed = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    attacks: Attacks = getattr(importlib.import_module(module), name)
    for outcome in attacks(range(int(start), int(stop)), int(seed)):
        print(MARK + json.dumps(asdict(outcome)), file=out, flush=True)


if __name__ == "__main__":
    main()
