"""The archive: every finished trial of a run, its Pareto front, and answers to new budgets without a search.

``events.jsonl`` is the durable log: one JSON line an event, flushed to disk before anything else learns of
it. A line torn by a crash is dropped on reading. The tables (``trials.parquet``, ``pareto.csv``) are written
from it and can be lost without harm. One writer: only the driver opens a run for writing.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Generic, TypeVar

from sousvit.errors import UserError
from sousvit.files import NO_LOCKS, disk_errors_as_user_errors
from sousvit.objectives.objective import Measurement
from sousvit.schema import read_yaml
from sousvit.search.budget import Budget
from sousvit.search.goals import Goals
from sousvit.search.trial import BaseRecord, Trial, decode
from sousvit.search.verdict import hangs_on_images

EVENTS = "events.jsonl"
_NAME = re.compile(r"\w[\w .-]*")


class Archive:
    """Finished trials, in the order they finished.

    Args:
        folder: the run folder.
        writable: open the log for appending (and lock out a second driver).

    Raises:
        UserError: the folder cannot be written, or another search is writing to it.
    """

    def __init__(self, folder: Path, writable: bool = False) -> None:
        self.folder = folder
        self._by_key: dict[str, Trial] = {}
        #: Finished trials in their order; it only grows.
        self.records: list[Trial] = []
        self.base: BaseRecord | None = None
        self.header: dict[str, Any] = {}
        #: What was measured of trials that broke a limit when measured again, by key: see :meth:`is_rejected`.
        self.rejected: dict[str, dict[str, Measurement]] = {}
        #: Likewise of those that held every limit; and the confidence at which either was asked.
        self.confirmed: dict[str, dict[str, Measurement]] = {}
        self.asked_confidence: dict[str, float] = {}
        #: Recipes that were kept or turned down by the images held back, those of earlier runs included.
        self.num_tried = 0
        #: Keys of this run's that they turned down.
        self.turned_down: set[str] = set()
        #: Answers that told figures of the test split, those of earlier runs that this one continues included.
        self.test_answers = 0
        #: How well costs were predicted: median relative error and number of structures, by objective.
        self.predicted: dict[str, tuple[float, int]] = {}
        #: Trials that this run paid for itself.
        self.own = 0
        self.core_seconds = 0.0
        self._fronts: dict[tuple[Any, ...], _KeptFront] = {}
        self._ended_seconds = 0.0
        self._open_seconds = 0.0
        self._stream: IO[bytes] | None = None
        self._stored: set[str] = set()
        if writable:
            self._open_log()
        for event in read_events(folder / EVENTS):
            self._take(event)

    def _open_log(self) -> None:
        path = self.folder / EVENTS
        with disk_errors_as_user_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what a full disk did not take must not be written by a later flush.
            self._stream = path.open("ab", buffering=0)
        _lock(self._stream, self.folder)
        _end_torn_line(path, self._stream)

    def append(self, kind: str, **content: Any) -> None:
        """Write an event and wait until it is on disk, with all before it.

        Raises:
            UserError: the disk is full; the log stays readable.
        """
        event = self.note(kind, **content)
        assert self._stream is not None
        with disk_errors_as_user_errors(self.folder):
            os.fsync(self._stream.fileno())
        self._take(event)

    def note(self, kind: str, **content: Any) -> dict[str, Any]:
        """Write an event that belongs to no trial, without waiting for the disk: a crash keeps it, a power cut may not.

        Raises:
            UserError: the disk is full; the log stays readable.
        """
        assert self._stream is not None, "the archive was opened for reading"
        event = {"event": kind, "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **content}
        line = json.dumps(event, separators=(",", ":"), default=str).encode() + b"\n"
        with disk_errors_as_user_errors(self.folder):
            _write_all(self._stream, line)
        return event

    def add(self, record: Trial) -> bool:
        """Record a finished trial; a second result for the same key is dropped, and False returned."""
        if record.key in self.trials:
            return False
        self.append("trial", trial=record.to_dict())
        return True

    def close(self) -> None:
        """Release the log."""
        if self._stream is not None:
            with contextlib.suppress(OSError):  # a line that did not fit the disk is told of when it is written
                self._stream.close()
            self._stream = None

    def _take(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "trial":
            record = Trial.from_dict(event["trial"])
            is_new = record.key not in self.trials
            if not record.source:
                self.own += is_new
                self._open_seconds += sum(record.seconds.values())
            if is_new:
                self._by_key[record.key] = record
                self.records.append(record)
            if record.artifact:
                self._stored.add(record.artifact)
        elif kind == "base":
            self.base = BaseRecord.from_dict(event["base"])
        elif kind in ("rejected", "confirmed"):
            found = self.rejected if kind == "rejected" else self.confirmed
            found[event["key"]] = decode(event.get("values", {}))
            self.asked_confidence[event["key"]] = float(event.get("confidence", 0.5))
            # What costs too much is turned down whatever the images say, so it picks no luckiest one on them.
            if all(map(hangs_on_images, event.get("broken", ()))):
                self.num_tried += 1
                self.turned_down |= {event["key"]} if kind == "rejected" else set()
            self._fronts.clear()
        elif kind == "tried":
            self.num_tried += int(event["recipes"])
        elif kind == "test_told":
            self.test_answers += int(event.get("answers", 1))
        elif kind == "predicted":
            self.predicted = dict(event["errors"])
        elif kind == "run":
            self.header = dict(event)
        elif kind == "session":
            self._ended_seconds += float(event["seconds"])
            self._open_seconds = 0.0
            self.core_seconds += float(event["core_seconds"])

    @property
    def trials(self) -> Mapping[str, Trial]:
        """Finished trials by key, to be read only: :meth:`add` adds to them."""
        return MappingProxyType(self._by_key)

    @property
    def spent_seconds(self) -> float:
        """Wall time of the sessions so far; of a killed one, the time of its finished trials."""
        return self._ended_seconds + self._open_seconds

    @property
    def prediction_errors(self) -> str:
        """``latency within 3.4% (median of 41) structures, each predicted by the others``; "" where none is known."""
        said = [f"{name} within {share:.1%} (median of {count:.0f})" for name, (share, count) in self.predicted.items()]
        return f"{', '.join(said)} structures, each predicted by the others" if said else ""

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.records)

    def since(self, known: int) -> list[Trial]:
        """The trials after the first ``known``."""
        return self.records[known:]

    def front(self, goals: Goals) -> list[Trial]:
        """Final trials that hold every limit and that none of the others dominates."""
        return list(self._front(goals).front.items)

    def front_of_singles(self, goals: Goals) -> list[Trial]:
        """The front of single techniques alone: the best of them is part of every answer."""
        return list(self._front(goals, singles_only=True).front.items)

    def rivals(self, goals: Goals, singles_only: bool = False) -> tuple[dict[str, float], ...]:
        """What a candidate has to beat: the optimised figures of every member of the front.

        Args:
            singles_only: take the front of single techniques.
        """
        kept = self._front(goals, singles_only)
        if kept.rivals is None:
            kept.rivals = tuple(goals.figures(trial.values) for trial in kept.front.items)
        return kept.rivals

    def _front(self, goals: Goals, singles_only: bool = False) -> _KeptFront:
        """The front of the trials so far; it is kept, and only trials that came since are looked at."""
        kept = self._fronts.setdefault((singles_only, goals.limits, tuple(goals.directions)), _KeptFront())
        for trial in feasible(self.since(kept.read), goals):
            counts = (trial.is_single or not singles_only) and not self.is_rejected(trial, goals)
            point = goals.point(trial.values)
            if counts and not any(map(math.isnan, point)) and kept.front.add(point, trial):
                kept.rivals = None
        kept.read = len(self)
        return kept

    def is_rejected(self, trial: Trial, goals: Goals) -> bool:
        """Whether ``trial`` broke a limit when it was measured again: then it is no answer.

        Earlier versions did not note what they measured; what they rejected stays so.
        """
        again = self.rejected.get(trial.key)
        if again is None:
            return False
        return not again or not goals.at_least(self.asked_confidence[trial.key]).holds(trial.values | again)

    def drop_artifacts(self, goals: Goals, newest: Trial) -> None:
        """Keep the files of front members only: a search would otherwise fill the disk with what nobody will ship."""
        kept = {trial.artifact for trial in self.front(goals)}
        self._stored.add(newest.artifact)
        for name in self._stored - kept:
            shutil.rmtree(self.folder / "artifacts" / name, ignore_errors=True)
        self._stored &= kept


def feasible(trials: Iterable[Trial], goals: Goals) -> list[Trial]:
    """Final trials (the only ones an answer may come from) that hold every limit."""
    return [trial for trial in trials if trial.is_final and goals.holds(trial.values)]


def run_folder(root: Path, name: str) -> Path:
    """The folder of run ``name``.

    Raises:
        UserError: the name could not be a folder's.
    """
    if not _NAME.fullmatch(name):
        rule = "a run name has letters, digits, spaces, dots, dashes"
        raise UserError(rule, repr(name), "choose another --run name")
    return root / name


def new_run_name(stem: str) -> str:
    """A name for a new run: what a name can hold of ``stem`` (files may be called anything), and the time."""
    kept = re.sub(r"[^\w.-]+", "-", stem).strip("-.")
    return f"{kept or 'run'}-{time.strftime('%Y%m%d-%H%M%S')}"


def open_run(folder: Path) -> tuple[Budget, Archive]:
    """A run's budget and archive, for reading.

    Raises:
        UserError: no run there, or it has no base figures yet.
    """
    path = folder / "budget.yaml"
    if not path.is_file():
        raise UserError("a run must exist", folder, "see sousvit list runs")
    budget = Budget.read(path, confirm=_share_held_back(path))
    archive = Archive(folder)
    if archive.base is None or not len(archive):
        raise UserError("a run must have finished a trial to answer", folder.name, "resume it with sousvit search")
    return budget, archive


def _share_held_back(path: Path) -> float | None:
    """0 for a run of earlier versions, which say nothing of it; None where the run's budget says it."""
    search = read_yaml(path).get("search")
    return None if isinstance(search, dict) and "confirm" in search else 0.0


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log; lines torn by a crash are skipped."""
    if not path.is_file():
        return
    with path.open("rb") as stream:
        for line in stream:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "event" in event:
                yield event


def _write_all(stream: IO[bytes], line: bytes) -> None:
    """Unbuffered writing may take a part at a time."""
    rest = memoryview(line)
    while rest:
        rest = rest[stream.write(rest) :]


def _end_torn_line(path: Path, stream: IO[bytes]) -> None:
    """After a crash in the middle of a line, start the next event on a line of its own."""
    size = path.stat().st_size
    if size:
        with path.open("rb") as reader:
            reader.seek(size - 1)
            if reader.read(1) != b"\n":
                stream.write(b"\n")
                stream.flush()


def _lock(stream: IO[bytes], folder: Path) -> None:
    """An advisory lock that dies with the process: a killed search leaves nothing stale.

    Where the file system knows no locks (some network mounts), a word says that two drivers are the user's own care.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no fcntl; there two drivers are the user's own care
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            print(f"{folder} lies on a file system without locks: start no second search in it", file=sys.stderr)
            return
        stream.close()
        raise UserError(
            "one search writes to a run at a time", f"{folder} is in use", "wait for it, or use another --run name"
        ) from error


T = TypeVar("T")


class Front(Generic[T]):
    """Non-dominated points, less is better, with what they stand for; of equal points the first stays."""

    def __init__(self) -> None:
        self._points: list[tuple[float, ...]] = []
        self.items: list[T] = []

    def add(self, point: Sequence[float], item: T) -> bool:
        """Add ``point``; returns whether it is on the front now."""
        new = tuple(point)
        if any(all(a <= b for a, b in zip(old, new, strict=True)) for old in self._points):
            return False
        keep = [not all(a <= b for a, b in zip(new, old, strict=True)) for old in self._points]
        self._points = [old for old, kept in zip(self._points, keep, strict=True) if kept]
        self.items = [old for old, kept in zip(self.items, keep, strict=True) if kept]
        self._points.append(new)
        self.items.append(item)
        return True


@dataclass
class _KeptFront:
    """A front as far as the archive was read, with its figures until it changes."""

    front: Front[Trial] = field(default_factory=Front)
    read: int = 0
    rivals: tuple[dict[str, float], ...] | None = None
