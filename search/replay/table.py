"""A recorded table as a search space: one row per configuration (and fidelity, and seed) with its objectives.

Its description and its columns: :mod:`sousvit.search.replay.table_file`. Its configurations in the place of recipes:
:mod:`sousvit.search.replay.table_space`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sousvit.errors import UserError
from sousvit.files import content_hash
from sousvit.objectives.objective import OBJECTIVES, Direction, Measurement, Objective, Stage, Subject
from sousvit.search.executors.executor import Job, JobResult
from sousvit.search.fidelity.halving import make_rungs
from sousvit.search.fidelity.learning_curve import UNTRAINED
from sousvit.search.replay.curves import Hypervolume
from sousvit.search.replay.rows import Progress
from sousvit.search.replay.table_file import TableSpec, checked, read_table
from sousvit.search.replay.table_space import ROW, TRAINED_ROW, Configuration, TableShape, TableSpace

#: Keys that a configuration's plain form needs for itself.
RESERVED = frozenset({"technique"})


class Table:
    """Configurations with their recorded objectives.

    Args:
        frame: one row per configuration, fidelity and seed.
        spec: what the columns mean.

    Raises:
        UserError: missing columns, values that are no numbers, rows that contradict each other.
    """

    def __init__(self, frame: pd.DataFrame, spec: TableSpec) -> None:
        self.spec = spec
        self._frame = checked(frame, spec)
        self._suffix = content_hash(sorted(spec.directions.items()), sorted(spec.exact), length=6)
        for column in self._measured:
            self._register(column)
        self.kind = ROW if spec.fidelity is None else TRAINED_ROW

    @classmethod
    def read(cls, path: Path, progress: Progress = lambda what, done, total: None) -> Table:
        """The table that a YAML file describes; paths in it are relative to it.

        Args:
            progress: told what is read.

        Raises:
            UserError: the description or the file is bad, or the table is too large.
        """
        frame, spec = read_table(path, progress)
        progress(f"checking {len(frame):,} rows", 0, 1)
        return cls(frame, spec)

    @cached_property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        """Per parameter its values, sorted where they can be."""
        return {_key(name): _values(self._frame[name]) for name in self.spec.parameters}

    @cached_property
    def space(self) -> TableSpace:
        """The table's configurations; a sampler may ask for any combination of their values."""
        return TableSpace(kind=self.kind, choices=self.choices, rows=list(self.recipes()))

    @cached_property
    def shape(self) -> TableShape:
        """What recipes of the table start from."""
        return TableShape(map(self.name_of, self.spec.exact), self.exact_figures)

    @property
    def fidelities(self) -> list[float]:
        """Recorded fidelities, ascending; only 1 where there is no such column."""
        return [1.0] if self.spec.fidelity is None else sorted(set(self._frame[self.spec.fidelity]))

    @cached_property
    def ladder(self) -> tuple[float, float]:
        """The lowest fidelity, and the factor between rungs that were all recorded: one step to 1 where none fits."""
        recorded = self.fidelities
        if recorded[0] == UNTRAINED:  # every row is evaluated untrained, then trained in full
            return UNTRAINED, 4.0
        for eta in (4.0, 3.0, 2.0):
            if set(make_rungs(recorded[0], eta)) <= set(recorded):
                return recorded[0], eta
        return recorded[0], max(1.5, 1 / recorded[0])

    @property
    def directions(self) -> dict[str, Direction]:
        """Per objective, by its registered name."""
        return {self.name_of(column): direction for column, direction in self.spec.objectives.items()}

    def hypervolume(self) -> Hypervolume:
        """What shares of the table's hypervolume are counted by."""
        return Hypervolume(self.points(), list(self.directions.values()))

    @property
    def limits(self) -> dict[str, float]:
        """The hard limits, by registered name."""
        return {self.name_of(column): bound for column, bound in self.spec.bounds.items()}

    def name_of(self, column: str) -> str:
        """The name under which a column's objective is registered: no other table's, no relative form, no target's."""
        return f"{column.replace('@', ' at ')}_in_{self._suffix}"

    def recipes(self) -> Iterator[Configuration]:
        """Every configuration of the table."""
        for key in self._rows:
            yield Configuration(kind=self.kind, parameters=dict(zip(map(_key, self.spec.parameters), key, strict=True)))

    def exact_figures(self, parameters: Mapping[str, Any]) -> dict[str, float]:
        """The exact columns of a configuration, by registered name.

        Raises:
            UserError: it is not in the table.
        """
        first = next(iter(self._found(parameters).values()))[0]
        return {self.name_of(column): float(self._column(column)[first]) for column in self.spec.exact}

    def judge(self, job: Job) -> JobResult:
        """What was recorded for a job; of several seeds, the job's seed chooses one."""
        parameters = Configuration.from_dict(job.recipe).parameters
        try:
            rows = self._found(parameters).get(float(job.fidelity))
        except UserError as error:
            return JobResult(job.attempt, "failed", message=str(error))
        if rows is None:
            return JobResult(job.attempt, "failed", message=f"nothing was recorded at fidelity {job.fidelity:g}")
        row = rows[job.seed % len(rows)]
        values = {self.name_of(column): Measurement(float(self._column(column)[row])) for column in self._measured}
        return JobResult(job.attempt, "complete", values, self._seconds(parameters, float(job.fidelity), row))

    def _seconds(self, parameters: Mapping[str, Any], fidelity: float, row: int) -> dict[str, float]:
        """Recorded seconds of one row; what grows with the fidelity counts as training."""
        if self.spec.seconds is None:
            return {"recorded": 1.0}
        column, found = self._column(self.spec.seconds), self._found(parameters)
        whole, lowest, highest = float(column[row]), min(found), max(found)
        growth = float(column[found[highest]].mean() - column[found[lowest]].mean())
        pace = max(0.0, growth) / (highest - lowest) if highest > lowest else 0.0
        training = min(whole, fidelity * pace)
        return {"recorded": whole - training, "recover": training}

    def points(self) -> npt.NDArray[np.float64]:
        """``[configurations, objectives]`` means over seeds of what holds the limits at full fidelity.

        Raises:
            UserError: nothing does.
        """
        kept = self._frame
        if self.spec.fidelity is not None:
            kept = kept[kept[self.spec.fidelity] >= 1.0]
        means = kept.groupby(list(self.spec.parameters), dropna=False, sort=False)[self._measured].mean()
        for column, bound in self.spec.bounds.items():
            more = self.spec.directions[column] == "maximize"
            means = means[means[column] >= bound] if more else means[means[column] <= bound]
        if means.empty:
            said = ", ".join(f"{column} {bound:g}" for column, bound in self.spec.bounds.items())
            raise UserError("some configuration must hold the limits", f"none does: {said}", "loosen them")
        found: npt.NDArray[np.float64] = means[list(self.spec.objectives)].to_numpy(float)
        return found

    @property
    def _measured(self) -> list[str]:
        return list(self.spec.directions)

    @cached_property
    def _columns(self) -> dict[str, npt.NDArray[np.float64]]:
        return {}

    def _column(self, name: str) -> npt.NDArray[np.float64]:
        if name not in self._columns:
            self._columns[name] = self._frame[name].to_numpy(float)
        return self._columns[name]

    @cached_property
    def _rows(self) -> dict[tuple[Any, ...], dict[float, list[int]]]:
        """Per configuration and fidelity its row numbers, by seed."""
        order = self._frame if self.spec.seed is None else self._frame.sort_values(self.spec.seed)
        columns = [order[name] for name in self.spec.parameters]
        levels = [1.0] * len(order) if self.spec.fidelity is None else order[self.spec.fidelity]
        found: dict[tuple[Any, ...], dict[float, list[int]]] = {}
        for row, level, *key in zip(order.index, levels, *columns, strict=True):
            found.setdefault(tuple(key), {}).setdefault(float(level), []).append(int(row))
        return found

    def _found(self, parameters: Mapping[str, Any]) -> dict[float, list[int]]:
        key = tuple(parameters[_key(name)] for name in self.spec.parameters)
        if key not in self._rows:
            raise UserError("a configuration must be in the table", parameters, "choose another")
        return self._rows[key]

    def _register(self, column: str) -> None:
        direction = self.spec.directions[column]
        stage = Stage.STRUCTURE if column in self.spec.exact else Stage.TRAINED
        name = self.name_of(column)
        if name not in OBJECTIVES:
            OBJECTIVES.add(name, _Column(name, direction, stage))


class _Column(Objective):
    """A column of a table as an objective."""

    def __init__(self, name: str, direction: Direction, stage: Stage) -> None:
        self.name, self.unit, self.direction, self.stage = name, "", direction, stage  # type: ignore[misc]
        self.signed = True  # type: ignore[misc]
        self.summary = "a column of a recorded table"  # type: ignore[misc]

    def measure(self, subject: Subject) -> Measurement:
        """Always an error: what was recorded cannot be measured."""
        raise UserError("a recorded objective cannot be measured", self.name, "replay its table instead")


def _key(column: str) -> str:
    return f"{column}_" if column in RESERVED else column


def _values(column: pd.Series[Any]) -> tuple[Any, ...]:
    found = list(dict.fromkeys(column))
    numbers = [value for value in found if isinstance(value, int | float)]
    return tuple(sorted(numbers) + [value for value in found if value not in numbers])
