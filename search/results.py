"""The answer of a search: the returned recipe, the rows of the final table, and the files that hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sousvit.files import write_atomic
from sousvit.objectives.objective import Measurement
from sousvit.search.archive import Archive, feasible
from sousvit.search.budget import Budget
from sousvit.search.goals import Goals
from sousvit.search.trial import Trial, decode, encode


@dataclass(frozen=True)
class Row:
    """One line of the final table, everything on it measured in the same session.

    ``role`` is ``base``, ``best single``, ``recipe`` or ``without <technique>``; ``values`` are on the test split;
    ``noisy`` where the machine was busy while its latency was measured.
    """

    role: str
    recipe: dict[str, Any]
    values: dict[str, Measurement]
    artifact: str = ""
    noisy: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "values": encode(self.values)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Row:
        """The inverse of :meth:`to_dict`."""
        return cls(**{**plain, "values": decode(plain["values"])})


@dataclass(frozen=True)
class FinalTable:
    """The rows of an answer, as a worker measured them.

    Attributes:
        skipped: rows left out because building the others took as long as the search was given.
        contact_sheet: a PNG of the images that the recipe was built from, where they are synthesised.
        notes: what reading the data dropped or changed.
    """

    rows: tuple[Row, ...]
    skipped: tuple[str, ...] = ()
    contact_sheet: bytes | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a budget gets.

    Attributes:
        feasible: whether the recipe holds every limit (on validation).
        chosen: the returned trial, or the nearest miss; None when nothing finished at all.
        violated: per broken limit a phrase with the value and the bound.
        rows: the final table; empty when only the archive was asked.
        notes: what a reader must know besides.
    """

    feasible: bool
    chosen: Trial | None
    single: Trial | None
    violated: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    cost: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "status": "feasible" if self.feasible else "infeasible",
            "recipe": None if self.chosen is None else self.chosen.to_dict(),
            "single": None if self.single is None else self.single.to_dict(),
            "violated": list(self.violated),
            "rows": [row.to_dict() for row in self.rows],
            "notes": list(self.notes),
            "cost": self.cost,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Answer:
        """The inverse of :meth:`to_dict`."""

        def trial(name: str) -> Trial | None:
            return None if plain[name] is None else Trial.from_dict(plain[name])

        rows = tuple(Row.from_dict(row) for row in plain["rows"])
        feasible = plain["status"] == "feasible"
        return cls(
            feasible,
            trial("recipe"),
            trial("single"),
            tuple(plain["violated"]),
            rows,
            tuple(plain["notes"]),
            plain["cost"],
        )


def choose(archive: Archive, goals: Goals) -> Answer:
    """Answer from the archive alone; what broke a limit when it was measured again is no answer."""
    return choose_among([trial for trial in archive if not archive.is_rejected(trial, goals)], goals)


def choose_among(pool: Sequence[Trial], goals: Goals) -> Answer:
    """The best trial of ``pool`` that holds the limits, or the nearest miss."""
    held = feasible(pool, goals)
    chosen = best(held, goals)
    single = best(_singles(held), goals) or nearest_miss(_singles(pool), goals)
    if chosen is not None:
        return Answer(True, chosen, single)
    miss = nearest_miss(pool, goals)
    return Answer(False, miss, single, () if miss is None else phrases(miss, goals))


def _singles(trials: Iterable[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.is_single]


def phrases(trial: Trial, goals: Goals) -> tuple[str, ...]:
    """Why a trial is no answer: one phrase a violated limit, and whether it was trained in part only."""
    found = goals.explain(trial.values)
    if trial.status == "complete" and not trial.is_final:
        found.append(f"trained for {trial.fidelity:.0%} of its epochs only, which never counts as final")
    return tuple(found)


def recipe_yaml(answer: Answer, budget: Budget) -> str:
    """The text of ``recipe.yaml``: all that ``sousvit apply`` needs, and what was measured."""
    assert answer.chosen is not None
    test = next((row for row in answer.rows if row.role == "recipe"), None)
    content: dict[str, Any] = {
        "status": "feasible" if answer.feasible else "infeasible",
        **({} if answer.feasible else {"violated": list(answer.violated)}),
        "recipe": answer.chosen.recipe,
        "fidelity": answer.chosen.fidelity,
        "seed": answer.chosen.seed,
        "model": budget.model.model_dump(mode="json", exclude_defaults=True),
        "data": budget.data.model_dump(mode="json", exclude_defaults=True),
        "target": budget.target.model_dump(mode="json"),
        ("validation" if budget.data.kind != "none" else "held_out"): plain_values(answer.chosen.values),
        **({} if test is None or not budget.data.has_test else {"test": plain_values(test.values)}),
    }
    head = "# Written by sousvit search; reproduce the artifact with: sousvit apply THIS-FILE --out DIR\n"
    return head + yaml.safe_dump(content, sort_keys=False)


def plain_values(values: Mapping[str, Measurement]) -> dict[str, Any]:
    """Rounded figures, ``[value, low, high]`` where there is an interval."""

    def short(number: float | None) -> float | None:
        return None if number is None else float(f"{number:.6g}")

    return {
        name: short(v.value) if v.low is None else [short(v.value), short(v.low), short(v.high)]
        for name, v in values.items()
    }


def write_answer(answer: Answer, budget: Budget, folder: Path) -> None:
    """Write ``answer.json`` and ``recipe.yaml`` (``nearest-miss.yaml`` when infeasible, and no stale recipe)."""
    write_atomic(folder / "answer.json", json.dumps(answer.to_dict(), indent=1))
    names = ("recipe.yaml", "nearest-miss.yaml")
    right, stale = names if answer.feasible else reversed(names)
    if answer.chosen is not None:
        write_atomic(folder / right, recipe_yaml(answer, budget))
    (folder / stale).unlink(missing_ok=True)


def best(trials: Iterable[Trial], goals: Goals) -> Trial | None:
    """The feasible trial with the highest score, or None."""
    return max(feasible(trials, goals), key=lambda trial: goals.score(trial.values), default=None)


def nearest_miss(trials: Iterable[Trial], goals: Goals) -> Trial | None:
    """The trial whose worst violation is smallest: among final ones, else low-rung ones, else gated ones.

    A gated trial is compared by the limits that were measured before it ended.
    """

    def distance(trial: Trial) -> tuple[float, int, float]:
        broken = goals.violations(trial.values)
        unknown = [name for name, by in broken.items() if math.isinf(by)]
        worst = max((by for name, by in broken.items() if name not in unknown), default=0.0)
        return worst if len(unknown) < len(goals.limits) else math.inf, len(unknown), -goals.score(trial.values)

    pool = list(trials)
    groups = (
        [trial for trial in pool if trial.is_final],
        [trial for trial in pool if trial.status == "complete"],
        [trial for trial in pool if trial.status == "gated"],
    )
    return min(next((group for group in groups if group), []), key=distance, default=None)
