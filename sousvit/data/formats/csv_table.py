"""CSV files (or text with tabs, semicolons or spaces between): a path of an image and a label in each row."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sousvit.data.formats.folder import IMAGE_SUFFIXES
from sousvit.data.formats.format import Format, Part
from sousvit.data.formats.table import LABEL_COLUMNS, find_column
from sousvit.data.numbering import from_words, number_of
from sousvit.data.source import MOST_ENCODED, decode_file, require_count, require_labels
from sousvit.errors import UserError
from sousvit.files import content_hash, files_hash, read_text
from sousvit.specs import Columns

PATH_COLUMNS = (
    "image", "path", "file", "filename", "file_name", "filepath", "file_path", "image_path", "img", "img_path",
    "image_name", "image_id", "images", "id",
)  # fmt: skip
WORD_COLUMNS = (*LABEL_COLUMNS, "class_name", "label_name", "species", "breed", "diagnosis")
SUFFIXES = (".csv", ".tsv", ".txt")
_SPLIT_COLUMNS = ("split", "set", "subset", "fold", "partition")


class Csv(Format):
    """``format: csv``."""

    name = "csv"

    def suits(self, path: Path) -> bool:
        return path.is_file() and path.suffix.lower() in SUFFIXES

    def open(self, part: Part) -> CsvSource:
        folders = [Path(entry) for entry in part.spec.images or ()]
        root = [] if part.spec.root is None else [Path(part.spec.root)]
        return CsvSource(part.path, [*folders, part.path.parent, *root], part.labelled, part.spec.columns)


class CsvSource:
    """The images that a table of paths and labels names.

    Args:
        path: the table. Its first row names the columns; or, where a row is just an image's path and a label, no row
            does.
        folders: where relative paths start: in the first one in which the first image is found.
        labelled: False needs no labels, all are 0.
        columns: where paths and labels stand; found where they are not named.

    Raises:
        UserError: no such columns, a row that is cut short, or an image that is not there.
    """

    def __init__(
        self, path: Path, folders: Sequence[Path] | None = None, labelled: bool = True, columns: Columns | None = None
    ) -> None:
        self.name = str(path)
        header, rows = _read(path)
        asked = columns or Columns()
        if header is None:
            header = ["image", "label"][: len(rows[0])]
        _require_one_part(header, rows, path)
        places = [find_column(asked.image, "image", header, PATH_COLUMNS, self.name)]
        if labelled:
            places.append(find_column(asked.label, "label", header, WORD_COLUMNS, self.name))
        if labelled and places[0] is not None and places[1] is None:
            rows, places[1] = _one_hot(header, rows, places[0])
        if None in places:
            rule = f"a CSV has {'columns of paths and labels' if labelled else 'a column of paths'}"
            action = "name them image and label, or say which in data.columns: {image: ..., label: ...}"
            raise UserError(rule, f"{header} in {path}", action)
        numbers = [header.index(str(place)) for place in places]
        short = next((row for row, cells in enumerate(rows) if len(cells) <= max(numbers)), None)
        if short is not None:
            raise UserError(
                "every row of a CSV has all columns", f"row {short + 1} of {path}: {rows[short]}", "repair it"
            )
        self.files = _files([row[numbers[0]] for row in rows], folders or [path.parent], path)
        self.labels, self.class_names = np.zeros(len(rows), np.int64), list[str]()
        if labelled:
            self.labels, self.class_names = _labels([row[numbers[1]].strip() for row in rows], self.name)
        by_row = {f"{row} {rows[row][numbers[0]]}": file for row, file in enumerate(self.files)}
        content = files_hash(by_row, largest=MOST_ENCODED)
        self.fingerprint = content_hash(content, self.labels.tobytes(), self.class_names)

    def read(self, index: int) -> Image.Image:
        """Decode the image of row ``index``."""
        return decode_file(self.files[index])

    def content(self, index: int) -> Path:
        """The file of row ``index``."""
        return self.files[index]


def _one_hot(header: list[str], rows: list[list[str]], image: str) -> tuple[list[list[str]], str | None]:
    """Rows with the name of the one column that holds a 1 in the place of their last cell, and the last column.

    Nothing is changed, and no column found, unless all other columns hold a 0 or one 1.
    """
    others = [place for place, name in enumerate(header) if name != image]
    hot = [[place for place in others if len(row) > place and row[place].strip() == "1"] for row in rows]
    cold = all(row[place].strip() in ("0", "1") for row in rows for place in others if len(row) > place)
    if len(others) < 2 or not cold or any(len(places) != 1 for places in hot):
        return rows, None
    label = others[-1]
    named = [[*row[:label], header[places[0]], *row[label + 1 :]] for row, places in zip(rows, hot, strict=True)]
    return named, header[label]


def _read(path: Path) -> tuple[list[str] | None, list[list[str]]]:
    """The names of the columns, where the first row has them, and the other rows."""
    text = read_text(path, "a CSV", encoding="utf-8-sig")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    require_count(len(lines), str(path))
    try:
        rows = _rows(lines)
    except csv.Error as error:
        raise UserError("a CSV is a text file (UTF-8)", f"{path}: {error}", "write it again") from error
    if not rows:
        raise UserError("a data set must hold images", f"no row in {path}", "correct the path")
    if any(Path(cell.strip()).suffix.lower() in IMAGE_SUFFIXES for cell in rows[0]):
        if len(rows[0]) > 2 or Path(rows[0][0].strip()).suffix.lower() not in IMAGE_SUFFIXES:
            raise UserError(
                "the first row of a CSV names the columns",
                f"{rows[0]} in {path}",
                "add a row such as image,label (rows of just a path and a label need none)",
            )
        return None, rows
    if len(rows) == 1:
        raise UserError("a data set must hold images", f"only the names of columns in {path}", "correct the path")
    return [cell.strip() for cell in rows[0]], rows[1:]


def _rows(lines: list[str]) -> list[list[str]]:
    """Cells, parted by the sign that stands in the first line: a comma, a tab, a semicolon, or else spaces."""
    first = lines[0] if lines else ""
    separator = next((sign for sign in ("\t", ";", ",") if sign in first), None)
    if separator is None:
        return [line.rsplit(None, 1) for line in lines]
    return list(csv.reader(lines, delimiter=separator, strict=True))


def _require_one_part(header: list[str], rows: list[list[str]], path: Path) -> None:
    """A column that parts the rows into train and test would be passed over, and all of them trained on."""
    for place, name in enumerate(header):
        if name.lower() in _SPLIT_COLUMNS:
            parts = sorted({row[place] for row in rows if len(row) > place})
            if 1 < len(parts) <= 10:
                raise UserError(
                    "a CSV holds one part of the data",
                    f"a column {name} with {', '.join(parts)} in {path}",
                    "write one file for each part, without that column",
                )


def _files(names: list[str], folders: Sequence[Path], path: Path) -> list[Path]:
    """The images' files, below the folder that has the first of them."""
    names = [name.strip().replace("\\", "/") for name in names]
    # Some tables name images without the ending of their files.
    found = next(
        (
            (place, ending)
            for place in folders
            for ending in ("", *sorted(IMAGE_SUFFIXES), *(suffix.upper() for suffix in sorted(IMAGE_SUFFIXES)))
            if (place / (names[0] + ending)).is_file()
        ),
        None,
    )
    if found is None:
        where = ", ".join(dict.fromkeys(map(str, folders)))
        action = "write paths relative to the CSV, or name data.images, the folder of the images"
        raise UserError("the images of a CSV must be there", f"no {names[0]} in {where}", action)
    folder, ending = found
    files = [folder / (name + ending) for name in names]
    missing = [file for file in files if not file.is_file()]
    if missing:
        received = f"{len(missing)} of {len(files)} are not, {missing[0]} among them"
        raise UserError("the images of a CSV must be there", received, f"correct {path}")
    return files


def _labels(cells: list[str], where: str) -> tuple[np.ndarray, list[str]]:
    """Labels of numbers or words, and the words."""
    if all(cell.isdecimal() for cell in cells):
        return require_labels(np.array([number_of(cell, where) for cell in cells]), where), []
    return from_words(cells, where)
