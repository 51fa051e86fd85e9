"""``answer.json``: the answer of a search as it was written, with a checksum and the length of the log behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sousvit.errors import UserError
from sousvit.files import content_hash, write_atomic
from sousvit.search.archive import Archive
from sousvit.search.budget import Budget
from sousvit.search.results import Answer, recipe_yaml
from sousvit.search.stored.events import (
    IMPOSSIBLE,
    are_figures,
    is_folder_name,
    is_number,
    is_recipe,
    problem_of,
)
from sousvit.spaces.technique import TECHNIQUES

ANSWER = "answer.json"
_LINES, _CHECKSUM = "lines", "checksum"


class DamagedAnswerError(UserError):
    """An answer that is there and cannot be read."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__("a stored answer is as it was written", f"{path}: {problem}", "resume the run's search")

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:  # type: ignore[override]
        return type(self), (self.path, self.problem)


@dataclass(frozen=True)
class AnswerFile:
    """An answer, and how many lines the run's log had when it was written (0: an earlier version wrote it)."""

    answer: Answer
    lines: int


def read_answer(folder: Path) -> AnswerFile | None:
    """The stored answer of a run; None where there is none.

    Raises:
        DamagedAnswerError: it was cut or changed.
    """
    path = folder / ANSWER
    if not path.is_file():
        return None
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        checksum = plain.pop(_CHECKSUM, None)
        lines = plain.get(_LINES, 0)
        if (checksum is None) != (_LINES not in plain) or type(lines) is not int:
            raise ValueError("without its checksum")
        if checksum is not None and checksum != content_hash(plain):
            raise ValueError("its checksum is of something else")
        _require_sound(plain)
        return AnswerFile(Answer.from_dict(plain), lines)
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedAnswerError(path, str(error)) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedAnswerError(path, f"not an answer's values ({error})") from error


def write_answer(answer: Answer, budget: Budget, archive: Archive) -> None:
    """Write ``answer.json`` and ``recipe.yaml`` (``nearest-miss.yaml`` when infeasible, and no stale recipe)."""
    folder = archive.folder
    plain = {**answer.to_dict(), _LINES: archive.last_line}
    write_atomic(folder / ANSWER, json.dumps({**plain, _CHECKSUM: content_hash(plain)}, indent=1))
    names = ("recipe.yaml", "nearest-miss.yaml")
    right, stale = names if answer.feasible else reversed(names)
    if answer.chosen is not None:
        write_atomic(folder / right, recipe_yaml(answer, budget, archive))
    (folder / stale).unlink(missing_ok=True)


def _require_sound(plain: dict[str, Any]) -> None:
    """Check the values of an answer that an earlier version may have written, without a checksum.

    Raises:
        ValueError: some cannot be.
    """
    alternatives = [one["trial"] for one in plain.get("alternatives", ())]
    trials = [trial for trial in (plain["recipe"], plain["single"], *alternatives) if trial is not None]
    problems = {problem_of({"event": "trial", "trial": trial}, TECHNIQUES) for trial in trials} - {""}
    if problems:
        raise ValueError(min(problems))
    numbers = [*plain["cost"].values()]
    for limit in plain.get("limits", ()):
        numbers += [limit[name] for name in ("value", "low", "high", "confidence") if limit[name] is not None]
    texts = [
        *plain["notes"],
        *plain["violated"],
        *plain.get("skipped", ()),
        plain.get("images", ""),
        plain.get("reason", ""),
    ]
    again, rows = plain.get("confirmation"), plain["rows"]
    figures = [row["values"] for row in rows] + ([] if again is None else [again["values"]])
    is_sound = all(map(is_number, numbers)) and all(map(are_figures, figures)) and all(map(_is_row, rows))
    if not is_sound or not all(type(text) is str for text in texts):
        raise ValueError(IMPOSSIBLE)


def _is_row(row: Mapping[str, Any]) -> bool:
    return type(row["role"]) is str and is_recipe(row["recipe"]) and is_folder_name(row.get("artifact", ""))
