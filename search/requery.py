"""Another budget, answered from a run's archive without a new search."""

from __future__ import annotations

from pathlib import Path

from sousvit.common.errors import UserError
from sousvit.common.schema import read_yaml
from sousvit.search.answer import Answer, choose
from sousvit.search.archive import open_run
from sousvit.search.budget import Budget, make_budget

#: Parts of a budget that an archive's figures hang on, and the space that its recipes come from.
FIXED = ("model", "data", "targets", "space")


def answer_other_budget(folder: Path, path: Path) -> tuple[Answer, Budget]:
    """The best archived recipe for the budget at ``path``, which may leave out model, data, targets and space.

    Raises:
        UserError: another model, data, target or space than the run's; an objective that it did not measure.
    """
    own, archive = open_run(folder)
    value = read_yaml(path)
    plain = own.model_dump(mode="json")
    other = make_budget({**{name: plain[name] for name in FIXED}, **value}, path.parent, str(path))
    for name in FIXED:
        if other.part(name) != own.part(name):
            raise UserError(
                f"an archive answers for its own {name} only",
                f"another {name} in {path}",
                "leave it out, or run a new search",
            )
    assert archive.base is not None
    missing = sorted({*other.optimize, *other.limits} - set(archive.base.values))
    if missing:
        raise UserError(
            "an archive knows what its run measured", f"no {', '.join(missing)}", "run a search with this budget"
        )
    return choose(archive, other.hard_limits, other.optimize), other
