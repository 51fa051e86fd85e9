"""``sousvit list``: what there is, as plain rows."""

from __future__ import annotations

from pathlib import Path

from sousvit.errors import UnknownNameError
from sousvit.search.archive import EVENTS, Archive
from sousvit.search.budget import read_budget

Row = dict[str, str]


def listing(what: str, budget: Path | None = None, runs: Path = Path("runs")) -> list[Row]:
    """Rows for ``techniques``, ``objectives``, ``proposers``, ``targets``, ``spaces`` or ``runs``.

    Args:
        budget: its plug-ins are loaded first.

    Raises:
        UnknownNameError: none of these.
    """
    if budget is not None:
        read_budget(budget)
    kinds = {
        "techniques": _techniques,
        "objectives": _objectives,
        "proposers": _proposers,
        "targets": _targets,
        "spaces": _spaces,
        "runs": lambda: _runs(runs),
    }
    if what not in kinds:
        raise UnknownNameError("what to list", what, kinds)
    return kinds[what]()


def _techniques() -> list[Row]:
    from sousvit.spaces.technique import techniques

    return [
        {
            "name": technique.name,
            "stage": technique.stage.name.lower(),
            "parameters": ", ".join(technique.config.model_fields),
            "summary": technique.summary,
            "source": technique.source,
        }
        for technique in techniques()
    ]


def _objectives() -> list[Row]:
    from sousvit.objectives.objective import objectives

    return [
        {
            "name": objective.name,
            "unit": objective.unit,
            "direction": objective.direction,
            "measured": objective.stage.name.lower(),
            "summary": objective.summary,
        }
        for objective in objectives()
    ]


def _proposers() -> list[Row]:
    from sousvit.search.proposers.proposer import PROPOSERS

    return [{"name": proposer.name, "summary": proposer.summary} for proposer in PROPOSERS]


def _targets() -> list[Row]:
    from sousvit.objectives.targets.profiles import list_targets, load_target

    rows = []
    for name in list_targets():
        target = load_target(name)
        facts = {"device": target.device, "runtimes": ", ".join(target.runtimes), "threads": str(target.threads)}
        rows.append({"name": name, **facts, "batch": str(target.batch), "summary": target.summary})
    return rows


def _spaces() -> list[Row]:
    from sousvit.spaces.space import preset_names, read_space

    definitions = {name: read_space(name) for name in preset_names()}
    return [
        {"name": name, "techniques": ", ".join(value["techniques"]), "summary": str(value.get("summary", ""))}
        for name, value in definitions.items()
    ]


def _runs(folder: Path) -> list[Row]:
    rows = []
    for run in sorted(path.parent for path in folder.glob(f"*/{EVENTS}")):
        archive = Archive(run)
        state = "finished" if (run / "answer.json").is_file() else "resumable"
        rows.append(
            {
                "name": run.name,
                "state": state,
                "trials": str(len(archive)),
                "minutes": f"{archive.spent_seconds / 60:.1f}",
                "started": str(archive.header.get("started", "")),
            }
        )
    return rows
