"""The contract of a format of data: what a path must look like, and how a part of a data set is opened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from sousvit.data.formats import BUILTIN
from sousvit.errors import UnknownNameError, UserError
from sousvit.registry import Registry
from sousvit.specs import NO_DATA

if TYPE_CHECKING:
    from sousvit.data.source import Source
    from sousvit.specs import DataSpec

PartName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Part:
    """One part of a data set, as a format opens it.

    Attributes:
        name: what it is for.
        path: an existing file or folder; of a format without paths (``has_paths``), the working folder.
        spec: what else the user said, with absolute paths.
        labelled: False where labels are neither there nor needed; all are 0 then.
        classes: names in the order of the training part's labels, where that part was opened before.
    """

    name: PartName
    path: Path
    spec: DataSpec
    labelled: bool = True
    classes: tuple[str, ...] = ()


class Format(ABC):
    """One form of data. Derive, set ``name``, and write :meth:`open`; ``suits`` spares users ``data.format``.

    Attributes:
        name: the word in a budget.
        has_paths: whether parts are told by paths.
    """

    name: ClassVar[str]
    has_paths: ClassVar[bool] = True

    def suits(self, path: Path) -> bool:
        """Whether an existing file or folder is certainly of this format."""
        return False

    @abstractmethod
    def open(self, part: Part) -> Source:
        """The labelled images of a part, without decoding them.

        Raises:
            UserError: they are not of this format, or broken.
        """


FORMATS: Registry[Format] = Registry("data format", "sousvit.formats", BUILTIN, Format)


def require_known_format(name: str | None) -> None:
    """Check the word for a format; nothing is imported.

    Raises:
        UnknownNameError: no format has this name.
    """
    if name is not None and name != NO_DATA and name not in FORMATS:
        raise UnknownNameError("data.format", name, [*FORMATS.names(), NO_DATA])


def format_of(path: Path) -> Format:
    """The format that an existing path shows.

    Raises:
        UserError: none does.
    """
    for name in [*BUILTIN, *(name for name in FORMATS.names() if name not in BUILTIN)]:
        found = FORMATS.get(name)
        if found.suits(path):
            return found
    raise UserError(
        "data by its path alone is a folder, or a parquet, CSV, tar or IDX file",
        path.name,
        f"name data.format, one of {', '.join(FORMATS.names())}",
    )
