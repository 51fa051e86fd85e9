"""Folders that ``save_to_disk`` of the library ``datasets`` writes: Arrow files, with the names of the classes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from sousvit.data.arrow_file import read_arrow
from sousvit.data.formats.format import Format, Part
from sousvit.data.formats.table import TableSource
from sousvit.errors import UserError
from sousvit.files import MOST_DESCRIPTION, file_hash, read_text
from sousvit.specs import Columns

STATE = "state.json"


class Datasets(Format):
    """``format: datasets``."""

    name = "datasets"

    def suits(self, path: Path) -> bool:
        return (path / STATE).is_file() or (path / "dataset_dict.json").is_file() or path.suffix == ".arrow"

    def open(self, part: Part) -> DatasetsSource:
        return DatasetsSource(part.path, part.labelled, part.spec.columns)


class DatasetsSource(TableSource):
    """One data set of such a folder, or one Arrow file. The files are mapped and not read into memory.

    Args:
        labelled: False needs no labels, all are 0.
        columns: where images and labels stand; found where they are not named.
    """

    def __init__(self, path: Path, labelled: bool = True, columns: Columns | None = None) -> None:
        files = [path] if path.is_file() else _files(path)
        try:
            table = pa.concat_tables([read_arrow(file) for file in files])
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError("an Arrow file must be readable", f"{path}: {error}", "write it again") from error
        folder = path.parent if path.is_file() else path
        fingerprint = "".join(file_hash(file) for file in files)
        super().__init__(str(path), table, fingerprint, folder, labelled, columns or Columns())


def _files(folder: Path) -> list[Path]:
    """The Arrow files in the order of their rows."""
    if (folder / "dataset_dict.json").is_file():
        rule = "a part of the data is one data set"
        raise UserError(rule, f"several below {folder}", f"write data: {{root: {folder}}}, or name the folder of one")
    try:
        state = json.loads(read_text(folder / STATE, STATE, MOST_DESCRIPTION))
        files = [folder / str(entry["filename"]) for entry in state["_data_files"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        rule = f"a folder of save_to_disk holds {STATE} with its files"
        raise UserError(rule, f"{folder}: {type(error).__name__}: {error}", "save the data set again") from error
    if not files or not all(file.is_file() and file.parent == folder for file in files):
        raise UserError(f"the files that {STATE} names lie beside it", folder, "save the data set again")
    return files
