"""``sousvit list``: what there is, as plain rows."""

from __future__ import annotations

from pathlib import Path

from sousvit.search.archive import EVENTS, Archive
from sousvit.search.stored.answer_file import ANSWER
from sousvit.search.stored.opened import damaged_answer, lost_lines

Row = dict[str, str]


def technique_rows() -> list[Row]:
    """Name, stage, parameters, summary and source of every technique, plug-ins included."""
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


def objective_rows() -> list[Row]:
    """Name, unit, direction, stage and summary of every objective, plug-ins included."""
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


def proposer_rows() -> list[Row]:
    """Name and summary of every proposer, plug-ins included."""
    from sousvit.search.proposers.proposer import PROPOSERS

    return [{"name": proposer.name, "summary": proposer.summary} for proposer in PROPOSERS]


def target_rows() -> list[Row]:
    """Name, device, runtimes, threads, batch and summary of every shipped target."""
    from sousvit.objectives.targets.profiles import list_targets, load_target

    rows = []
    for name in list_targets():
        target = load_target(name)
        facts = {"device": target.device, "runtimes": ", ".join(target.runtimes), "threads": str(target.threads)}
        rows.append({"name": name, **facts, "batch": str(target.batch), "summary": target.summary})
    return rows


def space_rows() -> list[Row]:
    """Name, techniques and summary of every shipped space."""
    from sousvit.spaces.space import preset_names, read_space

    definitions = {name: read_space(name) for name in preset_names()}
    return [
        {"name": name, "techniques": ", ".join(value["techniques"]), "summary": str(value.get("summary", ""))}
        for name, value in definitions.items()
    ]


def run_rows(folder: Path) -> list[Row]:
    """Name, state, trials, minutes and start of every run in a folder."""
    rows = []
    for run in sorted(path.parent for path in folder.glob(f"*/{EVENTS}")):
        archive = Archive(run)
        state = "finished" if (run / ANSWER).is_file() else "resumable"
        state += ", damaged" * bool(archive.damaged or lost_lines(archive) or damaged_answer(archive))
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
