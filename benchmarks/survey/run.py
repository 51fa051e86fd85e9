"""CIFAR-10: every technique alone, and named combinations, on one base in one run; no search.

    python benchmarks/survey/run.py --data DIR --model VIT.safetensors --limit-train 3000

Writes ``result.md`` (the table, with command, machine, versions and date) and ``raw.csv``; the plot is in the run
folder. Accuracy is that of the 5,000 validation images.
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

#: One epoch of recovery for everything, so that techniques are compared at the same price.
RECOVERY = {"epochs": [1], "learning_rate": [1e-3], "soft_weight": [0.0, 0.5], "num_views": [3]}


def main() -> int:
    """Measure, then write the result."""
    parser = arguments(__doc__, "survey-cifar10")
    parser.add_argument("--only", nargs="+", help="techniques; all by default")
    given = parser.parse_args()
    every = sousvit.read_space("all")["techniques"]
    every["distill"] = {**every["distill"], **RECOVERY}
    techniques = {**every, "qat": {"epochs": [1], "num_views": [3]}}
    if given.only:
        techniques = {name: techniques[name] for name in given.only}
    asked = write_budget(budget(given, techniques), given.run)
    run = sousvit.survey(asked, run=Path("runs") / given.run)
    limit = "" if given.limit_train is None else f" --limit-train {given.limit_train}"
    limit += "" if given.only is None else f" --only {' '.join(given.only)}"
    command = f"python benchmarks/survey/run.py --data DIR --model VIT.safetensors{limit}"
    head = "\n".join(provenance(command, run.machine))
    write_result(HERE / "result.md", f"{head}\n{(run.folder / 'study.md').read_text()}")
    shutil.copy(run.folder / "study.csv", HERE / "raw.csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
