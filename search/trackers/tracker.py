"""The contract of a tracker: a callback that writes a search's trials to a tool that follows experiments.

A tracker works in a thread of its own, so that a server that does not answer delays no trial. The first thing that
fails ends it with one line; the search goes on.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sousvit.errors import one_line
from sousvit.registry import Registry
from sousvit.search.archive import Archive
from sousvit.search.callbacks import Callback, Counts
from sousvit.search.trackers import BUILTIN
from sousvit.search.trial import BaseRecord, Trial

if TYPE_CHECKING:
    from sousvit.spaces.space import Space

#: Seconds that a tracker may take to finish when the search is over, and when it was interrupted.
PATIENCE, HASTE = 60.0, 5.0

Figures = dict[str, float]
Texts = dict[str, str]


class Tracker(Callback):
    """Base of trackers; :meth:`begin`, :meth:`log` and :meth:`end` are called in the tracker's own thread.

    Class attributes:
        name: in budgets.
        needs: modules that must be there; the extra of this name (``sousvit[mlflow]``) installs them.

    Args:
        folder: of the run.
        settings: what the search was asked, in words.
        say: takes a line for people.
    """

    name: ClassVar[str]
    needs: ClassVar[str]

    def __init__(self, folder: Path, settings: Texts, say: Callable[[str], None]) -> None:
        self.folder, self.settings, self._say = folder, settings, say
        self._asked: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._failed: list[str] = []
        self._known, self._closed = 0, False
        self._thread = threading.Thread(target=self._work, name=f"tracker {self.name}", daemon=True)
        self._thread.start()

    @abstractmethod
    def begin(self, base: Figures) -> None:
        """The base is measured; a run that was resumed begins again."""

    @abstractmethod
    def log(self, step: int, figures: Figures, texts: Texts) -> None:
        """A trial has ended: what was measured of it, with its ``status``, ``recipe`` and ``origin`` in ``texts``.

        Args:
            step: how many trials the run had with it.
        """

    @abstractmethod
    def end(self, figures: Figures, texts: Texts) -> None:
        """The search is over: figures of the answer, and its ``status`` and ``recipe``."""

    def on_start(self, base: BaseRecord, space: Space, left_out: Mapping[str, str]) -> None:
        self._known = len(Archive(self.folder))
        self._ask(self.begin, {name: value.value for name, value in base.values.items()})

    def on_trial(self, trial: Trial, counts: Counts) -> None:
        figures = {name: value.value for name, value in trial.values.items()}
        figures |= {"training": trial.fidelity, "seconds": sum(trial.seconds.values())}
        texts = {"status": trial.status, "origin": trial.origin, "recipe": _recipe(trial)}
        self._known += 1
        self._ask(self.log, self._known, figures, texts)

    def on_end(self, result: Any) -> None:
        figures = {name: value.value for name, value in result.figures.items()}
        chosen = result.answer.chosen
        self._ask(self.end, figures, {"status": result.status, "recipe": "" if chosen is None else _recipe(chosen)})
        self.close(PATIENCE)

    def close(self, seconds: float = HASTE) -> None:
        """Write what is still to be written, as far as it takes no longer; a second time does nothing."""
        if self._closed:
            return
        self._closed = True
        self._asked.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._failed.append(f"did not finish in {seconds:g} s")
        self._tell_failure()

    def _ask(self, method: Callable[..., None], *content: Any) -> None:
        self._tell_failure()
        self._asked.put((method, content))

    def _tell_failure(self) -> None:
        """Said in the search's own thread, once: what is told may belong to a terminal."""
        if self._failed:
            self._say(f"tracker {self.name} ended, the search goes on: {self._failed.pop()}")

    def _work(self) -> None:
        while (asked := self._asked.get()) is not None:
            method, content = asked
            try:
                method(*content)
            except Exception as error:
                self._failed.append(f"{one_line(error)}{self._advice(error)}")
                return

    def _advice(self, error: Exception) -> str:
        missing = isinstance(error, ImportError) and (error.name or "").partition(".")[0] == self.needs
        return f"; pip install 'sousvit[{self.name}]'" if missing else ""


def _recipe(trial: Trial) -> str:
    return json.dumps(trial.recipe, sort_keys=True)


TRACKERS: Registry[type[Tracker]] = Registry("tracker", None, BUILTIN, base=Tracker, classes=True)


def open_trackers(names: Iterable[str], folder: Path, settings: Texts, say: Callable[[str], None]) -> list[Tracker]:
    """The trackers that a budget names."""
    return [TRACKERS.get(name)(folder, settings, say) for name in names]


def from_environment(name: str, default: str) -> str:
    """A setting of a tool that a user may have made for all programs, such as where its server is."""
    return os.environ.get(name) or default
