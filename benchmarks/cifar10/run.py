"""CIFAR-10: the best recipe within one point of top-1 on one thread at batch 1, beside the best single technique.

    python benchmarks/cifar10/run.py --data DIR --model VIT.safetensors --time 80m --limit-train 36000

Writes ``raw.json`` (the answer) and ``result.md`` (the table, with command, machine, versions and date). The last 5,000
training rows are validation; the test file is read once, at the end.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import sousvit

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.on_cifar10 import TECHNIQUES, arguments, budget, write_budget
from common.provenance import provenance, write_result

HERE = Path(__file__).parent
SEARCH = {"trials": 400, "seed": 0, "explore_fidelity": 0.04, "explore_share": 0.35}


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
    parser.add_argument("--time", default="80m")
    given = parser.parse_args()
    path = write_budget({**budget(given, TECHNIQUES), "search": SEARCH}, given.run)
    asked = sousvit.Budget.read(path, time=given.time)
    result = sousvit.Search(asked, run=Path("runs") / given.run).optimize()
    print(result)
    limit = "" if given.limit_train is None else f" --limit-train {given.limit_train}"
    command = f"python benchmarks/cifar10/run.py --data DIR --model VIT.safetensors --time {given.time}{limit}"
    shutil.copy(result.folder / "answer.json", HERE / "raw.json")
    write_result(HERE / "result.md", table(result, command))
    return 0


if __name__ == "__main__":
    sys.exit(main())
