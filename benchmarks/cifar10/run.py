"""CIFAR-10: the best recipe within one point of top-1 on one thread at batch 1, as a user would ask: default space.

    python benchmarks/cifar10/run.py --data DIR --model VIT.safetensors --time 15m --limit-train 36000

Writes ``raw.json`` (the answer) and ``result.md`` (the table, with command, machine, versions and date); of another
time than 15 minutes ``raw_<time>.json`` and ``result_<time>.md``. The last 5,000 training rows are validation; the test
file is read once, at the end.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import sousvit

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.on_cifar10 import arguments, budget, write_budget
from common.provenance import provenance, write_result

HERE = Path(__file__).parent


def table(result: sousvit.Result, command: str) -> str:
    """The result as Markdown."""
    own, cost = result.budget, result.answer.cost
    lines = [
        *provenance(command, sousvit.open_run(result.folder).machine),
        f"Target: {own.where}. Limits: {', '.join(map(str, own.hard_limits))}. "
        f"{cost['trials']:.0f} trials, {cost['wall_seconds'] / 60:.0f} min. "
        f"Test split, one interleaved session, 95% intervals.",
        "",
        result.markdown(),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Search, then write the result."""
    parser = arguments(__doc__, "bench-cifar10")
    parser.add_argument("--time", default="15m")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    path = write_budget({**budget(given, {}), "space": "default", "search": {"seed": given.seed}}, given.run)
    asked = sousvit.Budget.read(path, time=given.time)
    result = sousvit.Search(asked, run=Path("runs") / given.run).optimize()
    print(result)
    limit = "" if given.limit_train is None else f" --limit-train {given.limit_train}"
    command = f"python benchmarks/cifar10/run.py --data DIR --model VIT.safetensors --time {given.time}{limit}"
    suffix = "" if given.time == "15m" else f"_{given.time}"
    shutil.copy(result.folder / "answer.json", HERE / f"raw{suffix}.json")
    write_result(HERE / f"result{suffix}.md", table(result, command))
    return 0


if __name__ == "__main__":
    sys.exit(main())
