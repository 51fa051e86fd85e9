"""Names to things: techniques, objectives, runtimes, devices, and the plug-ins a user adds.

Ours are listed by name in one table a kind, each with the place of its class, and imported when somebody first asks
for it, so that a contract need not know its implementations. A plug-in is a class: named in a budget as
``path/to/file.py:ClassName`` or ``package.module:ClassName``, or the entry point of an installed package in the
registry's group (for instance ``sousvit.objectives``).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sousvit.errors import UnknownNameError, UserError
from sousvit.files import content_hash
from sousvit.text.paths import resolved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

T = TypeVar("T")

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Registry(Generic[T]):
    """One kind of thing by name; a second registration of a name is an error, never an override.

    Args:
        kind: the word for messages, such as ``technique``.
        group: entry-point group searched for plug-ins of installed packages; None for a kind that takes none.
        builtin: ours, by name, as ``package.module:Class``.
        base: what a plug-in's class derives from.
        declares: class attributes that it sets, besides ``name``.
        check: raises a UserError where the class breaks another rule; told the class and where it comes from.
        part: the attribute of a plug-in's class that is held here; None for the class itself.
        classes: whether classes are held; otherwise one instance of each, made without arguments.
    """

    def __init__(
        self,
        kind: str,
        group: str | None,
        builtin: Mapping[str, str] | None = None,
        base: type = object,
        declares: tuple[str, ...] = (),
        check: Callable[[type, str], None] | None = None,
        part: str | None = None,
        classes: bool = False,
    ) -> None:
        self.kind, self.group = kind, group
        self._builtin = dict(builtin or {})
        self._base, self._declares, self._check = base, declares, check
        self._part, self._classes = part, classes
        self._items: dict[str, T] = {}
        self._plugins: dict[str, type] = {}
        self._references: dict[str, str] = {}

    def get(self, name: str) -> T:
        """The item called ``name``; nothing else is imported.

        Raises:
            UnknownNameError: nothing has this name.
            UserError: the plug-in of this name does not import or breaks the contract.
        """
        if not isinstance(name, str):  # out of somebody's file: a list cannot even be looked up
            raise UnknownNameError(self.kind, name, self.names())
        if name not in self._items:
            if name in self._builtin:
                module, _, attribute = self._builtin[name].partition(":")
                found = getattr(importlib.import_module(module), attribute)
                self._items[name] = found if self._classes else found()
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

    def add(self, name: str, item: T) -> T:
        """Register an item as it is; the same object again is harmless, as is what a notebook's cell defines again.

        Raises:
            UserError: another item has this name.
        """
        if name in self and self.get(name) is not item and not _is_defined_again(self.get(name), item):
            raise UserError(f"{self.kind} names are unique", repr(name), "rename one of the two")
        self._items[name] = item
        return item

    def load(self, reference: str, folder: Path | None = None) -> T:
        """Import, check and register the class that ``reference`` names; the same one again is harmless.

        Args:
            reference: ``path/to/file.py:ClassName`` or ``package.module:ClassName``.
            folder: where relative paths start; the working folder by default.

        Raises:
            UserError: the class is missing or breaks the contract, or its name is taken.
        """
        reference = absolute_reference(reference, folder or Path())
        found: Any = load_class(reference, self.kind)
        item = self.register(found, reference)
        self._references[found.name] = reference
        return item

    def register(self, found: type, where: str = "") -> T:
        """Check and register a plug-in's class; the same one again is harmless.

        Raises:
            UserError: it breaks the contract, or its name is taken.
        """
        item = self._of_plugin(found, where or found.__qualname__)
        name: str = found.name  # type: ignore[attr-defined]
        if self._plugins.get(name) is not found:
            self.add(name, item)
            self._plugins[name] = found
        return self._items[name]

    def known(self, kind: type) -> T | None:
        """What is registered of a class, ours too; None where it is not."""
        name = getattr(kind, "name", None)
        item = self.get(name) if isinstance(name, str) and name in self else None
        return item if kind in (item, type(item)) else None

    def put(self, given: Any) -> T:
        """Check and register a class, or an instance as it is; the same one again is harmless.

        Raises:
            UserError: it breaks the contract, or its name is taken.
        """
        if isinstance(given, type) or self._classes or self._part is not None:
            return self.register(given if isinstance(given, type) else type(given))
        self.check(type(given))
        return self.add(given.name, given)

    def check(self, found: type, where: str = "") -> type:
        """``found``, after checking what can be seen of a plug-in's class without making one.

        Raises:
            UserError: it breaks the contract.
        """
        kind, action = (
            f"{'an' if self.kind[0] in 'aeio' else 'a'} {self.kind}",
            f"correct {where or found.__qualname__}",
        )
        held: Any = self._held(found)
        if not self.takes(found):
            base, given = self._base, getattr(held, "__name__", repr(held))
            raise UserError(f"{kind} derives from {base.__module__}.{base.__qualname__}", given, action)
        missing = [key for key in ("name", *self._declares) if not hasattr(found, key)]
        if missing:
            raise UserError(f"{kind} declares {', '.join(('name', *self._declares))}", f"no {missing[0]}", action)
        if inspect.isabstract(held):
            methods = ", ".join(sorted(getattr(held, "__abstractmethods__", ())))
            raise UserError(f"{kind} defines {methods}", f"{held.__name__} without it", action)
        name: Any = found.name  # type: ignore[attr-defined]
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(f"the name of {kind} is snake_case", repr(name), action)
        if self._check is not None:
            self._check(found, where)
        return found

    def takes(self, found: type) -> bool:
        """Whether a class is meant to be of this kind: derived from its base."""
        held = self._held(found)
        return isinstance(held, type) and issubclass(held, self._base)

    def _held(self, found: Any) -> Any:
        """The class of a plug-in that is held here."""
        return found if self._part is None else getattr(found, self._part, None)

    def reference(self, name: str) -> str | None:
        """What :meth:`load` was given for the plug-in called ``name``, its path absolute; None of any other item."""
        return self._references.get(name)

    def references(self) -> list[str]:
        """What :meth:`load` takes, in another process, for all that was registered here and stands in a file."""
        found = {**{name: reference_of(kind) for name, kind in self._plugins.items()}, **self._references}
        return [reference for reference in found.values() if reference is not None]

    @property
    def installed(self) -> frozenset[str]:
        """Names that plug-ins of installed packages brought."""
        return frozenset(self._points)

    def __iter__(self) -> Iterator[T]:
        return iter([self.get(name) for name in self.names()])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._items or name in self._builtin or name in self._points)

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
            found = self._points[name].load()
        except Exception as error:  # never passed over: the next look-up says it again
            raise UserError(
                f"{self.kind} plug-in {name!r} must import",
                f"{type(error).__name__}: {error}",
                "repair or uninstall it",
            ) from error
        item = self._of_plugin(found, f"the plug-in {name!r}")
        if found.name != name:
            rule = f"an entry point has the name of its {self.kind}"
            raise UserError(rule, f"{name!r} for {found.name!r}", "rename one of them")
        return item

    def _of_plugin(self, found: Any, where: str) -> T:
        """What a plug-in's class is held as, after checking it."""
        held: Any = self._held(self.check(found, where))
        try:
            item: T = held if self._classes else held()
        except Exception as error:  # a plug-in's own code
            kind = f"{'an' if self.kind[0] in 'aeio' else 'a'} {self.kind}"
            rule = f"{kind} is made without arguments"
            raise UserError(rule, f"{type(error).__name__}: {error}", f"repair {where}") from error
        return item


@contextmanager
def restored(*registries: Registry[Any]) -> Iterator[None]:
    """What is registered meanwhile is forgotten afterwards."""
    parts = [(registry, name) for registry in registries for name in ("_items", "_plugins", "_references")]
    before = [dict(getattr(registry, name)) for registry, name in parts]
    try:
        yield
    finally:
        for (registry, name), kept in zip(parts, before, strict=True):
            setattr(registry, name, kept)


@contextmanager
def on_trial(given: Any, *registries: Registry[Any]) -> Iterator[Any]:
    """A class or an instance as the first registry holds it, registered meanwhile: what a conformance suite checks.

    Raises:
        AssertionError: it breaks the contract, or another has its name.
    """
    kind = given if isinstance(given, type) else type(given)
    with restored(*registries):
        try:
            first, *others = registries
            held = first.known(kind)
            if held is None:
                held = first.put(given)
                for registry in others:
                    registry.put(given)
            elif isinstance(given, kind) and not isinstance(held, type):  # another instance of the same class
                held = first._items[kind.name] = given  # type: ignore[attr-defined]
        except UserError as error:
            raise AssertionError(str(error)) from error
        yield held


def _is_defined_again(known: object, item: object) -> bool:
    """Whether ``item`` is of the same class of an interactive session, whose cell was run once more."""
    before, now = (one if isinstance(one, type) else type(one) for one in (known, item))
    return now.__module__ == "__main__" and (before.__module__, before.__qualname__) == ("__main__", now.__qualname__)


def reference_of(found: type) -> str | None:
    """What :func:`load_class` gives ``found`` for; None where no file has it, as in a notebook."""
    module = sys.modules.get(found.__module__)
    file = getattr(module, "__file__", None)
    named = file is not None and getattr(module, found.__qualname__, None) is found
    return f"{Path(file).resolve()}:{found.__qualname__}" if file is not None and named else None


def absolute_reference(reference: str, folder: Path) -> str:
    """``reference`` with the path of its file absolute; that of a module as it is."""
    place, _, name = reference.rpartition(":")
    file = file_of(place, folder) if place else None
    return reference if file is None else f"{file}:{name}"


def file_of(place: str, folder: Path | None = None) -> Path | None:
    """The file that the part of a reference before the colon is meant as; None for a module.

    Raises:
        UserError: no such user's home, or links in a circle.
    """
    if not place.endswith(".py") and all(part.isidentifier() for part in place.split(".")):
        return None
    return resolved(place, folder or Path())


def load_class(reference: str, kind: str, folder: Path | None = None) -> type:
    """The class named by ``path/to/file.py:ClassName`` or ``package.module:ClassName``.

    Args:
        reference: the file (relative to ``folder``) or module, and the class in it.
        kind: the word for messages.
        folder: where relative paths start; the working folder by default.

    Raises:
        UserError: the reference is malformed, the file or module is missing or fails to import, or has no such class.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name.isidentifier():
        raise UserError(
            f"the {kind} plug-in is named file.py:ClassName or package.module:ClassName",
            repr(reference),
            "name the file or module, and the class",
        )
    found = getattr(_module(place, kind, folder), name, None)
    if not isinstance(found, type):
        raise UserError(f"the {kind} plug-in must hold its class", repr(name), f"define it in {place}")
    return found


def classes_of(file: Path) -> list[type]:
    """The public classes that a Python file defines, in their order.

    Raises:
        UserError: the file is missing or fails to import.
    """
    module = _module(str(file), "named")
    return [
        found
        for name, found in vars(module).items()
        if isinstance(found, type) and found.__module__ == module.__name__ and not name.startswith("_")
    ]


def _module(place: str, kind: str, folder: Path | None = None) -> ModuleType:
    """The module that the part of a reference before the colon names, imported."""
    path = file_of(place, folder)
    if path is not None and not (path.is_file() and path.suffix == ".py"):
        raise UserError(f"the {kind} plug-in file must be an existing .py file", path, "correct the path")
    try:
        return importlib.import_module(place) if path is None else _module_of_file(path)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"the {kind} plug-in must import", f"{type(error).__name__}: {error}", f"repair {path or place}"
        ) from error


def _module_of_file(path: Path) -> ModuleType:
    """The file as a module, run once a process.

    Its name is the same in every process, so that workers can unpickle what a plug-in defines once they have loaded it.
    """
    name = f"sousvit_plugin_{path.stem}_{content_hash(str(path))}"
    known = sys.modules.get(name) or _imported(path)
    if known is not None:
        sys.modules[name] = known
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _imported(path: Path) -> ModuleType | None:
    """The module that a file was imported as already, the running script too: it is not run a second time."""
    for module in list(sys.modules.values()):
        file = module.__dict__.get("__file__") if type(module) is ModuleType else None
        if isinstance(file, str) and Path(file).name == path.name and Path(file).resolve() == path:
            return module
    return None
