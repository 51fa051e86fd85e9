"""Names to things: techniques, objectives, runtimes, devices, and the plug-ins a user adds.

Ours are listed by name in one table a kind, each with the place of its class, and imported when somebody first asks
for it, so that a contract need not know its implementations. A plug-in is a class named as
``path/to/file.py:ClassName`` in a budget, or an entry point of an installed package in the registry's group (for
instance ``sousvit.objectives``).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sousvit.errors import UnknownNameError, UserError
from sousvit.files import content_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

T = TypeVar("T")


class Registry(Generic[T]):
    """One kind of thing by name; a second registration of a name is an error, never an override.

    Args:
        kind: the word for messages, such as ``technique``.
        group: entry-point group searched for plug-ins of installed packages; None for a kind that takes none.
        builtin: ours, by name, as ``package.module:Class``.
        check: raises a UserError where a plug-in breaks the contract; told the plug-in and its entry point's name.
        classes: whether it holds classes; otherwise one instance of each, made without arguments.
    """

    def __init__(
        self,
        kind: str,
        group: str | None,
        builtin: Mapping[str, str] | None = None,
        check: Callable[[T, str], None] | None = None,
        classes: bool = False,
    ) -> None:
        self.kind, self.group, self._check, self._classes = kind, group, check, classes
        self._builtin = dict(builtin or {})
        self._items: dict[str, T] = {}

    def add(self, name: str, item: T) -> T:
        """Register ``item``; the same object again is harmless, and so is a class that a notebook's cell defines again.

        Raises:
            UserError: another item has this name.
        """
        if name in self and self.get(name) is not item and not _is_defined_again(self.get(name), item):
            raise UserError(f"{self.kind} names are unique", repr(name), "rename one of the two")
        self._items[name] = item
        return item

    def get(self, name: str) -> T:
        """The item called ``name``; nothing else is imported.

        Raises:
            UnknownNameError: nothing has this name.
            UserError: the plug-in of this name does not import or breaks the contract.
        """
        if name not in self._items:
            if name in self._builtin:
                self._items[name] = self._made(_attribute(self._builtin[name]))
            elif name in self._points:
                self._items[name] = self._of_package(name)
            else:
                raise UnknownNameError(self.kind, name, self.names())
        return self._items[name]

    def names(self) -> list[str]:
        """All names, plug-ins included, sorted; nothing is imported.

        Raises:
            UserError: the plug-in of an installed package has a name that is taken.
        """
        return sorted({*self._builtin, *self._items, *self._points})

    @property
    def installed(self) -> frozenset[str]:
        """Names that plug-ins of installed packages brought."""
        return frozenset(self._points)

    def __iter__(self) -> Iterator[T]:
        return iter([self.get(name) for name in self.names()])

    def __contains__(self, name: object) -> bool:
        return name in self._items or name in self._builtin or name in self._points

    @cached_property
    def _points(self) -> dict[str, importlib.metadata.EntryPoint]:
        """Entry points of installed packages by name."""
        found: dict[str, importlib.metadata.EntryPoint] = {}
        for point in () if self.group is None else importlib.metadata.entry_points(group=self.group):
            if point.name in self._builtin:
                raise UserError(f"{self.kind} names are unique", repr(point.name), "rename or uninstall the plug-in")
            if found.setdefault(point.name, point) != point:
                raise UserError(f"{self.kind} names are unique", repr(point.name), "uninstall one of the two plug-ins")
        return found

    def _of_package(self, name: str) -> T:
        try:
            item = self._made(self._points[name].load())
        except Exception as error:  # never passed over: the next look-up says it again
            raise UserError(
                f"{self.kind} plug-in {name!r} must import",
                f"{type(error).__name__}: {error}",
                "repair or uninstall it",
            ) from error
        if self._check is not None:
            self._check(item, name)
        return item

    def _made(self, found: Any) -> T:
        made: T = found() if isinstance(found, type) and not self._classes else found
        return made


def _is_defined_again(known: object, item: object) -> bool:
    """Whether ``item`` is of the same class of an interactive session, whose cell was run once more."""
    before, now = type(known), type(item)
    return now.__module__ == "__main__" and (before.__module__, before.__qualname__) == ("__main__", now.__qualname__)


def _attribute(reference: str) -> Any:
    """What ``package.module:name`` stands for."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


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
