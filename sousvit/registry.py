"""Names to things: techniques, objectives, runtimes, data formats, and the plug-ins a user adds.

A plug-in is a class named as ``path/to/file.py:ClassName`` in a budget, or an entry point of an
installed package in the registry's group (for instance ``sousvit.objectives``).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Generic, TypeVar

from sousvit.errors import UnknownNameError, UserError
from sousvit.files import content_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


class Registry(Generic[T]):
    """Holds one kind of thing by name; a second registration of a name is an error, never an override.

    Args:
        kind: the word for messages, such as ``technique``.
        group: entry-point group searched for plug-ins of installed packages.
        check: raises a UserError where a plug-in breaks the contract; told the plug-in and its entry point's name.
    """

    def __init__(self, kind: str, group: str, check: Callable[[T, str], None] | None = None) -> None:
        self.kind, self.group, self._check = kind, group, check
        self._items: dict[str, T] = {}
        #: Names that plug-ins of installed packages brought.
        self.installed: set[str] = set()
        self._entry_points_loaded = False

    def add(self, name: str, item: T) -> T:
        """Register ``item``; the same object again is harmless.

        Raises:
            UserError: another item has this name.
        """
        if name in self._items and self._items[name] is not item:
            raise UserError(f"{self.kind} names are unique", repr(name), "rename one of the two")
        self._items[name] = item
        return item

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of :meth:`add`."""
        return lambda item: self.add(name, item)

    def get(self, name: str) -> T:
        """The item called ``name``.

        Raises:
            UnknownNameError: nothing has this name.
        """
        if name not in self._items:
            self._load_entry_points()
        if name not in self._items:
            raise UnknownNameError(self.kind, name, self._items)
        return self._items[name]

    def names(self) -> list[str]:
        """All names, plug-ins included, sorted."""
        self._load_entry_points()
        return sorted(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter([self._items[name] for name in self.names()])

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def _load_entry_points(self) -> None:
        if self._entry_points_loaded:
            return
        found: dict[str, T] = {}
        for point in importlib.metadata.entry_points(group=self.group):
            try:
                item = point.load()
                item = item() if isinstance(item, type) else item
            except Exception as error:  # never passed over: the next look-up says it again
                raise UserError(
                    f"{self.kind} plug-in {point.name!r} must import",
                    f"{type(error).__name__}: {error}",
                    "repair or uninstall it",
                ) from error
            if self._check is not None:
                self._check(item, point.name)
            if found.setdefault(point.name, item) is not item:
                raise UserError(f"{self.kind} names are unique", repr(point.name), "uninstall one of the two plug-ins")
        for name, item in found.items():
            self.add(name, item)
        self.installed.update(found)
        self._entry_points_loaded = True


def load_from_file(reference: str, kind: str, folder: Path | None = None) -> type:
    """The class named by ``path/to/file.py:ClassName``.

    Args:
        reference: the file (relative to ``folder``) and the class in it.
        kind: the word for messages.
        folder: where relative paths start; the working folder by default.

    Raises:
        UserError: the reference is malformed, the file is missing or fails to import, or has no such class.
    """
    path_text, _, class_name = reference.rpartition(":")
    if not path_text or not class_name.isidentifier():
        raise UserError(
            f"the {kind} plug-in is named file.py:ClassName", repr(reference), "name the file and the class"
        )
    path = ((folder or Path()) / Path(path_text).expanduser()).resolve()
    if not path.is_file() or path.suffix != ".py":
        raise UserError(f"the {kind} plug-in file must be an existing .py file", path, "correct the path")
    # The same name in every process, so that workers can unpickle what a plug-in defines once they have loaded it.
    module_name = f"sousvit_plugin_{path.stem}_{content_hash(str(path))}"
    module = sys.modules.get(module_name) or _imported(path)
    if module is not None:
        sys.modules[module_name] = module
    else:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[module_name]
            raise UserError(
                f"the {kind} plug-in must import", f"{type(error).__name__}: {error}", f"repair {path}"
            ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise UserError(f"the {kind} plug-in file must hold its class", repr(class_name), f"define it in {path}")
    return found


def reference_of(found: type) -> str | None:
    """What :func:`load_from_file` gives ``found`` for; None where no file has it, as in a notebook."""
    module = sys.modules.get(found.__module__)
    file = getattr(module, "__file__", None)
    named = file is not None and getattr(module, found.__qualname__, None) is found
    return f"{Path(file).resolve()}:{found.__qualname__}" if file is not None and named else None


def _imported(path: Path) -> ModuleType | None:
    """The module that a file was imported as already, the running script too: it is not run a second time."""
    for module in list(sys.modules.values()):
        file = module.__dict__.get("__file__") if isinstance(module, ModuleType) else None
        if isinstance(file, str) and Path(file).name == path.name and Path(file).resolve() == path:
            return module
    return None
