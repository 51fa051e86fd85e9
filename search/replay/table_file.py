"""The files of a recorded table: what its columns mean, and its rows, checked.

Parameters hold plain values, all other columns finite numbers.

A table is described by a YAML file::

    file: results.csv                       # or parquet
    parameters: [depth, width, patch]       # columns that make up a configuration
    objectives: {accuracy: maximize, macs: minimize}
    exact: [macs]                           # known for any configuration before it is evaluated
    limits: {macs: 500}                     # optional, hard; {at_most: x} or {at_least: x} for any other column
    seconds: cost                           # optional column: what an evaluation takes
    fidelity: epochs_share                  # optional column in [0, 1]; 0 is untrained, 1 is final
    seed: seed                              # optional column: repeated measurements
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from sousvit.checked import Checked, read_yaml, validated
from sousvit.errors import UserError
from sousvit.objectives.objective import Direction
from sousvit.search.replay.rows import Progress, read_rows


class Bound(Checked):
    """A hard limit that names its side, ``{at_most: x}`` or ``{at_least: x}``."""

    at_most: float | None = Field(default=None, allow_inf_nan=False)
    at_least: float | None = Field(default=None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_side(self) -> Bound:
        if (self.at_most is None) == (self.at_least is None):
            raise UserError("a limit has one side", f"{self.model_dump()}", "write {at_most: x} or {at_least: x}")
        return self

    @property
    def value(self) -> float:
        """The number, of either side."""
        found = self.at_most if self.at_least is None else self.at_least
        assert found is not None
        return found


class TableSpec(Checked):
    """The meaning of a table's columns, as its YAML file gives it."""

    file: Path
    parameters: tuple[str, ...] = Field(min_length=1)
    objectives: dict[str, Direction] = Field(min_length=1)
    exact: tuple[str, ...] = ()
    limits: dict[str, float | Bound] = Field(default={})
    seconds: str | None = None
    fidelity: str | None = None
    seed: str | None = None

    @model_validator(mode="after")
    def _sides(self) -> TableSpec:
        for column, given in self.limits.items():
            wanted = self.objectives.get(column)
            side = "at_least" if wanted == "maximize" else "at_most"
            if not isinstance(given, Bound):
                if not np.isfinite(given):
                    raise UserError("a limit is a finite number", f"{column}: {given}", "correct the limit")
                if wanted is None:
                    raise UserError("a limit on a column that is no objective says its side", f"{column}: {given:g}",
                                    f"write {column}: {{at_most: {given:g}}} or {{at_least: {given:g}}}")  # fmt: skip
            elif wanted is not None and getattr(given, side) is None:
                raise UserError(f"a limit on what is to {wanted} is {side}", f"{column}: {given}",
                                f"write {column}: {{{side}: x}}")  # fmt: skip
        return self

    @property
    def directions(self) -> dict[str, Direction]:
        """Per measured column which way is better: objectives first, then limits, then what is only exact."""
        found = dict(self.objectives)
        for column in self.limits:
            found.setdefault(column, "maximize" if self.bound(column).at_least is not None else "minimize")
        return {**dict.fromkeys(self.exact, "minimize"), **found}

    def bound(self, column: str) -> Bound:
        """The limit on ``column``, with its side."""
        given = self.limits[column]
        if isinstance(given, Bound):
            return given
        return Bound(at_least=given) if self.objectives[column] == "maximize" else Bound(at_most=given)

    @property
    def bounds(self) -> dict[str, float]:
        """The limits' numbers; the side follows from :attr:`directions`."""
        return {column: self.bound(column).value for column in self.limits}

    @property
    def columns(self) -> list[str]:
        """Every column that is read."""
        return list(dict.fromkeys([*self.parameters, *self.numbers]))

    @property
    def numbers(self) -> list[str]:
        """Every column that holds numbers."""
        extra = [name for name in (self.seconds, self.fidelity, self.seed) if name is not None]
        return list(dict.fromkeys([*self.objectives, *self.exact, *self.limits, *extra]))


def read_table(path: Path, progress: Progress) -> tuple[pd.DataFrame, TableSpec]:
    """The rows, as they are, and the meaning that a YAML file gives them; paths in it are relative to it.

    Args:
        progress: told what is read.

    Raises:
        UserError: the description or the file is bad, or the table is too large.
    """
    spec = validated(TableSpec, read_yaml(path), str(path))
    return read_rows(path.parent / spec.file, spec.columns, progress), spec


def checked(frame: pd.DataFrame, spec: TableSpec) -> pd.DataFrame:
    """The columns that are read: parameters as plain values (what is missing is None), the others as floats.

    Raises:
        UserError: missing columns, values that are no numbers, rows that contradict each other.
    """
    missing = [name for name in spec.columns if name not in frame.columns]
    if missing:
        known = ", ".join(map(str, frame.columns))
        raise UserError("a table has every column that is named", f"no {', '.join(missing)} in {spec.file}",
                        f"choose from {known}")  # fmt: skip
    if not len(frame):
        raise UserError("a table has rows", f"none in {spec.file}", "record some")
    found = {name: _plain_column(name, frame[name]) for name in spec.parameters}
    # A column may be both: what a configuration is, and a figure of it.
    numbers = {name: _float_column(name, frame[name]) for name in spec.numbers}
    plain = pd.DataFrame({**numbers, **found}, columns=spec.columns)
    _check_fidelities(plain, spec)
    _check_repeats(plain, spec)
    return plain


def _plain_column(name: str, column: pd.Series[Any]) -> pd.Series[Any]:
    values = [_plain(value) for value in column.tolist()]
    for row, value in enumerate(values):
        if not (value is None or isinstance(value, str | int | float)):  # a bool is an int
            raise UserError("parameters are numbers, words or switches", f"{name} in row {row + 1}: {value!r}",
                            "write it as text, or as several columns")  # fmt: skip
    return pd.Series(values, dtype=object)


def _plain(value: Any) -> Any:
    """A value of plain Python; what is missing is None."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)) else value


def _float_column(name: str, column: pd.Series[Any]) -> pd.Series[Any]:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(float, na_value=np.nan)
    finite = np.isfinite(numbers)
    if not finite.all():
        row = int(np.argmin(finite))
        raise UserError("measured columns hold finite numbers", f"{name} in row {row + 1}: {column.iloc[row]}",
                        "correct or remove the row")  # fmt: skip
    return pd.Series(numbers)


def _check_fidelities(frame: pd.DataFrame, spec: TableSpec) -> None:
    if spec.fidelity is None:
        return
    if not frame[spec.fidelity].between(0, 1).all():
        raise UserError(
            "fidelities lie between 0 and 1, 1 is final", f"column {spec.fidelity}", "divide by the largest"
        )
    if not (frame[spec.fidelity] == 1.0).any():
        raise UserError("a table has final rows, of fidelity 1", f"none in column {spec.fidelity}", "record some")


def _check_repeats(frame: pd.DataFrame, spec: TableSpec) -> None:
    keys = [*spec.parameters, *(name for name in (spec.fidelity, spec.seed) if name is not None)]
    twice = frame.duplicated(keys)
    if twice.any():
        row = int(np.argmax(twice))
        raise UserError("a configuration is recorded once (or once a seed)", f"row {row + 1} repeats an earlier one",
                        "remove it, or name a seed column")  # fmt: skip
    groups = frame.groupby(list(spec.parameters), dropna=False, sort=False)
    for name in spec.exact:
        if groups[name].nunique().max() > 1:
            raise UserError("an exact column depends on the parameters alone", name, "do not list it as exact")
