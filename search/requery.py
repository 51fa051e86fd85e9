"""Another budget, answered from a run's archive without a new search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sousvit.common.errors import UserError
from sousvit.common.schema import read_yaml
from sousvit.search.answer import Answer, choose
from sousvit.search.archive import open_run
from sousvit.search.budget import Budget, make_budget
from sousvit.search.record import Value

#: Parts of a budget that an archive's figures hang on, and the space that its recipes come from.
FIXED = ("model", "data", "targets", "space")


def answer_other_budget(folder: Path, path: Path) -> tuple[Answer, Budget]:
    """The best archived recipe for the budget at ``path``, which may leave out model, data, targets and space.

    Raises:
        UserError: another model, data, target or space than the run's; an objective that it did not measure.
    """
    own, archive = open_run(folder)
    other = read_other(own, path, FIXED)
    assert archive.base is not None
    require_measured([*other.optimize, *other.limits], archive.base.values)
    return choose(archive, other.hard_limits, other.optimize), other


def read_other(own: Budget, path: Path, fixed: Sequence[str]) -> Budget:
    """The budget at ``path``; what it leaves out of :data:`FIXED` is the run's own.

    Raises:
        UserError: a ``fixed`` part is another than the run's.
    """
    value, plain = read_yaml(path), own.model_dump(mode="json")
    other = make_budget({**{name: plain[name] for name in FIXED}, **value}, path.parent, str(path))
    for name in fixed:
        if other.part(name) != own.part(name):
            retarget = "leave it out, or measure its front there with sousvit retarget"
            raise UserError(
                f"an archive answers for its own {name} only",
                f"another {name} in {path}",
                retarget if name == "targets" else "leave it out, or run a new search",
            )
    return other


def require_measured(names: Iterable[str], values: Mapping[str, Value]) -> None:
    """Every objective that is named has a figure.

    Raises:
        UserError: one has none.
    """
    missing = sorted(set(names) - set(values))
    if missing:
        raise UserError(
            "an archive knows what its run measured", f"no {', '.join(missing)}", "run a search with this budget"
        )
