"""A search that continues from an earlier run: its results are taken over, and what it trained is at hand."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

from sousvit.common.errors import UserError
from sousvit.common.files import disk_errors_as_user_errors
from sousvit.search.archive import Archive, open_run
from sousvit.search.budget import Budget, open_space
from sousvit.search.record import TrialRecord
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.shape import ModelShape, read_shape
from sousvit.spaces.space import Space

#: Parts of a budget that figures hang on.
MEASURED_WITH = ("model", "data", "targets")
CACHE = "cache"


def take_over(archive: Archive, budget: Budget, earlier: Path) -> int:
    """Fill an empty archive with the finished results of the run in ``earlier``; returns how many.

    What was gated there is left behind, because other limits may let it pass, and what lies outside the budget's space,
    because no answer may. Files are linked where the disk allows it.

    Raises:
        UserError: no such run, another model, data, target or seed, or an objective that it did not measure.
    """
    own, old = open_run(earlier)
    seed = own.search.seed
    if seed != budget.search.seed:  # trained with another seed, a recipe is another model
        received = f"{budget.search.seed}, {seed} in {earlier.name}"
        raise UserError("a search continues from a run with the same seed", received, f"search with --seed {seed}")
    for name in MEASURED_WITH:
        if own.part(name) != budget.part(name):
            raise UserError(
                "a search continues from a run with the same model, data and target",
                f"another {name} in {earlier.name}",
                "search without --from",
            )
    assert old.base is not None
    named = {*budget.optimize, *budget.limits}
    missing = sorted(named - set(old.base.values))
    if missing:
        raise UserError("an earlier run must have measured every objective", f"no {', '.join(missing)}",
                        "search without --from")  # fmt: skip
    _link(earlier / CACHE, archive.folder / CACHE)
    shape = read_shape(old.base.shape)
    space, _ = open_space(budget, shape)
    complete = [
        trial
        for trial in old
        if trial.status == "complete" and named <= trial.values.keys() and _lies_in(space, trial, shape)
    ]
    for trial in complete:
        archive.add(replace(trial, source=trial.source or earlier.name, artifact="", number=None))
    if old.test_answers and not archive.test_answers:
        archive.append("test_told", answers=old.test_answers, source=earlier.name)
    archive.append("base", base=old.base.to_dict())  # last: without it a crash before here starts over
    return len(complete)


def _lies_in(space: Space, trial: TrialRecord, shape: ModelShape) -> bool:
    try:
        return space.parameters(Recipe.from_dict(trial.recipe), shape) is not None
    except UserError:
        return False


def _link(source: Path, folder: Path) -> None:
    with disk_errors_as_user_errors(folder):
        for path in source.rglob("*.safetensors"):
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                continue
            with contextlib.suppress(FileNotFoundError):  # the earlier run may be making room
                try:
                    os.link(path, target)
                except OSError:
                    shutil.copy2(path, target)
