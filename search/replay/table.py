"""A recorded table as a search space: one row per configuration (and fidelity, and seed) with its objectives.

A table is described by a YAML file::

    file: results.csv                       # or parquet
    parameters: [depth, width, patch]       # columns that make up a configuration
    objectives: {accuracy: maximize, macs: minimize}
    exact: [macs]                           # known for any configuration before it is evaluated
    limits: {macs: 500}                     # optional, hard
    seconds: cost                           # optional column: what an evaluation takes
    fidelity: epochs_share                  # optional column in [0, 1]; 0 is untrained, 1 is final
    seed: seed                              # optional column: repeated measurements

A configuration becomes a recipe of one step, ``row``, so that everything that searches recipes searches tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from sousvit.common.errors import UserError
from sousvit.common.files import content_hash
from sousvit.common.schema import read_yaml, validated
from sousvit.objectives.objective import OBJECTIVES, Direction, Measurement, Objective, Stage, Subject
from sousvit.search.executors.executor import Job, Outcome
from sousvit.search.fidelity import make_rungs
from sousvit.search.record import Value
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.shape import ModelShape
from sousvit.spaces.space import Option, Space
from sousvit.spaces.technique import TECHNIQUES, Choices, ModelTechnique, StepConfig
from sousvit.spaces.technique import Stage as StepStage

if TYPE_CHECKING:
    from torch import nn

    from sousvit.spaces.technique import Context

STEP = "row"
RUNTIME = "onnxruntime"
#: Keys that a step's plain form needs for itself.
RESERVED = frozenset({"technique"})


class TableSpec(BaseModel):
    """What the columns of a table mean; see the module's text."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: Path
    parameters: tuple[str, ...] = Field(min_length=1)
    objectives: dict[str, Direction] = Field(min_length=1)
    exact: tuple[str, ...] = ()
    limits: dict[str, float] = {}
    seconds: str | None = None
    fidelity: str | None = None
    seed: str | None = None

    @property
    def columns(self) -> list[str]:
        """Every column that is read."""
        extra = [name for name in (self.seconds, self.fidelity, self.seed) if name is not None]
        return list(dict.fromkeys([*self.parameters, *self.objectives, *self.exact, *self.limits, *extra]))


class TableShape(ModelShape):
    """What is known of a table's configuration before it is evaluated.

    Args:
        table: with all configurations.
        known: exact figures; empty for no configuration in particular.
    """

    def __init__(self, table: Table, known: Mapping[str, float]) -> None:
        self.table, self._known = table, dict(known)
        self.exact_figures = frozenset(table.name_of(column) for column in table.spec.exact)

    def figures(self, bytes_per_weight: float) -> dict[str, float]:
        """The exact columns."""
        return self._known


class RowConfig(StepConfig):
    """A configuration: any columns."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Row(ModelTechnique):
    """Stands for a whole configuration of a table; it changes no model."""

    name, stage, config = STEP, StepStage.STRUCTURE, RowConfig
    summary, source = "a configuration of a recorded table", "none"
    compresses, any_model, listed = False, True, False

    def choices(self, shape: Any) -> Choices:
        """The table's values."""
        found: Choices = shape.table.choices
        return found

    def unmet_need(self, shape: Any) -> str | None:
        """It needs a table."""
        return None if isinstance(shape, TableShape) else "it stands in recorded tables only"

    def reshape(self, shape: Any, config: Any) -> TableShape:
        """The exact figures of one configuration."""
        table: Table = shape.table
        return TableShape(table, table.exact_figures(config.model_dump()))

    def apply(self, model: nn.Module, config: Any, context: Context) -> nn.Module:
        """Never: there is no model."""
        raise UserError("a recorded configuration cannot be applied", str(config), "replay its table instead")


class FidelityRow(Row):
    """A configuration that was recorded at several fidelities."""

    name, trains, structural, tells_untrained = "trained_row", True, True, True


TECHNIQUES.add(Row.name, Row())
TECHNIQUES.add(FidelityRow.name, FidelityRow())


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
        _check(frame, spec)
        self._frame = frame.reset_index(drop=True)
        self._suffix = content_hash(sorted(spec.objectives.items()), sorted(spec.exact), length=6)
        for column in self._measured:
            self._register(column)
        self.technique = STEP if spec.fidelity is None else FidelityRow.name

    @classmethod
    def read(cls, path: Path) -> Table:
        """The table that a YAML file describes; paths in it are relative to it.

        Raises:
            UserError: the description or the file is bad.
        """
        spec = validated(TableSpec, read_yaml(path), str(path))
        file = path.parent / spec.file
        if not file.is_file():
            raise UserError("a table's file must exist", file, f"correct file: in {path}")
        try:
            frame = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file)
        except (OSError, ValueError) as error:
            raise UserError("a table is CSV or parquet", f"{file}: {error}", "convert it") from error
        return cls(frame, spec)

    @cached_property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        """Per parameter its values, sorted where they can be."""
        return {_key(name): _values(self._frame[name]) for name in self.spec.parameters}

    @cached_property
    def space(self) -> Space:
        """All combinations of the parameters' values; some may not be in the table."""
        return Space(((Option(self.technique, self.choices),),), {RUNTIME: (RUNTIME, None)})

    @cached_property
    def shape(self) -> TableShape:
        """What recipes of the table start from."""
        return TableShape(self, {})

    @property
    def fidelities(self) -> list[float]:
        """Recorded fidelities, ascending; only 1 where there is no such column."""
        return [1.0] if self.spec.fidelity is None else sorted(set(self._frame[self.spec.fidelity].astype(float)))

    @cached_property
    def ladder(self) -> tuple[float, float]:
        """The lowest fidelity, and the factor between rungs that were all recorded: one step to 1 where none fits."""
        recorded = self.fidelities
        for eta in (4.0, 3.0, 2.0):
            if set(make_rungs(recorded[0], eta)) <= set(recorded):
                return recorded[0], eta
        lowest = min(level for level in recorded if level > 0)
        return lowest, max(1.5, 1 / lowest)

    @property
    def senses(self) -> dict[str, bool]:
        """Per objective (by its registered name) whether more is better."""
        return {self.name_of(column): word == "maximize" for column, word in self.spec.objectives.items()}

    @property
    def limits(self) -> dict[str, float]:
        """The hard limits, by registered name."""
        return {self.name_of(column): bound for column, bound in self.spec.limits.items()}

    def name_of(self, column: str) -> str:
        """The name under which a column's objective is registered: no other table's, and no relative form."""
        return f"{column}_in_{self._suffix}"

    def recipes(self) -> Iterator[Recipe]:
        """Every configuration of the table."""
        for key in self._rows:
            values = dict(zip(map(_key, self.spec.parameters), key, strict=True))
            yield Recipe((Step.make(self.technique, **values),), RUNTIME)

    def exact_figures(self, parameters: Mapping[str, Any]) -> dict[str, float]:
        """The exact columns of a configuration, by registered name.

        Raises:
            UserError: it is not in the table.
        """
        first = next(iter(self._found(parameters).values()))[0]
        return {self.name_of(column): float(self._column(column)[first]) for column in self.spec.exact}

    def judge(self, job: Job) -> Outcome:
        """What was recorded for a job; of several seeds, the job's seed chooses one."""
        parameters = Recipe.from_dict(job.recipe).steps[0].config.model_dump()
        try:
            rows = self._found(parameters).get(float(job.fidelity))
        except UserError as error:
            return Outcome(job.attempt, "failed", message=str(error))
        if rows is None:
            return Outcome(job.attempt, "failed", message=f"nothing was recorded at fidelity {job.fidelity:g}")
        row = rows[job.seed % len(rows)]
        values = {self.name_of(column): Value(float(self._column(column)[row])) for column in self._measured}
        seconds = 1.0 if self.spec.seconds is None else float(self._column(self.spec.seconds)[row])
        return Outcome(job.attempt, "complete", values, {"recorded": seconds})

    def points(self) -> npt.NDArray[np.float64]:
        """``[configurations, objectives]`` means over seeds of what holds the limits at full fidelity."""
        kept = self._frame
        if self.spec.fidelity is not None:
            kept = kept[kept[self.spec.fidelity].astype(float) >= 1.0]
        means = kept.groupby(list(self.spec.parameters), dropna=False)[self._measured].mean()
        for column, bound in self.spec.limits.items():
            more = self.spec.objectives.get(column) == "maximize"
            means = means[means[column] >= bound] if more else means[means[column] <= bound]
        found: npt.NDArray[np.float64] = means[list(self.spec.objectives)].to_numpy(float)
        return found

    @property
    def _measured(self) -> list[str]:
        return list(dict.fromkeys([*self.spec.objectives, *self.spec.exact, *self.spec.limits]))

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
        columns = [[_plain(value) for value in order[name]] for name in self.spec.parameters]
        levels = [1.0] * len(order) if self.spec.fidelity is None else order[self.spec.fidelity].astype(float)
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
        direction = self.spec.objectives.get(column, "minimize")
        stage = Stage.STRUCTURE if column in self.spec.exact else Stage.TRAINED
        name = self.name_of(column)
        if name not in OBJECTIVES:
            OBJECTIVES.add(name, _Column(name, direction, stage))


class _Column(Objective):
    """A column of a table as an objective."""

    def __init__(self, name: str, direction: Direction, stage: Stage) -> None:
        self.name, self.unit, self.direction, self.stage = name, "", direction, stage  # type: ignore[misc]
        self.summary = "a column of a recorded table"  # type: ignore[misc]

    def measure(self, subject: Subject) -> Measurement:
        """Never: it was recorded."""
        raise UserError("a recorded objective cannot be measured", self.name, "replay its table instead")


def _key(column: str) -> str:
    return f"{column}_" if column in RESERVED else column


def _plain(value: Any) -> Any:
    """A value of plain Python; what is missing is None."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and np.isnan(value) else value


def _values(column: pd.Series[Any]) -> tuple[Any, ...]:
    found = list(dict.fromkeys(_plain(value) for value in column))
    numbers = [value for value in found if isinstance(value, int | float)]
    return tuple(sorted(numbers) + [value for value in found if value not in numbers])


def _check(frame: pd.DataFrame, spec: TableSpec) -> None:
    missing = [name for name in spec.columns if name not in frame.columns]
    if missing:
        raise UserError(
            "a table has every column that is named",
            f"no {', '.join(missing)} in {spec.file}",
            f"choose from {', '.join(map(str, frame.columns))}",
        )
    if not len(frame):
        raise UserError("a table has rows", f"none in {spec.file}", "record some")
    for name in [column for column in spec.columns if column not in spec.parameters]:
        numbers = pd.to_numeric(frame[name], errors="coerce")
        if not np.isfinite(numbers).all():
            row = int(np.argmin(np.isfinite(numbers)))
            raise UserError("measured columns hold finite numbers", f"{name} in row {row + 1}: {frame[name].iloc[row]}",
                            "correct or remove the row")  # fmt: skip
    if spec.fidelity is not None and not frame[spec.fidelity].astype(float).between(0, 1).all():
        raise UserError(
            "fidelities lie between 0 and 1, 1 is final", f"column {spec.fidelity}", "divide by the largest"
        )
    if spec.fidelity is not None and not (frame[spec.fidelity].astype(float) == 1.0).any():
        raise UserError("a table has final rows, of fidelity 1", f"none in column {spec.fidelity}", "record some")
    keys = [*spec.parameters, *(name for name in (spec.fidelity, spec.seed) if name is not None)]
    twice = frame.duplicated(keys)
    if twice.any():
        row = int(np.argmax(twice))
        raise UserError("a configuration is recorded once (or once a seed)", f"row {row + 1} repeats an earlier one",
                        "remove it, or name a seed column")  # fmt: skip
    for name in spec.exact:
        if frame.groupby(list(spec.parameters), dropna=False)[name].nunique().max() > 1:
            raise UserError("an exact column depends on the parameters alone", name, "do not list it as exact")
