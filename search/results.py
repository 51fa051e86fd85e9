"""The answer of a search: the returned recipe, the rows of the final table, and the files that hold them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePath
from typing import Any

import yaml

from sousvit.objectives.objective import Measurement
from sousvit.search.archive import Archive, feasible
from sousvit.search.budget import Budget
from sousvit.search.goals import Goals
from sousvit.search.identity import noted_inputs
from sousvit.search.preference.alternatives import Alternative, find_alternatives, find_reason
from sousvit.search.stored.details_file import Details
from sousvit.search.stored.seal import sealed
from sousvit.search.trial import Trial, decode, encode
from sousvit.search.verdict import HELD_BACK, JudgedLimit, Status, judge_limits, status_of


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
        skipped: rows that were not made, because their time was over.
        absent: rows for which there is nothing to show.
        contact_sheet: a PNG of the images that the recipe was built from, where they are synthesised.
        notes: what reading the data dropped or changed.
        images: what the rows were judged on.
        details: what the session saw besides figures, where it was recorded.
    """

    rows: tuple[Row, ...]
    skipped: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    contact_sheet: bytes | None = None
    notes: tuple[str, ...] = ()
    images: str = ""
    details: Details | None = None


@dataclass(frozen=True)
class Confirmation:
    """What was found of an answer when it was measured again, on images that no trial was judged on.

    Attributes:
        values: its figures, those that hang on images only where some were held back.
        confidence: one-sided level at which every limit had to hold: the more recipes were tried on the same images,
            the higher.
        tried: how many were, this one included.
        num_images: that were held back.
        holds: whether every limit did.
    """

    values: dict[str, Measurement]
    confidence: float
    tried: int
    num_images: int
    holds: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "values": encode(self.values)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Confirmation:
        """The inverse of :meth:`to_dict`."""
        return cls(**{**plain, "values": decode(plain["values"])})


@dataclass(frozen=True)
class Answer:
    """What a budget gets.

    Attributes:
        feasible: whether the recipe held every limit in the search (on validation), and what it costs also when it was
            measured again.
        chosen: the returned trial, or the nearest miss; None when nothing finished at all.
        violated: per broken limit a phrase with the value and the bound.
        rows: the final table; empty when only the archive was asked.
        notes: what a reader must know besides.
        confirmation: what was found when it was measured again.
        images: what the rows were judged on.
        limits: every limit with its figure and whether it was shown to hold, see :mod:`.verdict`.
        reason: why this one was chosen, in one sentence.
        alternatives: it, the ends of the front and its knee, by the search's figures: see
            :mod:`.preference.alternatives`.
        skipped: rows of the table for which no time was left; resuming the run goes on with them.
    """

    feasible: bool
    chosen: Trial | None
    single: Trial | None
    violated: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    cost: dict[str, float] = field(default_factory=dict)
    confirmation: Confirmation | None = None
    images: str = ""
    limits: tuple[JudgedLimit, ...] = ()
    reason: str = ""
    alternatives: tuple[Alternative, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def row(self) -> Row | None:
        """The recipe's row of the final table, where it was measured."""
        return next((row for row in self.rows if row.role == "recipe"), None)

    @property
    def status(self) -> Status:
        """Whether the recipe holds the limits.

        ``holds``: it did in the search, and on images that no trial was judged on, each at the budget's confidence.
        ``not shown on the test split``: it did in the search, but was not judged on such images, or did not hold there
        as surely. ``infeasible``: no recipe held every limit; the nearest miss is returned.
        """
        return status_of(self.feasible, self.limits, self.row is not None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "status": self.status,
            "limits": [limit.to_dict() for limit in self.limits],
            "confirmation": None if self.confirmation is None else self.confirmation.to_dict(),
            "images": self.images,
            "recipe": None if self.chosen is None else self.chosen.to_dict(),
            "reason": self.reason,
            "alternatives": [one.to_dict() for one in self.alternatives],
            "single": None if self.single is None else self.single.to_dict(),
            "violated": list(self.violated),
            "rows": [row.to_dict() for row in self.rows],
            "skipped": list(self.skipped),
            "notes": list(self.notes),
            "cost": self.cost,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Answer:
        """The inverse of :meth:`to_dict`."""

        def trial(name: str) -> Trial | None:
            return None if plain[name] is None else Trial.from_dict(plain[name])

        confirmation = plain.get("confirmation")
        return cls(
            plain["status"] != "infeasible",
            trial("recipe"),
            trial("single"),
            tuple(plain["violated"]),
            tuple(Row.from_dict(row) for row in plain["rows"]),
            tuple(plain["notes"]),
            plain["cost"],
            None if confirmation is None else Confirmation.from_dict(confirmation),
            plain.get("images", ""),
            tuple(JudgedLimit.from_dict(limit) for limit in plain.get("limits", ())),
            plain.get("reason", ""),
            tuple(Alternative.from_dict(one) for one in plain.get("alternatives", ())),
            tuple(plain.get("skipped", ())),
        )


def judged(answer: Answer, budget: Budget) -> Answer:
    """The answer with the verdict on every limit, by the surest figures that there are."""
    row, data = answer.row, budget.data
    if row is None:
        figures = {} if answer.chosen is None else answer.chosen.values
        limits = judge_limits(budget.hard_limits, figures, data.validation_name, unseen=False, measured_again=False)
        return replace(answer, limits=limits)
    images = answer.images or data.final_name
    again, asked = answer.confirmation, budget.hard_limits
    if images == HELD_BACK and again is not None:  # the same images, on which several recipes may have been tried
        asked = tuple(replace(limit, confidence=again.confidence) for limit in asked)
    unseen = images != data.validation_name
    return replace(answer, limits=judge_limits(asked, row.values, images, unseen, measured_again=True))


def choose(archive: Archive, goals: Goals) -> Answer:
    """Answer from the archive alone; what broke a limit when it was measured again is no answer."""
    return choose_among(candidates(archive, goals), goals)


def candidates(archive: Archive, goals: Goals) -> list[Trial]:
    """The trials that an answer may come from: those that did not break a limit when they were measured again."""
    return [trial for trial in archive if not archive.is_rejected(trial, goals)]


def choose_among(pool: Sequence[Trial], goals: Goals) -> Answer:
    """The best trial of ``pool`` that holds the limits, or the nearest miss."""
    held = feasible(pool, goals)
    chosen = best(held, goals)
    single = best(_singles(held), goals) or nearest_miss(_singles(pool), goals)
    if chosen is not None:
        return Answer(True, chosen, single)
    miss, failed = nearest_miss(pool, goals), every_failure(pool)
    return Answer(
        False, miss, single, () if miss is None else phrases(miss, goals), notes=() if failed is None else (failed,)
    )


def explained(answer: Answer, pool: Iterable[Trial], goals: Goals) -> Answer:
    """The answer with the sentence that says why it was chosen from ``pool``, and with what else could have been."""
    chosen = answer.chosen
    if chosen is None:
        return answer
    trials = list(pool)
    if not answer.feasible:
        count = sum(trial.is_final for trial in trials)
        reason = f"none of {count} judged in full holds every limit; it misses them least" if chosen.is_final else ""
        return replace(answer, reason=reason)
    held = feasible(trials, goals)
    return replace(answer, reason=find_reason(chosen, held, goals), alternatives=find_alternatives(chosen, held, goals))


def every_failure(pool: Sequence[Trial]) -> str | None:
    """Why there is no answer where every trial failed: what most of them said. None where one did not fail."""
    if not pool or any(trial.status != "failed" for trial in pool):
        return None
    message, count = Counter(trial.message for trial in pool).most_common(1)[0]
    share = "" if count == len(pool) else f" ({count} of {len(pool)})"
    return f"every trial failed: {message}{share}"


def _singles(trials: Iterable[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.is_single]


def phrases(trial: Trial, goals: Goals) -> tuple[str, ...]:
    """Why a trial is no answer: one phrase a violated limit, and whether it was trained in part only."""
    found = goals.explain(trial.values)
    if trial.status == "complete" and not trial.is_final:
        found.append(f"trained for {trial.fidelity:.0%} of its epochs only, which never counts as final")
    return tuple(found)


def recipe_yaml(answer: Answer, budget: Budget, archive: Archive, by_name: bool = False) -> str:
    """The text of ``recipe.yaml``: all that ``sousvit apply`` needs, and what was measured where, of which content.

    Args:
        archive: of the run.
        by_name: name files and folders without where they lie here, for readers elsewhere.
    """
    assert answer.chosen is not None
    test = answer.row
    content: dict[str, Any] = {
        "status": answer.status,
        **({} if answer.feasible else {"violated": list(answer.violated)}),
        "limits": {limit.name: _short_limit(limit) for limit in answer.limits},
        "recipe": answer.chosen.recipe,
        "fidelity": answer.chosen.fidelity,
        "seed": answer.chosen.seed,
        "model": budget.model.model_dump(mode="json", exclude_defaults=True),
        "data": budget.data.model_dump(mode="json", exclude_defaults=True),
        "target": budget.target.model_dump(mode="json"),
        ("validation" if budget.data.kind != "none" else "held_out"): plain_values(answer.chosen.values),
        **({} if test is None or not budget.data.has_test else {"test": plain_values(test.values)}),
    }
    if archive.base is not None:
        content["machine"] = {key: value for key, value in archive.base.machine.items() if key != "devices"}
    content["inputs"] = noted_inputs(archive.folder)
    if by_name:
        content |= {part: _by_name(content[part]) for part in ("model", "data", "target", "recipe")}
    head = "# Written by sousvit search; reproduce the artifact with: sousvit apply THIS-FILE --out DIR\n"
    return head + sealed(yaml.safe_dump(content, sort_keys=False))


def _by_name(value: Any) -> Any:
    """Plain values, absolute paths in them without their folders."""
    if isinstance(value, Mapping):
        return {key: _by_name(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_by_name(entry) for entry in value]
    is_path = isinstance(value, str) and PurePath(value).is_absolute()
    return PurePath(value).name if is_path else value


def _short_limit(limit: JudgedLimit) -> dict[str, Any]:
    value = Measurement(math.nan if limit.value is None else limit.value, limit.low, limit.high)
    figure = None if limit.value is None else plain_values({"figure": value})["figure"]
    where = {"images": limit.images} if limit.images else {}
    return {"limit": limit.bound, "figure": figure, **where, "verdict": limit.verdict, "holds": limit.holds}


def plain_values(values: Mapping[str, Measurement]) -> dict[str, Any]:
    """Rounded figures, ``[value, low, high]`` where there is an interval."""

    def short(number: float | None) -> float | None:
        return None if number is None else float(f"{number:.6g}")

    return {
        name: short(v.value) if v.low is None else [short(v.value), short(v.low), short(v.high)]
        for name, v in values.items()
    }


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
