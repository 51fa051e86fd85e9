"""CIFAR-10: every technique alone, and named combinations, on one base in one run; no search.

    python benchmarks/cifar10_study.py --data DIR --model VIT.safetensors --limit-train 3000

Writes ``benchmarks/results/cifar10_study.md`` (the table, with command, machine, versions and date) and ``.csv``
(raw) and ``.html`` (the plot). Accuracy is that of the 5,000 validation images.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from on_cifar10 import arguments, budget, write_budget
from provenance import RESULTS, provenance

from sousvit.cli_search import study
from sousvit.search.archive import Archive
from sousvit.search.report.survey import plot
from sousvit.spaces.space import read_space

#: One epoch of recovery for everything, so that techniques are compared at the same price.
RECOVERY = {"epochs": [1], "learning_rate": [1e-3], "soft_weight": [0.0, 0.5], "num_views": [3]}


def main() -> int:
    """Measure, then write the result."""
    given = arguments(__doc__, "study-cifar10").parse_args()
    every = read_space("all")["techniques"]
    every["distill"] = {**every["distill"], **RECOVERY}
    techniques = {**every, "qat": {"epochs": [1], "num_views": [3]}}
    code = study(write_budget(budget(given, techniques), given.run), given.run, Path("runs"), False)
    if code:
        return code
    folder = Path("runs") / given.run
    limit = "" if given.limit_train is None else f" --limit-train {given.limit_train}"
    command = f"python benchmarks/cifar10_study.py --data DIR --model VIT.safetensors{limit}"
    archive = Archive(folder)
    head = "\n".join(provenance(command, archive.base.machine))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cifar10_study.md").write_text(f"{head}\n{(folder / 'study.md').read_text()}")
    shutil.copy(folder / "study.csv", RESULTS / "cifar10_study.csv")
    plot(archive).write_html(RESULTS / "cifar10_study.html", include_plotlyjs="cdn")
    return 0


if __name__ == "__main__":
    sys.exit(main())
