"""Where the parts of a data set lie: parts below one root, globs, lists of paths. Only names of files are looked at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from sousvit.data.formats.format import require_known_format
from sousvit.errors import SharedInputError, UserError
from sousvit.specs import DETECTION_FORMATS, NO_DATA, DataSpec, paths_of

#: What folders and files of a part are called, the usual name first.
PART_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing", "t10k"),
}
#: Files that hold a whole part, or a share of one.
_DATA_FILES = (".parquet", ".csv", ".tsv", ".tar")
#: A layout of the Hugging Face hub: the files of all parts in this folder below the root.
_HUB_FOLDER = "data"
_GLOB = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]{1,9})\.\.([0-9]{1,9})")
#: Braces in a path, and paths that they stand for.
MOST_BRACES, MOST_PATHS = 16, 100_000

#: Folders that systems, recycle bins and thumbnail makers leave among data; those that begin with a dot come on top.
SYSTEM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin", "recycler", "system volume information",
     "lost+found", "__pycache__"}
)  # fmt: skip


#: Folders of VOC's layout.
ANNOTATIONS, IMAGES = "Annotations", "JPEGImages"


def is_system_folder(name: str) -> bool:
    """Whether a folder of this name holds no data of the user's."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def is_system_file(name: str) -> bool:
    """Whether a file of this name was left by a system and not by the user."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini")


def resolve_data(spec: DataSpec, folder: Path) -> DataSpec:
    """The same with absolute paths, and with the parts that lie below one root named.

    Raises:
        UserError: no such format or root, braces beyond their bounds, or nothing below the root is called like a part.
    """
    require_known_format(spec.format)
    for path in (path for part in (spec.train, spec.validation, spec.test) for path in paths_of(part)):
        _spelt_out(path)  # too many are told before anything is loaded
    spec = spec.resolved(folder)
    if spec.format in (NO_DATA, "torchvision", *DETECTION_FORMATS):
        return spec
    if spec.train is None and spec.test is None and spec.root is not None:
        found = parts_below(Path(spec.root))
        if "train" not in found:
            raise UserError(
                "data.root holds the parts of the data, called train, val and test",
                f"{', '.join(found) or 'none'} in {spec.root}",
                "name data.train and data.test",
            )
        return _with_parts(spec, found)
    alone = spec.test is None and not paths_of(spec.validation)
    if alone and isinstance(spec.train, str) and spec.train != NO_DATA and is_there(Path(spec.train)):
        found = parts_below(Path(spec.train), alone=True)
        if "train" in found and len(found) > 1:
            return _with_parts(spec, found)
    return spec


def _with_parts(spec: DataSpec, found: dict[str, tuple[str, ...]]) -> DataSpec:
    """The spec with what was found; a share or count for validation that the user gave stays."""
    parts: dict[str, Any] = {part: paths[0] if len(paths) == 1 else paths for part, paths in found.items()}
    if "validation" in spec.model_fields_set:
        parts.pop("validation", None)
    return spec.model_copy(update=parts)


def parts_below(root: Path, alone: bool = False) -> dict[str, tuple[str, ...]]:
    """The paths of the parts that lie below ``root``, folders or files, by the part.

    Args:
        alone: nothing where other folders or files of data lie beside them: then ``train`` may be a class.

    Raises:
        UserError: no such folder.
    """
    with readable(root):
        if not root.is_dir():
            if alone:
                return {}
            raise UserError("data.root must be a folder", root, "correct the path")
        entries = sorted(root.iterdir())
        folders = [entry for entry in entries if entry.is_dir() and not is_system_folder(entry.name)]
        found = _by_part(folders, exactly=True)
        if found:
            return {} if alone and sum(map(len, found.values())) < len(folders) else _first_spelling(found)
        hub = root / _HUB_FOLDER
        beside = [entry for entry in entries if entry != hub and (entry in folders or _holds_data(entry.name))]
        if hub.is_dir() and not (alone and beside):
            entries = sorted(hub.iterdir())
        files = [entry for entry in entries if entry.is_file() and _holds_data(entry.name)]
        found = _by_part(files, exactly=False)
        return {} if alone and sum(map(len, found.values())) < len(files) else found


def _by_part(entries: list[Path], exactly: bool) -> dict[str, tuple[str, ...]]:
    """Entries by the part that their name says: it is the name, or its beginning (``train-00000-of-00003.parquet``)."""
    found: dict[str, tuple[str, ...]] = {}
    for part, names in PART_NAMES.items():
        pattern = re.compile(f"(?:{'|'.join(names)})(?![a-z])", re.IGNORECASE)
        match = pattern.fullmatch if exactly else pattern.match
        paths = tuple(str(entry) for entry in entries if match(entry.name))
        if paths:
            found[part] = paths
    return found


def _first_spelling(found: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """One folder a part; of ``val`` and ``validation`` the one that is listed first."""
    ranks = {name: rank for names in PART_NAMES.values() for rank, name in enumerate(names)}
    return {part: (min(paths, key=lambda path: ranks[Path(path).name.lower()]),) for part, paths in found.items()}


def _holds_data(name: str) -> bool:
    return name.endswith(_DATA_FILES) or ("images" in name and "idx" in name)


def labels_of(path: Path) -> Path:
    """The IDX file of labels that belongs to one of images."""
    return path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))


def expand(given: str) -> list[Path]:
    """The files and folders that a path, a glob or a path with braces stands for, sorted.

    Raises:
        UserError: there is none.
    """
    path = Path(given)
    with readable(path):
        if is_there(path):
            return [path]
        found = [one for text in _spelt_out(given) for one in _globbed(text)]
    if not found:
        what = given if not (_GLOB.search(given) or _BRACES.search(given)) else f"{given}, which no file matches"
        raise UserError("data must exist", what, "correct the path under data")
    return found


def _spelt_out(given: str) -> list[str]:
    """``part-{00..02}`` and ``{a,b}`` spelt out.

    Raises:
        UserError: they stand for more paths than any data has.
    """
    found = list(islice(_braced(given), MOST_PATHS + 1)) if given.count("{") <= MOST_BRACES else []
    if not 0 < len(found) <= MOST_PATHS:
        rule = f"at most {MOST_BRACES} braces in a path stand for at most {MOST_PATHS:,} paths"
        raise UserError(rule, f"more in {given}", "correct the path under data")
    return found


def _braced(text: str) -> Iterator[str]:
    match = _BRACES.search(text)
    if match is None:
        yield text
        return
    span = _RANGE.fullmatch(match[1])
    if span:
        first, last, width = int(span[1]), int(span[2]), len(span[1])
        choices: Iterable[str] = (f"{number:0{width}d}" for number in range(first, last + 1))
    else:
        choices = match[1].split(",")
    for choice in choices:
        yield from _braced(text[: match.start()] + choice + text[match.end() :])


def _globbed(text: str) -> list[Path]:
    path = Path(text)
    if is_there(path):
        return [path]
    if not _GLOB.search(text):
        raise UserError("data must exist", text, "correct the path under data")
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def is_there(path: Path) -> bool:
    """Whether a path exists; a mount that has vanished is told as what it is.

    Raises:
        SharedInputError: the file system does not answer.
    """
    with readable(path):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Errors of the disk or the network while data is looked at, as one line that names ``path``.

    Raises:
        SharedInputError: for instance no permission, or a file system that is gone.
    """
    try:
        yield
    except OSError as error:
        where = path if error.filename is None else error.filename
        raise SharedInputError(
            "data must be readable",
            f"{where}: {error.strerror or error}",
            "mount it or change its permissions, and run the same command again",
        ) from error
