"""The content of a report, gathered from a run: its budget, its archive, its answer and the answer's details."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

from sousvit.errors import UserError
from sousvit.files import MOST_DESCRIPTION, read_bytes
from sousvit.objectives.objective import Measurement
from sousvit.search.archive import Archive
from sousvit.search.budget import CONTACT_SHEET, Budget
from sousvit.search.judging.gate import seconds_saved
from sousvit.search.preference.alternatives import Alternative
from sousvit.search.report.page.content import (
    ClassRow,
    Content,
    Headline,
    LatencyRow,
    Light,
    LimitLights,
    Part,
    Picture,
    TableRow,
)
from sousvit.search.report.page.cuts import find_cuts
from sousvit.search.report.page.points import (
    PERCENT,
    answer_commands,
    axis,
    base_point,
    curves_of,
    points_of,
    shown_trials,
)
from sousvit.search.report.terminal import headings, row_cells, short_recipe, show
from sousvit.search.results import Answer, candidates, choose, explained, judged
from sousvit.search.stored.details_file import Details, read_details
from sousvit.search.stored.opened import answer_of, open_run
from sousvit.search.trial import BaseRecord, quality_of, word_of
from sousvit.search.verdict import JudgedLimit, judge_limits

#: Classes that are shown, at most: those whose figure changes most.
MOST_CLASSES = 40


def gather(folder: Path, with_images: bool = True) -> Content:
    """What the report of a run shows.

    Args:
        with_images: show images of the data, where the run keeps some.

    Raises:
        UserError: no run there, or nothing finished in it.
    """
    budget, archive = open_run(folder)
    answer = answer_of(budget, archive)
    if answer is not None and not answer.limits:  # an earlier version wrote it
        answer = judged(answer, budget)
    notes: list[str] = []
    details: Details | None = None
    running = answer is None
    if answer is None:
        assert archive.base is not None
        goals = budget.goals(archive.base.values)
        answer = judged(explained(choose(archive, goals), candidates(archive, goals), goals), budget)
    try:
        details = None if running else read_details(folder)
    except UserError as error:
        notes.append(f"shown without details: {error}")
    sheet = folder / CONTACT_SHEET
    picture = ""
    if with_images and sheet.is_file():
        picture = base64.b64encode(read_bytes(sheet, "a contact sheet", MOST_DESCRIPTION)).decode()
    return content(budget, archive, answer, folder.name, details or Details(), notes, picture, with_images, running)


def content(
    budget: Budget,
    archive: Archive,
    answer: Answer,
    name: str,
    details: Details,
    notes: Iterable[str] = (),
    contact_sheet: str = "",
    with_images: bool = True,
    running: bool = False,
) -> Content:
    """What is shown of a run called ``name``.

    Args:
        running: the answer is the best so far.
    """
    base = archive.base
    assert base is not None
    quality, word = quality_of(base.values), word_of(base.values)
    chosen = answer.chosen
    shown, left_out = shown_trials(archive, budget, answer)
    rows = answer.rows
    cuts, cuts_note = ([], "") if chosen is None else find_cuts(base.shape, chosen.recipe, details.shape)
    names = _names(budget, quality)
    asked = list(dict.fromkeys([quality, *budget.limits, *budget.optimize]))
    parts, whole = parts_of(answer)
    front = {trial.key for trial in archive.front(budget.goals())}
    return Content(
        name=name,
        status="running" if running else answer.status,
        said=_said(answer, running),
        recipe="" if chosen is None else short_recipe(chosen.recipe),
        reason=answer.reason,
        notes=[*notes, *answer.notes, *left_out],
        facts=[[key, text] for key, text in _facts(budget, archive).items()],
        limits=_lights(budget, answer),
        headlines=_headlines(answer, quality, word, budget),
        merit=word,
        axes=[axis(one, budget, quality, word) for one in names],
        points=[base_point(base, names), *points_of(shown, names, budget, answer, name, front, running)],
        cuts=cuts,
        cuts_note=cuts_note,
        parts=parts,
        saved_all=whole,
        curves=curves_of(archive, chosen, quality),
        sensitivity=dict(details.sensitivity),
        sensitivity_of=details.sensitivity_of,
        latencies=_latencies(details),
        classes=_classes(details),
        pictures=[Picture(**one.model_dump()) for one in details.disagreements if with_images],
        disagreements=_disagreements(details),
        headings=headings(budget, rows) if rows else [],
        rows=[TableRow(row.role, row_cells(row.values, budget), short_recipe(row.recipe)) for row in rows],
        judged_on=answer.images or budget.data.final_name,
        alternative_headings=asked,
        alternatives=[_alternative(one, asked) for one in answer.alternatives],
        cost=_cost(archive, answer),
        reproduce=[] if chosen is None or running else answer_commands(name, answer),
        contact_sheet=contact_sheet,
    )


def _names(budget: Budget, quality: str) -> list[str]:
    usual = [quality, f"{quality}_drop", "latency", "latency_ratio", "size", "size_ratio", "params", "macs"]
    return list(dict.fromkeys([*usual, *budget.limits, *budget.optimize]))


def _said(answer: Answer, running: bool) -> str:
    if running:
        return "The search is not finished. The best so far is shown, by the search's own figures."
    if answer.chosen is None:
        return "No trial finished."
    if not answer.feasible:
        return f"No recipe holds every limit. The nearest miss violates {'; '.join(answer.violated)}."
    if answer.status == "holds":
        return "Every limit holds, on images that no trial was judged on."
    return "The search found every limit to hold; not every one was shown to hold on images that it never saw."


# Limits and headlines


def _lights(budget: Budget, answer: Answer) -> list[LimitLights]:
    """Each limit as the search's own figures hold it, and as the answer was judged at the end."""
    if answer.chosen is None:
        unknown = Light("not measured", "", "")
        return [LimitLights(limit.name, limit.condition, unknown, unknown) for limit in budget.hard_limits]
    where = budget.data.validation_name
    values = answer.chosen.values
    in_search = judge_limits(budget.hard_limits, values, where, unseen=True, measured_again=True)
    final = {limit.name: limit for limit in answer.limits} if answer.row is not None else {}
    return [
        LimitLights(one.name, one.bound, _light(one), _light(final.get(one.name)))
        for one in in_search
    ]  # fmt: skip


def _light(limit: JudgedLimit | None) -> Light:
    if limit is None or limit.value is None:
        return Light("not measured", "", "")
    figure = show(Measurement(limit.value, limit.low, limit.high))
    return Light(limit.verdict, figure, limit.images)


def _headlines(answer: Answer, quality: str, word: str, budget: Budget) -> list[Headline]:
    """How much faster, how much smaller, how much better or worse the answer is, with intervals."""
    if answer.chosen is None:
        return []
    values = answer.chosen.values if answer.row is None else answer.row.values
    where = budget.data.validation_name if answer.row is None else answer.images or budget.data.final_name
    found = []
    for name, title, about in (
        ("latency_ratio", "as fast", f"as the base in ONNX Runtime fp32, on {budget.target.label}"),
        ("size_ratio", "smaller", "than the base's file"),
    ):
        if name in values and values[name].value > 0:
            value = _inverse(values[name])
            found.append(Headline(title, f"{value.value:.3g}x", _interval(value, "{:.3g}"), about))
    drop = values.get(f"{quality}_drop")
    if drop is not None:
        change = Measurement(*(None if end is None else -PERCENT * end for end in (drop.value, drop.high, drop.low)))  # type: ignore[arg-type]
        figure = f", {PERCENT * values[quality].value:.2f}%" if quality in values else ""
        found.append(
            Headline(f"points of {word}", f"{change.value:+.2f}", _interval(change, "{:+.2f}"), f"on {where}{figure}")
        )
    return found


def _inverse(ratio: Measurement) -> Measurement:
    low, high = (None if end is None or end <= 0 else 1 / end for end in (ratio.high, ratio.low))
    return Measurement(1 / ratio.value, low, high)


def _interval(value: Measurement, pattern: str) -> str:
    if value.low is None or value.high is None:
        return ""
    return f"{pattern.format(value.low)} to {pattern.format(value.high)}"


# What brought what


def parts_of(answer: Answer) -> tuple[list[Part], Part | None]:
    """What each technique brought, by the answer without it; and the whole recipe against the base."""
    whole = answer.row
    if whole is None:
        return [], None
    quality, own = quality_of(whole.values), whole.values
    parts = [
        Part(
            technique=row.role.removeprefix("without "),
            faster=row.values["latency_ratio"].value / own["latency_ratio"].value,
            smaller=row.values["size"].value / own["size"].value,
            points=PERCENT * (own[quality].value - row.values[quality].value),
        )
        for row in answer.rows
        if row.role.startswith("without ")
    ]
    drop = own[f"{quality}_drop"].value
    total = Part("the whole recipe", 1 / own["latency_ratio"].value, 1 / own["size_ratio"].value, -PERCENT * drop)
    return parts, total


# What the answer's session kept


def _latencies(details: Details) -> list[LatencyRow]:
    return [
        LatencyRow(role, target, one.p50, one.low, one.high, one.p95, one.p99, one.noisy)
        for role, targets in details.latencies.items()
        for target, one in targets.items()
    ]


def _classes(details: Details) -> list[ClassRow]:
    found = [one for one in details.classes if one.count]
    found.sort(key=lambda one: -abs(one.answer - one.base) / one.count)
    return [
        ClassRow(one.name, one.count, PERCENT * one.base / one.count, PERCENT * one.answer / one.count)
        for one in found[:MOST_CLASSES]
    ]


def _disagreements(details: Details) -> str:
    if details.num_disagreements is None:
        return ""
    total = sum(one.count for one in details.classes)
    of = f" of {total:,}" if total else ""
    said = f"Base and answer give different classes to {details.num_disagreements:,}{of} images"
    hidden = len(details.classes) - MOST_CLASSES
    return f"{said}; {hidden} classes that changed less are not shown." if hidden > 0 else f"{said}."


def _alternative(one: Alternative, names: list[str]) -> TableRow:
    values = one.trial.values
    cells = [show(values[name]) if name in values else "" for name in names]
    return TableRow(", ".join(one.names), cells, short_recipe(one.trial.recipe))


# Words


def _facts(budget: Budget, archive: Archive) -> dict[str, str]:
    base = archive.base
    assert base is not None
    machine = base.machine
    versions = [f"{name} {version}" for name, version in machine.get("versions", {}).items() if version]
    return {
        "Base": f"{budget.model.name}: {_of_base(base, budget)} in ONNX Runtime fp32",
        "Target": budget.where,
        "Hard limits": ", ".join(map(str, budget.hard_limits)) or "none",
        "Optimise": ", ".join(f"{name} x {weight:g}" for name, weight in budget.weights.items()),
        "Machine": f"{machine.get('cpu')}, {machine.get('cores')} cores, {', '.join(machine.get('flags', []))}",
        "Versions": ", ".join(versions),
        "Weights and data": base.fingerprint,
        "Seed": str(budget.search.seed),
        "Started": str(archive.header.get("started", "")),
    }


def _of_base(base: BaseRecord, budget: Budget) -> str:
    """How good the base is, in words. It agrees with itself, so agreement has no figure here."""
    judged_on = budget.data.validation_name
    if quality_of(base.values) == "agreement":
        return f"agreement with it is judged on {judged_on}"
    return f"{show(base.values[quality_of(base.values)])} {word_of(base.values)} on {judged_on}"


def _cost(archive: Archive, answer: Answer) -> str:
    seconds: dict[str, float] = {}
    for trial in archive:
        for part, value in trial.seconds.items():
            seconds[part] = seconds.get(part, 0.0) + value
    statuses = [trial.status for trial in archive]
    total = ""
    if answer.cost:
        cost = {part: value / 60 for part, value in answer.cost.items() if part.endswith("_seconds")}
        last = f" ({cost['answer_seconds']:.1f} of them for the answer)" if "answer_seconds" in cost else ""
        total = f"{cost['wall_seconds']:.1f} min wall time{last}, {answer.cost['core_hours']:.2f} core-hours. "
    counts = f"{len(statuses)} trials: {statuses.count('complete')} complete, "
    counts += f"{statuses.count('gated')} gated before training, {statuses.count('failed')} failed. "
    parts = ", ".join(f"{part} {value:.0f} s" for part, value in sorted(seconds.items(), key=lambda pair: -pair[1]))
    saved = f" The gates saved about {seconds_saved(archive) / 60:.1f} min." if "gated" in statuses else ""
    predicted = archive.prediction_errors
    errors = f" Costs were predicted to order candidates: {predicted}." if predicted else ""
    return f"{total}{counts}In trials: {parts}.{saved}{errors}"
