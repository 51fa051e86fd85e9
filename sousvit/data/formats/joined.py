"""Several folders or files as one part of a data set, and the opening of any part by its paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sousvit.data.formats.format import FORMATS, Part, PartName, format_of
from sousvit.data.layout import expand, readable
from sousvit.data.numbering import content_of, notes_of, renumbered
from sousvit.data.source import Source
from sousvit.errors import UserError
from sousvit.files import content_hash, require_file_or_folder
from sousvit.specs import DETECTION_FORMATS, DataSpec


class Joined:
    """The images of several sources, one after the other. Their classes are joined by name."""

    def __init__(self, sources: Sequence[Source]) -> None:
        names = _joined_names(sources)
        self._sources = [renumbered(source, source.class_names, names) if names else source for source in sources]
        self._starts = np.cumsum([0, *(len(source.labels) for source in sources)])
        self.name = f"{sources[0].name} and {len(sources) - 1} more"
        self.class_names = names
        self.labels = np.concatenate([source.labels for source in self._sources])
        self.notes = [note for source in sources for note in notes_of(source)]
        self.fingerprint = content_hash([source.fingerprint for source in self._sources])

    def read(self, index: int) -> Image.Image:
        """Image ``index``."""
        source, row = self._place(index)
        return source.read(row)

    def content(self, index: int) -> bytes | Path:
        """What identifies image ``index``."""
        return content_of(*self._place(index))

    def _place(self, index: int) -> tuple[Source, int]:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._sources[number], index - int(self._starts[number])


def _joined_names(sources: Sequence[Source]) -> list[str]:
    """The classes of all sources: of the one that has them all, in its order, else sorted.

    Raises:
        UserError: some have names and some only numbers.
    """
    lists = [source.class_names for source in sources]
    if not all(lists):
        if any(lists):
            named = next(source.name for source in sources if source.class_names)
            bare = next(source.name for source in sources if not source.class_names)
            rule = "all files of a part tell their classes in one way"
            raise UserError(rule, f"names in {named}, numbers in {bare}", "name data.classes in files of numbers")
        return []
    everything = {name for names in lists for name in names}
    longest = max(lists, key=len)
    return list(longest) if set(longest) == everything else sorted(everything)


def open_part(
    spec: DataSpec, name: PartName, paths: Sequence[str], labelled: bool, classes: Sequence[str] = ()
) -> Source:
    """The source of a part.

    Args:
        spec: resolved data specification.
        paths: files, folders, globs; none for a format without paths.
        labelled: whether it has labels.
        classes: of the training part, in the order of its labels.

    Raises:
        UserError: something is not there, or not of its format.
    """
    places = [place for path in paths for place in expand(path)] or [Path()]
    twice = sorted({str(place) for place in places if places.count(place) > 1}) if len(places) > 1 else []
    if twice:
        raise UserError("every file of a part is named once", twice[0], f"correct data.{name}")
    if len(places) > 1 and spec.format in DETECTION_FORMATS:
        raise UserError(f"a part of {spec.format} data is one path", f"{len(places)} for {name}", "name one")
    sources = []
    for place in places:
        with readable(place):
            require_file_or_folder(place)
            found = FORMATS.get(spec.format) if spec.format is not None else format_of(place)
            sources.append(found.open(Part(name, place, spec, labelled, tuple(classes))))
    return sources[0] if len(sources) == 1 else Joined(sources)
