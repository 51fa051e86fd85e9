"""A run that is there, opened for reading: its budget, its archive and its answer, and what is damaged of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from sousvit.checked import parse_yaml
from sousvit.errors import UserError
from sousvit.search.archive import EVENTS, Archive
from sousvit.search.budget import Budget, make_budget
from sousvit.search.confirmation import confirmed_before
from sousvit.search.identity import damaged_inputs
from sousvit.search.results import Answer, candidates, choose, explained, judged
from sousvit.search.stored.answer_file import ANSWER, DamagedAnswerError, read_answer
from sousvit.search.stored.moved import relocated
from sousvit.search.stored.seal import is_changed
from sousvit.search.stored.trust import require_known_code
from sousvit.spaces.technique import TECHNIQUES
from sousvit.text.file import read_text

BUDGET = "budget.yaml"


class NothingFinishedError(UserError):
    """A run that is there, in which no trial has finished."""


def open_run(folder: Path, allow_plugins: bool = False) -> tuple[Budget, Archive]:
    """A run's budget and archive, for reading; the archive says what is damaged.

    Args:
        allow_plugins: load the plug-ins that the run names, even if the user never named them.

    Raises:
        UserError: no run there, it has no base figures yet, or it names code that the user did not.
    """
    budget, was_changed = read_run_budget(folder, allow_plugins)
    archive = read_archive(folder)
    archive.damaged = [*archive.damaged_lines, *[f"{BUDGET}: changed since the search wrote it"] * was_changed]
    archive.damaged += lost_lines(archive) + damaged_answer(archive) + damaged_inputs(folder)
    if archive.base is None or not len(archive):
        why = f"; {'; '.join(archive.damaged)}" if archive.damaged else ""
        rule = "a run must have finished a trial to answer"
        raise NothingFinishedError(rule, f"{folder.name}{why}", "resume it with sousvit search")
    return budget, archive


#: Archives that somebody still holds, by the state of the log that they were read from, and the techniques known then.
_held: WeakValueDictionary[tuple[Any, ...], Archive] = WeakValueDictionary()


def read_archive(folder: Path) -> Archive:
    """A run's archive, for reading; the one that is held already, while its log is the same file as it was."""
    key = _state_of(folder)
    archive = _held.get(key)
    if archive is None:
        archive = _held[key] = Archive(folder, techniques=TECHNIQUES)
    return archive


def hold_archive(archive: Archive) -> None:
    """Let :func:`read_archive` give one that was just closed, while its caller holds it: it knows what it wrote."""
    _held[_state_of(archive.folder)] = archive


def _state_of(folder: Path) -> tuple[Any, ...]:
    """What tells one state of a run's log from others."""
    path = folder / EVENTS
    state = path.stat() if path.is_file() else None
    told = () if state is None else (state.st_ino, state.st_size, state.st_mtime_ns)
    return (str(folder.resolve()), *told, *TECHNIQUES.names())


def read_run_budget(folder: Path, allow_plugins: bool = False) -> tuple[Budget, bool]:
    """What a run was asked, and whether somebody changed it since.

    Raises:
        UserError: no run there, a wrong budget, or it names code that the user did not.
    """
    path = folder / BUDGET
    if not path.is_file():
        raise UserError("a run must exist", folder, "see sousvit list runs")
    text = read_text(path)
    with _as_damage(path, text):
        values = parse_yaml(text, str(path))
    values = relocated(values, folder)
    require_known_code(values.get("plugins") or {}, folder, allow_plugins)
    with _as_damage(path, text):
        return make_budget(_with_share_held_back(values), folder, str(path)), is_changed(text)


@contextlib.contextmanager
def _as_damage(path: Path, text: str) -> Iterator[None]:
    """What is wrong with a budget that the search did not write so is told as damage, with what mends it."""
    try:
        yield
    except UserError as error:
        if not is_changed(text):
            raise
        rule, action = "a run's budget is as the search wrote it", "resume the run's search, which writes it anew"
        raise UserError(rule, f"{path}, changed since: {error.rule}, {error.received}", action) from error


def _with_share_held_back(values: dict[str, Any]) -> dict[str, Any]:
    """A run's budget; those of earlier versions do not say that they held nothing back."""
    search = values.get("search") or {}
    if not isinstance(search, dict) or "confirm" in search:
        return values
    return {**values, "search": {**search, "confirm": 0.0}}


def lost_lines(archive: Archive) -> list[str]:
    """Whether the log was longer when the answer was written: what is lost at its end, it cannot show itself."""
    with contextlib.suppress(DamagedAnswerError):
        stored = read_answer(archive.folder)
        lost = 0 if stored is None else stored.lines - archive.last_line
        return [f"{EVENTS}: {lost} line{'s' * (lost > 1)} missing at the end"] if lost > 0 else []
    return []


def damaged_answer(archive: Archive) -> list[str]:
    """What is damaged of the stored answer, if anything is."""
    try:
        read_answer(archive.folder)
    except DamagedAnswerError as error:
        return [f"{ANSWER}: {error.problem}"]
    return []


def answer_of(budget: Budget, archive: Archive) -> Answer | None:
    """The stored answer of a run, made again from its archive where it is damaged; None before there is one."""
    try:
        stored = read_answer(archive.folder)
    except DamagedAnswerError:
        return _made_again(budget, archive)
    return None if stored is None else stored.answer


def _made_again(budget: Budget, archive: Archive) -> Answer:
    assert archive.base is not None
    goals = budget.goals(archive.base.values)
    answer = confirmed_before(choose(archive, goals), archive, goals)
    answer = judged(explained(answer, candidates(archive, goals), goals), budget)
    note = f"{ANSWER} is damaged: this was made again from the archive, without its final table; resume the search"
    return replace(answer, notes=(*answer.notes, f"{note} to measure it"))
